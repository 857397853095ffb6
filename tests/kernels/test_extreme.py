"""Numbers far outside the range of a trained model: as close to float64 as the NumPy op set and PyTorch.

test_extreme_parity.py measures PyTorch's errors on the same inputs.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.extreme import BATCH_OFFSETS, HEADS, ROW_SCALES, SCORE_SCALES, huge_scores, scaled_rows
from support.kernels import Array, assert_float32_close, normal

from minilm_np import kernels, ops
from minilm_np.kernels.attention import LANES
from minilm_np.kernels.simd import WIDTH
from minilm_np.model import Ops

# Both op sets and PyTorch's two implementations have an error of 0 from 1e5 on: there, each query attends to one key.
ATTENTION_ULPS = 2


@pytest.mark.parametrize("op_set", [kernels, ops])
@pytest.mark.parametrize("scale", SCORE_SCALES)
def test_attention_with_huge_weights_matches_float64(op_set: Ops, scale: float) -> None:
    qkv = huge_scores(scale)
    expected = ops.attention(qkv.astype("f8"), BATCH_OFFSETS, HEADS)
    assert_float32_close(op_set.attention(qkv, BATCH_OFFSETS, HEADS), expected, ATTENTION_ULPS)
    expected_probs = ops.attention_probs(qkv.astype("f8"), BATCH_OFFSETS, HEADS)
    for actual, probs in zip(op_set.attention_probs(qkv, BATCH_OFFSETS, HEADS), expected_probs, strict=True):
        assert_float32_close(actual, probs, ATTENTION_ULPS)


@pytest.mark.parametrize("offset", [0, 2**12, 2**15, 2**16, 2**17, 1e6, 1e7, 3e8, 7e9, 2e10, 1.1e18, 2.7e30])
@pytest.mark.parametrize("sign", [1, -1])
def test_attention_with_scores_close_together(offset: float, sign: int) -> None:
    """Scores of several keys within a few rounding steps of each other, some equal, all far from 0."""
    S = 21
    step = max(0.5, float(np.spacing(np.float32(offset))))
    qkv = np.zeros((S, 3 * WIDTH), np.float32)
    qkv[:, 0] = 1
    qkv[:, WIDTH] = sign * offset + step * np.random.default_rng(0).integers(-3, 4, S)
    qkv[:, 2 * WIDTH :] = normal(S, WIDTH)
    expected = ops.attention(qkv.astype("f8"), np.array([0, S]), 1)
    # The probabilities have relative errors of about 1e-7 * (score - largest score) / sqrt(D). Measured: 7 ulp.
    assert_float32_close(kernels.attention(qkv, np.array([0, S]), 1), expected, ulps=16)


def test_a_query_with_huge_scores_leaves_other_rows_their_bits() -> None:
    """Queries are computed LANES at a time, and unused lanes keep queries of other sentences."""
    lengths, H = [LANES + 3, 5], HEADS * WIDTH
    offsets = np.cumsum([0, *lengths])
    qkv = normal(int(offsets[-1]), 3 * H)
    context = kernels.attention(qkv, offsets, HEADS)
    huge = [0, 2, LANES - 1, LANES + 1]
    qkv[huge, :H] *= 1e9
    changed = (kernels.attention(qkv, offsets, HEADS) != context).any(axis=1)
    assert changed.nonzero()[0].tolist() == huge


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_attention_to_a_score_that_is_not_finite_is_nan(value: float) -> None:
    """As in NumPy and PyTorch; a vector of zeros or of garbage would hide the overflow."""
    offsets = np.array([0, 9])
    qkv = normal(9, 3 * WIDTH)
    qkv[:, :WIDTH] = 1
    qkv[slice(None) if value == -np.inf else 4, WIDTH] = value
    with np.errstate(invalid="ignore"):  # NUMBA_DISABLE_JIT=1
        assert np.isnan(kernels.attention(qkv, offsets, 1)).all()


def test_a_key_with_a_score_of_minus_infinity_gets_no_attention() -> None:
    offsets = np.array([0, 9])
    qkv = normal(9, 3 * WIDTH)
    qkv[:, :WIDTH] = 1
    qkv[4, WIDTH] = -np.inf
    with np.errstate(invalid="ignore"):
        context = kernels.attention(qkv, offsets, 1)
    qkv[4, WIDTH] = -1e9
    assert_float32_close(context, ops.attention(qkv.astype("f8"), offsets, 1), ulps=32)


def _close_where_finite(actual: Array, expected: Array, ulps: float) -> None:
    assert actual.dtype == np.float32 and np.isfinite(actual).all()
    error = np.abs(actual - expected)
    assert error.max() <= ulps * 6e-8 * np.abs(expected).max() + 2.0**-149  # the smallest float32 above 0


@pytest.mark.parametrize("op_set", [kernels, ops])
@pytest.mark.parametrize("scale", ROW_SCALES)
def test_operations_on_rows_of_any_magnitude_match_float64(op_set: Ops, scale: float) -> None:
    x = scaled_rows(scale)
    norm, eps = (np.ones(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)), 1e-12
    x64, offsets = x.astype("f8"), np.array([0, 1, 3, len(x)])
    for mode in ("mean", "cls", "max", "mean_sqrt_len_tokens"):
        _close_where_finite(op_set.pool(x, offsets, mode), ops.pool(x64, offsets, mode), ulps=4)
    dense = op_set.prepare_dense(np.eye(x.shape[1], dtype=np.float32), norm[1])
    for activation in ("gelu", "relu"):
        _close_where_finite(op_set.linear(x, dense, activation), ops.ACTIVATIONS[activation](x64), ulps=4)
    if scale < 1e17:  # above, the sum of squares overflows in float32, here and in PyTorch
        _close_where_finite(op_set.l2_normalize(x), ops.l2_normalize(x64), ulps=4)
        actual = op_set.add_layer_norm(x, 0 * x, norm, eps)
        # A mean of subnormal numbers is rounded to a multiple of 2^-149, which sqrt(eps) then divides.
        _close_where_finite(actual, ops.add_layer_norm(x64, 0 * x64, norm, eps), ulps=8 if scale > 1e-37 else 1e7)
