"""Shared by the tests of the Numba op set."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.tolerances import assert_close

from minilm_np.kernels.simd import WITHOUT_JIT

Array = npt.NDArray[Any]
needs_jit = pytest.mark.skipif(WITHOUT_JIT, reason="NUMBA_DISABLE_JIT=1: needs compiled code, or takes minutes without")


def normal(*shape: int) -> Array:
    """Return normally distributed float32 numbers; the same for the same shape."""
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def assert_float32_close(actual: Array, expected: Array, ulps: float) -> None:
    """Assert that every element is within `ulps` float32 rounding steps of the largest expected magnitude."""
    assert actual.dtype == np.float32
    assert_close(actual, expected, ulps * 6e-8 * max(1.0, float(np.abs(expected).max())), "kernel")
