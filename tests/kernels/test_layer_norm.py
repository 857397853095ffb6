"""The operations on rows (embedding look-up, LayerNorm, pooling, normalization) against ops.py in float64."""

from __future__ import annotations

import numpy as np
import pytest
from support.kernels import assert_float32_close, normal
from support.tolerances import assert_close

from minilm_np import kernels, ops
from minilm_np.kernels.simd import WIDTH


@pytest.mark.parametrize("hidden", [WIDTH, 3 * WIDTH])
def test_add_layer_norm_matches_float64(hidden: int) -> None:
    x, residual, norm = normal(9, hidden), normal(9, hidden) + 3, (normal(hidden), normal(hidden + 1)[1:])
    expected = ops.add_layer_norm(x.astype("f8"), residual, norm, 1e-12)
    assert_float32_close(kernels.add_layer_norm(x, residual, norm, 1e-12), expected, ulps=16)
    constant = kernels.add_layer_norm(np.ones((1, hidden), np.float32), residual[:1] * 0, norm, 4.0)
    assert_close(constant[0], norm[1], 0, "LayerNorm of a constant row is the bias")


def test_embed_matches_float64() -> None:
    rng, hidden = np.random.default_rng(0), 2 * WIDTH
    tables = (normal(50, hidden), normal(2, hidden), normal(11, hidden))
    ids, types, positions = rng.integers(0, 50, 17), rng.integers(0, 2, 17), rng.integers(0, 11, 17)
    norm = (normal(hidden), normal(hidden))
    float64_tables = tuple(table.astype("f8") for table in tables)
    expected = ops.embed(ids, types, positions, float64_tables, norm, 1e-12)  # type: ignore[arg-type]
    assert_float32_close(kernels.embed(ids, types, positions, tables, norm, 1e-12), expected, ulps=16)


def test_pool_and_l2_normalize_match_float64() -> None:
    offsets = np.array([0, 1, 8, 19])
    x = normal(19, 2 * WIDTH)
    for mode in ("mean", "cls", "max", "mean_sqrt_len_tokens"):
        assert_float32_close(kernels.pool(x, offsets, mode), ops.pool(x.astype("f8"), offsets, mode), ulps=8)
    x[3] = 0
    assert_float32_close(kernels.l2_normalize(x), ops.l2_normalize(x.astype("f8")), ulps=4)
