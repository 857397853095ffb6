"""The evaluators of sentence-transformers accept the model of this package and give the metrics of their own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from minilm_np import SentenceTransformer, util

with warnings.catch_warnings():  # its own imports warn
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("sentence_transformers", reason="needs the parity extra")
    evaluation: Any = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    torch: Any = pytest.importorskip("torch")

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


def test_functions_of_pytorch_take_similarities(model: SentenceTransformer) -> None:
    """As code for sentence-transformers calls them on the Tensors that it gets."""
    scores: Any = util.cos_sim(model.encode(["a", "b", "c"]), model.encode(["c", "d"]))
    values, indices = torch.topk(scores[0], k=2)
    assert values.tolist() == sorted(scores[0].tolist(), reverse=True) and len(indices) == 2
    assert torch.equal(torch.max(scores, dim=1).values, torch.tensor(scores.max(axis=1)))
    assert torch.stack([scores[0], scores[1]]).shape == (2, 2)
    assert torch.equal(torch.from_numpy(scores.numpy()), torch.tensor(scores))
    assert torch.argsort(scores, dim=1, descending=True).shape == (3, 2)
