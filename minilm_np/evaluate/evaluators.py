"""The evaluators of sentence-transformers 6.2, with the same constructors, calls, metric names and .csv files.

A model is any object with `encode`, `encode_query` and `encode_document`: minilm_np.SentenceTransformer or the class of
sentence-transformers. Three things differ: score functions take and return NumPy arrays, columns of unequal length
raise ValueError, and no results are written to a model card.
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
from minilm_np.files import check_writable

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
    """Base class of the evaluators: evaluator(model, output_path) returns metrics by name.

    `primary_metric` is the name of the metric to select models by; a call may change it. `csv_file` is the name of the
    file to which a call with an output_path appends a line.
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
        """Return the metrics as float, with this evaluator's name as a prefix, and set `primary_metric`."""
        prefix = f"{self.name}_" if self.name else ""
        self.primary_metric = prefix + primary
        named = {prefix + key: float(value) for key, value in metrics.items()}
        for key, value in named.items():
            logger.info("%s: %.4f", key, value)
        return named

    def _check_output(self, output_path: Any) -> None:
        """Raise OSError if the .csv file cannot be written. Called before the work, which can take hours."""
        if output_path is None or not self.write_csv:
            return
        path = Path(output_path) / self.csv_file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("a").close()
        else:
            check_writable(path)

    def _write(self, output_path: Any, values: Iterable[Any], line_end: str = "\r\n") -> None:
        if output_path is None or not self.write_csv:
            return
        path = Path(output_path) / self.csv_file
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator=line_end)
            if new:
                writer.writerow(self.csv_headers)
            writer.writerow(values)


