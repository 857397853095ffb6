"""Numbers that are recomputed and corrected have the model's bits."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from support.kernels import normal

from minilm_np import ops
from minilm_np.study import packing


def test_exponential() -> None:
    y = -np.r_[np.linspace(0, 690, 100_001), 1e-300, 0.0]
    np.testing.assert_allclose(packing.exponential(y), np.exp(y), rtol=5e-16)  # measured: 2.2e-16


def test_the_functions_are_those_of_the_model() -> None:
    x = np.r_[np.linspace(-40, 40, 10_001), 0, -0.0, 1e30, -1e30]
    np.testing.assert_allclose(packing.gelu(x), ops.gelu(x), rtol=1e-12, atol=1e-290)
    rows, weight, bias = (normal(*shape).astype(np.float64) for shape in ((9, 24), (24,), (25,)))
    expected = ops.layer_norm(rows, (weight, bias[:24]), 1e-12)
    np.testing.assert_allclose(packing.layer_norm(rows, weight, bias[:24], 1e-12), expected, rtol=0, atol=1e-13)


def test_steps_are_counted_across_zero_and_back() -> None:
    value = np.array([0, -0.0, 1e-45, -1e-45, 1, np.nextafter(np.float32(1), np.float32(2)), -3e38, 5e-39], np.float32)
    other = np.array([0.0, 0.0, -1e-45, 0.0, 1.0, 1.0, 3e38, -5e-39])
    steps = packing.steps_between(value, other)
    assert steps[:6].tolist() == [0, -1, 3, -2, 0, 1]
    ordered = packing._ordered(other.astype(np.float32)) + steps  # what the page does
    bits = np.where(ordered < 0, -(2**31) - ordered - 1, ordered).astype(np.int32)
    assert bits.view(np.float32).tobytes() == value.tobytes()


def test_blocks_are_found_again() -> None:
    packer = packing.Packer()
    x, value = normal(3, 5), normal(7, 2)
    first, second = packer.floats(x), packer.steps(value, value.astype(np.float64) + 1e-7)
    assert (first, second) == ([0, 15], [15, 14])
    data = np.frombuffer(zlib.decompress(base64.b64decode(packer.base64())), np.uint8)

    def words(block: list[int]) -> Any:
        start, count = 4 * block[0], block[1]
        return np.ascontiguousarray(data[start : start + 4 * count].reshape(4, count).T).view("<u4").reshape(-1)

    assert words(first).tobytes() == x.tobytes()
    zigzag = words(second).astype(np.int64)
    expected = packing.steps_between(value, value.astype(np.float64) + 1e-7).reshape(-1)
    assert np.array_equal((zigzag >> 1) ^ -(zigzag & 1), expected) and expected.any()
