"""Dense layers: y = activation(x W^T + b).

The weight is packed once, at load, into panels of PANEL columns, (panels, K, PANEL): what the inner loop reads is then
one stream. A panel (72 KB for K = 384) stays in the core's cache while every row of x passes by it.
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

# 24 of 32 registers with AVX-512, 12 of 16 with AVX2 (4 x 3): the sums; the rest hold a row of the panel and one of x.
ROWS, VECTORS = (8, 3) if WIDTH == 16 else (4, 3)
PANEL = VECTORS * WIDTH
# Terms summed in one go. One sum of 1536 is 4 times as far from the truth as 16 sums of 96, added up (and 2 % faster).
DEPTH = 96
# While a panel is used, the next one is fetched, a few cache lines after every STEP terms.
STEP = 8


class Packed(NamedTuple):
    """A dense layer (N outputs, K inputs) as the kernel wants it."""

    panels: Array  # (panels * K * PANEL,) float32
    bias: Array  # (N,)
    shape: tuple[int, int]  # (N, K)


def panels_of(N: int) -> int:
    return -(-N // PANEL)


def prepare_dense(weight: Array, bias: Array) -> Packed:
    """Pack weight (N, K). If PANEL does not divide N, the last panel overlaps the one before."""
    N, K = weight.shape
    starts = [min(j, N - PANEL) for j in range(0, N, PANEL)]
    panels = empty(len(starts) * K * PANEL).reshape(-1, K, PANEL)
    for panel, j in zip(panels, starts, strict=True):
        panel[:] = weight[j : j + PANEL].T
    return Packed(panels.reshape(-1), np.ascontiguousarray(bias, np.float32), (N, K))


@inline
def sum_and_prefetch(tile, x, i, K, panels, p, depth, ahead, lines):
    """tile + x W^T over `depth` terms, asking for `lines` cache lines from panels[ahead] on after every STEP terms"""
    for k in range(0, depth, STEP):
        tile = accumulate(tile, x, i + k, K, 1, panels, p + k * PANEL, PANEL, min(depth - k, STEP))
        for line in range(lines):
            prefetch(panels, ahead + (k // STEP * lines + line) * 16)
    return tile


@inline
def product(start, zeros, x, i, K, panels, p, y, at, N, ahead, lines):
    """One tile of y, at `at`: start + x W^T, DEPTH terms at a time"""
    store_tile(sum_and_prefetch(start, x, i, K, panels, p, min(K, DEPTH), ahead, lines), y, at, N)
    for k in range(DEPTH, K, DEPTH):
        more = ahead + k // STEP * lines * 16
        tile = sum_and_prefetch(zeros, x, i + k, K, panels, p + k * PANEL, min(K - k, DEPTH), more, lines)
        store_tile(add_rows(tile, y, at, N), y, at, N)


@jit
def linear(x, T, K, panels, bias, N, use_gelu, y, first, last, ahead):
    """y (T, N) from x (T, K), both flat; of it the panels first to last - 1. The caller's next is `ahead` panels on.

    Rows go by ROWS; the last ROWS of them may overlap those before, which computes the same bits again.
    """
    blocks = (T + ROWS - 1) // ROWS
    lines = (STEP * PANEL // 16 + blocks - 1) // blocks if blocks >= 2 else 0
    for q in range(first, last):
        j = min(q * PANEL, N - PANEL)
        p = q * K * PANEL
        if T >= ROWS:
            for block in range(blocks):
                i = min(block * ROWS, T - ROWS)
                tile, zeros = tile_of(bias, j, ROWS, VECTORS), zero_tile(ROWS, VECTORS)
                line = p + ahead * K * PANEL + block * lines * 16 * (K // STEP)
                product(tile, zeros, x, i * K, K, panels, p, y, i * N + j, N, line, lines)
        else:
            for i in range(T):
                row, zeros = tile_of(bias, j, 1, VECTORS), zero_tile(1, VECTORS)
                product(row, zeros, x, i * K, K, panels, p, y, i * N + j, N, p, 0)
        if use_gelu:  # the panel's columns of y are still in the second-level cache
            for i in range(T):
                for c in range(VECTORS):
                    at = i * N + j + c * WIDTH
                    store(gelu(load(y, at)), y, at)
