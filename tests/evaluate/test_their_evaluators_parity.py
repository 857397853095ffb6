"""The evaluators of sentence-transformers accept the model of this package and give the metrics of their own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from minilm_np import SentenceTransformer

with warnings.catch_warnings():  # its own imports warn
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("sentence_transformers", reason="needs the parity extra")
    evaluation: Any = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")

pytestmark = pytest.mark.parity
A, B = ["a cat", "a bond", "rain"], ["a kitten", "a share", "a storm"]
EVALUATORS = {
    "similarity": lambda: evaluation.EmbeddingSimilarityEvaluator(A, B, [0.9, 0.5, 0.1]),
    "binary": lambda: evaluation.BinaryClassificationEvaluator(A, B, [1, 0, 1]),
    "triplet": lambda: evaluation.TripletEvaluator(A, B, B[::-1]),
    "reranking": lambda: evaluation.RerankingEvaluator([{"query": "a cat", "positive": [B[0]], "negative": B[1:]}]),
    "retrieval": lambda: evaluation.InformationRetrievalEvaluator(
        dict(enumerate(A)), dict(enumerate(B)), {0: {0}, 1: {1}, 2: {2}}, precision_recall_at_k=[1], accuracy_at_k=[1]
    ),
    "paraphrases": lambda: evaluation.ParaphraseMiningEvaluator(dict(zip("abcdef", A + B, strict=True)), [("a", "d")]),
}


@pytest.mark.parametrize("name", EVALUATORS)
def test_their_evaluator_accepts_our_model(model: SentenceTransformer, weights_folder: Path, name: str) -> None:
    expected = EVALUATORS[name]()(theirs.SentenceTransformer(str(weights_folder), device="cpu"))
    assert EVALUATORS[name]()(model) == pytest.approx(expected, abs=1e-5)
