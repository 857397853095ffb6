"""Float32 arrays in a page: what the page can recompute is stored as the difference in float32 steps.

The page recomputes LayerNorm and GELU from their inputs with the functions below, in float64. Stored is by how many
float32 numbers the model's value is away from the rounded result, mostly 0 or 1. So the page has the model's bits, and
these arrays take an eighth of the space. The functions use only + - * / and the square root, one after the other, and
assets/recompute.js has the same ones: these operations give the same bits in JavaScript. (exp would not.)

A block is stored in four planes: the first byte of every number, then the second, ... All blocks are compressed
together by zlib and written in base64.
"""

from __future__ import annotations

import base64
import math
import zlib
from typing import Any

import numpy as np

from minilm_np.model import Array
from minilm_np.ops import TAIL_COEFFICIENTS_FLOAT64, TAIL_SCALE

LN2_HIGH = 0.6931471803691238  # the upper 32 bits of ln 2, so that n LN2_HIGH is exact
LN2_LOW = 1.9082149292705877e-10  # the rest (both as in fdlibm's exp)
LARGEST_MAGNITUDE = 37.0  # Phi(-37) is 5e-300; in float32, x Phi(x) is 0 from x = -14.2 on


def exponential(y: Array) -> Array:
    """Return e^y in float64 for -700 < y <= 0, with an error of 2e-16 relative: 2^n times a Taylor polynomial."""
    n = np.floor(y * (1 / math.log(2)) + 0.5)
    r = (y - n * LN2_HIGH) - n * LN2_LOW
    p = np.full_like(y, 1 / math.factorial(13))
    for k in range(12, -1, -1):
        p = p * r + 1 / math.factorial(k)
    return np.asarray(np.ldexp(p, n.astype(np.int64)))


def gelu(x: Array) -> Array:
    """ops.gelu in float64, in a fixed order of operations."""
    magnitude = np.minimum(np.abs(x), LARGEST_MAGNITUDE)
    t = 1 / (1 + TAIL_SCALE * magnitude)
    tail = np.full_like(x, TAIL_COEFFICIENTS_FLOAT64[0])
    for coefficient in TAIL_COEFFICIENTS_FLOAT64[1:]:
        tail = tail * t + coefficient
    tail = tail * t * exponential(magnitude * magnitude * -0.5)
    return np.asarray(np.maximum(x, 0) - magnitude * tail)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:  # (T, H), (H,), (H,) -> (T, H)
    """ops.layer_norm in float64; sums from left to right."""
    H = x.shape[1]
    centered = x - (np.cumsum(x, axis=1)[:, -1:] / H)
    variance = np.cumsum(centered * centered, axis=1)[:, -1:] / H
    return np.asarray(centered / np.sqrt(variance + eps) * weight + bias)


def steps_between(value: Array, recomputed: Array) -> Array:
    """Return how many float32 numbers `value` is above `recomputed`, which is rounded to float32 first."""
    return _ordered(value) - _ordered(recomputed.astype(np.float32))


def _ordered(x: Array) -> Array:
    """Return integers (int64) in the order of the float32 numbers, one apart for neighbors; -0 and 0 are neighbors."""
    bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(2**31) - bits - 1, bits)


class Packer:
    """Blocks of numbers for the page's data; each is known by its position."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._size = 0

    def floats(self, x: Array) -> list[int]:
        """Add float32 numbers; return [position, count]."""
        return self._add(np.ascontiguousarray(x, np.float32).view(np.uint32))

    def steps(self, value: Array, recomputed: Array) -> list[int]:
        """Add `steps_between`; return [position, count]."""
        steps = steps_between(value, recomputed)
        return self._add(((steps << 1) ^ (steps >> 63)).astype(np.uint32))  # 0, -1, 1, -2, ... become 0, 1, 2, 3, ...

    def _add(self, words: Any) -> list[int]:
        position, self._size = self._size, self._size + words.size
        self._blocks.append(words.astype("<u4").reshape(-1).view(np.uint8).reshape(-1, 4).T.tobytes())
        return [position, words.size]

    def base64(self) -> str:
        """Return all blocks, compressed."""
        return base64.b64encode(zlib.compress(b"".join(self._blocks), 9)).decode()
