"""Dense layers: y = activation(x W^T + b), for x (T, K), W (N, K), b (N,) and y (T, N).

The product is computed in tiles (see simd.py). A tile has ROWS rows and PANEL = VECTORS * WIDTH columns of y and is
summed over k in registers. For term k, the tile at y[i, j] needs x[i : i + ROWS, k] and W[j : j + PANEL, k]. The latter
is part of a column of W, and its elements are K numbers apart in memory. So W is copied once, when the model is loaded,
into panels: an array (panels, K, PANEL) in which panel q is W[q * PANEL : (q + 1) * PANEL].T. The inner loop then reads
memory in order.

The loops, from the outside in, are over panels, blocks of ROWS rows, and terms k. A panel (72 KB for K = 384 and
PANEL = 48) stays in the core's second-level cache while all rows of x are multiplied by it.
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
# While a panel is used, the next one is prefetched: a few cache lines after every STEP terms.
STEP = 8


class Packed(NamedTuple):
    """A dense layer with N outputs and K inputs, in the layout of the kernel."""

    panels: Array  # (panels * K * PANEL,) float32: an array (panels, K, PANEL), flat
    bias: Array  # (N,)
    shape: tuple[int, int]  # (N, K)


def panels_of(N: int) -> int:
    """Return the number of panels for N outputs."""
    return -(-N // PANEL)


def prepare_dense(weight: Array, bias: Array) -> Packed:
    """Pack weight (N, K) into panels. If PANEL does not divide N, the last panel overlaps the one before it."""
    N, K = weight.shape
    starts = [min(j, N - PANEL) for j in range(0, N, PANEL)]
    panels = empty(len(starts) * K * PANEL).reshape(-1, K, PANEL)
    for panel, j in zip(panels, starts, strict=True):
        panel[:] = weight[j : j + PANEL].T
    return Packed(panels.reshape(-1), np.ascontiguousarray(bias, np.float32), (N, K))


@inline
def sum_and_prefetch(tile, x, i, K, panels, p, depth, prefetch_at, lines):
    """Return tile + x W^T summed over `depth` terms: rows of x (row stride K) from x[i], a panel from panels[p].

    After every STEP terms it prefetches the next `lines` cache lines, beginning at panels[prefetch_at].
    """
    for k in range(0, depth, STEP):
        tile = accumulate(tile, x, i + k, K, 1, panels, p + k * PANEL, PANEL, min(depth - k, STEP))
        for line in range(lines):
            prefetch(panels, prefetch_at + (k // STEP * lines + line) * 16)
    return tile


@inline
def product(start, zeros, x, i, K, panels, p, y, at, N, prefetch_at, lines):
    """Compute one tile of y (row stride N) at y[at]: the tile `start` (the bias) + x W^T, in sums of DEPTH terms.

    Later partial sums begin at the tile `zeros` and are added to y in memory. Other arguments: see sum_and_prefetch.
    """
    store_tile(sum_and_prefetch(start, x, i, K, panels, p, min(K, DEPTH), prefetch_at, lines), y, at, N)
    for k in range(DEPTH, K, DEPTH):
        next_at = prefetch_at + k // STEP * lines * 16
        tile = sum_and_prefetch(zeros, x, i + k, K, panels, p + k * PANEL, min(K - k, DEPTH), next_at, lines)
        store_tile(add_rows(tile, y, at, N), y, at, N)


@jit
def linear(x, T, K, panels, bias, N, use_gelu, y, first, last, ahead):
    """Compute the columns of y (T, N) that belong to the panels first to last - 1, from x (T, K); both flat.

    This thread's next panel is `ahead` panels further on (or back, if negative). It is prefetched if at least two
    blocks of rows share the prefetches. If ROWS does not divide T, the last block overlaps the one before it and
    computes some rows twice, with the same bits. If T < ROWS, the rows are computed one by one.
    """
    blocks = (T + ROWS - 1) // ROWS
    # A panel has STEP * PANEL / 16 cache lines (of 16 numbers) per STEP terms. Each block prefetches an equal share.
    lines = (STEP * PANEL // 16 + blocks - 1) // blocks if blocks >= 2 else 0
    for q in range(first, last):
        j = min(q * PANEL, N - PANEL)
        p = q * K * PANEL
        if T >= ROWS:
            for block in range(blocks):
                i = min(block * ROWS, T - ROWS)
                tile, zeros = tile_of(bias, j, ROWS, VECTORS), zero_tile(ROWS, VECTORS)
                prefetch_at = p + ahead * K * PANEL + block * lines * 16 * (K // STEP)
                product(tile, zeros, x, i * K, K, panels, p, y, i * N + j, N, prefetch_at, lines)
        else:
            for i in range(T):
                row, zeros = tile_of(bias, j, 1, VECTORS), zero_tile(1, VECTORS)
                product(row, zeros, x, i * K, K, panels, p, y, i * N + j, N, p, 0)
        if use_gelu:  # now, because these columns of y are still in the second-level cache
            for i in range(T):
                for c in range(VECTORS):
                    at = i * N + j + c * WIDTH
                    store(gelu(load(y, at)), y, at)
