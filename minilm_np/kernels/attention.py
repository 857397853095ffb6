"""Multi-head attention over packed sentences: softmax(Q K^T / sqrt(D)) V, each sentence over its own tokens.

One head of one sentence at a time, LANES queries at a time, and everything on its side: a query is a lane of a vector
and a key is a row of `scores` (S, LANES). So Q K^T and the product with V are the register tile of a dense layer, the
softmax goes down the rows without ever adding up a vector's lanes, only real keys are computed, and the scores
(32 KB for 256 keys) stay in the first-level cache.
"""

from __future__ import annotations

import math

import numpy as np

from minilm_np.kernels.simd import (
    WIDTH,
    accumulate,
    add,
    div,
    exp2,
    fma,
    inline,
    jit,
    load,
    maximum,
    mul,
    splat,
    store,
    store_tile,
    transpose,
    zero_tile,
)

ROWS, VECTORS = (8, 2) if WIDTH == 16 else (4, 2)  # tile of scores: keys x queries; of the context: queries x D
LANES = VECTORS * WIDTH
KEYS_AT_ONCE = 16  # exponentials summed in one go: shorter sums are nearer to the truth


@inline
def transpose_queries(qkv, i, count, row, D, queries):
    """queries (D, LANES) = Q^T of `count` queries of one head; the lanes behind keep old, finite numbers"""
    for s in range(0, count - WIDTH + 1, WIDTH):
        for d in range(0, D, WIDTH):
            transpose(qkv, i + s * row + d, row, queries, d * LANES + s, LANES)
    for s in range(count - count % WIDTH, count):
        for d in range(D):
            queries[d * LANES + s] = qkv[i + s * row + d]


@inline
def softmax_columns(scores, lane, S, scale):
    """Column by column, for WIDTH queries: scores[s, lane:] = softmax over s of scale * scores[s, lane:]"""
    largest = load(scores, lane)
    for s in range(1, S):
        largest = maximum(largest, load(scores, s * LANES + lane))
    factor = splat(np.float32(scale / math.log(2)))  # e^x = 2^(x / ln 2)
    shift = mul(largest, splat(np.float32(-scale / math.log(2))))
    total = splat(np.float32(0))
    for start in range(0, S, KEYS_AT_ONCE):
        part = splat(np.float32(0))
        for s in range(start, min(start + KEYS_AT_ONCE, S)):
            exponential = exp2(fma(load(scores, s * LANES + lane), factor, shift))
            store(exponential, scores, s * LANES + lane)
            part = add(part, exponential)
        total = add(total, part)
    inverse = div(splat(np.float32(1)), total)
    for s in range(S):
        store(mul(load(scores, s * LANES + lane), inverse), scores, s * LANES + lane)


@inline
def probabilities(qkv, first, q, count, S, H, head, D, scale, queries, scores):
    """scores (S, LANES): in column c the attention probabilities of query q + c; `count` columns are meant"""
    row = 3 * H
    transpose_queries(qkv, (first + q) * row + head * D, count, row, D, queries)
    key = first * row + H + head * D
    zeros, one = zero_tile(ROWS, VECTORS), zero_tile(1, VECTORS)
    if S < ROWS:
        for s in range(S):
            store_tile(accumulate(one, qkv, key + s * row, row, 1, queries, 0, LANES, D), scores, s * LANES, LANES)
    else:
        for block in range(0, S, ROWS):  # the last rows may overlap those before: the same bits again
            s = min(block, S - ROWS)
            tile = accumulate(zeros, qkv, key + s * row, row, 1, queries, 0, LANES, D)
            store_tile(tile, scores, s * LANES, LANES)
    for lane in range(0, count, WIDTH):
        softmax_columns(scores, lane, S, scale)


@inline
def weighted_values(pair, single, scores, column, S, qkv, value, H, D, context, at):
    """context rows at `at`: probabilities times V, two vectors of the head at a time, or one if that is the last"""
    for d in range(0, D - WIDTH, 2 * WIDTH):
        tile = accumulate(pair, scores, column, 1, LANES, qkv, value + d, 3 * H, S)
        store_tile(tile, context, at + d, H)
    if D // WIDTH % 2:
        tile = accumulate(single, scores, column, 1, LANES, qkv, value + D - WIDTH, 3 * H, S)
        store_tile(tile, context, at + D - WIDTH, H)


def scratch_size(D: int, longest: int) -> int:
    """float32 numbers that `attention` needs to work in, for sentences of at most `longest` tokens"""
    return (D + longest) * LANES


@jit
def attention(qkv, offsets, H, num_heads, context, first_head, last_head, scratch):
    """context (T, H) from qkv (T, 3H), both flat; the heads first_head to last_head - 1 of every sentence."""
    D = H // num_heads
    scale = np.float32(1 / math.sqrt(D))
    queries, scores = scratch[: D * LANES], scratch[D * LANES :]
    queries[:] = 0
    for b in range(len(offsets) - 1):
        first = offsets[b]
        S = offsets[b + 1] - first
        for head in range(first_head, last_head):
            value = first * 3 * H + 2 * H + head * D
            for q in range(0, S, LANES):
                count = min(LANES, S - q)
                probabilities(qkv, first, q, count, S, H, head, D, scale, queries, scores)
                at = (first + q) * H + head * D
                if count >= ROWS:
                    pair, single = zero_tile(ROWS, 2), zero_tile(ROWS, 1)
                    for rows in range(0, count, ROWS):
                        c = min(rows, count - ROWS)
                        weighted_values(pair, single, scores, c, S, qkv, value, H, D, context, at + c * H)
                else:
                    for c in range(count):
                        pair, single = zero_tile(1, 2), zero_tile(1, 1)
                        weighted_values(pair, single, scores, c, S, qkv, value, H, D, context, at + c * H)


@jit
def attention_probs(qkv, first, S, H, num_heads, probs, scratch):
    """probs (N, S, S), flat, of the sentence of S tokens from row `first`: the weights that `attention` uses"""
    D = H // num_heads
    scale = np.float32(1 / math.sqrt(D))
    queries, scores = scratch[: D * LANES], scratch[D * LANES :]
    queries[:] = 0
    for head in range(num_heads):
        for q in range(0, S, LANES):
            count = min(LANES, S - q)
            probabilities(qkv, first, q, count, S, H, head, D, scale, queries, scores)
            for c in range(count):
                for s in range(S):
                    probs[(head * S + q + c) * S + s] = scores[s * LANES + c]
