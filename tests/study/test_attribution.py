"""Gradients of the cosine with respect to the embeddings: against differences, and complete along a path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minilm_np import SentenceTransformer, ops
from minilm_np import model as architecture
from minilm_np.study import attributions
from minilm_np.study.attribution import cosines_and_gradients

TEXTS = "A man is eating food.", "Someone eats bread."


def test_integrated_gradients_add_up_to_the_difference_of_the_cosines(model: SentenceTransformer) -> None:
    result = attributions(model, *TEXTS)
    assert result.baseline_cosine is not None and result.completeness_error is not None
    assert abs(result.completeness_error) <= 1e-4  # measured: 1.1e-5
    total = sum(float(part.sum()) for part in result.values)
    assert total == pytest.approx(result.cosine - result.baseline_cosine, abs=1e-4)
    assert abs(result.cosine - result.baseline_cosine) > 0.1  # else the sum says nothing
    u, v = model.encode(list(TEXTS)).astype(np.float64)
    assert result.cosine == pytest.approx(float(u @ v), abs=5e-7)
    assert [len(part) for part in result.values] == [len(tokens) for tokens in result.tokens] == [8, 6]


def test_more_steps_are_more_exact(model: SentenceTransformer) -> None:
    errors = [abs(attributions(model, *TEXTS, steps=steps).completeness_error or 0) for steps in (4, 16, 64)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_special_tokens_that_do_not_change_have_no_share(model: SentenceTransformer) -> None:
    for part in attributions(model, *TEXTS).values:
        assert part[0] == part[-1] == 0  # [CLS] and [SEP] are the same in the baseline
        assert np.all(part[1:-1] != 0)


def test_the_gradient_by_central_differences(float64_model: SentenceTransformer) -> None:
    bert = architecture.prepare(float64_model.weights, float64_model.config, ops)
    _, types, offsets = float64_model.tokens(list(TEXTS))
    x = float64_model.stages(list(TEXTS))["embeddings"]
    random = np.random.default_rng(0)

    def cosine(at: Any) -> float:
        return cosines_and_gradients(bert, at[None], types, offsets)[0][0]

    _, (gradient,) = cosines_and_gradients(bert, x[None], types, offsets)
    for _ in range(3):
        direction = random.normal(size=x.shape)
        difference = (cosine(x + 1e-5 * direction) - cosine(x - 1e-5 * direction)) / 2e-5
        scale = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        assert abs(difference - float(np.sum(gradient * direction))) <= 1e-7 * scale  # measured: 2e-9
    by_input = attributions(float64_model, *TEXTS, method="gradient_x_input")
    np.testing.assert_allclose(np.concatenate(by_input.values), np.sum(gradient * x, axis=1), atol=1e-12)
    assert by_input.completeness_error is None


def test_bad_arguments_are_named(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="method: expected 'integrated_gradients' or 'gradient_x_input', got 'shap'"):
        attributions(model, *TEXTS, method="shap")
    with pytest.raises(ValueError, match="steps: expected a number above 0, got 0"):
        attributions(model, *TEXTS, steps=0)
