"""The evaluators of sentence-transformers 6.2: the same constructors, calls, names of metrics and .csv files.

A model is anything with their `encode`, `encode_query`, `encode_document`: this package's, or sentence-transformers'.
What differs: score functions get and give NumPy arrays; columns of unequal length are a ValueError; nothing is stored
in a model card.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minilm_np import util
from minilm_np.evaluate.protocols import TopK

Array = npt.NDArray[Any]
Metrics = dict[str, float]
Pairwise = Callable[[Any, Any], Array]

PAIRWISE: dict[str, Pairwise] = {
    "cosine": util.pairwise_cos_sim,
    "dot": util.pairwise_dot_score,
    "euclidean": util.pairwise_euclidean_sim,
    "manhattan": util.pairwise_manhattan_sim,
}
logger = logging.getLogger(__name__)


class Evaluator:
    """evaluator(model, output_path) gives metrics by name, of which `primary_metric` is the one to choose models by.

    With an output_path a line is added to `csv_file` there.
    """

    greater_is_better = True

    def __init__(self, name: str, csv_file: str, write_csv: bool, show_progress_bar: bool | None):
        self.name, self.csv_file, self.write_csv = name, csv_file, write_csv
        self.csv_headers = ["epoch", "steps"]
        self.primary_metric: str | None = None
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        self.show_progress_bar = show_progress_bar

    def _named(self, metrics: Mapping[str, Any], primary: str) -> Metrics:
        """The metrics as float, with this evaluator's name before theirs."""
        before = f"{self.name}_" if self.name else ""
        self.primary_metric = before + primary
        found = {before + key: float(value) for key, value in metrics.items()}
        for key, value in found.items():
            logger.info("%s: %.4f", key, value)
        return found

    def _write(self, output_path: Any, values: Iterable[Any], line_end: str = "\r\n") -> None:
        if output_path is None or not self.write_csv:
            return
        path = Path(output_path) / self.csv_file
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator=line_end)
            if new:
                writer.writerow(self.csv_headers)
            writer.writerow(values)


class EmbeddingSimilarityEvaluator(Evaluator):
    """Pearson's and Spearman's correlation of the similarities of pairs with the scores given for them.

    precision: embeddings are normalised and quantised first; "int8" and "uint8" are calibrated on both columns.
    similarity_fn_names: of "cosine", "dot", "euclidean", "manhattan"; None: the model's.
    """

    def __init__(
        self,
        sentences1: Sequence[Any],
        sentences2: Sequence[Any],
        scores: Sequence[float],
        batch_size: int = 16,
        main_similarity: Any = None,
        similarity_fn_names: Sequence[str] | None = None,
        name: str = "",
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        precision: str | None = None,
        truncate_dim: int | None = None,
    ):
        _same_length(sentences1=sentences1, sentences2=sentences2, scores=scores)
        parts = ["similarity_evaluation", name, precision, "results.csv"]
        super().__init__(name, "_".join(part for part in parts if part), write_csv, show_progress_bar)
        self.sentences1, self.sentences2, self.scores = sentences1, sentences2, scores
        self.batch_size, self.precision, self.truncate_dim = batch_size, precision, truncate_dim
        self.main_similarity = util.SimilarityFunction(main_similarity) if main_similarity else None
        main = [self.main_similarity.value] if self.main_similarity else []
        self.similarity_fn_names = _known(similarity_fn_names or main)

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Metrics:
        from scipy.stats import pearsonr, spearmanr

        names = self.similarity_fn_names = self.similarity_fn_names or _known([model.similarity_fn_name])
        first, second = self._embeddings(model)
        metrics: dict[str, Any] = {}
        for name in names:
            similarity = PAIRWISE[name](first, second)
            metrics[f"pearson_{name}"] = pearsonr(self.scores, similarity)[0]
            metrics[f"spearman_{name}"] = spearmanr(self.scores, similarity)[0]
        self.csv_headers = ["epoch", "steps", *(f"{name}_{kind}" for name in names for kind in ("pearson", "spearman"))]
        self._write(output_path, [epoch, steps, *metrics.values()])
        primary = f"spearman_{names[0]}"
        if len(names) > 1:
            for kind in ("pearson", "spearman"):
                metrics[f"{kind}_max"] = max(metrics[f"{kind}_{name}"] for name in names)
            primary = "spearman_max"
        if self.main_similarity:
            primary = f"spearman_{self.main_similarity.value}"
        return self._named(metrics, primary)

    def _embeddings(self, model: Any) -> tuple[Array, Array]:
        if self.precision in ("int8", "uint8"):  # the same ranges for both columns
            both = self._encode(model, [*self.sentences1, *self.sentences2])
            return both[: len(self.sentences1)], both[len(self.sentences1) :]
        return self._encode(model, self.sentences1), self._encode(model, self.sentences2)

    def _encode(self, model: Any, texts: Sequence[Any]) -> Array:
        found = np.asarray(
            model.encode(
                list(texts),
                batch_size=self.batch_size,
                show_progress_bar=self.show_progress_bar,
                convert_to_numpy=True,
                precision=self.precision,
                normalize_embeddings=bool(self.precision),
                truncate_dim=self.truncate_dim,
            )
        )
        if self.precision == "binary":
            found = found.view(np.uint8) ^ np.uint8(128)  # int8 is uint8 less 128
        if self.precision in ("binary", "ubinary"):
            found = np.unpackbits(found, axis=1)
        return found if found.dtype.kind == "f" else found.astype(np.float32)


