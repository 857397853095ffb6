"""Evaluate an encoder on rows of the model card."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from minilm_np.evaluate import protocols
from minilm_np.evaluate.data import Datasets, Files, Source, read
from minilm_np.evaluate.protocols import Array, Encode, Scores
from minilm_np.evaluate.tasks import Task, task_named
from minilm_np.sentence_transformer import SentenceTransformer

OnTexts = Callable[[int], object]  # called with the number of texts after each batch

EXACT_WITHIN = 0.001  # points
SAMPLING_DIFFERS = "the card sampled its training examples differently"


@dataclass(frozen=True)
class Result:
    """An encoder's scores on one task, in points (times 100)."""

    task: Task  # the row of the card
    scores: Scores  # scores by measure
    details: list[Scores] = field(default_factory=list)  # scores of each experiment, set or part; empty for one run
    texts: int = 0  # number of texts encoded
    seconds: float = 0.0  # time of encoding and scoring
    encode_seconds: float = 0.0  # time of encoding alone

    @property
    def main_score(self) -> float:
        """The score of the task's main measure."""
        return self.scores[self.task.main]

    def difference(self, measure: str | None = None) -> float:
        """Return our score minus the card's, for the main measure or the measure named."""
        name = measure or self.task.main
        return self.scores[name] - self.task.card[name]

    def verdict(self, measure: str | None = None) -> str:
        """Return "exact" (within 0.001 points of the card), "close: REASON" or "differs".

        measure is the main measure by default. A score is close if a later version of mteb stored it for this model,
        or if it is a classification score within two standard errors of the card's.
        """
        name = measure or self.task.main
        if abs(self.difference(name)) <= EXACT_WITHIN:
            return "exact"
        if name == self.task.main and abs(self.scores[name] - self.task.stored) <= EXACT_WITHIN:
            return f"close: {self.task.stored_by} stored {self.task.stored:.4f} for this model; {self._reason()}"
        if self.task.type == "Classification" and self.details:
            spread = np.std([scores[name] for scores in self.details])
            error = 2 * float(spread) * (2 / len(self.details)) ** 0.5
            if abs(self.difference(name)) <= error:
                return f"close: {SAMPLING_DIFFERS}; two standard errors are {error:.2f}"
        return "differs"

    def _reason(self) -> str:
        if self.task.type == "Classification":
            return SAMPLING_DIFFERS
        if self.task.type == "Clustering":
            return "the card's k-means started differently"
        if abs(self.task.stored + self.task.card[self.task.main]) <= EXACT_WITHIN:
            return "the card lost the minus sign"
        return "the reason for the difference is unknown"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, the card's scores and the verdict as a dict that JSON can represent; NaN becomes None."""
        return {
            "task": self.task.name,
            "type": self.task.type,
            "main_measure": self.task.main,
            "scores": _finite(self.scores),
            "card": self.task.card,
            "stored": {"score": self.task.stored, "by": self.task.stored_by},
            "verdict": self.verdict(),
            "details": [_finite(scores) for scores in self.details],
            "texts": self.texts,
            "seconds": self.seconds,
            "encode_seconds": self.encode_seconds,
        }


def _finite(scores: Scores) -> dict[str, float | None]:
    """Replace NaN, which JSON does not have, by None."""
    return {name: score if np.isfinite(score) else None for name, score in scores.items()}


def evaluate(
    encoder: SentenceTransformer | Encode,
    task: str | Task,
    data: str | os.PathLike[str] | Source | None = None,
    *,
    batch_size: int = 4096,
    on_texts: OnTexts | None = None,
) -> Result:
    """Evaluate an encoder on one row of the card.

    Parameters
    ----------
    encoder
        A SentenceTransformer, or a function that takes a list of n str and returns vectors (n, D).
    task
        A row or its name; `all_tasks()` lists them.
    data
        The folder with the task's files, or a Source. None reads the cache of the `datasets` library.
    batch_size
        The largest number of texts passed to the encoder at once.
    on_texts
        Called after each batch with its number of texts.

    Returns
    -------
    Result
        Scores in points, their details, and times.

    Raises
    ------
    ValueError
        If the task is unknown, if the data are invalid (the message names file and line), or if the encoder raises an
        exception or returns anything but finite vectors.
    ImportError
        If the eval extra is not installed.
    """
    row = task_named(task) if isinstance(task, str) else task
    source = data if data is not None and not isinstance(data, str | os.PathLike) else _source(data)
    if row.parts:
        parts = [evaluate(encoder, part, source, batch_size=batch_size, on_texts=on_texts) for part in row.parts]
        return mean_of(row, parts)
    meter = _Meter(encoder, batch_size, on_texts)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():  # the error below replaces this warning of scipy
            warnings.filterwarnings("ignore", "An input array is constant")
            scores, details = SCORERS[row.type](meter, row, source)
    except ModuleNotFoundError as error:
        raise ImportError(f"evaluate: {error.name} is not installed; install minilm-np[eval]") from None
    if not np.isfinite(scores[row.main]):
        raise ValueError(f"{row.name}: {row.main} is {scores[row.main]}: are all vectors of the encoder equal?")
    return Result(row, scores, details, meter.texts, time.perf_counter() - start, meter.seconds)


