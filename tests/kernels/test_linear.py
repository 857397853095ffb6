"""Dense layers against ops.py in float64."""

from __future__ import annotations

import pytest
from support.kernels import assert_float32_close, normal

from minilm_np import kernels, ops
from minilm_np.kernels.linear import PANEL


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 19])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, PANEL), (95, PANEL + 1), (97, 2 * PANEL), (200, 3 * PANEL - 5)])
@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
def test_linear_matches_float64(rows: int, inputs: int, outputs: int, activation: str | None) -> None:
    x, weight, bias = normal(rows, inputs), normal(outputs, inputs), normal(outputs)
    expected = ops.linear(x.astype("f8"), ops.Dense(weight.astype("f8"), bias.astype("f8")), activation)
    actual = kernels.linear(x, kernels.prepare_dense(weight, bias), activation)
    assert_float32_close(actual, expected, ulps=24)