class BinaryClassificationEvaluator(Evaluator):
    """How well a threshold on similarity tells pairs with label 1 from those with label 0.

    For each similarity: accuracy and f1 (with precision, recall and mcc, Matthews' correlation) at their best
    thresholds, and ap, the average precision over all. Equal scores are never parted by a threshold.
    """

    MEASURES = ("accuracy", "accuracy_threshold", "f1", "f1_threshold", "precision", "recall", "ap", "mcc")
    IN_CSV = ("accuracy", "accuracy_threshold", "f1", "precision", "recall", "f1_threshold", "ap", "mcc")

    def __init__(
        self,
        sentences1: Sequence[Any],
        sentences2: Sequence[Any],
        labels: Sequence[int],
        name: str = "",
        batch_size: int = 32,
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        similarity_fn_names: Sequence[str] | None = None,
    ):
        _same_length(sentences1=sentences1, sentences2=sentences2, labels=labels)
        for row, label in enumerate(labels):
            if label not in (0, 1):
                raise ValueError(f"labels[{row}]: found {label!r}, wanted 0 or 1")
        csv_file = "_".join(part for part in ("binary_classification_evaluation", name, "results.csv") if part)
        super().__init__(name, csv_file, write_csv, show_progress_bar)
        self.sentences1, self.sentences2, self.labels = sentences1, sentences2, labels
        self.batch_size, self.truncate_dim = batch_size, truncate_dim
        self.similarity_fn_names = _known(similarity_fn_names or [])

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Metrics:
        names = self.similarity_fn_names = self.similarity_fn_names or _known([model.similarity_fn_name])
        scores = self.compute_metrics(model)
        self.csv_headers = ["epoch", "steps", *(f"{name}_{measure}" for name in names for measure in self.IN_CSV)]
        row = [scores[name][measure] for name in names for measure in self.IN_CSV]
        self._write(output_path, [epoch, steps, *row])
        metrics = {f"{name}_{key}": value for name, values in scores.items() for key, value in values.items()}
        primary = f"{names[0]}_ap"
        if len(names) > 1:
            metrics |= {f"max_{key}": max(values[key] for values in scores.values()) for key in self.MEASURES}
            primary = "max_ap"
        return self._named(metrics, primary)

    def compute_metrics(self, model: Any) -> dict[str, Metrics]:
        """The measures by similarity."""
        from sklearn.metrics import average_precision_score, matthews_corrcoef

        rows = {text: row for row, text in enumerate(dict.fromkeys([*self.sentences1, *self.sentences2]))}
        embeddings = _encode(self, model.encode, list(rows))
        first, second = (embeddings[[rows[text] for text in texts]] for texts in (self.sentences1, self.sentences2))
        labels = np.asarray(self.labels)
        found = {}
        for name in self.similarity_fn_names:
            # Distances are given as such: less is nearer.
            nearer_is_more = name in ("cosine", "dot")
            scores = PAIRWISE[name](first, second) * (1 if nearer_is_more else -1)
            accuracy, accuracy_threshold = self.find_best_acc_and_threshold(scores, labels, nearer_is_more)
            f1, precision, recall, threshold = self.find_best_f1_and_threshold(scores, labels, nearer_is_more)
            predicted = scores >= threshold if nearer_is_more else scores <= threshold
            values = (
                accuracy,
                accuracy_threshold,
                f1,
                threshold,
                precision,
                recall,
                average_precision_score(labels, scores if nearer_is_more else -scores),
                matthews_corrcoef(labels, predicted),
            )
            found[name] = dict(zip(self.MEASURES, map(float, values), strict=True))
        return found

    @staticmethod
    def find_best_acc_and_threshold(scores: Any, labels: Any, high_score_more_similar: bool) -> tuple[Any, Any]:
        """The best accuracy, and the score from which on pairs count as similar."""
        if len(scores) == 0:
            return 0, -1
        scores, right, said, thresholds = _by_threshold(scores, labels, high_score_more_similar)
        none = np.sum(np.asarray(labels) == 0)
        accuracy = (right + none - (said - right)) / len(labels)
        best = int(np.argmax(accuracy))
        if accuracy[best] > none / len(labels):
            return accuracy[best], thresholds[best]
        infinity = np.inf if high_score_more_similar else -np.inf  # nothing is similar
        return none / len(labels), np.nextafter(scores[0], np.asarray(infinity, scores.dtype))

    @staticmethod
    def find_best_f1_and_threshold(
        scores: Any, labels: Any, high_score_more_similar: bool
    ) -> tuple[Any, Any, Any, Any]:
        """The best F1 with its precision, recall and threshold; zeros if no pair has label 1."""
        if not np.sum(labels):
            return 0, 0, 0, 0
        _, right, said, thresholds = _by_threshold(scores, labels, high_score_more_similar)
        precision, recall = right / said, right / np.sum(labels)
        with np.errstate(invalid="ignore"):  # 0 / 0 before the first pair with label 1
            f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
        best = int(np.argmax(f1))
        return f1[best], precision[best], recall[best], thresholds[best]


