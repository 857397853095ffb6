"""Kernels of the backward pass: the gradients of GELU, LayerNorm and attention, and attention with dropout.

The formulas are those of minilm_np/backward.py. The arrays are flat, C-contiguous and float32, as in the other kernels.
"""

from __future__ import annotations

import math

import numpy as np

from minilm_np.kernels.attention import LANES, ROWS, VECTORS, probabilities, transpose_queries
from minilm_np.kernels.layer_norm import sum_of_row, sum_of_squares
from minilm_np.kernels.simd import (
    WIDTH,
    accumulate,
    add,
    add_rows,
    fabs,
    fma,
    inline,
    jit,
    load,
    maximum,
    minimum,
    mul,
    normal_tail,
    splat,
    store,
    store_tile,
    sub,
    sum_of,
    zero_tile,
)
from minilm_np.kernels.simd import gelu as gelu_of

# --- GELU --------------------------------------------------------------------------------------


@jit
def gelu(x, y):
    """Set y to gelu(x); both have the same size, a multiple of WIDTH."""
    for i in range(0, len(x), WIDTH):
        store(gelu_of(load(x, i)), y, i)


@jit
def gelu_backward(dy, x, dx):
    """Set dx to dy (Phi(x) + x phi(x)). The sizes are a multiple of WIDTH."""
    zero, one = splat(np.float32(0)), splat(np.float32(1))
    for i in range(0, len(x), WIDTH):
        # Beyond 13, Phi(x) is 0 or 1 and x phi(x) is below 1e-35.
        value = maximum(minimum(load(x, i), splat(np.float32(13))), splat(np.float32(-13)))
        tail, exponential = normal_tail(fabs(value))
        positive = minimum(maximum(mul(value, splat(np.float32(1e37))), zero), one)  # 1 if x > 0, 0 if x < 0
        distribution = fma(positive, sub(one, add(tail, tail)), tail)  # Phi(x): the tail, or 1 - the tail
        density = mul(exponential, splat(np.float32(1 / math.sqrt(2 * math.pi))))
        store(mul(load(dy, i), fma(value, density, distribution)), dx, i)


# --- LayerNorm and sums over tokens ------------------------------------------------------------


@jit
def sum_over_tokens(x, T, H, y):
    """Set y (H,), float64, to the sum of the rows of x (T, H)."""
    y[:] = 0
    for t in range(T):
        for j in range(H):
            y[j] += np.float64(x[t * H + j])


@jit
def add_layer_norm_backward(dy, x, residual, T, H, weight, eps, dx, dweight, dbias, z):
    """Set dx (T, H), dweight and dbias (H,) for y = z weight + bias, z = the normalized row of x + residual.

    dweight and dbias are float64. z (H,) is scratch space.
    """
    dweight[:] = 0
    dbias[:] = 0
    for t in range(T):
        i = t * H
        for j in range(0, H, WIDTH):
            store(add(load(x, i + j), load(residual, i + j)), z, j)
        mean = splat(np.float32(sum_of_row(z, 0, H) / np.float32(H)))
        for j in range(0, H, WIDTH):
            store(sub(load(z, j), mean), z, j)
        scale = splat(np.float32(1 / math.sqrt(sum_of_squares(z, 0, H) / np.float32(H) + eps)))
        sum_g, sum_gz = splat(np.float32(0)), splat(np.float32(0))
        for j in range(0, H, WIDTH):
            store(mul(load(z, j), scale), z, j)
            g = mul(load(dy, i + j), load(weight, j))
            sum_g, sum_gz = add(sum_g, g), fma(g, load(z, j), sum_gz)
        mean_g = splat(np.float32(sum_of(sum_g) / np.float32(H)))
        mean_gz = splat(np.float32(sum_of(sum_gz) / np.float32(H)))
        for j in range(0, H, WIDTH):
            g = mul(load(dy, i + j), load(weight, j))
            store(mul(sub(sub(g, mean_g), mul(load(z, j), mean_gz)), scale), dx, i + j)
        for j in range(H):
            dweight[j] += np.float64(dy[i + j]) * np.float64(z[j])
            dbias[j] += np.float64(dy[i + j])


# --- attention ---------------------------------------------------------------------------------

# As in attention.py, a matrix (S, LANES) has a row for each key and a column for each of up to LANES queries.


def scratch_size(D, longest):
    """Return how many float32 numbers of scratch space the kernels below need."""
    return 2 * (D + longest) * LANES


@inline
def matrix(x, i, x_row, x_term, p, j, p_row, rows, depth, D, y, at, y_row, add_to_y):
    """Set y (rows, D) to X P, or add it: X (rows, depth) has strides for both axes, P (depth, D) one for its rows."""
    pair, single, row_pair, row_single = zero_tile(ROWS, 2), zero_tile(ROWS, 1), zero_tile(1, 2), zero_tile(1, 1)
    whole = rows - rows % ROWS
    for r in range(0, whole, ROWS):
        columns(
            pair, single, x, i + r * x_row, x_row, x_term, p, j, p_row, depth, D, y, at + r * y_row, y_row, add_to_y
        )
    for r in range(whole, rows):
        at_row, y_at = i + r * x_row, at + r * y_row
        columns(row_pair, row_single, x, at_row, x_row, x_term, p, j, p_row, depth, D, y, y_at, y_row, add_to_y)


