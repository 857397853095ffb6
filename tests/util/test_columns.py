"""A data frame's column of vectors, as pandas, polars and pyarrow hold it, is a matrix in every function of util."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from minilm_np import util

Array = npt.NDArray[Any]
ROWS: Array = np.array([[1, 0, 0], [0, 1, 0], [3, 4, 0], [1, 0, 0]], np.float32)


def object_array(rows: list[Any]) -> Array:
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def pandas_series(rows: list[Any]) -> Any:
    return pytest.importorskip("pandas").Series(rows, index=range(7, 7 + len(rows)))


def polars_series(rows: list[Any]) -> Any:
    return pytest.importorskip("polars").Series([[float(x) for x in row] for row in rows])


def polars_array(rows: list[Any]) -> Any:
    polars = pytest.importorskip("polars")
    return polars.Series([list(map(float, row)) for row in rows], dtype=polars.Array(polars.Float32, 3))


def arrow_lists(rows: list[Any]) -> Any:
    return pytest.importorskip("pyarrow").array([list(map(float, row)) for row in rows])


def arrow_chunks(rows: list[Any]) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    parts = [[list(map(float, row)) for row in part] for part in (rows[:1], rows[1:])]
    return pyarrow.chunked_array(parts)


def arrow_fixed_size(rows: list[Any]) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.array([list(map(float, row)) for row in rows], pyarrow.list_(pyarrow.float32(), 3))


COLUMNS = [object_array, pandas_series, polars_series, polars_array, arrow_lists, arrow_chunks, arrow_fixed_size]
OF_DOUBLES = (polars_series, arrow_lists, arrow_chunks)
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "cos_sim": lambda x: util.cos_sim(x, x),
    "dot_score": lambda x: util.dot_score(x, x),
    "euclidean_sim": lambda x: util.euclidean_sim(x, x),
    "manhattan_sim": lambda x: util.manhattan_sim(x, x),
    "pairwise_cos_sim": lambda x: util.pairwise_cos_sim(x, x),
    "pairwise_angle_sim": lambda x: util.pairwise_angle_sim(x, x),
    "normalize_embeddings": util.normalize_embeddings,
    "truncate_embeddings": lambda x: util.truncate_embeddings(x, 2),
    "quantize_embeddings": lambda x: util.quantize_embeddings(x, "ubinary"),
}
EXACT: dict[str, Callable[[Any], Any]] = {
    "semantic_search": lambda x: util.semantic_search(x, x, top_k=2),
    "paraphrase_mining_embeddings": util.paraphrase_mining_embeddings,
    "community_detection": lambda x: util.community_detection(x, min_community_size=1),
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("of", ["lists", "arrays"])
def test_every_function_takes_a_column_of_vectors(column: Callable[[list[Any]], Any], of: str) -> None:
    values = column(ROWS.tolist() if of == "lists" else list(ROWS))
    for name, function in FUNCTIONS.items():
        np.testing.assert_allclose(function(values), function(ROWS), rtol=1e-6, err_msg=name)
    rows = ROWS.astype(np.float64) if column in OF_DOUBLES else ROWS
    for function in EXACT.values():
        assert repr(function(values)) == repr(function(rows))


@pytest.mark.parametrize("column", [object_array, pandas_series])
def test_names_a_missing_vector(column: Callable[[list[Any]], Any]) -> None:
    with pytest.raises(TypeError, match=r"a\[1\]: expected an array of real numbers, got a missing value \(None\)"):
        util.cos_sim(column([ROWS[0], None, ROWS[1]]), ROWS)


@pytest.mark.parametrize("column", [object_array, pandas_series])
def test_rejects_vectors_of_different_lengths_and_texts(column: Callable[[list[Any]], Any]) -> None:
    with pytest.raises(ValueError, match="embeddings: expected rows of equal length"):
        util.normalize_embeddings(column([ROWS[0], ROWS[1][:2]]))
    with pytest.raises(TypeError, match="embeddings: expected an array of real numbers"):
        util.normalize_embeddings(column(["a", "b"]))