def _by_threshold(scores: Any, labels: Any, high_score_more_similar: bool) -> tuple[Array, Array, Array, Array]:
    """Nearest first: the scores; and for each threshold between unequal ones: right and said to be similar, itself."""
    scores = np.asarray(scores)
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    order = np.argsort(-scores if high_score_more_similar else scores, kind="stable")
    scores = scores[order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    following = scores[np.minimum(last + 1, len(scores) - 1)]
    thresholds = (scores[last] + following) / np.asarray(2, scores.dtype)
    thresholds = np.where(thresholds == following, scores[last], thresholds)  # a rounded middle takes none in
    right = np.cumsum(np.asarray(labels)[order] == 1)[last]
    return scores, right, last + 1, thresholds


class TripletEvaluator(Evaluator):
    """How often an anchor is nearer to its positive than to its negative, by more than a margin.

    margin: for all similarities, or by their names.
    """

    def __init__(
        self,
        anchors: Sequence[Any],
        positives: Sequence[Any],
        negatives: Sequence[Any],
        main_similarity_function: Any = None,
        margin: float | Mapping[str, float] | None = None,
        name: str = "",
        batch_size: int = 16,
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        similarity_fn_names: Sequence[str] | None = None,
        main_distance_function: Any = "deprecated",
    ):
        _same_length(anchors=anchors, positives=positives, negatives=negatives)
        csv_file = "_".join(part for part in ("triplet_evaluation", name, "results.csv") if part)
        super().__init__(name, csv_file, write_csv, show_progress_bar)
        self.anchors, self.positives, self.negatives = anchors, positives, negatives
        self.batch_size, self.truncate_dim = batch_size, truncate_dim
        if main_distance_function != "deprecated" and main_similarity_function is None:
            logger.warning("main_distance_function is deprecated; main_similarity_function is its name")
            main_similarity_function = main_distance_function
        main = util.SimilarityFunction(main_similarity_function) if main_similarity_function else None
        self.main_similarity_function = main
        self.similarity_fn_names = _known(similarity_fn_names or ([main.value] if main else []))
        if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float | dict)):
            raise ValueError(f"margin: found {margin!r}, wanted a number, or numbers by {list(PAIRWISE)}")
        margins = margin if isinstance(margin, dict) else dict.fromkeys(PAIRWISE, margin or 0)
        _known(list(margins), "margin")
        self.margin = {**dict.fromkeys(PAIRWISE, 0), **margins}

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Metrics:
        anchors = _encode(self, model.encode_query, self.anchors)
        positives, negatives = (_encode(self, model.encode_document, x) for x in (self.positives, self.negatives))
        names = self.similarity_fn_names = self.similarity_fn_names or _known([model.similarity_fn_name])
        metrics = {}
        for name in names:
            nearer = PAIRWISE[name](anchors, positives) > PAIRWISE[name](anchors, negatives) + self.margin[name]
            metrics[f"{name}_accuracy"] = np.float32(nearer.mean())
        self.csv_headers = ["epoch", "steps", *(f"accuracy_{name}" for name in names)]
        self._write(output_path, [epoch, steps, *map(float, metrics.values())])
        primary = f"{names[0]}_accuracy"
        if len(names) > 1:
            metrics["max_accuracy"] = max(metrics.values())
            primary = "max_accuracy"
        if self.main_similarity_function:
            primary = f"{self.main_similarity_function.value}_accuracy"
        return self._named(metrics, primary)


