"""Multi-head attention over packed sentences: softmax(Q K^T / sqrt(D)) V, each sentence over its own tokens.

One head of one sentence at a time. K is transposed into scratch memory, so that Q K^T is the same register tile as a
dense layer, with the keys as columns; ROWS queries at a time go through scores, softmax and the product with V, and
their scores never leave the first-level cache.
"""

from __future__ import annotations

import math

import numpy as np

from minilm_np.kernels.simd import (
    WIDTH,
    accumulate,
    add,
    exp,
    fma,
    inline,
    jit,
    load,
    max_of,
    maximum,
    mul,
    splat,
    store,
    store_tile,
    sum_of,
    zero_tile,
)

ROWS, VECTORS = (8, 2) if WIDTH == 16 else (4, 2)  # tile of scores; V's tile has D / WIDTH vectors in pairs or alone
KEYS = VECTORS * WIDTH


@inline
def transpose_keys(qkv, first, S, H, head, D, keys, padded):
    """keys (D, padded) = K^T of one head, with zeros behind the last key"""
    for s in range(S):
        row = (first + s) * 3 * H + H + head * D
        for d in range(D):
            keys[d * padded + s] = qkv[row + d]
    for d in range(D):
        for s in range(S, padded):
            keys[d * padded + s] = 0


@inline
def softmax_row(scores, i, S, padded, scale):
    """scores[i : i + S] = softmax(scale * scores); what stands behind, up to `padded`, becomes about 0"""
    for s in range(i + S, i + padded):
        scores[s] = -np.float32(1e30)
    largest = load(scores, i)
    for s in range(i + WIDTH, i + padded, WIDTH):
        largest = maximum(largest, load(scores, s))
    shift = splat(np.float32(-max_of(largest) * scale))
    factor = splat(scale)
    total = splat(np.float32(0))
    for s in range(i, i + padded, WIDTH):
        exponential = exp(fma(load(scores, s), factor, shift))
        store(exponential, scores, s)
        total = add(total, exponential)
    inverse = splat(np.float32(1) / sum_of(total))
    for s in range(i, i + padded, WIDTH):
        store(mul(load(scores, s), inverse), scores, s)


@inline
def query_block(zeros, rows, qkv, first, q, S, H, head, D, keys, padded, scale, scores):
    """scores (rows, padded) = softmax(scale * Q K^T) of `rows` queries from q"""
    for s in range(0, padded, KEYS):
        tile = accumulate(zeros, qkv, (first + q) * 3 * H + head * D, 3 * H, keys, s, padded, D)
        store_tile(tile, scores, s, padded)
    for r in range(rows):
        softmax_row(scores, r * padded, S, padded, scale)


@inline
def weighted_values(pair, single, qkv, first, q, S, H, head, D, padded, scores, context):
    """context of the queries from q: scores V, two vectors of the head at a time, or one if that is the last"""
    value = first * 3 * H + 2 * H + head * D
    at = (first + q) * H + head * D
    for d in range(0, D - WIDTH, 2 * WIDTH):
        store_tile(accumulate(pair, scores, 0, padded, qkv, value + d, 3 * H, S), context, at + d, H)
    if D // WIDTH % 2:
        d = D - WIDTH
        store_tile(accumulate(single, scores, 0, padded, qkv, value + d, 3 * H, S), context, at + d, H)


@jit
def attention(qkv, offsets, H, num_heads, context, part, parts):
    """context (T, H) from qkv (T, 3H), both flat; the heads part, part + parts, ... of every sentence.

    The last ROWS queries of a sentence may overlap those before, which computes the same bits again.
    """
    D = H // num_heads
    scale = np.float32(1 / math.sqrt(D))
    longest = 0
    for b in range(len(offsets) - 1):
        longest = max(longest, offsets[b + 1] - offsets[b])
    longest = (longest + KEYS - 1) // KEYS * KEYS
    keys = np.empty(D * longest, np.float32)
    scores = np.empty(ROWS * longest, np.float32)
    for b in range(len(offsets) - 1):
        first = offsets[b]
        S = offsets[b + 1] - first
        padded = (S + KEYS - 1) // KEYS * KEYS
        for head in range(part, num_heads, parts):
            transpose_keys(qkv, first, S, H, head, D, keys, padded)
            if S >= ROWS:
                zeros, single = zero_tile(ROWS, VECTORS), zero_tile(ROWS, 1)
                for block in range(0, S, ROWS):
                    q = min(block, S - ROWS)
                    query_block(zeros, ROWS, qkv, first, q, S, H, head, D, keys, padded, scale, scores)
                    weighted_values(zeros, single, qkv, first, q, S, H, head, D, padded, scores, context)
            else:
                for q in range(S):
                    zeros, single = zero_tile(1, VECTORS), zero_tile(1, 1)
                    query_block(zeros, 1, qkv, first, q, S, H, head, D, keys, padded, scale, scores)
                    weighted_values(zeros, single, qkv, first, q, S, H, head, D, padded, scores, context)


@jit
def attention_probs(qkv, first, S, H, num_heads, probs):
    """probs (N, S, S), flat, of the sentence of S tokens from row `first`: the weights that `attention` uses"""
    D = H // num_heads
    scale = np.float32(1 / math.sqrt(D))
    padded = (S + KEYS - 1) // KEYS * KEYS
    keys = np.empty(D * padded, np.float32)
    scores = np.empty(padded, np.float32)
    for head in range(num_heads):
        transpose_keys(qkv, first, S, H, head, D, keys, padded)
        for q in range(S):
            query_block(zero_tile(1, VECTORS), 1, qkv, first, q, S, H, head, D, keys, padded, scale, scores)
            at = (head * S + q) * S
            probs[at : at + S] = scores[:S]