def mean_of(task: Task, parts: Sequence[Result]) -> Result:
    """Return the result of a row that is the mean of other rows, from their results."""
    scores = {name: float(np.mean([part.scores[name] for part in parts])) for name in parts[0].scores}
    sums = (sum(getattr(part, name) for part in parts) for name in ("texts", "seconds", "encode_seconds"))
    return Result(task, scores, [part.scores for part in parts], *sums)


def _source(data: str | os.PathLike[str] | None) -> Source:
    return Datasets() if data is None else Files(Path(data))


class _Meter:
    """An encoder wrapped to work in batches, check the vectors, and count texts and seconds."""

    def __init__(self, encoder: SentenceTransformer | Encode, batch_size: int, on_texts: OnTexts | None):
        self.texts, self.seconds = 0, 0.0
        self._batch_size, self._on_texts = batch_size, on_texts
        if isinstance(encoder, SentenceTransformer):
            model = encoder
            self._encode: Encode = lambda texts: np.asarray(model.encode(texts, truncation="ignore"))
        else:
            self._encode = partial(_call, encoder)

    def __call__(self, texts: list[str]) -> Array:
        parts = []
        for start in range(0, len(texts), self._batch_size):
            batch = texts[start : start + self._batch_size]
            begin = time.perf_counter()
            vectors = self._encode(batch)
            self.seconds += time.perf_counter() - begin
            if vectors.ndim != 2 or len(vectors) != len(batch) or not vectors.shape[1] or vectors.dtype.kind != "f":
                got = f"{vectors.dtype} of shape {vectors.shape}"
                raise ValueError(f"encoder: expected floating-point vectors ({len(batch)}, D), got {got}")
            if not np.isfinite(vectors).all():
                text = batch[int(np.argmin(np.isfinite(vectors).all(axis=1)))]
                raise ValueError(f"encoder: the vector of {text[:40]!r} is not finite")
            self.texts += len(batch)
            if self._on_texts is not None:
                self._on_texts(len(batch))
            parts.append(vectors)
        if len({vectors.shape[1:] for vectors in parts}) > 1:
            raise ValueError("encoder: expected vectors of one size, got several sizes")
        return np.concatenate(parts)


def _call(encoder: Encode, texts: list[str]) -> Array:
    """Return the encoder's vectors as an array. Raises ValueError for any exception that the encoder raises."""
    try:
        vectors: Any = encoder(texts)
        if hasattr(vectors, "detach"):  # a PyTorch tensor; NumPy has no bfloat16
            vectors = vectors.detach().cpu()
            vectors = vectors.float() if vectors.is_floating_point() and vectors.element_size() < 4 else vectors
        if np.ma.is_masked(vectors):
            raise ValueError("got masked elements")
        return np.asarray(vectors)
    except Exception as error:
        raised = "" if isinstance(error, ValueError) else f"raised {type(error).__name__}: "
        raise ValueError(f"encoder: {raised}{' '.join(str(error).split())[:300]}") from error


# --- from data to protocols --------------------------------------------------------------------


def _columns(rows: Iterator[Mapping[str, Any]], task: Task, *names: str) -> list[list[Any]]:
    """Return a list of values for each named field of the rows. Raises ValueError if there are fewer than two rows."""
    columns: list[list[Any]] = [[] for _ in names]
    for row in rows:
        for column, name in zip(columns, names, strict=True):
            column.append(row[name])
    if len(columns[0]) < 2:
        raise ValueError(f"{task.name}: expected two or more rows, got {len(columns[0])}")
    return columns


def _sts(encode: Encode, task: Task, source: Source) -> tuple[Scores, list[Scores]]:
    first, second, gold = _columns(read(source, task), task, "sentence1", "sentence2", "score")
    if len(set(gold)) == 1:
        raise ValueError(f"{task.name}: expected different scores, got only {gold[0]:g}")
    return protocols.sts(encode, first, second, gold), []


