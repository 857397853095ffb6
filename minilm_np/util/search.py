"""Search a corpus of embeddings for the rows nearest to each query.

BLAS rounds the dot product of a row differently depending on the position of the row in the matrix, so equal rows can
get unequal scores. The search therefore has two steps. First, BLAS computes all scores of a chunk, and every row that
could be in the top k, given the largest possible rounding error, becomes a candidate. Then the scores of the candidates
are computed again, each summed in the same order. As a result, equal rows score equally, and the chunk sizes do not
change a bit of the result. This holds for cos_sim and dot_score; the scores of other functions are sorted as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilm_np.util._arrays import (
    MAX_SCORES,
    Array,
    ArrayLike,
    as_array,
    as_matrices,
    block_rows,
    blocks,
    check_positive,
    cosine_rounding,
    float_type,
    unit_vectors,
    vector_norms,
)
from minilm_np.util.similarity import cos_sim, dot_products, dot_score, pytorch_cos_sim

ScoreFunction = Callable[[Any, Any], Any]  # (q, d), (c, d) -> (q, c), higher is nearer
Results = list[list[dict[str, int | float]]]


def semantic_search(
    query_embeddings: ArrayLike,
    corpus_embeddings: ArrayLike,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> Results:
    """Return for each query (q, d) the top_k rows of the corpus (n, d), best first.

    A hit is a dict {"corpus_id": id, "score": score}. Equal scores are ordered by id; NaN comes last. The corpus is
    read in blocks and never copied as a whole. A custom score_function is called with chunks of the queries (q, d) and
    the corpus (c, d), in their own dtypes, and returns scores (q, c).
    Raises TypeError or ValueError that names the argument.

    Examples
    --------
    >>> from minilm_np import util
    >>> corpus = [[0, 1], [3, 4], [1, 0]]
    >>> util.semantic_search([1, 0], corpus, top_k=2, score_function=util.dot_score)
    [[{'corpus_id': 1, 'score': 3.0}, {'corpus_id': 2, 'score': 1.0}]]
    """
    check_positive("query_chunk_size", query_chunk_size)
    check_positive("corpus_chunk_size", corpus_chunk_size)
    check_positive("top_k", top_k)
    queries, corpus = as_matrices("query_embeddings", query_embeddings, "corpus_embeddings", corpus_embeddings)
    nearest = nearest_rows(queries, corpus, query_chunk_size, corpus_chunk_size, top_k, score_function)
    return [as_hits(ids, scores) for ids, scores in nearest]


def as_hits(ids: Array, scores: Array) -> list[dict[str, int | float]]:
    """Return the hits of one query as dicts of Python numbers."""
    return [{"corpus_id": i, "score": s} for i, s in zip(ids.tolist(), scores.tolist(), strict=True)]


def nearest_rows(
    queries: Array, corpus: Array, query_chunk: int, corpus_chunk: int, k: int, score_function: ScoreFunction
) -> list[tuple[Array, Array]]:
    """Return for each query the ids (k,) and scores (k,) of its nearest rows, best first; fewer if the corpus is small.

    The module's docstring describes the algorithm.
    """
    if not callable(score_function):
        raise TypeError(f"score_function: expected a function of two arrays, got {score_function!r}")
    cosine, dot = score_function in (cos_sim, pytorch_cos_sim), score_function is dot_score
    d, dtype = corpus.shape[1], float_type(queries, corpus)
    if cosine or dot:
        queries = np.ascontiguousarray(queries, dtype)
        queries = unit_vectors(queries) if cosine else queries
    best: list[tuple[Array, Array]] = [(np.empty(0, np.int64), np.empty(0, dtype))] * len(queries)
    corpus_chunk = min(corpus_chunk, max(1, MAX_SCORES // max(1, min(query_chunk, len(queries)))))
    for chunk in blocks(len(corpus), corpus_chunk):
        rows = corpus[chunk]
        norms = np.zeros(len(rows), dtype)
        for batch in blocks(len(queries), query_chunk):
            if cosine:
                scores = dot_products(queries[batch], rows, norms)
            elif dot:
                scores = dot_products(queries[batch], rows)
            else:
                scores = as_array("score_function's result", score_function(queries[batch], rows))
                if scores.shape != (expected := (batch.stop - batch.start, len(rows))):
                    raise ValueError(f"score_function: expected a result of shape {expected}, got {scores.shape}")
                scores = scores.astype(float_type(scores), copy=False)
            for i, row in enumerate(scores, batch.start):
                if cosine or dot:
                    size = 1.0 if cosine else _largest_dot(queries[i], rows[_candidates(row, k)[:k]].astype(dtype))
                    # BLAS and the second sum may each be off by d/2 eps, for the k-th row and for any other row.
                    ids = _candidates(row, k, (2 * d + 4) * float(np.finfo(dtype).eps) * size)
                    exact = stable_scores(rows, ids, queries[i], cosine)
                else:
                    ids = _candidates(row, k)
                    exact = row[ids]
                ids, exact = np.concatenate([best[i][0], ids + chunk.start]), np.concatenate([best[i][1], exact])
                # A stable sort keeps equal scores in order of id: ids ascend within and between chunks. NaN sorts last.
                order = np.argsort(-exact, kind="stable")[:k]
                best[i] = ids[order], exact[order]
    return best


def _candidates(scores: Array, k: int, slack: float = 0.0) -> Array:
    """Return ascending ids of all scores (n,) that are at least the k-th highest minus slack.

    Returns all ids if fewer than k scores are numbers.
    """
    n = len(scores)
    if k >= n:
        return np.arange(n)
    high_scores, groups = scores, n // 64
    # The k-th highest of the group maxima is a lower bound of the k-th highest score, and much faster to compute.
    if groups >= 4 * k:
        maxima = np.fmax.reduce(scores[: 64 * groups].reshape(64, groups), axis=0)
        high_scores = scores[scores >= _kth_highest(maxima, k)]
    if len(high_scores) < k:
        return np.arange(n)
    ids = np.flatnonzero(scores >= _kth_highest(high_scores, k) - slack)
    return ids if len(ids) >= k else np.arange(n)


def _kth_highest(scores: Array, k: int) -> Any:
    """Return the k-th highest score, with NaN counted as -inf."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    scores.partition(len(scores) - k)
    return scores[len(scores) - k]


def stable_scores(rows: Array, ids: Array, query: Array, cosine: bool = False) -> Array:
    """Return the dot products or cosines (k,) of query and rows[ids], summed in the same order for every row.

    For cosines, `query` is a unit vector.
    """
    scores = np.empty(len(ids), query.dtype)
    limit = 1 - cosine_rounding(len(query), query.dtype)
    with np.errstate(all="ignore"):
        for block in blocks(len(ids), block_rows(rows)):
            values = np.ascontiguousarray(rows[ids[block]], query.dtype)
            scores[block] = np.einsum("nd,d->n", values, query)
            if cosine:
                norms = vector_norms(values)
                scores[block] /= norms
                near = np.flatnonzero(~(abs(scores[block]) < limit))  # few, so faster here than in settle_cosines
                if len(near):
                    equal = (values[near] / norms[near, None] == query).all(axis=1)
                    scores[block][near] = np.where(equal, 1, np.clip(scores[block][near], -1, 1))
    return scores


def _largest_dot(query: Array, rows: Array) -> float:
    """Return an upper bound of the dot products of query and rows (n, d): the product of norms, NaN ignored."""
    with np.errstate(all="ignore"):
        return float(vector_norms(query) * np.fmax.reduce(vector_norms(rows), initial=0))
