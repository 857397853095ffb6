"""Dense layers in bfloat16: weights and inputs rounded to bfloat16, products summed in float32.

A bfloat16 number is the upper half of a float32: the sign, all 8 bits of the exponent, and 7 bits of the significand.
Rounding to it changes a number by at most 2^-9 of its size. Half as much memory holds the weights, and AVX512-BF16 has
an instruction that multiplies and adds two numbers per lane.

The kernel is that of linear.py. Its numbers are words, each with two bfloat16 numbers (see simd.py): terms k and k + 16
of each block of TERMS = 32. So a vector of words is packed from two vectors of float32 without moving any lanes, and
the order of the sum is the same for vectors of 8 and of 16. A word's products are added one after the other, that of
term k + 16 first, as the instruction does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minilm_np.kernels.linear import linear, pack, panels_of
from minilm_np.kernels.simd import (
    HALVES,
    WIDTH,
    X_PER_BFLOAT16_WORD,
    empty,
    jit,
    load,
    pack_bfloat16,
    round_to_bfloat16,
    store,
)

Array = npt.NDArray[Any]

TERMS = 2 * HALVES  # terms in a block; the number of inputs is a multiple
# So that a bias is a multiple of 2^-126, as the products are: see SMALLEST_BFLOAT16 in simd.py.
SMALLEST_BIAS = 2.0**-100


class PackedBfloat16(NamedTuple):
    """A dense layer with N outputs and K inputs, in the layout of the kernel."""

    panels: Array  # (panels * K / 2 * PANEL,) int32 words: an array (panels, K / 2, PANEL), flat
    bias: Array  # (N,) float32
    shape: tuple[int, int]  # (N, K)

    def operands(self, x: Array) -> tuple[Array, ...]:
        """Return x (T, K), flat, rounded: words (T, K / 2) or, without the instruction, float32 (T, K); flat."""
        if X_PER_BFLOAT16_WORD == 1:
            return (words_of(x),)
        rounded = empty(x.size)
        round_all(x, rounded)
        return (rounded,)

    def run(self, operands: tuple[Array, ...], T: int, use_gelu: bool, y: Array) -> None:
        """Set y (T, N), flat, to the product and the activation."""
        N, K = self.shape
        linear(*operands, T, X_PER_BFLOAT16_WORD, K // 2, self.panels, self.bias, N, use_gelu, y, 0, panels_of(N), 1)


def prepare_dense(weight: Array, bias: Array) -> PackedBfloat16:
    """Round weight (N, K) to bfloat16 and pack it. The bias (N,) stays float32."""
    words = words_of(np.ascontiguousarray(weight, np.float32).reshape(-1))
    bias = np.array(bias, np.float32)
    bias[np.abs(bias) < SMALLEST_BIAS] = 0
    return PackedBfloat16(pack(words.reshape(len(weight), -1)), bias, weight.shape)


def words_of(x: Array) -> Array:
    """Return x rounded to bfloat16 and packed into words; its size is a multiple of TERMS."""
    words = empty(x.size // 2).view(np.int32)
    round_and_pack(x, words)
    return words


@jit
def round_and_pack(x, words):
    """Set `words` to x rounded to bfloat16. Both are flat; the size of x is a multiple of TERMS."""
    for i in range(0, len(words), HALVES):
        for lane in range(i, i + HALVES, WIDTH):
            low, high = round_to_bfloat16(load(x, i + lane)), round_to_bfloat16(load(x, i + lane + HALVES))
            store(pack_bfloat16(low, high), words, lane)


@jit
def round_all(x, y):
    """Set y to x rounded to bfloat16, as float32. Both are flat; their size is a multiple of TERMS."""
    for i in range(0, len(x), WIDTH):
        store(round_to_bfloat16(load(x, i)), y, i)
