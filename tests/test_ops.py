"""Compare the NumPy op set with slow, obvious loops, to the rounding of each dtype."""

from __future__ import annotations

import math
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from generate import polynomials
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minilm_np import ops

pytestmark = pytest.mark.quick

Array = npt.NDArray[Any]
DTYPES = ["float32", "float64"]
# All sizes differ, so that swapped axes raise an error or change the result.
T, H, N, INTERMEDIATE = 23, 30, 5, 37
OFFSETS = np.array([0, 1, 8, 15, 17, 23])  # lengths 1, 7, 7, 2, 6: a single token, and two neighbors of equal length


def rng() -> np.random.Generator:
    return np.random.default_rng(20260801)


def check(actual: Array, expected: Array, *, ulps: float) -> None:
    """Assert that no element is off by more than `ulps` rounding steps of the largest expected magnitude."""
    assert actual.shape == expected.shape
    step = np.finfo(actual.dtype).eps * max(1.0, float(np.abs(expected).max()))
    error = np.abs(actual.astype("float64") - expected.astype("float64")).max()
    assert error <= ulps * step, f"expected at most {ulps} {actual.dtype} steps, got {error / step:.1f} ({error:.2e})"


# --- activations


def exact_gelu(x: float) -> float:
    """Return GELU to about 1 float64 ulp: erfc at the rounded -x / sqrt(2), plus its slope times the rounding error."""
    z = -x * math.sqrt(0.5)
    rounding = float(-Decimal(x) / Decimal(2).sqrt() - Decimal(z))
    return 0.5 * x * (math.erfc(z) - 2 / math.sqrt(math.pi) * math.exp(-z * z) * rounding)


def test_gelu_float64_error_is_within_documented_bounds() -> None:
    x = np.linspace(-37, 37, 20_001)
    exact, actual = np.array([exact_gelu(v) for v in x]), ops.gelu(x)
    assert actual.dtype == np.float64
    error = np.abs(actual - exact)
    assert (error / np.maximum(np.abs(x), 1)).max() <= 1e-15  # measured 5.6e-16
    tail = x < -0.01
    assert (error[tail] / np.abs(exact[tail])).max() <= 1e-13  # measured 5.9e-14
    tail &= x > -5
    assert (error[tail] / np.abs(exact[tail])).max() <= 1e-14  # measured 5.7e-15


def test_gelu_float32_error_is_within_documented_bounds() -> None:
    x = np.linspace(-12, 12, 400_001).astype("float32")
    exact = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype("float64")])
    actual = ops.gelu(x)
    assert actual.dtype == np.float32
    error = np.abs(actual - exact)
    assert error[np.abs(x) < 4].max() <= 1.4e-7
    assert (error / np.maximum(np.abs(x), 1)).max() <= 1.4e-7
    tail = (x < -0.01) & (x > -5)
    assert (error[tail] / np.abs(exact[tail])).max() <= 1.2e-6


@pytest.mark.parametrize("x", [0.0, -0.0, 50.0, -50.0, 1e30, -1e30])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_of_extreme_values_is_relu(x: float, dtype: str) -> None:
    assert ops.gelu(np.array([x], dtype))[0] == max(np.dtype(dtype).type(x), 0)


def test_gelu_coefficients_are_those_of_the_fit() -> None:
    coefficients, error = polynomials.fit_gelu(ops.TAIL_SCALE)
    np.testing.assert_allclose(coefficients, ops.TAIL_COEFFICIENTS, atol=1e-7)
    assert error < 1.2e-7
    coefficients, error = polynomials.fit_gelu(ops.TAIL_SCALE, "float64")
    t = np.linspace(1 / 12, 1, 100)  # single coefficients are ill-conditioned, the polynomial is not
    actual, expected = np.polyval(coefficients, t), np.polyval(ops.TAIL_COEFFICIENTS_FLOAT64, t)
    np.testing.assert_allclose(actual, expected, rtol=3e-14)
    assert error < 1e-14


def test_gelu_new_and_relu_match_their_formulas() -> None:
    x = np.linspace(-4, 4, 101)
    expected = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x]
    check(ops.gelu_new(x), np.array(expected), ulps=4)
    assert 4.6e-4 < np.abs(ops.gelu_new(x) - ops.gelu(x)).max() < 4.8e-4  # the figure in its docstring
    assert ops.relu(x).tolist() == [max(v, 0) for v in x]


