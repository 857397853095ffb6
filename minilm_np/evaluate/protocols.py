"""MTEB's scoring rules: one function for each task type, from an encoder and texts to scores in points (times 100).

The rules are those of mteb 1.12.75, which are also the model card's, except where a comment notes a difference. The
measures have the card's names. scipy, scikit-learn and pytrec_eval compute the statistics.

The argument `encode` is a function that takes a list of n str and returns an array (n, D).
MTEB: Muennighoff et al. 2023, arXiv:2210.07316.
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

CUTOFFS = (1, 3, 5, 10, 100, 1000)  # k in the retrieval measures NAME_at_k
MIN_IDS_BETWEEN_PRUNING = 1 << 16  # document ids; pruning them after every block would take time
SCORES_PER_BLOCK = 1 << 24  # 64 MB of float32: similarities of all queries with one block of the corpus
EXPERIMENTS = 10  # of classification
SEED = 42


def encode_once(encode: Encode, texts: Sequence[str]) -> Array:
    """Return the embeddings (n, D) of n texts; equal texts are encoded once."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    return encode(list(rows))[[rows[text] for text in texts]]


# --- pairs -------------------------------------------------------------------------------------


def similarities(a: Array, b: Array) -> dict[str, Array]:
    """Return the similarities (n,) of a[i] and b[i] by name; a and b have shape (n, D), and larger means more similar.

    The cosine is 1 - |x - y|^2 / 2 of the unit vectors x and y. Their dot product would have rounding errors that
    rank pairs which should tie and would change STS12 by 0.0002 points.
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
    """Return Pearson's and Spearman's correlation of the pairs' similarities with human similarity scores (gold)."""
    from scipy.stats import pearsonr, spearmanr

    both = encode_once(encode, [*sentences1, *sentences2])
    by_name = similarities(both[: len(sentences1)], both[len(sentences1) :])
    scores = {}
    for name in ("cos_sim", "euclidean", "manhattan"):
        scores[f"{name}_pearson"] = 100 * float(pearsonr(gold, by_name[name])[0])
        scores[f"{name}_spearman"] = 100 * float(spearmanr(gold, by_name[name])[0])
    return scores


def pair_classification(
    encode: Encode, sentences1: Sequence[str], sentences2: Sequence[str], labels: Sequence[int]
) -> Scores:
    """Score a threshold on similarity as a classifier of pairs with label 1 against pairs with label 0.

    accuracy and f1 (with its precision and recall) are those of the best threshold; ap is the average precision over
    all thresholds.
    """
    from sklearn.metrics import average_precision_score

    both = encode_once(encode, [*sentences1, *sentences2])
    is_positive = np.asarray(labels)
    scores = {}
    for name, similarity in similarities(both[: len(labels)], both[len(labels) :]).items():
        by_rank = is_positive[np.argsort(-similarity, kind="stable")]
        # As in MTEB, a threshold may separate equal similarities and is never below the last pair.
        predicted, correct = np.arange(1, len(labels)), np.cumsum(by_rank)[:-1]  # pairs above the threshold, hits
        negatives = len(labels) - is_positive.sum()
        accuracy = (correct + negatives - (predicted - correct)) / len(labels)
        precision, recall = correct / predicted, correct / is_positive.sum()
        with np.errstate(invalid="ignore"):  # 0 / 0 above the first pair with label 1
            f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
        best = int(np.argmax(f1))
        scores[f"{name}_accuracy"] = float(accuracy.max())
        scores[f"{name}_ap"] = float(average_precision_score(is_positive, similarity))
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
    """Train a logistic regression on the embeddings of a few texts per label and score its predictions.

    train and test are texts and labels. Returns the mean scores of ten experiments, and the scores of each. The measure
    ap exists for the labels 0 and 1 only: the average precision of the predicted labels, as in MTEB.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score

    draws = list(_draws([*train[1]], samples_per_label))
    drawn = sorted({row for draw in draws for row in draw})  # encode only these rows: train can be large
    place = {row: i for i, row in enumerate(drawn)}
    x_train = encode_once(encode, [train[0][row] for row in drawn])
    x_test, y_test = encode_once(encode, test[0]), np.asarray(test[1])
    experiments = []
    for draw in draws:
        y_train = np.asarray([train[1][row] for row in draw])
        classifier = LogisticRegression(random_state=SEED, max_iter=100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # MTEB stops after 100 iterations
            predicted = classifier.fit(x_train[[place[row] for row in draw]], y_train).predict(x_test)
        scores = {
            "accuracy": 100 * float(accuracy_score(y_test, predicted)),
            "f1": 100 * float(f1_score(y_test, predicted, average="macro")),
        }
        if set(y_train.tolist()) == {0, 1}:
            scores["ap"] = 100 * float(average_precision_score(y_test, predicted))
        experiments.append(scores)
    return _means(experiments), experiments


def _draws(labels: list[Any], samples_per_label: int) -> Iterator[list[int]]:
    """Yield the training rows of each experiment: the first `samples_per_label` rows of each label in a shuffled order.

    Each experiment sets the same seed and shuffles the order that the previous experiment left.
    """
    order = np.arange(len(labels))
    for _ in range(EXPERIMENTS):
        np.random.RandomState(SEED).shuffle(order)  # the generator that MTEB uses
        missing = dict.fromkeys(labels, samples_per_label)
        rows = []
        for row in order.tolist():
            if missing[labels[row]]:
                missing[labels[row]] -= 1
                rows.append(row)
        yield rows


def clustering(encode: Encode, sets: Iterable[tuple[Sequence[str], Sequence[Any]]]) -> tuple[Scores, list[Scores]]:
    """Cluster each set by mini-batch k-means with one cluster per label; return the mean V-measure, and each set's."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    scores = []
    for texts, labels in sets:
        # MTEB seeds NumPy's global generator before each set; random_state draws the same numbers.
        kmeans = MiniBatchKMeans(n_clusters=len(set(labels)), batch_size=500, n_init="auto", random_state=SEED)
        clusters = kmeans.fit(encode_once(encode, texts)).labels_
        scores.append({"v_measure": 100 * float(v_measure_score(labels, clusters))})
    return _means(scores), scores


