"""The evaluators' errors; test_evaluators_parity.py compares their metrics with sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minilm_np import evaluate
from minilm_np.evaluate import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    RerankingEvaluator,
    TripletEvaluator,
)


def test_rejects_empty_inputs() -> None:
    with pytest.raises(ValueError, match="samples: expected one or more with a positive and a negative, got none"):
        RerankingEvaluator([{"query": "q", "positive": [], "negative": ["n"]}])
    for evaluator in (EmbeddingSimilarityEvaluator, BinaryClassificationEvaluator, TripletEvaluator):
        with pytest.raises(ValueError, match=": expected one or more, got none"):
            evaluator([], [], [])
    invalid: list[dict[str, Any]] = [{"ndcg_at_k": []}, {"precision_recall_at_k": [1, 0]}]
    for cutoffs in invalid:
        with pytest.raises(ValueError, match=f"{next(iter(cutoffs))}: expected .* 1 or more, got "):
            InformationRetrievalEvaluator({"1": "q"}, {"d": "text"}, {"1": {"d"}}, **cutoffs)
    with pytest.raises(
        ValueError, match="relevant_docs: expected one or more queries with relevant documents, got none"
    ):
        InformationRetrievalEvaluator({"1": "q"}, {"d": "text"}, {1: {"d"}})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "EmbeddingSimilarityEvaluator",
            (["a"], ["b", "c"], [1]),
            "sentences1, sentences2, scores: expected equal lengths, got 1, 2, 1",
        ),
        ("BinaryClassificationEvaluator", (["a"], ["b"], [2]), r"labels\[0\]: expected 0 or 1, got 2"),
        ("TripletEvaluator", (["a"], ["b"], ["c"], None, "x"), "margin: expected a number .*, got 'x'"),
        ("TripletEvaluator", (["a"], ["b"], ["c"], None, {"x": 1}), "margin: expected one of .*, got 'x'"),
        ("TripletEvaluator", (["a"], ["b"], ["c"], "x"), "'x'"),
    ],
)
def test_rejects_invalid_arguments(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(evaluate, name)(*arguments)


@pytest.mark.parametrize(
    "evaluator",
    [
        EmbeddingSimilarityEvaluator(["a"], ["b"], [1.0]),
        BinaryClassificationEvaluator(["a", "b"], ["b", "a"], [1, 0]),
        TripletEvaluator(["a"], ["b"], ["c"]),
        RerankingEvaluator([{"query": "q", "positive": ["p"], "negative": ["n"]}]),
        InformationRetrievalEvaluator({"1": "q"}, {"d": "text"}, {"1": {"d"}}, write_predictions=True),
    ],
)
def test_a_csv_file_that_cannot_be_written_is_an_error_before_the_work(tmp_path: Path, evaluator: Any) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / evaluator.csv_file).mkdir(parents=True)
    for path in ("file", "file/x", "folder", "n" * 300):
        with pytest.raises(OSError):
            evaluator(object(), tmp_path / path)  # an object has no method that could do the work
