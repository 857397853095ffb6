"""Dense layers in int8: weights and inputs as 8-bit integers, products summed exactly.

A row w of the weight (an output channel) becomes the integers round(w / s) in -127 to 127, with s = max |w| / 127
(rounded up, see formats.quantize_weight). A
row x of the input (a token) becomes round((x - m) / r) in 0 to 255, with its smallest number m and r = (max x - m) /
255. With these integers v and u, x = r u + m and w = s v except for rounding, so

    x . w = r s (u . v) + m (s sum(v))

and only u . v has to be computed for each token and channel. It is a sum of integers below 2^31, so it is exact in
every order: the result has the same bits on every CPU.

Each word of the kernel has four of these integers (see simd.py): terms k, k + 16, k + 32 and k + 48 of each block of
TERMS = 64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minilm_np.formats import quantize_weight
from minilm_np.kernels.linear import (
    DEPTH,
    STEP,
    gelu_columns,
    lines_per_step,
    next_part,
    pack,
    panels_of,
    sum_terms,
)
from minilm_np.kernels.simd import (
    HALVES,
    HAS_DOT_INT8,
    HAS_DOT_INT16,
    WIDTH,
    WITHOUT_JIT,
    X_PER_INT8_WORD,
    add_rows,
    empty,
    fma,
    inline,
    jit,
    largest_of,
    load,
    maximum,
    mul,
    pack_ints,
    rank_1_update,
    round_to_int,
    scale_tile,
    splat,
    store,
    store_tile,
    sub,
    sum_of,
    zero_int_tile,
)

Array = npt.NDArray[Any]

# As in linear.py, but with a register for the products of vpmaddwd.
ROWS, VECTORS = (8, 3) if WIDTH == 16 else (4, 3) if HAS_DOT_INT8 else (5, 2)
PANEL = VECTORS * WIDTH
AVAILABLE = HAS_DOT_INT8 or HAS_DOT_INT16 or WITHOUT_JIT
TERMS = 4 * HALVES  # terms in a block; the number of inputs is a multiple


class PackedInt8(NamedTuple):
    """A dense layer with N outputs and K inputs, in the layout of the kernel."""

    panels: Array  # (panels * K / 4 * PANEL,) int32 words: an array (panels, K / 4, PANEL), flat
    bias: Array  # (N,) float32
    scale: Array  # (N,) float32: s
    total: Array  # (N,) float32: s sum(v)
    shape: tuple[int, int]  # (N, K)

    def operands(self, x: Array) -> tuple[Array, ...]:
        """Return x (T, K), flat, as words (T, K / 4 * X_PER_INT8_WORD), flat, with r (T,) and m (T,)."""
        K = self.shape[1]
        T = len(x) // K
        words, scale, smallest = empty(x.size // 4 * X_PER_INT8_WORD).view(np.int32), empty(T), empty(T)
        quantize_rows(x, K, words, scale, smallest)
        return words, scale, smallest

    def run(self, operands: tuple[Array, ...], T: int, use_gelu: bool, y: Array) -> None:
        """Set y (T, N), flat, to the product and the activation."""
        N, K = self.shape
        weights = self.panels, self.bias, self.scale, self.total
        linear_int8(*operands, T, K // 4, *weights, N, use_gelu, y, 0, panels_of(N, PANEL), 1)


def prepare_dense(weight: Array, bias: Array) -> PackedInt8:
    """Quantize weight (N, K) and pack it. The bias (N,) stays float32."""
    values, scales = quantize_weight(np.asarray(weight, np.float32))
    scale = scales.reshape(-1)
    N, K = weight.shape
    words = np.ascontiguousarray(values.reshape(N, -1, 4, HALVES).swapaxes(2, 3)).view(np.int32).reshape(N, K // 4)
    total = scale * values.sum(axis=1, dtype=np.int32).astype(np.float32)
    return PackedInt8(pack(words, PANEL), np.ascontiguousarray(bias, np.float32), scale, total, weight.shape)


@jit
def quantize_rows(x, K, words, scale, smallest):
    """Set the rows of `words` (T, K / 4) to the integers u of x (T, K), and scale (T,), smallest (T,) to r and m."""
    for t in range(len(scale)):
        zero = splat(np.float32(0))
        largest, smallest_negated, nan = load(x, t * K), sub(zero, load(x, t * K)), zero
        for i in range(t * K, t * K + K, WIDTH):
            value = load(x, i)
            largest, smallest_negated = maximum(largest, value), maximum(smallest_negated, sub(zero, value))
            nan = fma(value, zero, nan)  # stays 0, unless a number is not finite, which `maximum` may not notice
        m = sum_of(nan) - largest_of(smallest_negated)
        span = largest_of(largest) - m
        scale[t], smallest[t] = span / np.float32(255), m
        inverse = splat(np.float32(255) / max(span, np.float32(1e-30)))
        start = splat(m)
        for block in range(0, K, TERMS):
            for lane in range(0, HALVES, WIDTH):
                i = t * K + block + lane
                a = round_to_int(mul(sub(load(x, i), start), inverse))
                b = round_to_int(mul(sub(load(x, i + HALVES), start), inverse))
                c = round_to_int(mul(sub(load(x, i + 2 * HALVES), start), inverse))
                d = round_to_int(mul(sub(load(x, i + 3 * HALVES), start), inverse))
                at = (t * K + block) // 4 * X_PER_INT8_WORD + lane
                if X_PER_INT8_WORD == 1:
                    store(pack_ints(pack_ints(a, b, 8), pack_ints(c, d, 8), 16), words, at)
                else:
                    store(pack_ints(a, c, 16), words, at)
                    store(pack_ints(b, d, 16), words, at + HALVES)


@inline
def partial_int_sum(
    zeros, x, x_scale, x_smallest, i, panels, p, k, K, bias, scale, total, j, y, sums, N, at, stop, lines
):
    """Add the terms k to k + DEPTH - 1 of the tile of rows i and columns j on to `sums`; the last ones set y.

    `sums` is the memory of y as int32. at, stop, lines: the prefetches of sum_terms.
    """
    x_row = K * X_PER_INT8_WORD
    tile = sum_terms(zeros, x, i * x_row, x_row, X_PER_INT8_WORD, panels, PANEL, p, k, K, at, stop, lines)
    if k > 0:
        tile = add_rows(tile, sums, i * N + j, N)
    if k + DEPTH < K:
        store_tile(tile, sums, i * N + j, N)
    else:
        scaled = scale_tile(tile, x_scale, i, scale, j)
        store_tile(add_rows(rank_1_update(scaled, x_smallest, i, 1, total, j), bias, j, 0), y, i * N + j, N)


@jit
def linear_int8(x, x_scale, x_smallest, T, K, panels, bias, scale, total, N, use_gelu, y, first, last, ahead):
    """Compute the columns of y (T, N) of the panels first to last - 1, as `linear` of linear.py does.

    x (T, K * X_PER_INT8_WORD), flat, are words; K is the number of words of a column.
    """
    full = T - T % ROWS
    lines = lines_per_step(full // ROWS, PANEL)
    sums = y.view(np.int32)
    zeros, row = zero_int_tile(ROWS, VECTORS), zero_int_tile(1, VECTORS)
    weights = bias, scale, total
    for q in range(first, last):
        j, p = min(q * PANEL, N - PANEL), q * K * PANEL
        for k in range(0, K, DEPTH):
            after = next_part(p, k, K, ahead, PANEL)
            for i in range(0, full, ROWS):
                at, stop = after + i // ROWS * lines * 16 * (DEPTH // STEP), after + DEPTH * PANEL
                partial_int_sum(
                    zeros, x, x_scale, x_smallest, i, panels, p, k, K, *weights, j, y, sums, N, at, stop, lines
                )
        if 0 < full < T:
            for k in range(0, K, DEPTH):
                partial_int_sum(
                    zeros, x, x_scale, x_smallest, T - ROWS, panels, p, k, K, *weights, j, y, sums, N, 0, 0, 0
                )
        if full == 0:
            for i in range(T):
                for k in range(0, K, DEPTH):
                    partial_int_sum(row, x, x_scale, x_smallest, i, panels, p, k, K, *weights, j, y, sums, N, 0, 0, 0)
        if use_gelu:
            gelu_columns(y, T, N, j, VECTORS)