def _pair_classification(encode: Encode, task: Task, source: Source) -> tuple[Scores, list[Scores]]:
    first, second, labels = _columns(read(source, task), task, "sentence1", "sentence2", "label")
    if set(labels) != {0, 1}:
        raise ValueError(f"{task.name}: expected the labels 0 and 1, got {sorted(set(labels))[:5]}")
    return protocols.pair_classification(encode, first, second, labels), []


def _classification(encode: Encode, task: Task, source: Source) -> tuple[Scores, list[Scores]]:
    train, test = (_columns(read(source, task, part), task, "text", "label") for part in ("train", "test"))
    types = {type(label).__name__ for label in (*train[1], *test[1])}
    if len(types) > 1:
        raise ValueError(f"{task.name}: expected labels of one type, got {' and '.join(sorted(types))}")
    if len(set(train[1])) < 2:
        raise ValueError(f"{task.name}: expected two or more labels in train, got one")
    unknown = set(test[1]) - set(train[1])
    if set(train[1]) == {0, 1} and unknown:  # the measure ap has no meaning then
        raise ValueError(f"{task.name}: expected the labels 0 and 1 in test, as in train, got {sorted(unknown)[:5]}")
    return protocols.classification(encode, (train[0], train[1]), (test[0], test[1]), task.samples_per_label)


def _clustering(encode: Encode, task: Task, source: Source) -> tuple[Scores, list[Scores]]:
    def sets() -> Iterator[tuple[list[str], list[Any]]]:
        for number, row in enumerate(read(source, task), 1):
            texts, labels = row["sentences"], row["labels"]
            if len(texts) != len(labels) or not texts:
                got = f"{len(texts)} sentences and {len(labels)} labels"
                raise ValueError(f"{task.name}, set {number}: expected sentences with one label each, got {got}")
            yield texts, labels

    remaining = sets()
    first = next(remaining, None)
    if first is None:
        raise ValueError(f"{task.name}: expected one or more sets, got none")
    return protocols.clustering(encode, chain([first], remaining))


def _reranking(encode: Encode, task: Task, source: Source) -> tuple[Scores, list[Scores]]:
    samples = list(read(source, task))
    for number, sample in enumerate(samples, 1):
        if not sample["query"]:
            raise ValueError(f"{task.name}, row {number}: query: expected a text, got {sample['query']!r}")
    if not any(sample["positive"] and sample["negative"] for sample in samples):
        raise ValueError(f"{task.name}: expected a query with a positive and a negative, got none")
    return protocols.reranking(encode, samples), []


def _summarization(encode: Encode, task: Task, source: Source) -> tuple[Scores, list[Scores]]:
    samples = list(read(source, task))
    for number, sample in enumerate(samples, 1):
        summaries, relevance = len(sample["machine_summaries"]), len(sample["relevance"])
        if summaries != relevance or summaries < 3:
            expected = "three or more machine summaries with one relevance each"
            got = f"{summaries} summaries and {relevance} relevances"
            raise ValueError(f"{task.name}, row {number}: expected {expected}, got {got}")
        if not sample["human_summaries"]:
            raise ValueError(f"{task.name}, row {number}: expected one or more human summaries, got none")
    if not any(len(set(sample["relevance"])) > 1 for sample in samples):
        raise ValueError(f"{task.name}: expected a row with different relevances, got none")
    return protocols.summarization(encode, samples), []


def _retrieval(encode: Encode, task: Task, source: Source) -> tuple[Scores, list[Scores]]:
    qrels: dict[str, dict[str, int]] = {}
    for row in read(source, task, "qrels"):
        qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = row["score"]
    queries = {row["_id"]: row["text"] for row in read(source, task, "queries") if row["_id"] in qrels}
    if not queries:
        raise ValueError(f"{task.name}: expected a query with a line in qrels, got none")
    rows = read(source, task, "corpus")
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{task.name}: expected one or more documents in the corpus, got none")
    corpus = ((row["_id"], f"{row.get('title') or ''} {row['text']}".strip()) for row in chain([first], rows))
    return protocols.retrieval(encode, corpus, queries, qrels), []


SCORERS: dict[str, Callable[[Encode, Task, Source], tuple[Scores, list[Scores]]]] = {
    "STS": _sts,
    "PairClassification": _pair_classification,
    "Classification": _classification,
    "Clustering": _clustering,
    "Reranking": _reranking,
    "Retrieval": _retrieval,
    "Summarization": _summarization,
}
