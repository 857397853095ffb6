"""The vector functions exp2 and gelu, memory alignment, and the cache of compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from generate import polynomials

from minilm_np import ops
from minilm_np.kernels import simd
from minilm_np.kernels.simd import WIDTH

Array = npt.NDArray[Any]


def test_empty_is_aligned_to_cache_lines() -> None:
    for size in (1, 15, 16, 1000):
        assert simd.empty(size).ctypes.data % 64 == 0 and simd.empty(size).shape == (size,)


@simd.jit
def _apply_exp2(x: Array, y: Array) -> None:
    for i in range(0, len(x), WIDTH):
        simd.store(simd.exp2(simd.load(x, i)), y, i)


@simd.jit
def _apply_gelu(x: Array, y: Array) -> None:
    for i in range(0, len(x), WIDTH):
        simd.store(simd.gelu(simd.load(x, i)), y, i)


def test_exp2_and_gelu_errors_match_their_docstrings() -> None:
    x = np.linspace(-126, 126.9, WIDTH * (100 if simd.WITHOUT_JIT else 20_000)).astype(np.float32)
    y = np.empty_like(x)
    _apply_exp2(x, y)
    expected = np.exp2(x.astype("f8"))
    assert (np.abs(y - expected) / np.spacing(expected.astype("f4"))).max() <= 1.0
    for apply in (_apply_exp2, _apply_gelu):  # NaN stays NaN
        apply(np.full(WIDTH, np.nan, np.float32), y)
        assert np.isnan(y[:WIDTH]).all()
    x = np.linspace(-30, 30, len(x)).astype(np.float32)
    _apply_gelu(x, y)
    error = np.abs(y - ops.gelu(x.astype("f8")))
    assert error[np.abs(x) < 4].max() <= 1.4e-7 and (error / np.maximum(1, np.abs(x))).max() <= 1.4e-7


def test_exp2_coefficients_come_from_the_fit() -> None:
    coefficients, error = polynomials.fit_exp2()
    np.testing.assert_allclose(coefficients, simd.EXP2_COEFFICIENTS, rtol=1e-5)
    assert error < 2.1e-9
