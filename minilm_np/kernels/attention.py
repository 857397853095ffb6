"""Multi-head attention over packed sentences: softmax(Q K^T / sqrt(D)) V, each sentence over its own tokens.

    T    tokens of all sentences               S    tokens of one sentence
    H    hidden size                           D    head size, H / num_heads; a multiple of WIDTH
    qkv (T, 3H)    query, key and value of each token side by side; a head has D columns of each
    context (T, H)    the result; a head has D columns

The kernel computes one head of one sentence at a time, for LANES queries at a time. It works on transposed matrices: a
query is a column, in a lane of the vectors, and a key is a row. The steps are:

    queries (D, LANES)    Q^T: column c is query c
    scores (S, LANES)     K Q^T: row s has the products of key s with every query; then the softmax of each column
    context rows          scores^T V

This layout has three advantages. Both products use the tiles of simd.py, as a dense layer does. The softmax goes down
the rows of `scores` for WIDTH queries at once and never adds up the lanes of a vector. Keys are rows, so their number
need not be a multiple of WIDTH: no keys are padded. The scores (32 KB for 256 keys and 32 queries) stay in the
first-level cache.
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
    fabs,
    fma,
    inline,
    jit,
    load,
    maximum,
    minimum,
    mul,
    splat,
    store,
    store_tile,
    sub,
    sum_of,
    transpose,
    zero_tile,
)

# The tile of scores has ROWS keys and VECTORS * WIDTH queries; that of the context has ROWS queries and up to VECTORS *
# WIDTH of the head's D columns.
ROWS, VECTORS, QUERIES = (8, 2, 8) if WIDTH == 16 else (4, 3, 6)
LANES = VECTORS * WIDTH  # queries computed together: 32 with AVX-512, else 24
# `shift` in softmax_columns is rounded. Its error is the same for every key, so it cancels, as long as it is far below
# 127, where exp2 overflows. It is at most 2^-9 for scores up to this one, before they are scaled. The scores of
# all-MiniLM-L6-v2 stay below 400.
LARGE_SCORE = 2.0**16
KEYS_PER_PARTIAL_SUM = 16  # the softmax adds up its exponentials in short sums, because their errors are smaller


@inline
def transpose_queries(qkv, i, count, row, D, queries):
    """Set queries (D, LANES) to Q^T for `count` queries of one head, which begin at qkv[i] with row stride `row`.

    Unused lanes keep finite numbers of earlier calls; their results are not used.
    """
    for s in range(0, count - WIDTH + 1, WIDTH):
        for d in range(0, D, WIDTH):
            transpose(qkv, i + s * row + d, row, queries, d * LANES + s, LANES)
    for s in range(count - count % WIDTH, count):
        for d in range(D):
            queries[d * LANES + s] = qkv[i + s * row + d]


@inline
def softmax_columns(scores, lane, S, scale):
    """Replace the columns lane to lane + WIDTH - 1 of scores (S, LANES) by softmax(scale * column).

    Each vector holds one key's scores for WIDTH queries. The largest score is subtracted first, so exp cannot overflow.
    """
    largest = load(scores, lane)
    for s in range(1, S):
        largest = maximum(largest, load(scores, s * LANES + lane))
    limit = splat(np.float32(LARGE_SCORE))
    excess = sub(largest, minimum(maximum(largest, sub(splat(np.float32(0)), limit)), limit))  # 0 for ordinary scores
    if sum_of(fabs(excess)) != 0:
        for s in range(S):
            store(sub(load(scores, s * LANES + lane), excess), scores, s * LANES + lane)
        largest = sub(largest, excess)
    factor = splat(np.float32(scale / math.log(2)))  # e^x = 2^(x / ln 2)
    shift = mul(largest, splat(np.float32(-scale / math.log(2))))
    total = splat(np.float32(0))
    for start in range(0, S, KEYS_PER_PARTIAL_SUM):
        part = splat(np.float32(0))
        for s in range(start, min(start + KEYS_PER_PARTIAL_SUM, S)):
            exponential = exp2(fma(load(scores, s * LANES + lane), factor, shift))
            store(exponential, scores, s * LANES + lane)
            part = add(part, exponential)
        total = add(total, part)
    inverse = div(splat(np.float32(1)), total)
    for s in range(S):
        store(mul(load(scores, s * LANES + lane), inverse), scores, s * LANES + lane)


@inline
def probabilities(qkv, first, q, count, S, H, head, D, scale, queries, scores):
    """Set column c of scores (S, LANES), for c < count, to the attention probabilities of query q + c over all S keys.

    The sentence's S rows of qkv begin at row `first`; queries (D, LANES) is scratch space.
    """
    row = 3 * H
    transpose_queries(qkv, (first + q) * row + head * D, count, row, D, queries)
    key = first * row + H + head * D
    zeros, one = zero_tile(ROWS, VECTORS), zero_tile(1, VECTORS)
    if S < ROWS:
        for s in range(S):
            store_tile(accumulate(one, qkv, key + s * row, row, 1, queries, 0, LANES, D), scores, s * LANES, LANES)
    else:
        for block in range(0, S, ROWS):  # the last block may overlap the one before and compute the same bits again
            s = min(block, S - ROWS)
            tile = accumulate(zeros, qkv, key + s * row, row, 1, queries, 0, LANES, D)
            store_tile(tile, scores, s * LANES, LANES)
    for lane in range(0, count, WIDTH):
        softmax_columns(scores, lane, S, scale)


@inline
def weighted_values(pair, single, scores, column, S, qkv, value, H, D, context, at):
    """Set R rows of the context, from context[at], to probabilities times V, for R queries from `column` on.

    The tiles `pair` (R, 2) and `single` (R, 1) are zeros; their type sets R. The D columns are computed two vectors at
    a time; if the number of vectors is odd, the last one is computed alone.
    """
    for d in range(0, D - WIDTH, 2 * WIDTH):
        tile = accumulate(pair, scores, column, 1, LANES, qkv, value + d, 3 * H, S)
        store_tile(tile, context, at + d, H)
    if D // WIDTH % 2:
        tile = accumulate(single, scores, column, 1, LANES, qkv, value + D - WIDTH, 3 * H, S)
        store_tile(tile, context, at + D - WIDTH, H)


def scratch_size(D: int, longest: int) -> int:
    """Return how many float32 numbers of scratch space `attention` needs for sentences of at most `longest` tokens.

    They hold `queries` (D, LANES) and `scores` (longest, LANES).
    """
    return (D + longest) * LANES


@jit
def attention(qkv, offsets, H, num_heads, context, first_head, last_head, scratch):
    """Compute context (T, H) from qkv (T, 3H), both flat, for the heads first_head to last_head - 1 of every sentence.

    Sentence b is rows offsets[b] to offsets[b + 1] - 1. `scratch` has scratch_size(D, longest sentence) numbers.
    """
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
                if count >= QUERIES:
                    pair, single = zero_tile(QUERIES, 2), zero_tile(QUERIES, 1)
                    for rows in range(0, count, QUERIES):
                        c = min(rows, count - QUERIES)
                        weighted_values(pair, single, scores, c, S, qkv, value, H, D, context, at + c * H)
                else:
                    for c in range(count):
                        pair, single = zero_tile(1, 2), zero_tile(1, 1)
                        weighted_values(pair, single, scores, c, S, qkv, value, H, D, context, at + c * H)


@jit
def attention_probs(qkv, first, S, H, num_heads, probs, scratch):
    """Compute the probabilities that `attention` uses, for the sentence of S tokens that begins at row `first` of qkv.

    probs (num_heads, S, S) is flat; probs[n, i, j] is how much query i of head n attends to key j.
    """
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
