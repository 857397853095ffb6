"""Live comparison of util with sentence_transformers.util; needs the parity extra."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from minilm_np import util
from minilm_np.util.quantization import _dequantize

with warnings.catch_warnings():  # imports of PyTorch and transformers emit warnings that we cannot fix
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    theirs: Any = pytest.importorskip("sentence_transformers.util", reason="needs the parity extra")

from support.embeddings import corpus_ids, normal
from support.tolerances import assert_close

pytestmark = pytest.mark.parity

Array = npt.NDArray[Any]
D = 384
MATRIX = ["cos_sim", "pytorch_cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"]
PAIRWISE = [
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "pairwise_angle_sim",
]


def tolerance(name: str, a: Array, b: Array) -> float:
    """Return the largest rounding error of a sum of d terms in both libraries: 2 d eps times the size of the sum."""
    dtype, d = np.result_type(a, b, np.float32), a.shape[-1]
    norms = [float(np.linalg.norm(x.astype(np.float64), axis=-1).max(initial=0)) for x in (a, b)]
    size = {
        "cos": 1.0,
        "angle": 2.0,
        "dot": norms[0] * norms[1],
        "euclidean": norms[0] + norms[1],
        "manhattan": (norms[0] + norms[1]) * np.sqrt(d),
    }[name.replace("pytorch_", "").replace("pairwise_", "").split("_")[0]]
    return float(2 * d * np.finfo(dtype).eps * size)


def assert_same_similarity(name: str, a: Any, b: Any, atol: float | None = None) -> None:
    actual, expected = getattr(util, name)(a, b), getattr(theirs, name)(a, b).numpy()
    assert isinstance(actual, np.ndarray) and actual.dtype == expected.dtype and actual.shape == expected.shape
    assert_close(actual, expected, tolerance(name, np.asarray(a), np.asarray(b)) if atol is None else atol, name)


# --- similarity


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("name", MATRIX + PAIRWISE)
def test_similarity_matches_sentence_transformers(name: str, dtype: Any) -> None:
    a, b = normal(40, D, dtype=dtype), normal(40, D, dtype=dtype, seed=1)
    a[3] = b[7] = 0
    assert_same_similarity(name, a, b)
    assert_same_similarity(name, a[:9], b[:9])  # PyTorch computes distances of few rows with another formula
    assert_same_similarity(name, a[:0], b[:0])
    odd = normal(6, 7, dtype=dtype), normal(6, 7, dtype=dtype, seed=2)
    assert_same_similarity(name, *odd)
    if name != "pairwise_angle_sim":
        assert_same_similarity(name, a[0], b[0])
    if name in MATRIX:
        assert_same_similarity(name, a[0], b)
        assert_same_similarity(name, a[:5], b[:0])


def test_euclidean_sim_of_close_rows_is_more_exact() -> None:
    """The only deliberate difference: their error is up to the square root of the rounding error of a square."""
    a = normal(40, D)
    b = a + normal(40, D, seed=1) * np.float32(1e-4)
    norms = float(np.linalg.norm(a, axis=1).max())
    assert_same_similarity("euclidean_sim", a, b, atol=2 * norms * float(np.sqrt(D * np.finfo(np.float32).eps)))
    float64 = -np.linalg.norm(a.astype(np.float64) - b.astype(np.float64), axis=1)
    ours, other = np.diag(util.euclidean_sim(a, b)), np.diag(theirs.euclidean_sim(a, b).numpy())
    assert np.abs(ours - float64).max() < np.abs(other - float64).max()


@pytest.mark.parametrize("name", MATRIX + PAIRWISE)
def test_lists_and_tensors_give_the_same_similarities(name: str) -> None:
    a, b = normal(5, 8), normal(5, 8, seed=1)
    lists = getattr(util, name)(a.tolist(), b.tolist())
    assert lists.dtype == np.float32 == getattr(theirs, name)(a.tolist(), b.tolist()).numpy().dtype
    np.testing.assert_array_equal(lists, getattr(util, name)(a, b))
    for dtype in (torch.float32, torch.bfloat16):
        x, y = torch.tensor(a, dtype=dtype, requires_grad=True), torch.tensor(b, dtype=dtype)
        expected = getattr(theirs, name)(x, y).detach().numpy()
        assert_close(getattr(util, name)(x, y), expected, tolerance(name, a, b), name)
        assert_close(getattr(util, name)(list(x), list(y)), expected, tolerance(name, a, b), name)


@pytest.mark.parametrize("value", [1e30, 1e-30, 1e-13, np.inf, np.nan])
def test_cos_sim_of_extreme_norms(value: float) -> None:
    a, b = np.array([[value, 0], [value, value]], np.float32), np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(util.cos_sim(a, b), theirs.cos_sim(a, b).numpy(), rtol=1e-6)
        np.testing.assert_allclose(util.cos_sim(b, a), theirs.cos_sim(b, a).numpy(), rtol=1e-6)


def test_similarity_function_names_match() -> None:
    names = util.SimilarityFunction.possible_values()
    assert [name for name in theirs.SimilarityFunction.possible_values() if "maxsim" not in name] == names
    for name in names:
        for convert in ("to_similarity_fn", "to_similarity_pairwise_fn"):
            ours = getattr(util.SimilarityFunction, convert)(name)
            assert ours.__name__ == getattr(theirs.SimilarityFunction, convert)(name).__name__
        assert util.SimilarityFunction(name).name == theirs.SimilarityFunction(name).name


def test_normalize_and_truncate_match() -> None:
    a = normal(4, 5, D)
    a[2, 1] = 0
    for array in (a, a[0], a[0, 0], a.astype(np.float64)):
        expected = theirs.normalize_embeddings(torch.from_numpy(array)).numpy()
        actual = util.normalize_embeddings(array)
        assert actual.dtype == expected.dtype
        assert_close(actual, expected, 2 * D * float(np.finfo(array.dtype).eps), "normalize_embeddings")
        for dim in (1, 7, D, D + 1, None):
            np.testing.assert_array_equal(util.truncate_embeddings(array, dim), theirs.truncate_embeddings(array, dim))


# --- search


def assert_same_hits(actual: util.Results, expected: util.Results, atol: float) -> None:
    """Check equal ids in equal order and scores within atol; the scores of a query must be further apart than that."""
    assert len(actual) == len(expected)
    for ours, other in zip(actual, expected, strict=True):
        assert [set(hit) for hit in ours] == [set(hit) for hit in other]
        assert_close([hit["score"] for hit in ours], [hit["score"] for hit in other], atol, "scores")
        gaps = np.diff([hit["score"] for hit in ours])
        assert np.all(gaps < -2 * atol) or not len(gaps), "scores are too close to compare ids"
        assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in other]


FUNCTIONS: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
    (name, getattr(util, name), getattr(theirs, name)) for name in MATRIX
]


@pytest.mark.parametrize(("name", "ours", "other"), FUNCTIONS)
def test_search_matches(name: str, ours: Any, other: Any) -> None:
    queries, corpus = normal(7, D, dtype=np.float64), normal(500, D, dtype=np.float64, seed=1)
    atol = tolerance(name, queries, corpus)
    for options in (
        {},
        {"top_k": 1},
        {"top_k": 501},
        {"top_k": 30, "corpus_chunk_size": 20},
        {"query_chunk_size": 2, "corpus_chunk_size": 77, "top_k": 3},
    ):
        actual = util.semantic_search(queries, corpus, score_function=ours, **options)
        assert_same_hits(actual, theirs.semantic_search(queries, corpus, score_function=other, **options), atol)
    # our search calls their score function, with NumPy arrays
    actual = util.semantic_search(queries, corpus, score_function=lambda q, c: other(q, c))
    assert_same_hits(actual, theirs.semantic_search(queries, corpus, score_function=other), atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_search_in_float32_and_float16_matches(dtype: Any) -> None:
    queries, corpus = normal(5, D, dtype=dtype), normal(300, D, dtype=dtype, seed=2)
    actual, expected = util.semantic_search(queries, corpus), theirs.semantic_search(queries, corpus)
    for ours, other in zip(actual, expected, strict=True):
        assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in other]
        atol = tolerance("cos_sim", queries.astype(np.float32), corpus.astype(np.float32))
        assert_close([hit["score"] for hit in ours], [hit["score"] for hit in other], atol, "scores")


def test_search_of_empty_and_single_inputs_matches() -> None:
    queries, corpus = normal(3, 8), normal(4, 8, seed=1)
    for q, c in ((queries, corpus[:0]), (queries, np.array([])), (queries[:0], corpus), (queries[0], corpus)):
        actual, expected = util.semantic_search(q, c), theirs.semantic_search(q, c)
        assert corpus_ids(actual) == corpus_ids(expected)
    assert_same_hits(util.semantic_search(queries, corpus[0]), theirs.semantic_search(queries, corpus[0]), 1e-5)


# --- mining


@pytest.mark.parametrize(("name", "ours", "other"), FUNCTIONS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"top_k": 3, "query_chunk_size": 7, "corpus_chunk_size": 11},
        {"max_pairs": 25, "query_chunk_size": 10},
        {"top_k": 200, "max_pairs": 1},
    ],
)
def test_mining_matches(name: str, ours: Any, other: Any, options: dict[str, int]) -> None:
    rows = normal(60, 48, dtype=np.float64)
    actual = util.paraphrase_mining_embeddings(rows, score_function=ours, **options)
    expected = theirs.paraphrase_mining_embeddings(torch.from_numpy(rows), score_function=other, **options)
    assert [pair[1:] for pair in actual] == [list(pair[1:]) for pair in expected]
    assert_close([p[0] for p in actual], [p[0] for p in expected], tolerance(name, rows, rows), name)


def test_mining_of_at_most_two_rows_matches() -> None:
    rows = normal(2, 5)
    for n in (0, 1, 2):
        actual = util.paraphrase_mining_embeddings(rows[:n])
        expected = theirs.paraphrase_mining_embeddings(torch.from_numpy(rows[:n]))
        assert [pair[1:] for pair in actual] == [list(pair[1:]) for pair in expected]


# --- communities


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.6},
        {"threshold": 0.75, "min_community_size": 3, "batch_size": 64},
        {"threshold": 0.5, "min_community_size": 1, "batch_size": 5000},
        {"threshold": 0.9, "min_community_size": 2},
        {"threshold": -1.1, "min_community_size": 2},
    ],
)
def test_communities_match(options: dict[str, Any], dtype: Any) -> None:
    centers = normal(20, 24, dtype=dtype)
    label = np.random.default_rng(5).integers(0, 20, 900)
    rows = centers[label] + dtype(0.45) * normal(900, 24, dtype=dtype, seed=6)
    table = util.cos_sim(rows.astype(np.float64), rows.astype(np.float64))
    if dtype == np.float32:  # rounding would decide pairs on the threshold
        assert np.abs(table - options["threshold"]).min() > 1e-7
    actual, expected = util.community_detection(rows, **options), theirs.community_detection(rows, **options)
    assert len(expected) > 0
    # Cosines may differ in the last bit between the libraries, so the order is checked by cosine, not by id.
    assert [(c[0], sorted(c)) for c in actual] == [(c[0], sorted(c)) for c in expected]
    for ours, other in zip(actual, expected, strict=True):
        assert_close(table[ours[0], ours], table[other[0], other], tolerance("cos_sim", rows, rows), "cosines")


def test_communities_on_the_threshold_match() -> None:
    """Cosines of axes and diagonals of 4 dimensions are multiples of 1/4, exact in both libraries."""
    rows = np.array(
        [[1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, -1], [-1, -1, 1, -1]], np.float32
    )
    for threshold in (0.5, 0.5000001, 0.25, 0.0, 1.0, -0.5, 2.0):
        for min_community_size in range(1, 7):
            actual = util.community_detection(rows, threshold, min_community_size)
            expected = theirs.community_detection(rows, threshold, min_community_size)
            assert [(c[0], sorted(c)) for c in actual] == [(c[0], sorted(c)) for c in expected]


def test_threshold_is_rounded_to_float32_in_both() -> None:
    """0.6 rounded to float32 is above 0.6, so a float64 cosine of 0.6 is below the threshold."""
    rows = np.array([[1.0, 0.0], [0.6, 0.8]])
    for threshold in (0.6, 0.8, 0.7):
        other = np.array([[1.0, 0.0], [threshold, np.sqrt(1 - threshold**2)]])
        for pair in (rows, other):
            actual = util.community_detection(pair, threshold, 2)
            assert [sorted(c) for c in actual] == [sorted(c) for c in theirs.community_detection(pair, threshold, 2)]


def test_communities_of_empty_single_and_zero_inputs_match() -> None:
    rows = normal(9, 5)
    for array in (rows[:0], rows, rows[0], np.zeros((12, 3), np.float32)):
        assert util.community_detection(array) == theirs.community_detection(array) == []
    for size in (1, 9, 10):
        assert [sorted(c) for c in util.community_detection(rows, min_community_size=size)] == [
            sorted(c) for c in theirs.community_detection(rows, min_community_size=size)
        ]
    assert util.community_detection(rows[0], min_community_size=1) == [[0]]
    assert theirs.community_detection(rows[0], min_community_size=1) == [[0]]


# --- quantization


def assert_same_codes(*arguments: Any, **options: Any) -> None:
    actual, expected = (library.quantize_embeddings(*arguments, **options) for library in (util, theirs))
    assert type(actual) is type(expected)
    pairs = [(actual, expected)] if isinstance(actual, np.ndarray) else zip(actual, expected, strict=True)
    for ours, other in pairs:
        assert ours.dtype == other.dtype
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_quantization_matches(precision: str, dtype: Any) -> None:
    for d in (1, 8, 13, D):
        array = normal(120, d, dtype=dtype)
        array[:, 0] = 0.25  # a constant dimension
        array[3:9, d // 2] = [0, -0.0, 1e-7, -1e-7, 5, -5]
        assert_same_codes(array, precision)
        assert_same_codes(torch.from_numpy(array), precision)
        assert_same_codes(list(array), precision)
        assert_same_codes(array[:0], precision)
        assert_same_codes([array[:3], array[3:4], array[4:]], precision)
        ranges = np.stack([np.full(d, -1.0), np.full(d, 1.0)]).astype(dtype)
        assert_same_codes(array, precision, ranges)
        assert_same_codes(array, precision, calibration_embeddings=array[:50])
        assert_same_codes(array[0], precision, ranges)
        assert_same_codes(array[:1], precision, ranges)
    assert_same_codes([], precision)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_quantization_at_step_boundaries_matches(precision: str) -> None:
    """Exact halves, whole steps and the ends of the range: both round down."""
    ranges = np.array([[0, -255, 10], [255, 255, 10]], np.float32)
    column = np.array([0, 0.5, 1, 1.5, 127.5, 254.5, 255, 255.5, 300, -0.5, -1], np.float32)
    assert_same_codes(np.stack([column, 2 * column - 255, column], axis=1), precision, ranges)


def test_ranges_of_a_single_embedding_are_rejected_by_both() -> None:
    for module in (util, theirs):
        for array in (normal(5), normal(1, 5)):
            with pytest.raises(ValueError, match="single embedding"):
                module.quantize_embeddings(array, "int8")


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_dequantization_matches(precision: str) -> None:
    array = normal(120, 20)
    ranges = np.stack([array.min(axis=0), array.max(axis=0)])
    codes = util.quantize_embeddings(array, precision)
    expected = theirs.quantization._dequantize_embeddings(codes, precision, ranges)
    np.testing.assert_array_equal(_dequantize(codes, ranges), expected)