class RerankingEvaluator(Evaluator):
    """Sort each query's candidates by similarity: MAP, and MRR and nDCG of the first at_k.

    samples: {"query": str, "positive": str or list, "negative": str or list}; those without either are left out.
    similarity_fct: of a query's vector (D,) and its candidates' (n, D); gives (n,) or (1, n).
    """

    def __init__(
        self,
        samples: Any,
        at_k: int = 10,
        name: str = "",
        write_csv: bool = True,
        similarity_fct: Callable[[Any, Any], Any] = util.cos_sim,
        batch_size: int = 64,
        show_progress_bar: bool | None = False,
        use_batched_encoding: bool = True,
        truncate_dim: int | None = None,
        mrr_at_k: int | None = None,
    ):
        if mrr_at_k is not None:
            logger.warning("mrr_at_k is deprecated; at_k is its name")
        self.at_k = at_k if mrr_at_k is None else mrr_at_k
        csv_file = f"{'_'.join(part for part in ('RerankingEvaluator', name, 'results') if part)}_@{self.at_k}.csv"
        super().__init__(name, csv_file, write_csv, show_progress_bar)
        self.similarity_fct, self.batch_size = similarity_fct, batch_size
        self.use_batched_encoding, self.truncate_dim = use_batched_encoding, truncate_dim
        self.csv_headers = ["epoch", "steps", "MAP", f"MRR@{self.at_k}", f"NDCG@{self.at_k}"]
        self.primary_metric = f"ndcg@{self.at_k}"
        given = samples.values() if isinstance(samples, Mapping) else samples
        whole = [{**s, "positive": _as_list(s["positive"]), "negative": _as_list(s["negative"])} for s in given]
        self.samples = [sample for sample in whole if len(sample["positive"]) and len(sample["negative"])]
        if not self.samples:
            raise ValueError("samples: found none with a positive and a negative, wanted one or more")

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Metrics:
        scores = self.compute_metrics(model)
        self._write(output_path, [epoch, steps, scores["map"], scores["mrr"], scores["ndcg"]])
        primary = f"ndcg@{self.at_k}"
        return self._named({"map": scores["map"], f"mrr@{self.at_k}": scores["mrr"], primary: scores["ndcg"]}, primary)

    def compute_metrics(self, model: Any) -> Metrics:
        """map, mrr and ndcg, each the mean over the samples."""
        from sklearn.metrics import average_precision_score, ndcg_score

        found = []
        for sample, query, documents in self._embedded(model):
            scores = np.asarray(self.similarity_fct(query, documents))
            scores = scores[0] if scores.ndim > 1 else scores
            relevant = np.arange(len(documents)) < len(sample["positive"])
            hits = np.flatnonzero(relevant[np.argsort(-scores, kind="stable")[: self.at_k]])
            found.append(
                (
                    average_precision_score(relevant, scores),
                    1 / (hits[0] + 1) if len(hits) else 0.0,
                    ndcg_score([relevant], [scores], k=self.at_k),
                )
            )
        return dict(zip(("map", "mrr", "ndcg"), np.mean(found, axis=0).tolist(), strict=True))

    def _embedded(self, model: Any) -> Iterable[tuple[Any, Array, Array]]:
        """Each sample with its query's vector and those of its candidates, the positives first."""
        candidates = [[*sample["positive"], *sample["negative"]] for sample in self.samples]
        if not self.use_batched_encoding:  # slower, in little memory
            for sample, texts in zip(self.samples, candidates, strict=True):
                query = _encode(self, model.encode_query, [sample["query"]])[0]
                yield sample, query, _encode(self, model.encode_document, texts)
            return
        queries = _encode(self, model.encode_query, [sample["query"] for sample in self.samples])
        documents = _encode(self, model.encode_document, [text for texts in candidates for text in texts])
        ends = np.cumsum([len(texts) for texts in candidates])
        yield from zip(self.samples, queries, np.split(documents, ends[:-1]), strict=True)