@inline
def columns(pair, single, x, i, x_row, x_term, p, j, p_row, depth, D, y, at, y_row, add_to_y):
    """The rows of one tile of `matrix`: D columns, two vectors at a time, and the last one alone if it is left."""
    for d in range(0, D - WIDTH, 2 * WIDTH):
        tile = accumulate(pair, x, i, x_row, x_term, p, j + d, p_row, depth)
        if add_to_y:
            tile = add_rows(tile, y, at + d, y_row)
        store_tile(tile, y, at + d, y_row)
    if D // WIDTH % 2:
        d = D - WIDTH
        tile = accumulate(single, x, i, x_row, x_term, p, j + d, p_row, depth)
        if add_to_y:
            tile = add_rows(tile, y, at + d, y_row)
        store_tile(tile, y, at + d, y_row)


@inline
def keys_times_queries(x, i, row, S, queries, D, scores):
    """Set scores (S, LANES) to K Q^T, for K (S, D) at x[i] with row stride `row`, and Q^T = queries (D, LANES)."""
    zeros, one = zero_tile(ROWS, VECTORS), zero_tile(1, VECTORS)
    whole = S - S % ROWS
    for s in range(0, whole, ROWS):
        store_tile(accumulate(zeros, x, i + s * row, row, 1, queries, 0, LANES, D), scores, s * LANES, LANES)
    for s in range(whole, S):
        store_tile(accumulate(one, x, i + s * row, row, 1, queries, 0, LANES, D), scores, s * LANES, LANES)


@inline
def multiply_by_mask(scores, S, count, masks, at):
    """Multiply column c of scores (S, LANES), for c < count, by row c of a mask (count, S), at masks[at]."""
    for s in range(S):
        for c in range(count):
            scores[s * LANES + c] *= masks[at + c * S + s]


@jit
def attention_with_dropout(qkv, offsets, H, num_heads, masks, context, scratch):
    """Set context (T, H) to (P M) V per sentence and head.

    masks: the M (num_heads, S, S) of all sentences, one after the other. scratch: of scratch_size(D, longest sentence).
    """
    D = H // num_heads
    scale = np.float32(1 / math.sqrt(D))
    queries, probs = scratch[: D * LANES], scratch[D * LANES :]
    queries[:] = 0
    mask = 0
    for b in range(len(offsets) - 1):
        first = offsets[b]
        S = offsets[b + 1] - first
        for head in range(num_heads):
            value = first * 3 * H + 2 * H + head * D
            for q in range(0, S, LANES):
                count = min(LANES, S - q)
                probabilities(qkv, first, q, count, S, H, head, D, scale, queries, probs)
                multiply_by_mask(probs, S, count, masks, mask + q * S)
                at = (first + q) * H + head * D
                matrix(probs, 0, 1, LANES, qkv, value, 3 * H, count, S, D, context, at, H, False)
            mask += S * S


@jit
def attention_backward(dy, qkv, offsets, H, num_heads, masks, dqkv, scratch):
    """Set dqkv (T, 3H) from dy (T, H). masks: as in attention_with_dropout, or of size 0 for no dropout."""
    D, row = H // num_heads, 3 * H
    scale = np.float32(1 / math.sqrt(D))
    half = len(scratch) // 2
    queries, probs = scratch[: D * LANES], scratch[D * LANES : half]
    doutputs, dprobs = scratch[half : half + D * LANES], scratch[half + D * LANES :]
    queries[:] = 0
    doutputs[:] = 0
    mask = 0
    for b in range(len(offsets) - 1):
        first = offsets[b]
        S = offsets[b + 1] - first
        for head in range(num_heads):
            query, output = first * row + head * D, first * H + head * D
            key, value = query + H, query + 2 * H
            for q in range(0, S, LANES):
                count, later = min(LANES, S - q), q > 0  # keys and values add up what each block of queries gives
                probabilities(qkv, first, q, count, S, H, head, D, scale, queries, probs)
                transpose_queries(dy, output + q * H, count, H, D, doutputs)
                keys_times_queries(qkv, value, row, S, doutputs, D, dprobs)  # dP = dy V^T
                if len(masks):
                    multiply_by_mask(dprobs, S, count, masks, mask + q * S)
                for lane in range(0, count, WIDTH):  # dprobs becomes dS / sqrt(D), for dS = P (dP - sum(dP P))
                    total = splat(np.float32(0))
                    for s in range(S):
                        total = fma(load(probs, s * LANES + lane), load(dprobs, s * LANES + lane), total)
                    for s in range(S):
                        at = s * LANES + lane
                        store(mul(mul(load(probs, at), splat(scale)), sub(load(dprobs, at), total)), dprobs, at)
                if len(masks):
                    multiply_by_mask(probs, S, count, masks, mask + q * S)
                # dV = P^T dy, dK = dS^T Q / sqrt(D), dQ = dS K / sqrt(D)
                at = output + q * H
                matrix(probs, 0, LANES, 1, dy, at, H, S, count, D, dqkv, value, row, later)
                at = query + q * row
                matrix(dprobs, 0, LANES, 1, qkv, at, row, S, count, D, dqkv, key, row, later)
                matrix(dprobs, 0, 1, LANES, qkv, key, row, count, S, D, dqkv, at, row, False)
            mask += S * S
