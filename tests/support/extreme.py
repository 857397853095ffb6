"""Inputs far outside the range of a trained model."""

from __future__ import annotations

import numpy as np
from support.kernels import Array

HEADS, HEAD_SIZE = 2, 32
BATCH_OFFSETS = np.array([0, 1, 3, 12, 52])
# Factors for queries and keys. Scores are near the square of a factor; from 1e19 on they overflow, in PyTorch, too.
SCORE_SCALES = (1e5, 1e7, 1e8, 1e10, 1e12, 1e15, 1e18)
# Factors for rows, from subnormal numbers to the largest; 2e38 is the largest element of the last rows.
ROW_SCALES = (1e-44, 1e-40, 1e-38, 1e-30, 1e-19, 1e-12, 1e-6, 1.0, 1e6, 1e16, 1e20, 1e30, 4e37)


def huge_scores(scale: float) -> Array:
    """Return qkv (52, 3H) of 4 sentences, with queries and keys multiplied by `scale`."""
    qkv = np.random.default_rng(0).standard_normal((BATCH_OFFSETS[-1], 3 * HEADS * HEAD_SIZE), np.float32)
    qkv[:, : 2 * HEADS * HEAD_SIZE] *= np.float32(scale)
    return qkv


def scaled_rows(scale: float) -> Array:
    """Return rows (5, 96) with elements near `scale`."""
    return (np.random.default_rng(1).standard_normal((5, 96)) * scale).astype(np.float32)
