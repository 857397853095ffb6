"""Attention against ops.py in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.kernels import assert_float32_close, normal

from minilm_np import kernels, ops
from minilm_np.kernels.simd import WIDTH


@pytest.mark.parametrize("vectors", [1, 2, 3])
def test_attention_matches_float64_and_ignores_other_sentences(vectors: int) -> None:
    lengths, heads, head_size = [1, 7, 8, 9, 2 * WIDTH + 3], 2, vectors * WIDTH
    offsets = np.cumsum([0, *lengths])
    qkv = 2 * normal(int(offsets[-1]), 3 * heads * head_size)
    context = kernels.attention(qkv, offsets, heads)
    assert_float32_close(context, ops.attention(qkv.astype("f8"), offsets, heads), ulps=32)
    actual, expected = (op_set.attention_probs(qkv, offsets, heads) for op_set in (kernels, ops))
    for a, b in zip(actual, expected, strict=True):
        assert_float32_close(a, b, ulps=64)
    qkv[offsets[1] : offsets[2]] = 1e3  # a change to one sentence leaves the others as they were
    changed = (kernels.attention(qkv, offsets, heads) != context).any(axis=1)
    assert changed.nonzero()[0].tolist() == list(range(offsets[1], offsets[2]))


def test_attention_does_not_overflow_with_scores_hundreds_apart() -> None:
    """Without subtracting the largest score, or with another score subtracted, exp would overflow."""
    head_size, S = WIDTH, 20
    qkv = np.zeros((S, 3 * head_size), np.float32)
    qkv[:, 0] = 100
    qkv[:, head_size] = np.linspace(-20, 40, S) * math.sqrt(head_size)
    qkv[:, 2 * head_size :] = normal(S, head_size)
    offsets = np.array([0, S])
    context = kernels.attention(qkv, offsets, 1)
    assert_float32_close(context, ops.attention(qkv.astype("f8"), offsets, 1), ulps=32)
    assert np.abs(context - qkv[-1, 2 * head_size :]).max() < 1e-6  # every token attends to the last one only
