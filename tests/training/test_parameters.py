"""The flat vector of parameters, and threads that share work in a fixed way."""

from __future__ import annotations

import numpy as np
import pytest

from minilm_np import SentenceTransformer
from minilm_np.training.parameters import copy_of, empty_like
from minilm_np.training.workers import Workers


def test_query_key_and_value_are_one_part_of_the_vector(float64_model: SentenceTransformer) -> None:
    params = copy_of(float64_model.weights)
    assert set(params.views) == set(float64_model.weights)
    assert params.flat.size == sum(value.size for value in float64_model.weights.values())
    H = float64_model.config.hidden_size
    module = "encoder.layer.1.attention.self"
    for kind, size in (("weight", H * H), ("bias", H)):
        parts = [params.views[f"{module}.{part}.{kind}"] for part in ("query", "key", "value")]
        start = (parts[0].ctypes.data - params.flat.ctypes.data) // params.flat.itemsize
        stacked = params.flat[start : start + 3 * size]
        np.testing.assert_array_equal(stacked, np.concatenate([part.ravel() for part in parts]))
        assert all(np.shares_memory(part, stacked) for part in parts)


def test_a_change_of_the_vector_is_a_change_of_the_views() -> None:
    params = empty_like({"a": np.ones((2, 3), np.float32), "b": np.ones(2, np.float32)})
    params.flat[6:] = 7
    assert params.views["b"].tolist() == [7, 7]
    assert not params.views["a"].any()


def test_parameters_of_two_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="params: expected one dtype, got float32, float64"):
        empty_like({"a": np.ones(1, np.float32), "b": np.ones(1)})


def test_items_go_to_workers_in_a_fixed_way_and_errors_are_raised() -> None:
    with Workers(2) as workers:
        got: list[list[int]] = [[] for _ in range(workers.count)]
        workers.each(lambda worker, item: got[worker].append(item), range(7))
        assert got[0] == list(range(0, 7, workers.count))
        with pytest.raises(ZeroDivisionError):
            workers.each(lambda _, item: 1 / (item - 1), range(4))