# --- rankings ----------------------------------------------------------------------------------


def reranking(encode: Encode, samples: Iterable[Mapping[str, Any]]) -> Scores:
    """Rank each query's candidates by cosine; return the mean average precision and the mean reciprocal rank at 10.

    A sample is {"query": str or list of str, "positive": [str, ...], "negative": [str, ...]}. With several queries, a
    candidate's largest similarity counts. A sample without positives or without negatives is skipped.
    """
    from sklearn.metrics import average_precision_score

    used = [sample for sample in samples if len(sample["positive"]) and len(sample["negative"])]
    queries = [[s["query"]] if isinstance(s["query"], str) else list(s["query"]) for s in used]
    candidates = [[*sample["positive"], *sample["negative"]] for sample in used]
    vectors = encode_once(encode, [text for texts in (*queries, *candidates) for text in texts])
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
    """Return nDCG, MAP, recall and precision at 1, 3, 5, 10, 100 and 1000 documents, as means over the queries.

    Parameters
    ----------
    corpus
        The id and the text of each document. It is read once, in blocks.
    queries
        Texts by query id.
    qrels
        Relevances by query id and document id. Queries without an entry are skipped.
    """
    import pytrec_eval

    judged = [query for query in queries if query in qrels]
    hits = nearest(encode, corpus, {query: queries[query] for query in judged}, max(CUTOFFS))
    cutoffs = ",".join(str(k) for k in CUTOFFS)
    evaluator = pytrec_eval.RelevanceEvaluator(
        {query: dict(qrels[query]) for query in judged},
        {f"ndcg_cut.{cutoffs}", f"map_cut.{cutoffs}", f"recall.{cutoffs}", f"P.{cutoffs}"},
    )
    by_query = list(evaluator.evaluate(hits).values())
    scores = {}
    for name, trec_name in (("ndcg", "ndcg_cut"), ("map", "map_cut"), ("recall", "recall"), ("precision", "P")):
        for k in CUTOFFS:
            mean = sum(values[f"{trec_name}_{k}"] for values in by_query) / len(by_query)
            scores[f"{name}_at_{k}"] = 100 * round(mean, 5)  # MTEB rounds here
    return scores


