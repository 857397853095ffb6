"""How MTEB scores: one function for each task type, from texts and an encoder to scores in points (times 100).

The rules are those of mteb 1.12.75, which are the model card's but for what is said here; the measures have the
card's names. The statistics are scipy's, scikit-learn's and pytrec_eval's.

encode: a function of a list of n str that gives an array (n, D). MTEB: Muennighoff et al. 2023, arXiv:2210.07316.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from minilm_np.util import cos_sim

Array = npt.NDArray[Any]
Encode = Callable[[list[str]], Array]
Scores = dict[str, float]

CUTS = (1, 3, 5, 10, 100, 1000)  # what follows "_at_" in the measures of retrieval
KEPT = 1 << 16  # ids of documents that may have fallen out of the best: forgetting them block by block takes time
SCORES_AT_ONCE = 1 << 24  # 64 MB of float32: similarities of all queries with one block of the corpus
EXPERIMENTS = 10
SEED = 42


def embed_once(encode: Encode, texts: Sequence[str]) -> Array:
    """Embeddings (n, D) of n texts, of which equal ones are encoded once."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    return encode(list(rows))[[rows[text] for text in texts]]


# --- pairs -------------------------------------------------------------------------------------


def similarities(a: Array, b: Array) -> dict[str, Array]:
    """Of a[i] and b[i], both (n, D), by name; more is nearer.

    The cosine is 1 - |x - y|^2 / 2 of the unit vectors and not their dot product: rounding noise of a dot product
    ranks pairs that should tie, and moves STS12 by 0.0002 points.
    """
    from sklearn.metrics.pairwise import (
        paired_cosine_distances,
        paired_euclidean_distances,
        paired_manhattan_distances,
    )

    return {
        "cos_sim": 1 - paired_cosine_distances(a, b),
        "dot": np.asarray([np.dot(x, y) for x, y in zip(a, b, strict=True)]),
        "euclidean": -paired_euclidean_distances(a, b),
        "manhattan": -paired_manhattan_distances(a, b),
    }


def sts(encode: Encode, sentences1: Sequence[str], sentences2: Sequence[str], gold: Sequence[float]) -> Scores:
    """Correlation of the similarities of pairs with how similar people found them."""
    from scipy.stats import pearsonr, spearmanr

    both = embed_once(encode, [*sentences1, *sentences2])
    found = similarities(both[: len(sentences1)], both[len(sentences1) :])
    scores = {}
    for name in ("cos_sim", "euclidean", "manhattan"):
        scores[f"{name}_pearson"] = 100 * float(pearsonr(gold, found[name])[0])
        scores[f"{name}_spearman"] = 100 * float(spearmanr(gold, found[name])[0])
    return scores


def pair_classification(
    encode: Encode, sentences1: Sequence[str], sentences2: Sequence[str], labels: Sequence[int]
) -> Scores:
    """How well a threshold on similarity tells pairs with label 1 from those with label 0.

    accuracy, and f1 with its precision and recall: at the best threshold; ap: average precision, over all thresholds.
    """
    from sklearn.metrics import average_precision_score

    both = embed_once(encode, [*sentences1, *sentences2])
    truth = np.asarray(labels)
    scores = {}
    for name, similarity in similarities(both[: len(truth)], both[len(truth) :]).items():
        by_rank = truth[np.argsort(-similarity, kind="stable")]
        # As MTEB does it: a threshold may fall between equals, and never below the last pair.
        said, right = np.arange(1, len(truth)), np.cumsum(by_rank)[:-1]
        negatives = len(truth) - truth.sum()
        accuracy = (right + negatives - (said - right)) / len(truth)
        precision, recall = right / said, right / truth.sum()
        with np.errstate(invalid="ignore"):  # 0 / 0 before the first pair with label 1
            f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
        best = int(np.argmax(f1))
        scores[f"{name}_accuracy"] = float(accuracy.max())
        scores[f"{name}_ap"] = float(average_precision_score(truth, similarity))
        scores[f"{name}_f1"] = float(f1[best])
        scores[f"{name}_precision"] = float(precision[best])
        scores[f"{name}_recall"] = float(recall[best])
    for measure in ("accuracy", "ap", "f1"):
        scores[f"max_{measure}"] = max(value for key, value in scores.items() if key.endswith(f"_{measure}"))
    return {key: 100 * value for key, value in scores.items()}


# --- labels ------------------------------------------------------------------------------------


