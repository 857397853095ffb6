"""community_detection against its definition: thresholds, overlaps, order, memory."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.embeddings import normal, random_generator, ranking

from minilm_np import util
from minilm_np.util.communities import _take_communities

Array = npt.NDArray[Any]


def communities_by_definition(table: Array, threshold: float, min_size: int) -> list[list[int]]:
    """Return communities by definition, from a table of all cosines."""
    neighbors = [[j for j in ranking(row, len(row)) if row[j] >= threshold] for row in table]
    order = sorted(range(len(table)), key=lambda i: -len(neighbors[i]))
    used: set[int] = set()
    result: list[list[int]] = []
    for center in order:
        unused = [j for j in neighbors[center] if j not in used]
        if center not in used and len(neighbors[center]) >= min_size and len(unused) >= min_size:
            result.append([center, *(j for j in unused if j != center)])
            used |= set(result[-1])
    return sorted(result, key=len, reverse=True)


@given(st.data())
def test_communities_match_their_definition(data: st.DataObject) -> None:
    """Cosines of axes and diagonals of 4 dimensions are exact, so they can equal the threshold."""
    signs = data.draw(hnp.arrays(np.float32, (data.draw(st.integers(1, 40)), 4), elements=st.sampled_from([-1, 1])))
    axes = data.draw(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 3)), max_size=20))
    for row, axis in axes:
        if row < len(signs):
            signs[row] = np.eye(4, dtype=np.float32)[axis]
    table = util.cos_sim(signs, signs)
    assert not (4 * table % 1).any()
    threshold = data.draw(st.sampled_from([-1.0, 0.0, 0.5, 1, np.float64(0.25)]))
    min_size, batch_size = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 50))
    actual = util.community_detection(signs, threshold, min_size, batch_size)
    assert actual == communities_by_definition(table, float(threshold), min_size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_communities_of_many_clusters(dtype: Any) -> None:
    """Needs many tiles and rounds; no cosine is close to the threshold."""
    centers = normal(60, 100, dtype=dtype)
    label = random_generator().integers(0, 60, 5000)
    rows = centers[label] + dtype(0.3) * normal(5000, 100, dtype=dtype, seed=1)
    actual = util.community_detection(rows, 0.6, 40, 700)
    assert sorted(map(sorted, actual)) == [
        np.flatnonzero(label == i).tolist() for i in np.argsort([np.flatnonzero(label == i)[0] for i in range(60)])
    ]
    assert [len(c) for c in actual] == sorted((len(c) for c in actual), reverse=True)
    unit = util.normalize_embeddings(rows).astype(np.float64)
    for community in actual:
        near = unit[community[1:]] @ unit[community[0]]
        assert np.all(np.diff(near) <= 1e-6)


def test_overlapping_communities_over_many_rounds() -> None:
    """Points along a circle: each neighborhood overlaps the next, so many centers are used before their turn."""
    angles = np.arange(2000) * (2 * np.pi / 2000)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # 0.1 rad is 31.8 steps: no cosine is near the threshold
    actual = util.community_detection(rows, math.cos(0.1), 20, 300)
    expected = communities_by_definition(util.cos_sim(rows, rows), math.cos(0.1), 20)
    assert [(c[0], sorted(c)) for c in actual] == [(c[0], sorted(c)) for c in expected]
    assert len({len(c) for c in actual}) > 1


def test_row_used_earlier_in_its_batch_does_not_become_a_center() -> None:
    """Rejected centers enlarge the batch, so that a row may be used by an earlier center of its own batch."""
    limit = np.float32(0.5)
    axes = np.eye(8, dtype=np.float32)
    # rows 0 to 3 are neighbors, and rows 4 to 7
    vectors = np.stack([axes[0]] * 4 + [axes[1]] * 4)
    assert _take_communities(vectors, limit, 5, np.arange(8)) == []
    vectors = np.stack([axes[0], axes[1], axes[1], axes[1]])
    # batch 1 is row 0, which is rejected; batch 2 is rows 1 and 2, where row 1 takes row 2
    assert _take_communities(vectors, limit, 2, np.arange(4)) == [[1, 2, 3]]
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0, 0.6, 0.8], [0, 0, 1], [0, 0, 1]], np.float32)
    # row 1 takes row 2, whose neighbors 3 and 4 are still free: row 2 must not become their center
    assert _take_communities(vectors, limit, 2, np.arange(5)) == [[1, 2], [3, 4]]


def test_communities_of_empty_zero_and_nan_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.eye(3, dtype=np.float32)
    assert util.community_detection(np.array([]), min_community_size=1) == []
    assert util.community_detection([], min_community_size=1) == []
    assert util.community_detection(rows) == []
    assert util.community_detection(rows, min_community_size=1) == [[0], [1], [2]]
    assert util.community_detection(rows[0], min_community_size=1) == [[0]]
    assert util.community_detection(rows, threshold=2, min_community_size=1) == []
    zeros = np.zeros((4, 3), np.float32)
    assert util.community_detection(zeros, min_community_size=1) == []
    assert util.community_detection(zeros, threshold=0, min_community_size=4) == [[0, 1, 2, 3]]
    nan = np.array([[np.nan, 1], [0, 1], [0, 1]], np.float32)
    assert util.community_detection(nan, min_community_size=2) == [[1, 2]]
    assert util.community_detection(rows, min_community_size=1, show_progress_bar=True) == [[0], [1], [2]]
    assert capsys.readouterr() == ("", "")  # no progress bar without a terminal


def test_community_memory_is_bounded_without_all_pairs() -> None:
    """Worst case, all rows are neighbors: 3000 x 3000 booleans would take 9 MB, and ids 36 MB."""
    rows = np.ones((3000, 4), np.float32)
    tracemalloc.start()
    assert util.community_detection(rows, batch_size=8) == [list(range(3000))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6
