"""The operations on rows: embedding look-up, residual + LayerNorm, mean pooling, L2 normalization.

All arrays are flat and C-contiguous: row t of an array (T, H) is elements t * H to (t + 1) * H - 1. H is a multiple
of WIDTH.
"""

from __future__ import annotations

import math

import numpy as np

from minilm_np.kernels.simd import WIDTH, add, div, fma, inline, jit, load, mul, splat, store, sub, sum_of

# A row is added up in 16 partial sums for every WIDTH: sum j adds the elements j, j + 16, j + 32, ... So the result has
# the same bits with vectors of 16 and of 8. The partial sums are one vector of 16 (`first`; `second` stays 0) or
# two vectors of 8 (`first` and `second`).
PARTIAL_SUMS = 16


@inline
def sum_of_row(y, i, H):
    """Return y[i] + ... + y[i + H - 1] as float32."""
    first, second = splat(np.float32(0)), splat(np.float32(0))
    for j in range(i, i + H, PARTIAL_SUMS):
        first = add(first, load(y, j))
        if WIDTH < PARTIAL_SUMS and j + WIDTH < i + H:
            second = add(second, load(y, j + WIDTH))
    return sum_of(add(first, second))


@inline
def sum_of_squares(y, i, H):
    """Return y[i]^2 + ... + y[i + H - 1]^2 as float32."""
    first, second = splat(np.float32(0)), splat(np.float32(0))
    for j in range(i, i + H, PARTIAL_SUMS):
        first = fma(load(y, j), load(y, j), first)
        if WIDTH < PARTIAL_SUMS and j + WIDTH < i + H:
            second = fma(load(y, j + WIDTH), load(y, j + WIDTH), second)
    return sum_of(add(first, second))


@inline
def normalize_row(y, i, H, weight, bias, eps):
    """Apply LayerNorm to y[i : i + H] in place: subtract the mean, then divide by sqrt(variance + eps)."""
    mean = splat(np.float32(sum_of_row(y, i, H) / np.float32(H)))
    for j in range(0, H, WIDTH):
        store(sub(load(y, i + j), mean), y, i + j)
    variance = sum_of_squares(y, i, H) / np.float32(H)
    scale = splat(np.float32(1 / math.sqrt(variance + eps)))
    for j in range(0, H, WIDTH):
        store(fma(mul(load(y, i + j), scale), load(weight, j), load(bias, j)), y, i + j)


@jit
def add_layer_norm(x, residual, T, H, weight, bias, eps, y):
    """Set y (T, H) to LayerNorm(x + residual), for x (T, H) and residual (T, H)."""
    for t in range(T):
        for j in range(t * H, t * H + H, WIDTH):
            store(add(load(x, j), load(residual, j)), y, j)
        normalize_row(y, t * H, H, weight, bias, eps)


@jit
def embed(token_ids, type_ids, position_ids, word, token_type, position, H, weight, bias, eps, y):
    """Set y (T, H) to LayerNorm(word[token_ids] + token_type[type_ids] + position[position_ids]).

    The ids are (T,); the tables have rows of H elements.
    """
    for t in range(len(token_ids)):
        a, b, c = np.intp(token_ids[t]) * H, np.intp(type_ids[t]) * H, np.intp(position_ids[t]) * H
        for j in range(0, H, WIDTH):
            store(add(add(load(word, a + j), load(token_type, b + j)), load(position, c + j)), y, t * H + j)
        normalize_row(y, t * H, H, weight, bias, eps)


@jit
def mean_pool(hidden_states, offsets, H, y):
    """Set row b of y (B, H) to the mean of the rows offsets[b] to offsets[b + 1] - 1, added in order."""
    for b in range(len(offsets) - 1):
        count = splat(np.float32(offsets[b + 1] - offsets[b]))
        for j in range(0, H, WIDTH):
            total = splat(np.float32(0))
            for t in range(offsets[b], offsets[b + 1]):
                total = add(total, load(hidden_states, t * H + j))
            store(div(total, count), y, b * H + j)


@jit
def l2_normalize(x, B, H, y):
    """Set y (B, H) to the rows of x (B, H) divided by max(their L2 norm, 1e-12)."""
    for b in range(B):
        length = splat(np.float32(max(math.sqrt(sum_of_squares(x, b * H, H)), 1e-12)))
        for j in range(b * H, b * H + H, WIDTH):
            store(div(load(x, j), length), y, j)
