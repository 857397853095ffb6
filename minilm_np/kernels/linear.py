"""Dense layers: y = activation(x W^T + b), for x (T, K), W (N, K), b (N,) and y (T, N).

The product is computed in tiles (see simd.py). A tile has ROWS rows and PANEL = VECTORS * WIDTH columns of y and is
summed over k in registers. For term k, the tile at y[i, j] needs x[i : i + ROWS, k] and W[j : j + PANEL, k]. The latter
is part of a column of W, and its elements are K numbers apart in memory. So W is copied once, when the model is loaded,
into panels: an array (panels, K, PANEL) in which panel q is W[q * PANEL : (q + 1) * PANEL].T. The inner loop then reads
memory in order.

The sum over k is cut into partial sums of DEPTH terms. The loops, from the outside in, are over panels, partial sums,
blocks of ROWS rows, and terms k. So the part of a panel that a partial sum needs (9 KB for DEPTH = 96 and PANEL = 24)
stays in the core's first-level cache while all rows of x are multiplied by it; a whole panel would not fit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minilm_np.kernels.simd import (
    WIDTH,
    accumulate,
    add_rows,
    empty,
    gelu,
    inline,
    jit,
    load,
    prefetch,
    store,
    store_tile,
    tile_of,
    zero_tile,
)

Array = npt.NDArray[Any]

# The tile's sums take 8 x 3 = 24 of the 32 registers of AVX-512, or 4 x 3 = 12 of the 16 of AVX2. The other registers
# hold the three vectors of the panel and a number of x.
ROWS, VECTORS = (8, 3) if WIDTH == 16 else (4, 3)
PANEL = VECTORS * WIDTH  # columns of y in a panel: 48 with AVX-512, else 24
# Terms in a partial sum. 16 partial sums of 96 terms have a quarter of the error of one sum of 1536 terms, which would
# be 2 % faster.
DEPTH = 96
# While a part of a panel is used, the next one is prefetched: a few cache lines after every STEP terms.
STEP = 16


class Packed(NamedTuple):
    """A dense layer with N outputs and K inputs, in the layout of the kernel."""

    panels: Array  # (panels * K * PANEL,) float32: an array (panels, K, PANEL), flat
    bias: Array  # (N,)
    shape: tuple[int, int]  # (N, K)

    def operands(self, x: Array) -> tuple[Array, ...]:
        """Return x (T, K), flat: what the kernel reads of the input."""
        return (x,)

    def run(self, operands: tuple[Array, ...], T: int, use_gelu: bool, y: Array) -> None:
        """Set y (T, N), flat, to the product and the activation."""
        N, K = self.shape
        linear(*operands, T, 1, K, self.panels, self.bias, N, use_gelu, y, 0, panels_of(N), 1)


def panels_of(N: int, panel: int = PANEL) -> int:
    """Return the number of panels of `panel` columns for N outputs."""
    return -(-N // panel)


def pack(weight: Array, panel: int = PANEL) -> Array:
    """Copy weight (N, K), float32 or int32, into panels. If `panel` does not divide N, the last two panels overlap."""
    N, K = weight.shape
    starts = [min(j, N - panel) for j in range(0, N, panel)]
    panels = empty(len(starts) * K * panel).view(weight.dtype).reshape(-1, K, panel)
    for part, j in zip(panels, starts, strict=True):
        part[:] = weight[j : j + panel].T
    return panels.reshape(-1)


def prepare_dense(weight: Array, bias: Array) -> Packed:
    """Pack a dense layer: weight (N, K), bias (N,)."""
    return Packed(pack(weight.astype(np.float32, copy=False)), np.ascontiguousarray(bias, np.float32), weight.shape)


@inline
def sum_terms(tile, x, i, x_row, per_word, panels, panel, p, k, K, prefetch_at, prefetch_stop, lines):
    """Return the tile + the terms k to k + DEPTH - 1 of its sum: rows of x (row stride x_row) from x[i], and a panel
    of `panel` columns from panels[p].

    After every STEP terms it prefetches `lines` cache lines, from panels[prefetch_at] up to panels[prefetch_stop].
    """
    for step in range(k, min(k + DEPTH, K), STEP):
        at = i + step * per_word
        tile = accumulate(tile, x, at, x_row, 1, panels, p + step * panel, panel, min(STEP, K - step))
        if prefetch_at < prefetch_stop:
            for line in range(lines):
                prefetch(panels, prefetch_at + line * 16)
            prefetch_at += lines * 16
    return tile


@inline
def lines_per_step(blocks, panel):
    """Return how many lines to prefetch after every STEP terms, so that `blocks` blocks of rows share those of a part.

    A block that is alone does not prefetch: it waits for its own part of the panel.
    """
    return (STEP * panel // 16 + blocks - 1) // blocks if blocks >= 2 else 0


@inline
def next_part(p, k, K, ahead, panel):
    """Return where the part of a panel begins that is used after the terms k to k + DEPTH - 1 of the panel at p.

    The thread's next panel is `ahead` panels further on (or back, if negative).
    """
    return p + (k + DEPTH) * panel if k + DEPTH < K else p + ahead * K * panel


@inline
def partial_sum(start, zeros, x, i, x_row, per_word, panels, p, k, K, y, at, N, prefetch_at, prefetch_stop, lines):
    """Add the terms k to k + DEPTH - 1 of one tile to y (row stride N) at y[at]. Other arguments: see sum_terms.

    The first partial sum begins at the tile `start` (the bias) and sets y; later ones begin at the tile `zeros`.
    """
    if k == 0:
        store_tile(
            sum_terms(start, x, i, x_row, per_word, panels, PANEL, p, k, K, prefetch_at, prefetch_stop, lines), y, at, N
        )
    else:
        tile = sum_terms(zeros, x, i, x_row, per_word, panels, PANEL, p, k, K, prefetch_at, prefetch_stop, lines)
        store_tile(add_rows(tile, y, at, N), y, at, N)


@inline
def gelu_columns(y, T, N, j, vectors):
    """Apply GELU to `vectors` vectors of each row of y (T, N), from column j on: they are in the second-level cache."""
    for i in range(T):
        for c in range(vectors):
            at = i * N + j + c * WIDTH
            store(gelu(load(y, at)), y, at)


@jit
def linear(x, T, per_word, K, panels, bias, N, use_gelu, y, first, last, ahead):
    """Compute the columns of y (T, N) that belong to the panels first to last - 1, from x (T, K * per_word); both flat.

    x and panels are float32 and per_word is 1; or panels are words of two bfloat16 numbers, K is the number of words,
    and per_word is the number of elements of x for a word. If ROWS does not divide T, the last block overlaps the one
    before it and computes some rows twice, with the same bits. If T < ROWS, the rows are computed one by one. This
    thread's next panel is `ahead` panels further on.
    """
    x_row, full = K * per_word, T - T % ROWS
    lines = lines_per_step(full // ROWS, PANEL)
    for q in range(first, last):
        j, p = min(q * PANEL, N - PANEL), q * K * PANEL
        for k in range(0, K, DEPTH):
            bias_tile, zeros = tile_of(bias, j, ROWS, VECTORS), zero_tile(ROWS, VECTORS)
            after = next_part(p, k, K, ahead, PANEL)
            for i in range(0, full, ROWS):
                at = after + i // ROWS * lines * 16 * (DEPTH // STEP)
                stop = after + DEPTH * PANEL
                partial_sum(
                    bias_tile, zeros, x, i * x_row, x_row, per_word, panels, p, k, K, y, i * N + j, N, at, stop, lines
                )
        if 0 < full < T:  # now, because these rows of y have to be complete before some are computed again
            i = T - ROWS
            for k in range(0, K, DEPTH):
                bias_tile, zeros = tile_of(bias, j, ROWS, VECTORS), zero_tile(ROWS, VECTORS)
                partial_sum(bias_tile, zeros, x, i * x_row, x_row, per_word, panels, p, k, K, y, i * N + j, N, 0, 0, 0)
        if full == 0:
            for i in range(T):
                for k in range(0, K, DEPTH):
                    bias_row, zeros = tile_of(bias, j, 1, VECTORS), zero_tile(1, VECTORS)
                    partial_sum(
                        bias_row, zeros, x, i * x_row, x_row, per_word, panels, p, k, K, y, i * N + j, N, 0, 0, 0
                    )
        if use_gelu:
            gelu_columns(y, T, N, j, VECTORS)
