"""AdamW, clipping and the schedule, without PyTorch; test_optimizer_parity.py compares with torch.optim."""

from __future__ import annotations

import numpy as np
import pytest

from minilm_np.training import AdamW, clip_gradients, learning_rate_at


def test_first_step_moves_every_element_by_the_learning_rate() -> None:
    """With bias correction, m / sqrt(v) is the gradient's sign at the first step."""
    adam = AdamW({"a.weight": np.array([1.0, 2.0, 3.0])})
    adam.step({"a.weight": np.array([1e-3, -5.0, 0.0])}, 0.1)
    assert adam.params["a.weight"] == pytest.approx([0.9, 2.1, 3.0], abs=2e-6)


def test_decay_spares_biases_and_layer_norm() -> None:
    params = {name: np.ones(2) for name in ("a.weight", "a.bias", "a.LayerNorm.weight")}
    adam = AdamW(params, weight_decay=0.5)
    adam.step({name: np.zeros(2) for name in params}, 0.1)
    assert [value[0] for value in adam.params.values()] == [0.95, 1, 1]
    assert params["a.weight"][0] == 1  # the caller's arrays are not changed


def test_clipping_scales_all_gradients_together() -> None:
    norm, clipped = clip_gradients({"a": np.array([3.0]), "b": np.array([[4.0]])})
    assert norm == 5 and clipped["a"][0] == pytest.approx(0.6, rel=1e-6) and clipped["b"][0, 0] == pytest.approx(0.8)
    assert clip_gradients({"a": np.array([0.3])})[1]["a"][0] == 0.3


def test_schedule() -> None:
    rates = [learning_rate_at(step, 2.0, 4, 12) for step in range(13)]
    assert rates == [0, 0.5, 1, 1.5, 2, 1.75, 1.5, 1.25, 1, 0.75, 0.5, 0.25, 0]


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match="gradients: expected the names of the parameters, got a difference in 'b'"):
        AdamW({"a": np.ones(1)}).step({"a": np.ones(1), "b": np.ones(1)}, 0.1)
