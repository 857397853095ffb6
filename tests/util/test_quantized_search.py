"""semantic_search_quantized against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from support.embeddings import assert_within_rounding, corpus_ids, hit_scores, normal, ranking

from minilm_np import util
from minilm_np.util import quantization


@pytest.mark.parametrize("bitwise_count", [True, False])
@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_binary_search_by_hamming_distance_then_rescoring(
    precision: str, bitwise_count: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks by Hamming distance, then by float query and bits; counts bits with np.bitwise_count and with a table."""
    if bitwise_count and not quantization.HAS_BITWISE_COUNT:
        pytest.skip("np.bitwise_count needs NumPy 2")
    monkeypatch.setattr(quantization, "HAS_BITWISE_COUNT", bitwise_count)
    for d in (5, 64, 72):
        queries, corpus = normal(4, d), normal(500, d, seed=1)
        codes = util.quantize_embeddings(corpus, precision)
        bits, query_bits = corpus > 0, queries > 0
        hamming = (bits[None] != query_bits[:, None]).sum(axis=2)
        plain = util.semantic_search_quantized(queries, codes, precision, top_k=9, rescore=False)
        assert corpus_ids(plain) == [ranking(-row, 9) for row in hamming]
        assert hit_scores(plain) == [sorted(row.tolist())[:9] for row in hamming]
        as_codes = util.quantize_embeddings(queries, precision)
        assert util.semantic_search_quantized(as_codes, codes, precision, top_k=9) == plain
        actual = util.semantic_search_quantized(queries, codes, precision, top_k=9, rescore_multiplier=3)
        for query, row, hits in zip(queries.astype(np.float64), hamming, actual, strict=True):
            candidates = ranking(-row, 27)
            values = bits @ query
            expected = sorted(candidates, key=lambda i: (-values[i].round(9), i))[:9]
            assert [hit["corpus_id"] for hit in hits] == expected
            assert_within_rounding(np.array([hit["score"] for hit in hits]), values[expected], 10.0, d)


@pytest.mark.parametrize("d", [33, 384])
@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_int8_search_by_exact_dot_products_then_rescoring(precision: str, d: int) -> None:
    queries, corpus = normal(4, d), normal(500, d, seed=1)
    ranges = np.stack([corpus.min(axis=0), corpus.max(axis=0)])
    codes = util.quantize_embeddings(corpus, precision)
    as_codes = util.quantize_embeddings(queries, precision, ranges)
    dots = as_codes.astype(np.int64) @ codes.astype(np.int64).T
    plain = util.semantic_search_quantized(queries, codes, precision, ranges=ranges, rescore=False)
    assert corpus_ids(plain) == [ranking(row, 10) for row in dots]
    assert hit_scores(plain) == [[int(row[i]) for i in ranking(row, 10)] for row in dots]  # exact
    assert util.semantic_search_quantized(as_codes, codes, precision) == plain
    actual = util.semantic_search_quantized(queries, codes, precision, ranges=ranges)
    assert actual == util.semantic_search_quantized(queries, codes, precision, calibration_embeddings=corpus)
    values = (codes.astype(np.float64) + (128 if precision == "int8" else 0)) * ((ranges[1] - ranges[0]) / 255)
    rescored = queries.astype(np.float64) @ (values + ranges[0]).T
    for row, dot, hits in zip(rescored, dots, actual, strict=True):
        expected = sorted(ranking(dot, 20), key=lambda i: -row[i])[:10]
        assert [hit["corpus_id"] for hit in hits] == expected
        assert_within_rounding(np.array([hit["score"] for hit in hits]), row[expected], 1e4 * d, d)


def test_rescoring_a_whole_int8_corpus_finds_the_float_neighbors() -> None:
    corpus = util.normalize_embeddings(normal(300, 64))
    codes = util.quantize_embeddings(corpus, "int8")
    actual = util.semantic_search_quantized(
        corpus, codes, "int8", top_k=1, calibration_embeddings=corpus, rescore_multiplier=300
    )
    assert corpus_ids(actual) == [[i] for i in range(300)]


def test_float32_corpus_is_searched_by_dot_product() -> None:
    queries, corpus = normal(2, 8), normal(20, 8, seed=1)
    actual = util.semantic_search_quantized(queries, corpus, "float32", top_k=5)
    assert actual == util.semantic_search(queries, corpus, top_k=5, score_function=util.dot_score)


def test_quantized_search_of_empty_single_and_equal_inputs() -> None:
    queries, corpus = normal(2, 16), normal(3, 16, seed=1)
    codes = util.quantize_embeddings(corpus, "ubinary")
    assert util.semantic_search_quantized(queries, codes[:0]) == [[], []]
    assert len(util.semantic_search_quantized(queries, codes)[0]) == 3
    assert util.semantic_search_quantized(queries[0], codes) == util.semantic_search_quantized(queries[:1], codes)
    same = np.zeros((50, 2), np.uint8)
    assert corpus_ids(util.semantic_search_quantized(queries, same, top_k=3)) == [[0, 1, 2]] * 2


def test_dot_products_of_uint8_are_exact_beyond_24_bits() -> None:
    codes = np.full((3, 400), 255, np.uint8)
    codes[0, 0], codes[2, 1] = 254, 253
    actual = util.semantic_search_quantized(codes[1], codes, "uint8")
    full = 400 * 255 * 255  # 26 million: odd sums do not fit float32
    assert actual[0] == [
        {"corpus_id": 1, "score": full},
        {"corpus_id": 0, "score": full - 255},
        {"corpus_id": 2, "score": full - 2 * 255},
    ]


def test_candidates_with_equal_rescored_scores_are_ordered_by_id() -> None:
    """Where the query is 0, a bit changes the Hamming distance, which puts a later row first, but not the score."""
    query = np.array([1, 1, 1, 0, -1, -1, -1, -1], np.float32)
    codes = np.array([[0b11110000], [0b11100000], [0b11110000], [0b11100000]], np.uint8)
    assert corpus_ids(util.semantic_search_quantized(query, codes, rescore=False)) == [[1, 3, 0, 2]]
    assert corpus_ids(util.semantic_search_quantized(query, codes)) == [[0, 1, 2, 3]]