class EmbeddingSimilarityEvaluator(Evaluator):
    """Compute Pearson's and Spearman's correlation of the similarities of pairs with their scores.

    Parameters
    ----------
    sentences1, sentences2
        The texts of n pairs.
    scores
        The expected similarity of each pair (n,), on any scale.
    batch_size
        Passed to `encode`.
    main_similarity
        The similarity that `primary_metric` uses; by default the one with the highest Spearman correlation.
    similarity_fn_names
        A selection of "cosine", "dot", "euclidean" and "manhattan". None uses main_similarity or else the model's.
    name
        Prefix of the metrics' names, and part of the name of the .csv file.
    show_progress_bar
        Passed to `encode`. None shows it if this module's logger is set to INFO or DEBUG.
    write_csv
        Whether a call with an output_path writes the .csv file.
    precision
        If set, embeddings are normalized and quantized to "float32", "int8", "uint8", "binary" or "ubinary". "int8"
        and "uint8" take their ranges from both columns together.
    truncate_dim
        Number of dimensions to use; None uses all.

    Raises
    ------
    ValueError
        If the columns are empty or differ in length, or if a similarity is unknown.
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
        self.similarity_fn_names = _checked_names(similarity_fn_names or main)

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Metrics:
        """Return pearson_NAME and spearman_NAME for each similarity NAME, and pearson_max and spearman_max of several.

        With an output_path, a line with epoch, steps and these metrics is appended to the .csv file in that folder.
        """
        self._check_output(output_path)
        from scipy.stats import pearsonr, spearmanr

        names = self.similarity_fn_names = self.similarity_fn_names or _checked_names([model.similarity_fn_name])
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
        if self.precision in ("int8", "uint8"):  # both columns need the same ranges
            both = self._encode(model, [*self.sentences1, *self.sentences2])
            return both[: len(self.sentences1)], both[len(self.sentences1) :]
        return self._encode(model, self.sentences1), self._encode(model, self.sentences2)

    def _encode(self, model: Any, texts: Sequence[Any]) -> Array:
        embeddings = np.asarray(
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
            embeddings = embeddings.view(np.uint8) ^ np.uint8(128)  # the int8 value is the uint8 value minus 128
        if self.precision in ("binary", "ubinary"):
            embeddings = np.unpackbits(embeddings, axis=1)
        return embeddings if embeddings.dtype.kind == "f" else embeddings.astype(np.float32)


class BinaryClassificationEvaluator(Evaluator):
    """Score a threshold on similarity as a classifier of pairs with label 1 against pairs with label 0.

    Computes for each similarity the accuracy and F1 at their best thresholds, precision, recall and mcc (Matthews'
    correlation) at the threshold of the best F1, and ap, the average precision over all thresholds. A threshold never
    separates equal scores.

    Parameters
    ----------
    sentences1, sentences2
        The texts of n pairs. Equal texts are encoded once.
    labels
        The label of each pair (n,), 0 or 1.
    name, batch_size, show_progress_bar, write_csv, truncate_dim
        As in EmbeddingSimilarityEvaluator.
    similarity_fn_names
        A selection of "cosine", "dot", "euclidean" and "manhattan". None uses the model's.

    Raises
    ------
    ValueError
        If the columns are empty or differ in length, if a label is neither 0 nor 1, or if a similarity is unknown.
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
                raise ValueError(f"labels[{row}]: expected 0 or 1, got {label!r}")
        csv_file = "_".join(part for part in ("binary_classification_evaluation", name, "results.csv") if part)
        super().__init__(name, csv_file, write_csv, show_progress_bar)
        self.sentences1, self.sentences2, self.labels = sentences1, sentences2, labels
        self.batch_size, self.truncate_dim = batch_size, truncate_dim
        self.similarity_fn_names = _checked_names(similarity_fn_names or [])

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Metrics:
        """Return NAME_MEASURE for each similarity NAME and each of MEASURES, and max_MEASURE of several similarities.

        With an output_path, a line with epoch, steps and these metrics is appended to the .csv file in that folder.
        """
        self._check_output(output_path)
        names = self.similarity_fn_names = self.similarity_fn_names or _checked_names([model.similarity_fn_name])
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
        """Return the MEASURES by the name of the similarity."""
        from sklearn.metrics import average_precision_score, matthews_corrcoef

        rows = {text: row for row, text in enumerate(dict.fromkeys([*self.sentences1, *self.sentences2]))}
        embeddings = _encode(self, model.encode, list(rows))
        first, second = (embeddings[[rows[text] for text in texts]] for texts in (self.sentences1, self.sentences2))
        labels = np.asarray(self.labels)
        metrics = {}
        for name in self.similarity_fn_names:
            # For distances, thresholds are reported as distances: lower means more similar.
            high_score_more_similar = name in ("cosine", "dot")
            scores = PAIRWISE[name](first, second) * (1 if high_score_more_similar else -1)
            accuracy, accuracy_threshold = self.find_best_acc_and_threshold(scores, labels, high_score_more_similar)
            f1, precision, recall, threshold = self.find_best_f1_and_threshold(scores, labels, high_score_more_similar)
            predicted = scores >= threshold if high_score_more_similar else scores <= threshold
            values = (
                accuracy,
                accuracy_threshold,
                f1,
                threshold,
                precision,
                recall,
                average_precision_score(labels, scores if high_score_more_similar else -scores),
                matthews_corrcoef(labels, predicted),
            )
            metrics[name] = dict(zip(self.MEASURES, map(float, values), strict=True))
        return metrics

    @staticmethod
    def find_best_acc_and_threshold(scores: Any, labels: Any, high_score_more_similar: bool) -> tuple[Any, Any]:
        """Return the best accuracy, and its threshold: the score from which pairs count as similar."""
        if len(scores) == 0:
            return 0, -1
        scores, correct, predicted, thresholds = _by_threshold(scores, labels, high_score_more_similar)
        negatives = np.sum(np.asarray(labels) == 0)
        accuracy = (correct + negatives - (predicted - correct)) / len(labels)
        best = int(np.argmax(accuracy))
        if accuracy[best] > negatives / len(labels):
            return accuracy[best], thresholds[best]
        infinity = np.inf if high_score_more_similar else -np.inf  # a threshold that no pair passes
        return negatives / len(labels), np.nextafter(scores[0], np.asarray(infinity, scores.dtype))

    @staticmethod
    def find_best_f1_and_threshold(
        scores: Any, labels: Any, high_score_more_similar: bool
    ) -> tuple[Any, Any, Any, Any]:
        """Return the best F1 with its precision, recall and threshold, or zeros if no pair has label 1."""
        if not np.sum(labels):
            return 0, 0, 0, 0
        _, correct, predicted, thresholds = _by_threshold(scores, labels, high_score_more_similar)
        precision, recall = correct / predicted, correct / np.sum(labels)
        with np.errstate(invalid="ignore"):  # 0 / 0 above the first pair with label 1
            f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
        best = int(np.argmax(f1))
        return f1[best], precision[best], recall[best], thresholds[best]