# --- dense layers and LayerNorm


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "gelu", "gelu_new", "relu"])
def test_linear_matches_three_loops(dtype: str, activation: str | None) -> None:
    r = rng()
    x, weight, bias = (r.standard_normal(shape) for shape in ((T, H), (INTERMEDIATE, H), INTERMEDIATE))
    expected = np.empty((T, INTERMEDIATE))
    for t in range(T):
        for o in range(INTERMEDIATE):
            expected[t, o] = bias[o] + math.fsum(x[t, i] * weight[o, i] for i in range(H))
    if activation:
        expected = ops.ACTIVATIONS[activation](expected)
    dense = ops.prepare_dense(weight.astype(dtype), bias.astype(dtype))
    actual = ops.linear(x.astype(dtype), dense, activation)
    assert actual.dtype == dtype
    check(actual, expected, ulps=8)


def test_linear_activates_every_block_of_rows() -> None:
    r = rng()
    x = r.standard_normal((3000, 4)).astype("float32")  # more rows than a block of the activation has
    dense = ops.prepare_dense(r.standard_normal((50, 4)).astype("float32"), np.zeros(50, "float32"))
    assert np.array_equal(ops.linear(x, dense, "relu"), np.maximum(ops.linear(x, dense, None), 0))


FLOATS = st.floats(-1e3, 1e3, width=32)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 40)), elements=FLOATS))
def test_layer_norm_float32_matches_float64(x: Array) -> None:
    r = rng()
    norm = r.standard_normal((2, x.shape[1])).astype(np.float32)
    eps = 1e-2  # not tiny: in a constant row only rounding noise is divided by sqrt(eps)
    mean = [math.fsum(row) / len(row) for row in x.tolist()]
    variance = [math.fsum((v - m) ** 2 for v in row) / len(row) for row, m in zip(x.tolist(), mean, strict=True)]
    scale = np.sqrt(np.array(variance)[:, None] + eps)
    expected = np.asarray((x - np.array(mean)[:, None]) / scale * norm[0] + norm[1])
    actual = ops.layer_norm(x, (norm[0], norm[1]), eps)
    assert actual.dtype == np.float32
    # The float32 mean of numbers near 1000 is off by about 1e-4, which is then divided by sqrt(eps).
    assert np.abs(actual - expected).max() <= 4e-6 * (1 + np.abs(x).max() / math.sqrt(eps))


