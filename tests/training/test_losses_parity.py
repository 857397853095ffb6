"""Losses against sentence-transformers 6.2, in float64. Needs the parity extra."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():  # warnings from importing PyTorch and transformers
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses", reason="needs the parity extra")

from minilm_np import training

pytestmark = pytest.mark.parity
ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
METRICS = losses.TripletDistanceMetric
# By name: our loss, theirs, and the number of columns
CASES: dict[str, tuple[Any, Any, int]] = {
    **{
        f"ranking {directions} {mode} {columns}": (
            training.MultipleNegativesRankingLoss(20.0, directions, mode),
            losses.MultipleNegativesRankingLoss(None, 20.0, directions=directions, partition_mode=mode),
            columns,
        )
        for directions in (ALL[:1], ("query_to_doc", "doc_to_query"), ALL)
        for mode in ("joint", "per_direction")
        if mode == "joint" or directions != ALL
        for columns in (2, 4)
    },
    "cosine": (training.CosineSimilarityLoss(), losses.CosineSimilarityLoss(None), 2),
    "CoSENT": (training.CoSENTLoss(), losses.CoSENTLoss(None), 2),
    "triplet": (training.TripletLoss(), losses.TripletLoss(None), 3),
    "triplet, margin": (training.TripletLoss("euclidean", 0.3), losses.TripletLoss(None, METRICS.EUCLIDEAN, 0.3), 3),
    "triplet, cosine": (training.TripletLoss("cosine", 0.3), losses.TripletLoss(None, METRICS.COSINE, 0.3), 3),
    "triplet, manhattan": (training.TripletLoss("manhattan", 2), losses.TripletLoss(None, METRICS.MANHATTAN, 2), 3),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch_size", [1, 7])
def test_value_and_gradients(name: str, batch_size: int) -> None:
    ours, theirs, columns = CASES[name]
    random = np.random.default_rng(2)
    embeddings = list(random.normal(size=(columns, batch_size, 16)))
    labels = random.integers(0, 5, batch_size) / 4  # with equal labels; exact in float32, in which theirs reads them
    tensors = [torch.tensor(column, requires_grad=True) for column in embeddings]
    expected = theirs.compute_loss_from_embeddings(tensors, torch.tensor(labels))
    value, gradients = ours.value_and_gradients(embeddings, labels)
    wanted = expected.item()
    assert abs(value - wanted) <= 1e-12 * max(1.0, abs(wanted))
    if expected.requires_grad:
        expected.backward()
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert np.abs(gradient - tensor.grad.numpy()).max() <= 1e-12