def _by_threshold(scores: Any, labels: Any, high_score_more_similar: bool) -> tuple[Array, Array, Array, Array]:
    """Sort the pairs and find the thresholds between unequal scores.

    Returns the scores, most similar first; and for each threshold the number of pairs with label 1 above it, the number
    of pairs above it, and its score.
    """
    scores = np.asarray(scores)
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    order = np.argsort(-scores if high_score_more_similar else scores, kind="stable")
    scores = scores[order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    following = scores[np.minimum(last + 1, len(scores) - 1)]
    thresholds = (scores[last] + following) / np.asarray(2, scores.dtype)
    # A midpoint may round to the next score, which would then count as similar.
    thresholds = np.where(thresholds == following, scores[last], thresholds)
    correct = np.cumsum(np.asarray(labels)[order] == 1)[last]
    return scores, correct, last + 1, thresholds


class TripletEvaluator(Evaluator):
    """Compute the fraction of anchors that are more similar to their positive than to their negative.

    Anchors are encoded with the model's `encode_query`, positives and negatives with `encode_document`.

    Parameters
    ----------
    anchors, positives, negatives
        The texts of n triplets.
    main_similarity_function
        The similarity that `primary_metric` uses; by default the one with the highest accuracy.
    margin
        The difference that the two similarities have to exceed: a number for all similarities, or a dict of numbers
        by the similarity's name. None is 0.
    name, batch_size, show_progress_bar, write_csv, truncate_dim
        As in EmbeddingSimilarityEvaluator.
    similarity_fn_names
        A selection of "cosine", "dot", "euclidean" and "manhattan". None uses main_similarity_function or else the
        model's.
    main_distance_function
        Deprecated name of main_similarity_function.

    Raises
    ------
    ValueError
        If the columns are empty or differ in length, if the margin is neither a number nor a dict, or if a similarity
        is unknown.
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
            logger.warning("main_distance_function is deprecated: use main_similarity_function")
            main_similarity_function = main_distance_function
        main = util.SimilarityFunction(main_similarity_function) if main_similarity_function else None
        self.main_similarity_function = main
        self.similarity_fn_names = _checked_names(similarity_fn_names or ([main.value] if main else []))
        if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float | dict)):
            raise ValueError(f"margin: expected a number or a dict of numbers by {list(PAIRWISE)}, got {margin!r}")
        margins = margin if isinstance(margin, dict) else dict.fromkeys(PAIRWISE, margin or 0)
        _checked_names(list(margins), "margin")
        self.margin = {**dict.fromkeys(PAIRWISE, 0), **margins}

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Metrics:
        """Return NAME_accuracy for each similarity NAME, and max_accuracy of several.

        With an output_path, a line with epoch, steps and these metrics is appended to the .csv file in that folder.
        """
        self._check_output(output_path)
        anchors = _encode(self, model.encode_query, self.anchors)
        positives, negatives = (
            _encode(self, model.encode_document, texts) for texts in (self.positives, self.negatives)
        )
        names = self.similarity_fn_names = self.similarity_fn_names or _checked_names([model.similarity_fn_name])
        metrics = {}
        for name in names:
            is_correct = PAIRWISE[name](anchors, positives) > PAIRWISE[name](anchors, negatives) + self.margin[name]
            metrics[f"{name}_accuracy"] = np.float32(is_correct.mean())
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
    """Rank the candidates of each query by similarity; compute MAP, and MRR and nDCG of the best candidates.

    Queries are encoded with the model's `encode_query`, candidates with `encode_document`.

    Parameters
    ----------
    samples
        An iterable of {"query": str, "positive": str or list of str, "negative": str or list of str}, or a dict with
        such values. Samples without positives or without negatives are skipped.
    at_k
        Number of candidates that count for MRR and nDCG.
    similarity_fct
        A function of a query's vector (D,) and the vectors of its candidates (n, D) that returns (n,) or (1, n).
    use_batched_encoding
        False encodes sample by sample, which is slower and needs less memory.
    name, write_csv, batch_size, show_progress_bar, truncate_dim
        As in EmbeddingSimilarityEvaluator.
    mrr_at_k
        Deprecated name of at_k.

    Raises
    ------
    ValueError
        If no sample has both positives and negatives.
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
            logger.warning("mrr_at_k is deprecated: use at_k")
        self.at_k = at_k if mrr_at_k is None else mrr_at_k
        csv_file = f"{'_'.join(part for part in ('RerankingEvaluator', name, 'results') if part)}_@{self.at_k}.csv"
        super().__init__(name, csv_file, write_csv, show_progress_bar)
        self.similarity_fct, self.batch_size = similarity_fct, batch_size
        self.use_batched_encoding, self.truncate_dim = use_batched_encoding, truncate_dim
        self.csv_headers = ["epoch", "steps", "MAP", f"MRR@{self.at_k}", f"NDCG@{self.at_k}"]
        self.primary_metric = f"ndcg@{self.at_k}"
        rows = samples.values() if isinstance(samples, Mapping) else samples
        rows = [{**row, "positive": _as_list(row["positive"]), "negative": _as_list(row["negative"])} for row in rows]
        self.samples = [sample for sample in rows if len(sample["positive"]) and len(sample["negative"])]
        if not self.samples:
            raise ValueError("samples: expected one or more with a positive and a negative, got none")

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Metrics:
        """Return map, mrr@K and ndcg@K, K = at_k, as means over the samples.

        With an output_path, a line with epoch, steps and these metrics is appended to the .csv file in that folder.
        """
        self._check_output(output_path)
        scores = self.compute_metrics(model)
        self._write(output_path, [epoch, steps, scores["map"], scores["mrr"], scores["ndcg"]])
        primary = f"ndcg@{self.at_k}"
        return self._named({"map": scores["map"], f"mrr@{self.at_k}": scores["mrr"], primary: scores["ndcg"]}, primary)

    def compute_metrics(self, model: Any) -> Metrics:
        """Return map, mrr and ndcg as means over the samples."""
        from sklearn.metrics import average_precision_score, ndcg_score

        metrics = []
        for sample, query, documents in self._encoded(model):
            scores = np.asarray(self.similarity_fct(query, documents))
            scores = scores[0] if scores.ndim > 1 else scores
            relevant = np.arange(len(documents)) < len(sample["positive"])
            hits = np.flatnonzero(relevant[np.argsort(-scores, kind="stable")[: self.at_k]])
            metrics.append(
                (
                    average_precision_score(relevant, scores),
                    1 / (hits[0] + 1) if len(hits) else 0.0,
                    ndcg_score([relevant], [scores], k=self.at_k),
                )
            )
        return dict(zip(("map", "mrr", "ndcg"), np.mean(metrics, axis=0).tolist(), strict=True))

    def _encoded(self, model: Any) -> Iterable[tuple[Any, Array, Array]]:
        """Yield each sample with its query's vector and its candidates' vectors, positives first."""
        candidates = [[*sample["positive"], *sample["negative"]] for sample in self.samples]
        if not self.use_batched_encoding:
            for sample, texts in zip(self.samples, candidates, strict=True):
                query = _encode(self, model.encode_query, [sample["query"]])[0]
                yield sample, query, _encode(self, model.encode_document, texts)
            return
        queries = _encode(self, model.encode_query, [sample["query"] for sample in self.samples])
        documents = _encode(self, model.encode_document, [text for texts in candidates for text in texts])
        ends = np.cumsum([len(texts) for texts in candidates])
        yield from zip(self.samples, queries, np.split(documents, ends[:-1]), strict=True)


class InformationRetrievalEvaluator(Evaluator):
    """Search a corpus with each query; compute accuracy, precision, recall, MRR, nDCG and MAP of the nearest documents.

    Queries are encoded with the model's `encode_query`, documents with `encode_document`. Of documents with equal
    scores, the one with the lower id ranks first.

    Parameters
    ----------
    queries, corpus
        Texts by id.
    relevant_docs
        The set of relevant document ids, by query id. Queries without relevant documents are skipped.
    corpus_chunk_size
        Number of documents that are encoded together. The results do not depend on it.
    mrr_at_k, ndcg_at_k, accuracy_at_k, precision_recall_at_k, map_at_k
        The numbers of nearest documents for which each measure is computed.
    score_functions
        Functions by name, which take (q, D) and (c, D) and return (q, c). None uses the model's similarity.
    main_score_function
        The similarity that `primary_metric` uses; by default the score function with the highest nDCG.
    query_prompt, query_prompt_name, corpus_prompt, corpus_prompt_name
        Passed to `encode_query` and `encode_document` as prompt and prompt_name.
    write_predictions
        Whether a call with an output_path also writes the nearest documents, as one line of JSON per query.
    show_progress_bar, batch_size, name, write_csv, truncate_dim
        As in EmbeddingSimilarityEvaluator.

    Raises
    ------
    ValueError
        If no query has relevant documents, if a number of documents is below 1, or if ndcg_at_k is empty.
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
            raise ValueError("relevant_docs: expected one or more queries with relevant documents, got none")
        self.queries = [queries[query] for query in self.queries_ids]
        self.corpus_ids = sorted(corpus)  # TopK keeps the earlier document of a tie: the lower id
        self.corpus = [corpus[document] for document in self.corpus_ids]
        self.relevant_docs, self.corpus_chunk_size = relevant_docs, corpus_chunk_size
        for measure, cutoffs in (
            ("mrr", mrr_at_k),
            ("ndcg", ndcg_at_k),
            ("accuracy", accuracy_at_k),
            ("precision_recall", precision_recall_at_k),
            ("map", map_at_k),
        ):
            if any(k < 1 for k in cutoffs) or (measure == "ndcg" and not cutoffs):
                expected = "one or more integers, each 1 or more" if measure == "ndcg" else "integers, each 1 or more"
                raise ValueError(f"{measure}_at_k: expected {expected}, got {list(cutoffs)}")
        self.mrr_at_k, self.ndcg_at_k, self.accuracy_at_k = mrr_at_k, ndcg_at_k, accuracy_at_k
        self.precision_recall_at_k, self.map_at_k = precision_recall_at_k, map_at_k
        self.batch_size, self.truncate_dim, self.score_functions = batch_size, truncate_dim, score_functions
        self.main_score_function = util.SimilarityFunction(main_score_function) if main_score_function else None
        self.query_prompt, self.query_prompt_name = query_prompt, query_prompt_name
        self.corpus_prompt, self.corpus_prompt_name = corpus_prompt, corpus_prompt_name
        self.write_predictions = write_predictions

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Metrics:
        """Return FUNCTION_MEASURE@K for each score function, such as cosine_ndcg@10, as means over the queries.

        With an output_path, a line with epoch, steps and these metrics is appended to the .csv file in that folder;
        write_predictions also writes a .jsonl file for each score function.
        """
        self._check_output(output_path)
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
        """Return the names of the .csv file's columns, each with its metric."""
        columns = [(f"Accuracy@{k}", f"accuracy@{k}") for k in self.accuracy_at_k]
        for k in self.precision_recall_at_k:
            columns += [(f"Precision@{k}", f"precision@{k}"), (f"Recall@{k}", f"recall@{k}")]
        for kind, cutoffs in (("MRR", self.mrr_at_k), ("NDCG", self.ndcg_at_k), ("MAP", self.map_at_k)):
            columns += [(f"{kind}@{k}", f"{kind.lower()}@{k}") for k in cutoffs]
        return columns

    def _search(self, model: Any, functions: Mapping[str, Callable[[Any, Any], Any]]) -> dict[str, TopK]:
        """Return the best documents of each query, by the name of the score function."""
        cutoffs = (*self.mrr_at_k, *self.ndcg_at_k, *self.accuracy_at_k, *self.precision_recall_at_k, *self.map_at_k)
        best = {name: TopK(len(self.queries), max(cutoffs)) for name in functions}
        prompts = {"prompt_name": self.query_prompt_name, "prompt": self.query_prompt}
        queries = _encode(self, model.encode_query, self.queries, **prompts)
        prompts = {"prompt_name": self.corpus_prompt_name, "prompt": self.corpus_prompt}
        for start in range(0, len(self.corpus), self.corpus_chunk_size):
            chunk = self.corpus[start : start + self.corpus_chunk_size]
            documents = _encode(self, model.encode_document, chunk, **prompts)
            for name, function in functions.items():
                best[name].add(np.asarray(function(queries, documents)))
        return best

    def _metrics(self, hits: list[Array]) -> Metrics:
        """Return means over the queries. hits: for each query the rows of the corpus, most similar first."""
        sums = dict.fromkeys((key for _, key in self._columns()), 0.0)
        for query, rows in zip(self.queries_ids, hits, strict=True):
            relevant = set(self.relevant_docs[query])
            is_hit = np.asarray([self.corpus_ids[row] in relevant for row in rows], bool)
            ranks = np.flatnonzero(is_hit) + 1.0
            for k in self.accuracy_at_k:
                sums[f"accuracy@{k}"] += is_hit[:k].any()
            for k in self.precision_recall_at_k:
                sums[f"precision@{k}"] += is_hit[:k].sum() / k
                sums[f"recall@{k}"] += is_hit[:k].sum() / len(relevant)
            for k in self.mrr_at_k:
                sums[f"mrr@{k}"] += 1 / ranks[0] if is_hit[:k].any() else 0.0
            for k in self.ndcg_at_k:
                ideal = np.arange(1, min(k, len(relevant)) + 1)
                sums[f"ndcg@{k}"] += (1 / np.log2(ranks[ranks <= k] + 1)).sum() / (1 / np.log2(ideal + 1)).sum()
            for k in self.map_at_k:
                top = ranks[ranks <= k]
                sums[f"map@{k}"] += (np.arange(1, len(top) + 1) / top).sum() / min(k, len(relevant))
        # the order of sentence-transformers
        order = ("accuracy", "precision", "recall", "ndcg", "mrr", "map")
        return {key: sums[key] / len(hits) for key in sorted(sums, key=lambda key: order.index(key.split("@")[0]))}

    def _write_predictions(self, folder: Path, best: Mapping[str, TopK]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, hits in best.items():
            path = folder / self.predictions_file.replace(".jsonl", f"_{name}.jsonl")
            with path.open("w", encoding="utf-8") as file:
                for row, (query, text) in enumerate(zip(self.queries_ids, self.queries, strict=True)):
                    ranked = zip(hits.rows[row].tolist(), hits.scores[row].tolist(), strict=True)
                    results = [{"corpus_id": self.corpus_ids[document], "score": score} for document, score in ranked]
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


def _checked_names(names: Sequence[str], argument: str = "similarity_fn_names") -> list[str]:
    for name in names:
        if name not in PAIRWISE:
            raise ValueError(f"{argument}: expected one of {list(PAIRWISE)}, got {name!r}")
    return list(names)


def _same_length(**columns: Sequence[Any]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{', '.join(lengths)}: expected equal lengths, got {', '.join(map(str, lengths.values()))}")
    if not all(lengths.values()):
        raise ValueError(f"{', '.join(lengths)}: expected one or more, got none")
