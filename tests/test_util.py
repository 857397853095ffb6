"""minilm_np.util against slow and obvious computations, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close

from minilm_np import util

Array = npt.NDArray[Any]


def normal(*shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def clusters(groups: int, size: int, D: int = 16, noise: float = 0.1) -> Array:
    rng = np.random.default_rng(groups * size)
    centres = np.repeat(rng.standard_normal((groups, D)), size, axis=0)
    return (centres + noise * rng.standard_normal(centres.shape)).astype(np.float32)


# --- similarities


SLOW: dict[str, Any] = {
    "cosine": lambda x, y: float(x @ y) / (float(x @ x) * float(y @ y)) ** 0.5,
    "dot": lambda x, y: float(x @ y),
    "euclidean": lambda x, y: -(float((x - y) @ (x - y)) ** 0.5),
    "manhattan": lambda x, y: -float(sum(abs(x - y))),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", SLOW)
def test_similarities(name: str, dtype: str) -> None:
    a, b = normal(5, 24, dtype=dtype), normal(7, 24, dtype=dtype)
    wanted = np.array([[SLOW[name](x, y) for y in b.astype("f8")] for x in a.astype("f8")])
    found = util.SimilarityFunction.to_similarity_fn(name)(a, b)
    assert found.dtype == ("float64" if dtype == "float64" else "float32")
    atol = 1e-13 if dtype == "float64" else 24 * 6e-8 * max(1, np.abs(wanted).max())
    assert_close(found, wanted, atol, name)
    pairs = util.SimilarityFunction.to_similarity_pairwise_fn(name)(a, b[:5])
    assert_close(pairs, np.diag(wanted), atol, f"pairwise {name}")
    assert util.SimilarityFunction.to_similarity_fn(name)(a[0], b).shape == (1, 7)
    assert util.SimilarityFunction.to_similarity_pairwise_fn(name)(a[0], b[0]).shape == ()


def test_near_neighbours_keep_their_distance() -> None:
    a = normal(1, 384) + 100
    b = a + np.float32(1e-3)
    wanted = -np.sqrt(((a.astype("f8") - b) ** 2).sum())
    assert abs(util.euclidean_sim(a, b)[0, 0] - wanted) < 1e-6 * abs(wanted)


def test_zeros_integers_lists_and_names() -> None:
    assert util.cos_sim(np.zeros(4), normal(3, 4)).tolist() == [[0, 0, 0]]
    assert util.dot_score([1, 2], [3, 4]).tolist() == [[11]]
    assert util.pytorch_cos_sim is util.cos_sim
    assert util.cos_sim(list(normal(2, 3)), normal(2, 3)).shape == (2, 2)
    assert util.SimilarityFunction.possible_values() == ["cosine", "dot", "euclidean", "manhattan"]
    assert util.truncate_embeddings(normal(3, 8), 5).shape == (3, 5)
    assert_close(np.linalg.norm(util.normalize_embeddings(normal(3, 8)), axis=1), np.ones(3), 2e-7, "length")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: util.cos_sim(normal(2, 3), normal(2, 4)), r"b: found \(4,\) dimensions, wanted \(3,\)"),
        (lambda: util.cos_sim(normal(2, 2, 2), normal(2, 2)), r"a: found shape \(2, 2, 2\)"),
        (lambda: util.dot_score("text", normal(1, 1)), "a: found str"),
        (lambda: util.pairwise_dot_score(normal(2, 3), normal(4, 3)), r"b: found shape \(4, 3\), wanted \(2, 3\)"),
        (lambda: util.truncate_embeddings(normal(2, 3), 0), "truncate_dim: found 0"),
        (lambda: util.semantic_search(normal(1, 3), normal(4, 5)), r"corpus_embeddings: found shape \(4, 5\)"),
        (lambda: util.semantic_search(normal(1, 3), normal(4, 3), top_k=0), "top_k: found 0"),
        (lambda: util.semantic_search(normal(1, 3), normal(4, 3), query_chunk_size=-1), "query_chunk_size: found -1"),
        (lambda: util.community_detection(normal(4, 3), threshold="x"), "threshold: found 'x'"),  # type: ignore[arg-type]
        (lambda: util.community_detection(normal(4, 3), min_community_size=0), "min_community_size: found 0"),
        (lambda: util.quantize_embeddings(normal(4, 3), "int4"), "precision: found 'int4'"),
        (lambda: util.quantize_embeddings(normal(1, 3), "int8"), "for one embedding"),
        (lambda: util.quantize_embeddings(np.zeros((2, 3), "int8"), "int8"), "embeddings: found int8"),
        (lambda: util.quantize_embeddings(normal(4, 3), "int8", ranges=normal(3, 3)), r"ranges: found shape \(3, 3\)"),
        (
            lambda: util.semantic_search_quantized(normal(1, 9), normal(4, 9), "int8"),
            "corpus_embeddings: found float32",
        ),
        (lambda: util.SimilarityFunction.to_similarity_fn("maxsim"), "maxsim"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- the nearest


def slow_search(scores: Array, k: int) -> list[list[int]]:
    return [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in scores.tolist()]


@settings(max_examples=60)
@given(
    st.integers(1, 5), st.integers(1, 60), st.integers(1, 70), st.integers(1, 60), st.integers(1, 4), st.integers(0, 99)
)
def test_search_is_sorting_with_ties_by_id(q: int, n: int, k: int, chunk: int, q_chunk: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, corpus = (rng.integers(-2, 3, (m, 3)).astype(np.float32) for m in (q, n))  # many equal scores
    found = util.semantic_search(queries, corpus, q_chunk, chunk, k, util.dot_score)
    scores = queries.astype(int) @ corpus.astype(int).T
    ids = slow_search(scores, k)
    assert [[hit["corpus_id"] for hit in row] for row in found] == ids
    wanted = [[float(row[i]) for i in row_ids] for row, row_ids in zip(scores.tolist(), ids, strict=True)]
    assert [[hit["score"] for hit in row] for row in found] == wanted


def test_search_by_cosine_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, corpus = normal(3, 20), normal(500, 20) * np.linspace(0, 9, 500, dtype=np.float32)[:, None]
    scores = util.cos_sim(queries, corpus)
    whole = util.semantic_search(queries, corpus)
    monkeypatch.setattr(util, "BLOCK", 700)
    blocks = util.semantic_search(queries, corpus)
    for row, wanted in enumerate(slow_search(scores, 10)):
        assert [hit["corpus_id"] for hit in whole[row]] == [hit["corpus_id"] for hit in blocks[row]] == wanted
        for hits in (whole[row], blocks[row]):
            assert_close([hit["score"] for hit in hits], scores[row][wanted], 1e-6, "score")
    assert util.semantic_search(queries, corpus[:0]) == [[], [], []]
    assert len(util.semantic_search(queries[0], corpus)) == 1


def test_no_number_comes_after_every_number() -> None:
    corpus = np.array([[np.nan, 0], [1, 0], [-1, 0]], np.float32)
    assert [
        h["corpus_id"] for h in util.semantic_search(np.ones((1, 2)), corpus, score_function=util.dot_score)[0]
    ] == [1, 2, 0]


def test_paraphrase_mining_is_all_pairs_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    x = clusters(6, 5)
    n, scores = len(x), util.cos_sim(x, x)
    wanted = sorted(((scores[i, j], i, j) for i in range(n) for j in range(i + 1, n)), reverse=True)
    found = util.paraphrase_mining_embeddings(x, top_k=n)
    assert len(found) == len(wanted)
    assert {(i, j) for _, i, j in found} == {(i, j) for _, i, j in wanted}
    assert_close([s for s, _, _ in found], [s for s, _, _ in wanted], 1e-6, "scores")
    monkeypatch.setattr(util, "BLOCK", 900)
    few = util.paraphrase_mining_embeddings(x, max_pairs=7, top_k=3)
    assert [pair[1:] for pair in few] == [pair[1:] for pair in found[:7]]
    same = util.paraphrase_mining_embeddings(np.ones((4, 2)), top_k=9)
    assert [pair[1:] for pair in same] == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert util.paraphrase_mining_embeddings(x[:0]) == util.paraphrase_mining_embeddings(x[:1]) == []


def test_communities(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([clusters(4, 12), normal(10, 16)])
    order = np.random.default_rng(0).permutation(len(x))
    found = util.community_detection(x[order])
    for block in (900, 3000):
        monkeypatch.setattr(util, "BLOCK", block)
        assert util.community_detection(x[order], batch_size=5) == found
    assert sorted(sorted(order[group] // 12) for group in map(np.array, found)) == [[g] * 12 for g in range(4)]
    cosines = util.cos_sim(x[order], x[order])
    for group in found:
        near = cosines[group[0], group]
        assert near.argmax() == 0 and (np.diff(near[1:]) <= 0).all() and near.min() >= 0.75
    assert util.community_detection(x[:5]) == util.community_detection([]) == []
    assert util.community_detection(np.ones((10, 3)), threshold=1.1) == []


# --- fewer bits


def test_quantization_by_hand() -> None:
    x = np.array([[0.0, -1.0, 5.0], [1.0, 1.0, 5.0], [0.5, 0.0, 5.0]], np.float32)
    # The largest is step 254 and not 255 where range / 255 is rounded up, as in sentence-transformers.
    assert util.quantize_embeddings(x, "uint8").tolist() == [[0, 0, 0], [254, 254, 0], [127, 127, 0]]
    assert util.quantize_embeddings(x, "int8").tolist() == [[-128, -128, -128], [126, 126, -128], [-1, -1, -128]]
    ranges = np.array([[0, 0, 0], [1, 1, 1]], np.float32)
    assert util.quantize_embeddings(x[0], "uint8", ranges=ranges).tolist() == [0, 0, 255]
    assert util.quantize_embeddings(x[:1], "uint8", calibration_embeddings=x).tolist() == [[0, 0, 0]]
    assert util.quantize_embeddings(x, "ubinary").tolist() == [[0b00100000], [0b11100000], [0b10100000]]
    assert util.quantize_embeddings(x, "binary").tolist() == [[-96], [96], [32]]
    assert util.quantize_embeddings(x.astype("f8"), "float32").dtype == np.float32


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary", "float32"])
def test_quantized_search_finds_what_is_there(precision: str) -> None:
    corpus = clusters(40, 5, 64, 0.3)
    queries = corpus[::5] + 0.1 * normal(40, 64)
    codes = util.quantize_embeddings(corpus, precision)
    found = util.semantic_search_quantized(queries, codes, precision, top_k=5)
    right = sum(hit["corpus_id"] // 5 == row for row, hits in enumerate(found) for hit in hits)
    assert right >= 195  # of 200
    assert all(hits[i]["score"] >= hits[i + 1]["score"] for hits in found for i in range(4))
    alone = util.semantic_search_quantized(queries[:1], codes, precision, top_k=3, rescore=False)[0]
    if "binary" in precision:
        agree = (2 * ((queries[0] > 0) == (corpus > 0)).sum(axis=1) - 64).tolist()
        assert [hit["corpus_id"] for hit in alone] == slow_search(np.array([agree]), 3)[0]
        assert [hit["score"] for hit in alone] == [agree[hit["corpus_id"]] for hit in alone]