def nearest(
    encode: Encode, corpus: Iterable[tuple[str, str]], queries: Mapping[str, str], k: int
) -> dict[str, dict[str, float]]:
    """Return, by query id, the ids and cosines of the k most similar documents; earlier documents win ties.

    A document with the query's own id is left out, as in BEIR. The result does not depend on the block size. Raises
    ValueError if an id occurs twice among a query's documents.
    """
    vectors = encode_once(encode, list(queries.values()))
    row_of = {query: row for row, query in enumerate(queries)}
    best = TopK(len(queries), k)
    ids: dict[int, str] = {}  # by row of the corpus: the best documents and some that dropped out
    after_pruning = MIN_IDS_BETWEEN_PRUNING
    documents = iter(corpus)
    while block := list(islice(documents, max(256, min(8192, SCORES_PER_BLOCK // len(queries))))):
        scores = cos_sim(vectors, encode_once(encode, [text for _, text in block]))
        for column, (document, _) in enumerate(block):
            if document in row_of:
                scores[row_of[document], column] = -np.inf
        ids.update(enumerate((document for document, _ in block), best.seen))
        best.add(scores)
        if len(ids) > 2 * after_pruning:
            ids = {row: ids[row] for row in np.unique(np.concatenate(best.rows)).tolist()}
            after_pruning = max(len(ids), MIN_IDS_BETWEEN_PRUNING)
    for rows in best.rows:
        names = [ids[row] for row in rows.tolist()]
        if len(set(names)) < len(names):
            duplicate = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"corpus: the id {duplicate!r} occurs twice")
    return {
        query: {ids[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)}
        for query, rows, scores in zip(queries, best.rows, best.scores, strict=True)
    }


class TopK:
    """Collects the k highest scores of each query from blocks of scores. Earlier scores win ties; -inf never counts.

    scores: for each query an array of at most k scores, highest first.
    rows: for each query their column numbers, counted over all blocks.
    """

    def __init__(self, queries: int, k: int):
        self.k, self.seen = k, 0
        self.scores = [np.empty(0)] * queries
        self.rows = [np.empty(0, np.int64)] * queries

    def add(self, block: Array) -> None:
        """Add the next scores (queries, n)."""
        for query, new in enumerate(block):
            scores, rows = self.scores[query], self.rows[query]
            lowest = scores[-1] if len(scores) == self.k else -np.inf
            better = np.flatnonzero(new > lowest)
            if len(better):
                scores = np.concatenate([scores, new[better]])
                order = np.argsort(-scores, kind="stable")[: self.k]
                self.scores[query] = scores[order]
                self.rows[query] = np.concatenate([rows, self.seen + better])[order]
        self.seen += block.shape[1]


# --- summaries ---------------------------------------------------------------------------------


def summarization(encode: Encode, samples: Iterable[Mapping[str, Any]]) -> Scores:
    """Correlate each machine summary's similarity to the nearest human summary with its relevance as judged by people.

    A sample is {"human_summaries": [...], "machine_summaries": [...], "relevance": [a number per machine summary]}. A
    sample whose relevances or similarities are all equal is skipped. The card's measures are the mean of correlations
    and p-values together, an error of MTEB that version 2 of the task corrects: cos_sim_pearson_v2 and
    cos_sim_spearman_v2 are the means of the correlations alone.
    """
    from scipy.stats import pearsonr, spearmanr

    rows = list(samples)
    texts = [[*sample["human_summaries"], *sample["machine_summaries"]] for sample in rows]
    vectors = encode_once(encode, [text for summaries in texts for text in summaries])
    correlations: dict[str, list[Any]] = {}  # of each sample, with p-values
    ends = np.cumsum([len(summaries) for summaries in texts])
    for sample, both in zip(rows, np.split(vectors, ends[:-1]), strict=True):
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
            correlations.setdefault(f"{name}_pearson", []).append(pearsonr(sample["relevance"], values))
            correlations.setdefault(f"{name}_spearman", []).append(spearmanr(sample["relevance"], values))
    if not correlations:
        raise ValueError("summarization: expected a row with different similarities, got none: are all vectors equal?")
    scores = {name: 100 * float(np.mean([tuple(pair) for pair in pairs])) for name, pairs in correlations.items()}
    for name in ("cos_sim_pearson", "cos_sim_spearman"):
        scores[f"{name}_v2"] = 100 * float(np.mean([pair[0] for pair in correlations[name]]))
    return scores


def _means(experiments: list[Scores]) -> Scores:
    return {name: float(np.mean([scores[name] for scores in experiments])) for name in experiments[0]}
