"""Group embeddings into communities of near neighbors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from numbers import Real

import numpy as np

from minilm_np.util._arrays import (
    MAX_SCORES,
    Array,
    ArrayLike,
    as_rows,
    blocks,
    check_positive,
    cosine_rounding,
    float_type,
    settle_cosines,
    unit_vectors,
)
from minilm_np.util.search import stable_scores


def community_detection(
    embeddings: ArrayLike,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Return communities of rows (n, d) as lists of ids, the largest community first.

    The neighbors of a row are the rows whose cosine with it is at least threshold, itself included. The rows with most
    neighbors become centers first, and each takes its neighbors that no earlier community contains. Communities
    smaller than min_community_size are dropped. A list starts with the center and continues by descending cosine.
    Raises TypeError or ValueError that names the argument.

    Examples
    --------
    >>> from minilm_np import util
    >>> util.community_detection([[1, 0], [0, 1], [5, 1], [0, 2], [6, 1]], threshold=0.9, min_community_size=2)
    [[0, 4, 2], [1, 3]]
    """
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or threshold != threshold:
        raise ValueError(f"threshold: expected a number, got {threshold!r}")
    check_positive("min_community_size", min_community_size)
    check_positive("batch_size", batch_size)
    rows = as_rows("embeddings", embeddings)
    n = len(rows)
    if n < min_community_size:
        return []
    vectors = np.ascontiguousarray(unit_vectors(rows.astype(float_type(rows), copy=False)))
    limit = np.float32(threshold)  # rounded as sentence-transformers rounds it
    with np.errstate(all="ignore"):
        counts = _count_neighbors(vectors, limit, min(batch_size, 4096), show_progress_bar)
        order = np.argsort(-counts, kind="stable")
        order = order[counts[order] >= min_community_size]
        return _take_communities(vectors, limit, min_community_size, order)


def _settle(vectors: Array, limit: np.float32) -> Callable[[Array, Array, Array], None]:
    """Return a function that sets the cosines of equal vectors to 1 if rounding could leave them below the limit."""
    if float(limit) <= 1 - cosine_rounding(vectors.shape[1], vectors.dtype):
        return lambda cosines, a, b: None
    return lambda cosines, a, b: settle_cosines(cosines, a, b, np.ones(len(b), cosines.dtype))


def _count_neighbors(vectors: Array, limit: np.float32, batch_size: int, show_progress_bar: bool) -> Array:
    """Return for each row the number (n,) of rows whose cosine with it is at least limit.

    Each cosine is computed once and counted for both of its rows, which halves the work.
    """
    n, width_limit = len(vectors), 4096
    settle = _settle(vectors, limit)
    counts = np.zeros(n, np.int64)
    # All tiles share one buffer: fresh memory costs a page fault every 4 KiB.
    cosines, near = (
        np.empty(min(batch_size, n) * max(width_limit, batch_size), dtype) for dtype in (vectors.dtype, np.bool_)
    )
    batches: Iterable[slice] = list(blocks(n, batch_size))
    if show_progress_bar:
        from tqdm import tqdm

        batches = tqdm(batches, desc="Finding clusters", disable=None)  # None: only on a terminal
    for rows in batches:
        for columns in chain([rows], blocks(n, width_limit, rows.stop)):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            tile = cosines[: height * width].reshape(height, width)
            np.matmul(vectors[rows], vectors[columns].T, out=tile)
            settle(tile, vectors[rows], vectors[columns])
            hits = np.flatnonzero(np.greater_equal(tile, limit, out=near[: tile.size].reshape(tile.shape)))
            ends = np.searchsorted(hits, width * np.arange(1, height + 1))
            counts[rows] += np.diff(ends, prepend=0)
            if columns is not rows:
                counts[columns] += np.bincount(hits % width, minlength=width)
    return counts


def _take_communities(vectors: Array, limit: np.float32, min_size: int, order: Array) -> list[list[int]]:
    """Return communities whose centers are taken from the ids `order`, first to last.

    A community contains only rows that no earlier one contains. Neighbors are computed again, for centers only:
    storing those of all rows could take n x n memory.
    """
    used = np.zeros(len(vectors), bool)
    settle = _settle(vectors, limit)
    free, free_vectors = np.arange(len(vectors)), vectors  # all unused rows, and some that were used lately
    communities = []
    batch_size = 1
    while len(order):
        centers, order = order[:batch_size], order[batch_size:]
        taken = False
        all_cosines = vectors[centers] @ free_vectors.T
        settle(all_cosines, vectors[centers], free_vectors)
        for center, cosines in zip(centers, all_cosines, strict=True):
            if used[center]:
                continue
            members = free[cosines >= limit]
            members = members[~used[members]]
            if len(members) < min_size:
                continue
            falling = np.argsort(-stable_scores(vectors, members, vectors[center]), kind="stable")
            members = members[falling]
            members = np.concatenate([[center], members[members != center]])
            used[members] = taken = True
            communities.append(members.tolist())
        if taken:  # the next centers are likely to be used already, so try one at a time
            order, batch_size = order[~used[order]], 1
            unused = ~used[free]
            if 2 * np.count_nonzero(unused) < len(free):
                free, free_vectors = free[unused], free_vectors[unused]
        else:
            batch_size = min(2 * batch_size, 1024, max(1, MAX_SCORES // len(vectors)))
    return sorted(communities, key=len, reverse=True)