def classification(
    encode: Encode,
    train: tuple[Sequence[str], Sequence[Any]],
    test: tuple[Sequence[str], Sequence[Any]],
    samples_per_label: int = 8,
) -> tuple[Scores, list[Scores]]:
    """Logistic regression on the embeddings of a few texts of each label: the means of ten experiments, and each.

    train, test: texts and labels. ap, of two labels: average precision of the predicted labels, as MTEB has it.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score

    draws = list(_draws([*train[1]], samples_per_label))
    drawn = sorted({row for draw in draws for row in draw})  # not all of train: it can be large
    place = {row: i for i, row in enumerate(drawn)}
    x_train = embed_once(encode, [train[0][row] for row in drawn])
    x_test, y_test = embed_once(encode, test[0]), np.asarray(test[1])
    experiments = []
    for draw in draws:
        y_train = np.asarray([train[1][row] for row in draw])
        classifier = LogisticRegression(random_state=SEED, max_iter=100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred iterations are the rule
            predicted = classifier.fit(x_train[[place[row] for row in draw]], y_train).predict(x_test)
        found = {
            "accuracy": 100 * float(accuracy_score(y_test, predicted)),
            "f1": 100 * float(f1_score(y_test, predicted, average="macro")),
        }
        if set(y_train.tolist()) == {0, 1}:
            found["ap"] = 100 * float(average_precision_score(y_test, predicted))
        experiments.append(found)
    return _means(experiments), experiments


def _draws(labels: list[Any], samples_per_label: int) -> Iterator[list[int]]:
    """For each experiment the rows it trains on: the first of each label in a shuffled order.

    Each experiment begins with the same seed, and shuffles the order that the one before has left.
    """
    order = np.arange(len(labels))
    for _ in range(EXPERIMENTS):
        np.random.RandomState(SEED).shuffle(order)  # MTEB's stream of random numbers
        left = dict.fromkeys(labels, samples_per_label)
        rows = []
        for row in order.tolist():
            if left[labels[row]]:
                left[labels[row]] -= 1
                rows.append(row)
        yield rows


def clustering(encode: Encode, sets: Iterable[tuple[Sequence[str], Sequence[Any]]]) -> tuple[Scores, list[Scores]]:
    """Mini-batch k-means, as many clusters as labels, scored by V-measure: the mean over sets, and each."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    found = []
    for texts, labels in sets:
        # MTEB seeds NumPy's global generator before each set, which draws as this does.
        kmeans = MiniBatchKMeans(n_clusters=len(set(labels)), batch_size=500, n_init="auto", random_state=SEED)
        clusters = kmeans.fit(embed_once(encode, texts)).labels_
        found.append({"v_measure": 100 * float(v_measure_score(labels, clusters))})
    return _means(found), found


# --- rankings ----------------------------------------------------------------------------------


def reranking(encode: Encode, samples: Iterable[Mapping[str, Any]]) -> Scores:
    """Sort each query's candidates by cosine: mean average precision, and mean reciprocal rank in the first ten.

    A sample is {"query": str or list of str, "positive": [str, ...], "negative": [str, ...]}; of several queries the
    nearest counts; a sample without positives or without negatives is left out.
    """
    from sklearn.metrics import average_precision_score

    used = [sample for sample in samples if len(sample["positive"]) and len(sample["negative"])]
    queries = [[s["query"]] if isinstance(s["query"], str) else list(s["query"]) for s in used]
    candidates = [[*sample["positive"], *sample["negative"]] for sample in used]
    vectors = embed_once(encode, [text for texts in (*queries, *candidates) for text in texts])
    ends = np.cumsum([len(texts) for texts in (*queries, *candidates)])
    parts = np.split(vectors, ends[:-1])
    precisions, reciprocal_ranks = [], []
    for sample, query, documents in zip(used, parts[: len(used)], parts[len(used) :], strict=True):
        similarity = cos_sim(query, documents).max(axis=0)
        relevant = np.arange(len(documents)) < len(sample["positive"])
        hits = np.flatnonzero(relevant[np.argsort(-similarity, kind="stable")[:10]])
        reciprocal_ranks.append(1 / (hits[0] + 1) if len(hits) else 0.0)
        precisions.append(average_precision_score(relevant, similarity))
    return {"map": 100 * float(np.mean(precisions)), "mrr": 100 * float(np.mean(reciprocal_ranks))}


def retrieval(
    encode: Encode,
    corpus: Iterable[tuple[str, str]],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
) -> Scores:
    """nDCG, MAP, recall and precision of the nearest 1, 3, 5, 10, 100 and 1000 documents, means over the queries.

    corpus: (id, text) of each document; it is read once and never as a whole in memory. queries: text by id.
    qrels: for a query's id how relevant which document is; queries without are not asked.
    """
    import pytrec_eval

    asked = [query for query in queries if query in qrels]
    hits = nearest(encode, corpus, {query: queries[query] for query in asked}, max(CUTS))
    cuts = ",".join(str(k) for k in CUTS)
    judge = pytrec_eval.RelevanceEvaluator(
        {query: dict(qrels[query]) for query in asked},
        {f"ndcg_cut.{cuts}", f"map_cut.{cuts}", f"recall.{cuts}", f"P.{cuts}"},
    )
    found = list(judge.evaluate(hits).values())
    scores = {}
    for name, its_name in (("ndcg", "ndcg_cut"), ("map", "map_cut"), ("recall", "recall"), ("precision", "P")):
        for k in CUTS:
            mean = sum(of_query[f"{its_name}_{k}"] for of_query in found) / len(found)
            scores[f"{name}_at_{k}"] = 100 * round(mean, 5)  # MTEB rounds here
    return scores


