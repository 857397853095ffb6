"""Equal rows have cosine 1 in every function, and no cosine is outside [-1, 1]."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.embeddings import normal

from minilm_np import util

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [20, 700])  # few equal pairs, and many
def test_cosines_of_equal_rows_are_one(dtype: Any, n: int) -> None:
    distinct = normal(10, 384, dtype=dtype)
    rows = np.concatenate([distinct] * (n // 10) + [-distinct[:3]])
    rows[5] *= 7  # parallel, but not equal
    cosines = util.cos_sim(rows, rows)
    equal = (rows[:, None, :8] == rows[None, :, :8]).all(axis=-1)
    assert (cosines[equal] == 1).all()
    assert cosines.max() == 1
    assert cosines.min() >= -1
    pairwise = util.pairwise_cos_sim(rows, rows)
    assert (pairwise == 1).all()
    assert all(math.acos(x) <= math.pi for x in cosines.ravel().tolist())
    assert util.pairwise_cos_sim(rows, -rows).min() >= -1


def test_almost_equal_rows_keep_their_cosine() -> None:
    """A difference of 1e-3 leaves a cosine of 1 - 5e-7, which float32 holds."""
    a = np.zeros((1, 384), np.float32)
    a[0, 0] = 1
    b = a.copy()
    b[0, 1] = 1e-3
    assert 1 - 7e-7 < util.cos_sim(a, b)[0, 0] < 1
    assert 1 - 7e-7 < util.pairwise_cos_sim(a, b)[0] < 1


def test_zeros_nan_and_signed_zeros() -> None:
    rows = np.array([[0, 0], [np.nan, 1], [0.0, 1], [-0.0, 1]], np.float32)
    cosines = util.cos_sim(rows, rows)
    assert (cosines[0, [0, 2, 3]] == 0).all()
    assert np.isnan(cosines[1]).all()
    assert (cosines[2:, 2:] == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_search_and_mining_score_equal_rows_with_one(dtype: Any) -> None:
    rows = np.repeat(normal(30, 384, dtype=dtype), 2, axis=0)
    for row, hits in enumerate(util.semantic_search(rows, rows, top_k=2)):
        assert [(hit["corpus_id"], hit["score"]) for hit in hits] == [(row // 2 * 2, 1.0), (row // 2 * 2 + 1, 1.0)]
    pairs = util.paraphrase_mining_embeddings(rows, top_k=3)
    assert pairs[:30] == [[1.0, 2 * i, 2 * i + 1] for i in range(30)]
    assert max(score for score, _, _ in pairs) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copies", [1, 2, 5])
def test_communities_at_threshold_one(dtype: Any, copies: int) -> None:
    rows = np.repeat(normal(20, 384, dtype=dtype), copies, axis=0)
    expected = [list(range(copies * i, copies * i + copies)) for i in range(20)]
    assert sorted(util.community_detection(rows, threshold=1.0, min_community_size=copies)) == expected
    assert util.community_detection(rows, threshold=1.0, min_community_size=copies + 1) == []
    assert util.community_detection(rows, threshold=1.01, min_community_size=1) == []


def test_many_equal_rows_take_a_second() -> None:
    """Comparing all pairs of 3000 equal rows element by element would take a minute."""
    rows = np.ones((3000, 384), np.float32)
    assert (util.cos_sim(rows, rows) == 1).all()