def test_layer_norm_uses_eps_and_the_biased_variance() -> None:
    actual = ops.layer_norm(np.array([[1.0, 3.0]]), (np.ones(2), np.zeros(2)), 3.0)  # variance 1, not 2
    assert actual.tolist() == [[-0.5, 0.5]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_embed_normalizes_the_sum_of_three_rows(dtype: str) -> None:
    r = rng()
    tables = tuple(r.standard_normal((n, H)).astype(dtype) for n in (50, 2, 11))
    ids, types, positions = r.integers(0, 50, T), r.integers(0, 2, T), r.integers(0, 11, T)
    norm = (r.standard_normal(H).astype(dtype), r.standard_normal(H).astype(dtype))
    actual = ops.embed(ids, types, positions, (tables[0], tables[1], tables[2]), norm, 1e-12)
    for t in range(T):
        row = tables[0][ids[t]] + tables[1][types[t]] + tables[2][positions[t]]
        check(actual[t : t + 1], ops.layer_norm(row[None], norm, 1e-12), ulps=8)
    assert actual.dtype == dtype


# --- attention


@given(hnp.arrays(np.float64, (3, 7), elements=st.floats(-1e4, 1e4)))
def test_softmax_sums_to_one_and_does_not_overflow(scores: Array) -> None:
    probs = ops.softmax(scores)
    assert np.isfinite(probs).all() and (probs >= 0).all()
    # 6 additions, a division and 6 additions round by up to 1.1e-16 each; measured 6.7e-16
    assert np.abs(probs.sum(axis=-1) - 1).max() <= 13 * 1.12e-16
    for row, actual in zip(scores, probs, strict=True):
        exponentials = [math.exp(v - max(row)) for v in row]
        check(actual, np.array([e / math.fsum(exponentials) for e in exponentials]), ulps=4)


def attention_by_loops(qkv: Array, offsets: Array, num_heads: int) -> tuple[Array, list[Array]]:
    hidden = qkv.shape[1] // 3
    size = hidden // num_heads
    context = np.zeros((len(qkv), hidden))
    all_probs = []
    for start, stop in pairwise(offsets):
        probs = np.zeros((num_heads, stop - start, stop - start))
        for n in range(num_heads):
            columns = range(n * size, (n + 1) * size)
            for i in range(start, stop):
                scores = [
                    math.fsum(qkv[i, c] * qkv[j, hidden + c] for c in columns) / math.sqrt(size)
                    for j in range(start, stop)
                ]
                exponentials = [math.exp(s - max(scores)) for s in scores]
                for j in range(start, stop):
                    probs[n, i - start, j - start] = exponentials[j - start] / math.fsum(exponentials)
                for c in columns:
                    context[i, c] = math.fsum(
                        probs[n, i - start, j - start] * qkv[j, 2 * hidden + c] for j in range(start, stop)
                    )
        all_probs.append(probs)
    return context, all_probs


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_matches_its_definition(dtype: str) -> None:
    qkv = rng().standard_normal((T, 3 * H))
    context, probs = attention_by_loops(qkv, OFFSETS, N)
    result = ops.attention(qkv.astype(dtype), OFFSETS, N)
    assert result.dtype == dtype
    check(result, context, ulps=8)
    for actual, expected in zip(ops.attention_probs(qkv.astype(dtype), OFFSETS, N), probs, strict=True):
        check(actual, expected, ulps=8)


def test_attention_ignores_other_sentences() -> None:
    qkv = rng().standard_normal((T, 3 * H))
    before = ops.attention(qkv, OFFSETS, N)
    qkv[OFFSETS[2] : OFFSETS[3]] = np.nan
    after = ops.attention(qkv, OFFSETS, N)
    others = np.r_[0 : OFFSETS[2], OFFSETS[3] : T]
    assert np.array_equal(before[others], after[others])
    assert np.isnan(after[OFFSETS[2] : OFFSETS[3]]).all()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_equal_length_runs_cover_every_sentence_once(lengths: list[int]) -> None:
    runs = list(ops.equal_length_runs(np.cumsum([0, *lengths])))
    assert [b for first, last in runs for b in range(first, last)] == list(range(len(lengths)))
    for first, last in runs:
        assert len(set(lengths[first:last])) == 1
        assert last - first == 1 or (last - first) * lengths[first] ** 2 <= 2**16


# --- pooling


@pytest.mark.parametrize("dtype", DTYPES)
def test_pool_matches_loops_and_rejects_unknown_modes(dtype: str) -> None:
    h = rng().standard_normal((T, H))
    spans = list(pairwise(OFFSETS))
    expected = {
        "mean": [[math.fsum(h[a:b, c]) / (b - a) for c in range(H)] for a, b in spans],
        "cls": [h[a] for a, _ in spans],
        "max": [[max(h[a:b, c]) for c in range(H)] for a, b in spans],
        "mean_sqrt_len_tokens": [[math.fsum(h[a:b, c]) / math.sqrt(b - a) for c in range(H)] for a, b in spans],
    }
    for mode, rows in expected.items():
        actual = ops.pool(h.astype(dtype), OFFSETS, mode)
        assert actual.dtype == dtype
        check(actual, np.array(rows), ulps=4)
    assert np.array_equal(ops.mean_pool(h, OFFSETS), ops.pool(h, OFFSETS, "mean"))
    with pytest.raises(ValueError, match=r"mode: expected .* got 'median'"):
        ops.pool(h, OFFSETS, "median")


@pytest.mark.parametrize("dtype", DTYPES)
def test_l2_normalize_clips_the_norm_at_1e_12(dtype: str) -> None:
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]], dtype)
    expected = np.array([[0.6, 0.8], [0, 0], [1e-8, 0]], dtype)  # below 1e-12 the norm counts as 1e-12
    assert (np.abs(ops.l2_normalize(x) - expected) <= 4 * np.finfo(dtype).eps * expected).all()
