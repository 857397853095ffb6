"""The row-by-row operations: embedding look-up, residual + LayerNorm, mean pooling, L2 normalisation.

All arrays are flat; H is a multiple of WIDTH.
"""

from __future__ import annotations

import math

import numpy as np

from minilm_np.kernels.simd import WIDTH, add, div, fma, inline, jit, load, mul, splat, store, sub, sum_of

# Every sum of a row is 16 sums side by side, whatever the width of a vector, so that the result is the same bits with
# vectors of 16 and of 8. Those of 8 take two for it, `first` and `second`; with 16, `second` stays 0.
SUMS = 16


@inline
def sum_of_row(y, i, H):
    """y[i] + ... + y[i + H - 1], a float32; y is flat"""
    first, second = splat(np.float32(0)), splat(np.float32(0))
    for j in range(i, i + H, SUMS):
        first = add(first, load(y, j))
        if WIDTH < SUMS and j + WIDTH < i + H:
            second = add(second, load(y, j + WIDTH))
    return sum_of(add(first, second))


@inline
def sum_of_squares(y, i, H):
    """y[i]^2 + ... + y[i + H - 1]^2, a float32; y is flat"""
    first, second = splat(np.float32(0)), splat(np.float32(0))
    for j in range(i, i + H, SUMS):
        first = fma(load(y, j), load(y, j), first)
        if WIDTH < SUMS and j + WIDTH < i + H:
            second = fma(load(y, j + WIDTH), load(y, j + WIDTH), second)
    return sum_of(add(first, second))


@inline
def normalise_row(y, i, H, weight, bias, eps):
    """LayerNorm of y[i : i + H], in place: mean first, then the variance of what is left."""
    mean = splat(np.float32(sum_of_row(y, i, H) / np.float32(H)))
    for j in range(0, H, WIDTH):
        store(sub(load(y, i + j), mean), y, i + j)
    variance = sum_of_squares(y, i, H) / np.float32(H)
    scale = splat(np.float32(1 / math.sqrt(variance + eps)))
    for j in range(0, H, WIDTH):
        store(fma(mul(load(y, i + j), scale), load(weight, j), load(bias, j)), y, i + j)


@jit
def add_layer_norm(x, residual, T, H, weight, bias, eps, y):
    """y (T, H) = LayerNorm(x + residual)"""
    for t in range(T):
        for j in range(t * H, t * H + H, WIDTH):
            store(add(load(x, j), load(residual, j)), y, j)
        normalise_row(y, t * H, H, weight, bias, eps)


@jit
def embed(token_ids, type_ids, position_ids, word, token_type, position, H, weight, bias, eps, y):
    """y (T, H) = LayerNorm(word[token_ids] + token_type[type_ids] + position[position_ids])"""
    for t in range(len(token_ids)):
        a, b, c = np.intp(token_ids[t]) * H, np.intp(type_ids[t]) * H, np.intp(position_ids[t]) * H
        for j in range(0, H, WIDTH):
            store(add(add(load(word, a + j), load(token_type, b + j)), load(position, c + j)), y, t * H + j)
        normalise_row(y, t * H, H, weight, bias, eps)


@jit
def mean_pool(hidden_states, offsets, H, y):
    """y (B, H): the mean of each sentence's rows, added in order"""
    for b in range(len(offsets) - 1):
        count = splat(np.float32(offsets[b + 1] - offsets[b]))
        for j in range(0, H, WIDTH):
            total = splat(np.float32(0))
            for t in range(offsets[b], offsets[b + 1]):
                total = add(total, load(hidden_states, t * H + j))
            store(div(total, count), y, b * H + j)


@jit
def l2_normalize(x, B, H, y):
    """y (B, H): each row of x divided by its length, or by 1e-12 if it is shorter"""
    for b in range(B):
        length = splat(np.float32(max(math.sqrt(sum_of_squares(x, b * H, H)), 1e-12)))
        for j in range(b * H, b * H + H, WIDTH):
            store(div(load(x, j), length), y, j)
