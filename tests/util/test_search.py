"""semantic_search against a sort of all scores: ties, chunks, NaN, memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.embeddings import (
    corpus_ids,
    float64_similarities,
    hit_scores,
    normal,
    random_generator,
    ranking,
    small_integers,
)

from minilm_np import util
from minilm_np.util.search import _candidates

Array = npt.NDArray[Any]


@given(st.data())
def test_search_equals_a_sort_of_all_scores(data: st.DataObject) -> None:
    """With many equal scores and any chunk sizes, the ids are those of the definition."""
    queries, corpus = data.draw(small_integers(3, 4)), data.draw(small_integers(data.draw(st.integers(1, 40)), 4))
    k = data.draw(st.integers(1, 45))
    chunks = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 45))
    actual = util.semantic_search(queries, corpus, *chunks, k, util.dot_score)
    assert corpus_ids(actual) == [ranking(row, k) for row in queries @ corpus.T]
    # scores of a custom function are sorted unchanged
    custom = util.semantic_search(queries, corpus, *chunks, k, lambda a, b: a @ b.T)
    assert custom == actual


@pytest.mark.parametrize("score_function", [util.cos_sim, util.dot_score])
@pytest.mark.parametrize("n", [1000, 3001])
def test_equal_rows_score_equally_at_any_position(score_function: Any, n: int) -> None:
    """BLAS alone would fail here: its rounding depends on the position of a row."""
    corpus = np.repeat(normal(7, 384), n // 7 + 1, axis=0)[:n]
    corpus = corpus[random_generator().permutation(n)]
    queries = normal(20, 384, seed=1)
    actual = util.semantic_search(queries, corpus, top_k=300, score_function=score_function)
    expected_scores = float64_similarities("cosine" if score_function is util.cos_sim else "dot", queries, corpus)
    for hits, row in zip(actual, expected_scores, strict=True):
        assert len({hit["score"] for hit in hits}) <= 3
        assert [hit["corpus_id"] for hit in hits] == ranking(row.round(9), 300)


@pytest.mark.parametrize("score_function", [util.cos_sim, util.dot_score])
def test_results_are_bit_identical_for_all_chunk_sizes(score_function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, queries = normal(3000, 48), normal(17, 48, seed=1)
    corpus[1000:2000] = corpus[:1000] * (1 + normal(1000, 48, seed=2) * np.float32(1e-7))  # almost equal
    expected = util.semantic_search(queries, corpus, top_k=25, score_function=score_function)
    for sizes in ((1, 3000), (17, 1), (5, 7), (100, 999)):
        assert util.semantic_search(queries, corpus, *sizes, 25, score_function) == expected
    monkeypatch.setattr("minilm_np.util.search.MAX_SCORES", 100)
    monkeypatch.setattr("minilm_np.util._arrays.BLOCK_BYTES", 1)
    assert util.semantic_search(queries, corpus, top_k=25, score_function=score_function) == expected
    assert [util.semantic_search(q, corpus, top_k=25, score_function=score_function)[0] for q in queries] == expected


@pytest.mark.parametrize("k", [1, 2, 10, 100, 1000, 4999, 5000, 6000])
def test_candidates_contain_the_top_k(k: int) -> None:
    """Covers both ways to find the k-th highest score, with NaN, infinities and equal scores."""
    row = random_generator().integers(0, 900, 5000).astype(np.float32)
    for scores in (row, np.where(row < 700, np.nan, row), np.where(row < 5, np.inf, -np.inf), np.full(5000, np.nan)):
        actual = _candidates(scores.astype(np.float32), k)
        assert np.all(np.diff(actual) > 0)
        assert set(ranking(scores, k)) <= set(actual.tolist())
    assert len(_candidates(np.arange(5000, dtype=np.float32), 10)) == 10  # no more than necessary
    assert len(_candidates(np.arange(5000, dtype=np.float32), 10, slack=5.0)) == 15


def test_nan_scores_come_last() -> None:
    corpus = np.array([[np.nan, 1], [0, 1], [1, 0], [np.nan, np.nan], [-1, 0]], np.float32)
    for function in (util.cos_sim, util.dot_score, util.euclidean_sim):
        actual = util.semantic_search([1.0, 0.0], corpus, top_k=5, score_function=function)
        assert corpus_ids(actual) == [[2, 1, 4, 0, 3]]
        assert corpus_ids(util.semantic_search([1.0, 0.0], corpus, 1, 1, 3, function)) == [[2, 1, 4]]
    many = np.full((3000, 2), np.nan, np.float32)
    many[[5, 2999]] = 1
    assert corpus_ids(util.semantic_search([1.0, 0.0], many, top_k=4)) == [[5, 2999, 0, 1]]


def test_search_of_empty_single_and_zero_inputs() -> None:
    queries, corpus = normal(2, 4), normal(3, 4, seed=1)
    empty = np.array([])
    assert util.semantic_search(queries, empty) == util.semantic_search(queries, corpus[:0]) == [[], []]
    assert util.semantic_search(empty, corpus) == []
    assert util.semantic_search(queries[0], corpus) == util.semantic_search(queries[:1], corpus)
    assert len(util.semantic_search(queries, corpus, top_k=99)[0]) == 3
    assert corpus_ids(util.semantic_search(queries, corpus[0])) == [[0], [0]]
    hit = util.semantic_search(queries, corpus)[0][0]
    assert type(hit["corpus_id"]) is int and type(hit["score"]) is float
    zero = util.semantic_search(np.zeros(4, np.float32), corpus)
    assert corpus_ids(zero) == [[0, 1, 2]] and hit_scores(zero) == [[0, 0, 0]]
    by_columns = util.semantic_search(queries, np.asfortranarray(corpus))
    assert corpus_ids(by_columns) == corpus_ids(util.semantic_search(queries, corpus))


def test_search_does_not_copy_the_corpus() -> None:
    corpus = normal(40_000, 128).astype(np.float16)  # 20 MB as float32; the scores take 160 KB
    tracemalloc.start()
    util.semantic_search(corpus[7], corpus)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


def test_memory_for_scores_is_bounded_for_any_chunk_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def score(queries: Array, corpus: Array) -> Array:
        shapes.append((len(queries), len(corpus)))
        return queries @ corpus.T

    monkeypatch.setattr("minilm_np.util.search.MAX_SCORES", 1000)
    util.semantic_search(normal(40, 3), normal(300, 3, seed=1), 10**6, 10**6, 5, score)
    assert shapes and max(q * c for q, c in shapes) <= 1000