def nearest(
    encode: Encode, corpus: Iterable[tuple[str, str]], queries: Mapping[str, str], k: int
) -> dict[str, dict[str, float]]:
    """For each query's id the k documents of highest cosine, by id; of equal ones the first in the corpus.

    A document with the query's own id is left out, as in BEIR. The result does not depend on the size of the blocks.
    """
    vectors = embed_once(encode, list(queries.values()))
    row_of = {query: row for row, query in enumerate(queries)}
    best = TopK(len(queries), k)
    ids: dict[int, str] = {}  # of documents that are among the best so far
    kept = KEPT
    documents = iter(corpus)
    while block := list(islice(documents, max(256, min(8192, SCORES_AT_ONCE // len(queries))))):
        scores = cos_sim(vectors, embed_once(encode, [text for _, text in block]))
        for column, (document, _) in enumerate(block):
            if document in row_of:
                scores[row_of[document], column] = -np.inf
        ids.update(enumerate((document for document, _ in block), best.seen))
        best.add(scores)
        if len(ids) > 2 * kept:  # those that have fallen out are forgotten now and then: it takes time
            ids = {row: ids[row] for row in np.unique(np.concatenate(best.rows)).tolist()}
            kept = max(len(ids), KEPT)
    for rows in best.rows:
        names = [ids[row] for row in rows.tolist()]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"corpus: the id {twice!r} occurs twice")
    return {
        query: {ids[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)}
        for query, rows, scores in zip(queries, best.rows, best.scores, strict=True)
    }


class TopK:
    """The k highest of each query's scores, which come in blocks; of equal ones the first. -inf is never among them.

    scores, rows: for each query an array of at most k, best first; which score it was, counted over all blocks.
    """

    def __init__(self, queries: int, k: int):
        self.k, self.seen = k, 0
        self.scores = [np.empty(0)] * queries
        self.rows = [np.empty(0, np.int64)] * queries

    def add(self, block: Array) -> None:
        """block: the next scores (queries, n)."""
        for query, new in enumerate(block):
            scores, rows = self.scores[query], self.rows[query]
            least = scores[-1] if len(scores) == self.k else -np.inf
            better = np.flatnonzero(new > least)
            if len(better):
                scores = np.concatenate([scores, new[better]])
                order = np.argsort(-scores, kind="stable")[: self.k]
                self.scores[query] = scores[order]
                self.rows[query] = np.concatenate([rows, self.seen + better])[order]
        self.seen += block.shape[1]


# --- summaries ---------------------------------------------------------------------------------


def summarization(encode: Encode, samples: Iterable[Mapping[str, Any]]) -> Scores:
    """Correlation of a machine summary's cosine with the nearest human one with its relevance by people.

    A sample is {"human_summaries": [...], "machine_summaries": [...], "relevance": [a number for each of these]};
    one whose scores are all equal is left out. The card's measures average each correlation with its p-value, an
    error of MTEB that its version 2 of the task has not: those are cos_sim_pearson_v2 and cos_sim_spearman_v2.
    """
    from scipy.stats import pearsonr, spearmanr

    read = list(samples)
    texts = [[*sample["human_summaries"], *sample["machine_summaries"]] for sample in read]
    vectors = embed_once(encode, [text for some in texts for text in some])
    found: dict[str, list[Any]] = {}
    for sample, both in zip(read, np.split(vectors, np.cumsum([len(some) for some in texts])[:-1]), strict=True):
        humans = len(sample["human_summaries"])
        similarity = {
            "cos_sim": cos_sim(both[humans:], both[:humans]).max(axis=1),
            "dot": (both[humans:] @ both[:humans].T).max(axis=1),
        }
        if any(
            len(set(values)) == 1
            for values in (list(sample["relevance"]), *map(np.ndarray.tolist, similarity.values()))
        ):
            continue
        for name, values in similarity.items():
            found.setdefault(f"{name}_pearson", []).append(pearsonr(sample["relevance"], values))
            found.setdefault(f"{name}_spearman", []).append(spearmanr(sample["relevance"], values))
    if not found:
        raise ValueError("summarization: found no row whose similarities differ, wanted one: are all vectors the same?")
    scores = {name: 100 * float(np.mean([tuple(pair) for pair in pairs])) for name, pairs in found.items()}
    for name in ("cos_sim_pearson", "cos_sim_spearman"):
        scores[f"{name}_v2"] = 100 * float(np.mean([pair[0] for pair in found[name]]))
    return scores


def _means(found: list[Scores]) -> Scores:
    return {name: float(np.mean([scores[name] for scores in found])) for name in found[0]}