class InformationRetrievalEvaluator(Evaluator):
    """Search a corpus with each query: accuracy, precision, recall, MRR, nDCG and MAP of the nearest documents.

    queries, corpus: texts by id. relevant_docs: for a query's id the set of ids that it should find; queries without
    are left out. Of documents with equal scores the one with the lower id comes first.
    score_functions: by name, of (q, D) and (c, D) give (q, c); None: the model's similarity.
    corpus_chunk_size: how many documents are embedded at once; the result does not depend on it.
    write_predictions: the hits also, a line of JSON for each query.
    """

    def __init__(
        self,
        queries: Mapping[Any, Any],
        corpus: Mapping[Any, Any],
        relevant_docs: Mapping[Any, Any],
        corpus_chunk_size: int = 50000,
        mrr_at_k: Sequence[int] = (10,),
        ndcg_at_k: Sequence[int] = (10,),
        accuracy_at_k: Sequence[int] = (1, 3, 5, 10),
        precision_recall_at_k: Sequence[int] = (1, 3, 5, 10),
        map_at_k: Sequence[int] = (100,),
        show_progress_bar: bool | None = False,
        batch_size: int = 32,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
        score_functions: Mapping[str, Callable[[Any, Any], Any]] | None = None,
        main_score_function: Any = None,
        query_prompt: str | None = None,
        query_prompt_name: str | None = None,
        corpus_prompt: str | None = None,
        corpus_prompt_name: str | None = None,
        write_predictions: bool = False,
    ):
        stem = "_".join(part for part in ("Information-Retrieval_evaluation", name) if part)
        super().__init__(name, f"{stem}_results.csv", write_csv, show_progress_bar)
        self.predictions_file = f"{stem}_predictions.jsonl"
        self.queries_ids = [query for query in queries if relevant_docs.get(query)]
        if not self.queries_ids:
            raise ValueError("relevant_docs: found no query with relevant documents, wanted one or more")
        self.queries = [queries[query] for query in self.queries_ids]
        self.corpus_ids = sorted(corpus)  # so that the first of equals is the one with the lower id
        self.corpus = [corpus[document] for document in self.corpus_ids]
        self.relevant_docs, self.corpus_chunk_size = relevant_docs, corpus_chunk_size
        for measure, cuts in (
            ("mrr", mrr_at_k),
            ("ndcg", ndcg_at_k),
            ("accuracy", accuracy_at_k),
            ("precision_recall", precision_recall_at_k),
            ("map", map_at_k),
        ):
            if any(k < 1 for k in cuts) or (measure == "ndcg" and not cuts):
                raise ValueError(f"{measure}_at_k: found {list(cuts)}, wanted 1 or more, of ndcg at least one")
        self.mrr_at_k, self.ndcg_at_k, self.accuracy_at_k = mrr_at_k, ndcg_at_k, accuracy_at_k
        self.precision_recall_at_k, self.map_at_k = precision_recall_at_k, map_at_k
        self.batch_size, self.truncate_dim, self.score_functions = batch_size, truncate_dim, score_functions
        self.main_score_function = util.SimilarityFunction(main_score_function) if main_score_function else None
        self.query_prompt, self.query_prompt_name = query_prompt, query_prompt_name
        self.corpus_prompt, self.corpus_prompt_name = corpus_prompt, corpus_prompt_name
        self.write_predictions = write_predictions

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Metrics:
        functions = self.score_functions or {model.similarity_fn_name: model.similarity}
        best = self._search(model, functions)
        if self.write_predictions and output_path is not None:
            self._write_predictions(Path(output_path), best)
        scores = {name: self._metrics(hits.rows) for name, hits in best.items()}
        self.csv_headers = [
            "epoch",
            "steps",
            *(f"{name}-{column}" for name in sorted(scores) for column, _ in self._columns()),
        ]
        row = [scores[name][key] for name in sorted(scores) for _, key in self._columns()]
        self._write(output_path, [epoch, steps, *row], "\n")
        primary = f"ndcg@{max(self.ndcg_at_k)}"
        main = self.main_score_function.value if self.main_score_function else None
        main = main or max(sorted(scores), key=lambda name: scores[name][primary])
        metrics = {f"{name}_{key}": value for name, values in scores.items() for key, value in values.items()}
        return self._named(metrics, f"{main}_{primary}")

    def _columns(self) -> list[tuple[str, str]]:
        """Columns of the .csv file, and which metric each has."""
        found = [(f"Accuracy@{k}", f"accuracy@{k}") for k in self.accuracy_at_k]
        for k in self.precision_recall_at_k:
            found += [(f"Precision@{k}", f"precision@{k}"), (f"Recall@{k}", f"recall@{k}")]
        for kind, cuts in (("MRR", self.mrr_at_k), ("NDCG", self.ndcg_at_k), ("MAP", self.map_at_k)):
            found += [(f"{kind}@{k}", f"{kind.lower()}@{k}") for k in cuts]
        return found

    def _search(self, model: Any, functions: Mapping[str, Callable[[Any, Any], Any]]) -> dict[str, TopK]:
        cuts = (*self.mrr_at_k, *self.ndcg_at_k, *self.accuracy_at_k, *self.precision_recall_at_k, *self.map_at_k)
        best = {name: TopK(len(self.queries), max(cuts)) for name in functions}
        prompts = {"prompt_name": self.query_prompt_name, "prompt": self.query_prompt}
        queries = _encode(self, model.encode_query, self.queries, **prompts)
        prompts = {"prompt_name": self.corpus_prompt_name, "prompt": self.corpus_prompt}
        for start in range(0, len(self.corpus), self.corpus_chunk_size):
            some = self.corpus[start : start + self.corpus_chunk_size]
            documents = _encode(self, model.encode_document, some, **prompts)
            for name, function in functions.items():
                best[name].add(np.asarray(function(queries, documents)))
        return best

    def _metrics(self, hits: list[Array]) -> Metrics:
        """hits: for each query the rows of the corpus, nearest first."""
        sums = dict.fromkeys((key for _, key in self._columns()), 0.0)
        for query, rows in zip(self.queries_ids, hits, strict=True):
            wanted = set(self.relevant_docs[query])
            right = np.asarray([self.corpus_ids[row] in wanted for row in rows], bool)
            ranks = np.flatnonzero(right) + 1.0
            for k in self.accuracy_at_k:
                sums[f"accuracy@{k}"] += right[:k].any()
            for k in self.precision_recall_at_k:
                sums[f"precision@{k}"] += right[:k].sum() / k
                sums[f"recall@{k}"] += right[:k].sum() / len(wanted)
            for k in self.mrr_at_k:
                sums[f"mrr@{k}"] += 1 / ranks[0] if right[:k].any() else 0.0
            for k in self.ndcg_at_k:
                ideal = np.arange(1, min(k, len(wanted)) + 1)
                sums[f"ndcg@{k}"] += (1 / np.log2(ranks[ranks <= k] + 1)).sum() / (1 / np.log2(ideal + 1)).sum()
            for k in self.map_at_k:
                found = ranks[ranks <= k]
                sums[f"map@{k}"] += (np.arange(1, len(found) + 1) / found).sum() / min(k, len(wanted))
        # in sentence-transformers' order
        order = ("accuracy", "precision", "recall", "ndcg", "mrr", "map")
        return {key: sums[key] / len(hits) for key in sorted(sums, key=lambda key: order.index(key.split("@")[0]))}

    def _write_predictions(self, folder: Path, best: Mapping[str, TopK]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, hits in best.items():
            path = folder / self.predictions_file.replace(".jsonl", f"_{name}.jsonl")
            with path.open("w", encoding="utf-8") as file:
                for row, (query, text) in enumerate(zip(self.queries_ids, self.queries, strict=True)):
                    found = zip(hits.rows[row].tolist(), hits.scores[row].tolist(), strict=True)
                    results = [{"corpus_id": self.corpus_ids[place], "score": score} for place, score in found]
                    file.write(json.dumps({"query_id": query, "query": text, "results": results}) + "\n")


def _encode(evaluator: Any, encode: Callable[..., Any], texts: Sequence[Any], **prompts: Any) -> Array:
    return np.asarray(
        encode(
            list(texts),
            batch_size=evaluator.batch_size,
            show_progress_bar=evaluator.show_progress_bar,
            convert_to_numpy=True,
            truncate_dim=evaluator.truncate_dim,
            **prompts,
        )
    )


def _as_list(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _known(names: Sequence[str], argument: str = "similarity_fn_names") -> list[str]:
    for name in names:
        if name not in PAIRWISE:
            raise ValueError(f"{argument}: found {name!r}, wanted of {list(PAIRWISE)}")
    return list(names)


def _same_length(**columns: Sequence[Any]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"found {', '.join(f'{n} {name}' for name, n in lengths.items())}; wanted as many of each")
    if not all(lengths.values()):
        raise ValueError(f"{', '.join(lengths)}: found none, wanted one or more")
