"""Losses and gradients without PyTorch: central differences, mini-batches, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minilm_np import SentenceTransformer, ops
from minilm_np.model import forward, prepare
from minilm_np.training import (
    CoSENTLoss,
    CosineSimilarityLoss,
    Loss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    TripletLoss,
    loss_and_gradients,
)

ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
LOSSES: dict[str, tuple[Loss, int]] = {  # by name: the loss, and the number of columns
    "ranking": (MultipleNegativesRankingLoss(), 2),
    "ranking with negatives": (MultipleNegativesRankingLoss(scale=5), 4),
    "symmetric": (MultipleNegativesRankingLoss(5, ("query_to_doc", "doc_to_query"), "per_direction"), 2),
    "all directions": (MultipleNegativesRankingLoss(5, ALL, "joint"), 3),
    "cosine": (CosineSimilarityLoss(), 2),
    "CoSENT": (CoSENTLoss(5), 2),
    "triplet": (TripletLoss(triplet_margin=0.5), 3),
    "triplet, cosine": (TripletLoss("cosine", 0.1), 3),
    "triplet, manhattan": (TripletLoss("manhattan", 1.0), 3),
    "Matryoshka": (MatryoshkaLoss(CoSENTLoss(5), [8, 4, 2], [1, 0.5, 2]), 2),
}
EXAMPLES = [["How far is the moon?", "The moon is 384,400 km away."], ["Who wrote Hamlet?", "Shakespeare wrote it."],
            ["bread", "A loaf of bread."], ["", "nothing"]]  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_the_embeddings(name: str) -> None:
    loss, columns = LOSSES[name]
    random = np.random.default_rng(5)
    embeddings, labels = list(random.normal(size=(columns, 6, 8))), np.array([0.1, 0.9, 0.5, 0.5, 0.3, 1.0])
    _, gradients = loss.value_and_gradients(embeddings, labels)
    for column in range(columns):
        for _ in range(3):
            direction, step = random.normal(size=(6, 8)), 1e-6
            values = []
            for sign in (1, -1):
                moved = list(embeddings)
                moved[column] = moved[column] + sign * step * direction
                values.append(loss.value_and_gradients(moved, labels)[0])
            difference = (values[0] - values[1]) / (2 * step)
            size = np.linalg.norm(gradients[column]) * np.linalg.norm(direction)
            assert abs(difference - np.sum(gradients[column] * direction)) <= 1e-7 * size  # measured: 3.0e-10


def relative(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest difference, relative to the largest element of each parameter, without key biases."""
    return max(
        float(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max()) for name in b if not name.endswith("key.bias")
    )


@pytest.mark.parametrize("mini_batch_size", [1, 3, 8])
def test_mini_batches_change_nothing(float64_model: SentenceTransformer, mini_batch_size: int) -> None:
    loss, gradients = loss_and_gradients(float64_model, EXAMPLES)
    again, others = loss_and_gradients(float64_model, EXAMPLES, mini_batch_size=mini_batch_size)
    assert abs(loss - again) <= 1e-13 * loss and relative(others, gradients) <= 1e-13  # measured: 0 and 1.4e-14


def test_float32_is_near_float64(model: SentenceTransformer, float64_model: SentenceTransformer) -> None:
    loss, gradients = loss_and_gradients(model, EXAMPLES)
    exact, others = loss_and_gradients(float64_model, EXAMPLES)
    assert {gradient.dtype for gradient in gradients.values()} == {np.dtype(np.float32)}
    assert abs(loss - exact) <= 1e-6 and relative(gradients, others) <= 1e-4  # measured: 1.4e-7 and 1.8e-5


def test_a_small_step_lowers_the_loss_by_the_gradients_square(float64_model: SentenceTransformer) -> None:
    loss, gradients = loss_and_gradients(float64_model, EXAMPLES)
    assert set(gradients) == set(float64_model.weights)
    size = 1e-4 * loss / sum(float(np.sum(gradient**2)) for gradient in gradients.values())
    moved = {name: value - size * gradients[name] for name, value in float64_model.weights.items()}
    bert = prepare(moved, float64_model.config, ops)
    texts = [text for column in zip(*EXAMPLES, strict=True) for text in column]
    embeddings = forward(bert, *float64_model.tokens(texts))
    lower, _ = MultipleNegativesRankingLoss().value_and_gradients(np.split(embeddings, 2))
    assert (loss - lower) / (1e-4 * loss) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("examples", "options", "message"),
    [
        ([], {}, "examples: expected at least one, got none"),
        ([["a", "b"], ["c"]], {}, r"examples\[1\]: expected 2 texts as in examples\[0\], got 1"),
        (["ab"], {}, r"examples\[0\]: expected a list of texts, got str"),
        ([["a"]], {}, "examples: MultipleNegativesRankingLoss expects 2 texts or more in each, got 1"),
        ([["a", "b"]], {"loss": TripletLoss()}, "examples: TripletLoss expects 3 texts in each, got 2"),
        (
            [["a", "b"]],
            {"loss": CoSENTLoss()},
            "labels: CoSENTLoss expects one number for each of 1 .*, got none",
        ),
        ([["a", "b"]], {"loss": CosineSimilarityLoss(), "labels": [1, 2]}, r"got shape \(2,\)"),
        ([["a", "b"]], {"mini_batch_size": 0}, "mini_batch_size: expected a number above 0, got 0"),
        ([["a", "b"]], {"loss": MatryoshkaLoss(CoSENTLoss(), [500])}, "matryoshka_dims: expected at most 384, got 500"),
    ],
)
def test_errors_name_the_argument(
    model: SentenceTransformer, examples: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        loss_and_gradients(model, examples, **options)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"directions: expected query_to_doc, .*, got 'both'"):
        MultipleNegativesRankingLoss(directions=("both",))
    with pytest.raises(ValueError, match="partition_mode: expected 'joint' or 'per_direction', got 'all'"):
        MultipleNegativesRankingLoss(partition_mode="all")
    with pytest.raises(ValueError, match=r"partition_mode: 'per_direction' expects .*, got 'doc_to_doc'"):
        MultipleNegativesRankingLoss(directions=("query_to_doc", "doc_to_doc"), partition_mode="per_direction")
    with pytest.raises(ValueError, match="distance_metric: expected cosine, euclidean, manhattan, got 'dot'"):
        TripletLoss("dot")
    with pytest.raises(ValueError, match="matryoshka_weights: expected 2 numbers, got 1"):
        MatryoshkaLoss(CoSENTLoss(), [4, 2], [1])
