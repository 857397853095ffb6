"""Gradients of a batch: PyTorch's in float64, and the same in mini-batches and on any number of threads."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support.paths import REPOSITORY

from minilm_np import SentenceTransformer, ops
from minilm_np.model import prepare
from minilm_np.training import AdamW, CoSENTLoss, MultipleNegativesRankingLoss, loss_and_gradients
from minilm_np.training.dropout import Dropout
from minilm_np.training.gradients import add_gradients, add_up
from minilm_np.training.parameters import empty_like
from minilm_np.training.workers import Workers

REFERENCE = json.loads((REPOSITORY / "tests" / "reference" / "gradients.json").read_text())
PAIRS = REFERENCE["pairs"]


def test_equal_those_of_pytorch(float64_model: SentenceTransformer) -> None:
    loss, gradients = loss_and_gradients(float64_model, PAIRS, loss=MultipleNegativesRankingLoss())
    assert loss == pytest.approx(REFERENCE["loss"], rel=1e-13)  # measured: 4e-16
    assert set(gradients) == set(REFERENCE["gradients"])
    for name, expected in REFERENCE["gradients"].items():
        norm = REFERENCE["gradients"][name.replace("key.bias", "query.bias")]["norm"]
        gradient = gradients[name]
        assert abs(np.linalg.norm(gradient) - expected["norm"]) <= 1e-12 * norm, name
        assert abs(gradient.sum() - expected["sum"]) <= 1e-11 * norm, name  # a sum adds up the errors of all elements
        for place, value in expected["elements"].items():
            assert abs(gradient.ravel()[int(place)] - value) <= 1e-12 * norm, name


def all_gradients(
    model: SentenceTransformer, threads: int, mini_batch_size: int | None, dropout: Dropout | None
) -> tuple[float, Any]:
    tokens = model.tokens([text for column in zip(*PAIRS, strict=True) for text in column])
    with Workers(threads) as workers:
        gradients = [empty_like(model.weights) for _ in range(workers.count)]
        bert, loss = prepare(model.weights, model.config, ops), MultipleNegativesRankingLoss()
        value = add_gradients(bert, tokens, 2, loss, None, gradients, workers, mini_batch_size, dropout)
        add_up(gradients, workers)
    return value, gradients[0].flat


@pytest.mark.parametrize("dropout", [None, Dropout(0.1, 0.1, seed=1, step=2)])
def test_threads_and_mini_batches_change_only_the_rounding(
    float64_model: SentenceTransformer, dropout: Dropout | None
) -> None:
    value, expected = all_gradients(float64_model, 1, None, dropout)
    for threads, size in ((2, None), (1, 3), (2, 2), (2, 1)):
        other, gradients = all_gradients(float64_model, threads, size, dropout)
        assert other == pytest.approx(value, rel=1e-14)
        assert np.abs(gradients - expected).max() <= 2e-13 * np.abs(expected).max()  # measured: 1.2e-15 to 4.2e-14
    assert not np.array_equal(all_gradients(float64_model, 1, None, Dropout(0.1, 0.1, seed=2, step=2))[1], expected)


def test_a_mask_depends_on_its_place_alone() -> None:
    dropout = Dropout(0.1, 0.3, seed=1, step=2)

    def mask_of(dropout: Dropout, sentence: int, place: int) -> Any:
        return dropout.mask(np.array([sentence]), place, np.array([12 * 40 * 40]), np.float64)

    mask = mask_of(dropout, 5, 1)
    together = dropout.mask(np.array([7, 5, 5]), 1, np.array([9, mask.size, 3]), np.float64)
    np.testing.assert_array_equal(together[9:], np.append(mask, mask[:3]))
    assert set(np.unique(mask)) == {0, 1 / 0.7}
    assert np.mean(mask == 0) == pytest.approx(0.3, abs=0.015)  # four standard deviations
    for other in (
        mask_of(dropout, 6, 1),
        mask_of(dropout, 5, 4),
        mask_of(Dropout(0.1, 0.3, seed=2, step=2), 5, 1),
        mask_of(Dropout(0.1, 0.3, seed=1, step=3), 5, 1),
    ):
        assert np.mean((other == 0) & (mask == 0)) == pytest.approx(0.09, abs=0.01)  # independent


def test_a_loss_that_is_not_finite_has_no_finite_gradients(model: SentenceTransformer) -> None:
    class Broken:
        def value_and_gradients(self, embeddings: Any, labels: Any = None) -> tuple[float, list[Any]]:
            return float("nan"), [np.zeros_like(column) for column in embeddings]

    loss, gradients = loss_and_gradients(model, PAIRS, loss=Broken())
    assert np.isnan(loss) and all(np.isnan(gradient).all() for gradient in gradients.values())


def test_bad_labels_and_empty_examples_are_named(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError) as error:
        loss_and_gradients(model, PAIRS[:2], loss=CoSENTLoss(), labels=[1.0, np.nan])
    assert str(error.value) == "labels[1]: CoSENTLoss expects a finite number, got nan"
    with pytest.raises(ValueError) as error:
        loss_and_gradients(model, [[], []])
    assert str(error.value) == "examples[0]: expected texts, got none"
    with pytest.raises(ValueError) as error:
        AdamW(model.weights, betas=(0.9, 1.0))
    assert str(error.value) == "betas: expected numbers from 0 to below 1, got 1.0"
