"""Similarities against their definitions in float64; normalized and truncated vectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.embeddings import SIMILARITIES, assert_within_rounding, float64_similarities, normal

from minilm_np import util


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity_matches_its_definition(name: str, dtype: Any) -> None:
    a, b = normal(7, 37, dtype=dtype), normal(11, 37, dtype=dtype, seed=1)
    a[2] = b[3]  # equal rows, and nearly equal ones
    b[4] = a[5] + dtype(1e-5)
    a[1] = b[0] = 0
    size = {"cosine": 1.0, "dot": 100.0, "euclidean": 15.0, "manhattan": 80.0}[name]
    actual = util.SimilarityFunction.to_similarity_fn(name)(a, b)
    assert actual.dtype == dtype
    assert_within_rounding(actual, float64_similarities(name, a, b), size, 37)
    pairwise = util.SimilarityFunction.to_similarity_pairwise_fn(name)(a, b[:7])
    assert pairwise.dtype == dtype
    assert_within_rounding(pairwise, np.diag(float64_similarities(name, a, b[:7])), size, 37)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity_does_not_depend_on_block_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(45, 20), normal(70, 20, seed=1)
    expected = util.SimilarityFunction.to_similarity_fn(name)(a, b)
    monkeypatch.setattr("minilm_np.util._arrays.BLOCK_BYTES", 1)
    assert_within_rounding(util.SimilarityFunction.to_similarity_fn(name)(a, b), expected, 60.0, 20)


def test_euclidean_sim_of_close_rows_avoids_cancellation() -> None:
    a = normal(50, 384) + 3
    b = a + normal(50, 384, seed=1) * np.float32(1e-4)
    expected = -np.sqrt(((a.astype(np.float64) - b.astype(np.float64)) ** 2).sum(axis=1))
    assert np.abs(np.diag(util.euclidean_sim(a, b)) / expected - 1).max() < 1e-6
    assert not np.diag(util.euclidean_sim(a, a)).any()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_single_vector_counts_as_one_row(name: str) -> None:
    a, b = normal(5), normal(5, seed=1)
    expected = SIMILARITIES[name](a.astype(np.float64), b.astype(np.float64))
    assert_within_rounding(util.SimilarityFunction.to_similarity_fn(name)(a, b), [[expected]], 10.0, 5)
    actual = util.SimilarityFunction.to_similarity_pairwise_fn(name)(a, b)
    assert isinstance(actual, np.ndarray) and actual.shape == ()
    assert_within_rounding(actual, expected, 10.0, 5)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity_without_rows_is_empty(name: str) -> None:
    similarity = util.SimilarityFunction.to_similarity_fn(name)
    empty = np.array([])  # as returned by encode([])
    assert similarity(empty, normal(3, 4)).shape == (0, 3)
    assert similarity(normal(3, 4), empty).shape == (3, 0)
    assert similarity(empty, empty).shape == (0, 0)
    assert similarity(np.empty((0, 4), np.float32), normal(3, 4)).shape == (0, 3)


@pytest.mark.parametrize("d", [1, 2, 7, 8])
def test_pairwise_angle_sim_matches_its_definition(d: int) -> None:
    x, y = normal(6, d), normal(6, d, seed=1)
    x[3] = 0
    expected = []
    for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
        a, b = (np.append(v, [0] * (d % 2)) / (math.sqrt(v @ v) or 1) for v in (a, b))
        real, half = a @ b, len(a) // 2
        expected.append(abs(real + a[half:] @ b[:half] - a[:half] @ b[half:]))
    assert_within_rounding(util.pairwise_angle_sim(x, y), expected, 2.0, d)
    assert_within_rounding(util.pairwise_angle_sim(x[0], y[0]), expected[0], 2.0, d)


def test_pairwise_similarity_pairs_a_single_row_with_every_row() -> None:
    a, b = normal(4, 6), normal(6, seed=1)
    assert_within_rounding(util.pairwise_dot_score(a, b), a.astype(np.float64) @ b, 10.0, 6)


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int64", "bool"])
def test_narrow_types_are_computed_in_float32(dtype: str) -> None:
    a = np.asarray(normal(5, 6) * 3).astype(dtype)
    actual = util.cos_sim(a, a)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, util.cos_sim(a.astype(np.float32), a.astype(np.float32)))
    assert util.normalize_embeddings(a).dtype == util.pairwise_euclidean_sim(a, a).dtype == np.float32
    assert util.manhattan_sim(a, a)[0, 0] == 0  # uint8 would wrap around


def test_mixed_float_types_use_the_wider_type() -> None:
    assert util.dot_score(normal(2, 3), normal(2, 3, dtype=np.float64)).dtype == np.float64


def test_cos_sim_of_overflowing_and_tiny_norms() -> None:
    a = np.array([[1e30, 0], [1e-30, 0], [np.inf, 0]], np.float32)
    actual = util.cos_sim(a, np.array([[1, 0]], np.float32))[:, 0]
    assert actual[0] == 0  # the norm is infinite
    assert actual[1] == np.float32(1e-30) / np.float32(1e-12)
    assert np.isnan(actual[2])


def test_similarity_functions_are_found_by_name() -> None:
    assert util.SimilarityFunction.possible_values() == ["cosine", "dot", "euclidean", "manhattan"]
    assert util.SimilarityFunction("dot") is util.SimilarityFunction["DOT"] is util.SimilarityFunction["DOT_PRODUCT"]
    assert util.SimilarityFunction.to_similarity_fn(util.SimilarityFunction.COSINE) is util.cos_sim
    for convert in (
        util.SimilarityFunction.to_similarity_fn,
        util.SimilarityFunction.to_similarity_pairwise_fn,
        util.SimilarityFunction,
    ):
        with pytest.raises(ValueError, match=r"similarity_function: expected one of 'cosine', 'dot', .*, got 'maxsim'"):
            convert("maxsim")


def test_pytorch_cos_sim_equals_cos_sim() -> None:
    a = normal(3, 4)
    np.testing.assert_array_equal(util.pytorch_cos_sim(a, a), util.cos_sim(a, a))


def test_normalize_embeddings_returns_a_copy_of_unit_length() -> None:
    a = normal(2, 3, 5)
    a[1, 2] = 0
    before = a.copy()
    actual = util.normalize_embeddings(a)
    assert_within_rounding(np.linalg.norm(actual, axis=-1), [[1, 1, 1], [1, 1, 0]], 1.0, 5)
    np.testing.assert_array_equal(a, before)
    assert util.normalize_embeddings(normal(5, dtype=np.float64)).dtype == np.float64


def test_truncate_embeddings_returns_a_view() -> None:
    a = normal(3, 5)
    assert np.shares_memory(util.truncate_embeddings(a, 2), a)
    np.testing.assert_array_equal(util.truncate_embeddings(a, 2), a[:, :2])
    assert util.truncate_embeddings(a, None).shape == util.truncate_embeddings(a, 9).shape == (3, 5)
    assert util.truncate_embeddings(a[0], 2).shape == (2,)
