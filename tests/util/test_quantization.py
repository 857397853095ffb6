"""quantize_embeddings against its definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.embeddings import normal

from minilm_np import util

Array = npt.NDArray[Any]


@given(hnp.arrays(np.float32, (6, 11), elements=st.floats(-3, 3, width=32)))
def test_quantization_matches_its_definition(array: Array) -> None:
    low, high = array.min(axis=0), array.max(axis=0)
    for precision, offset in (("uint8", 0), ("int8", 128)):
        actual = util.quantize_embeddings(array, precision)
        assert actual.dtype == precision and actual.shape == array.shape
        for (i, j), code in np.ndenumerate(actual):
            step = (high[j] - low[j]) / np.float32(255) or np.float32(1)
            assert int(code) + offset == min(255, max(0, math.floor((array[i, j] - low[j]) / step)))
    for precision, offset in (("ubinary", 0), ("binary", 128)):
        actual = util.quantize_embeddings(array, precision)
        assert actual.dtype == ("uint8" if precision == "ubinary" else "int8") and actual.shape == (6, 2)
        for row, codes in zip(array, actual, strict=True):
            bits = "".join("1" if value > 0 else "0" for value in row).ljust(16, "0")
            assert [int(code) + offset for code in codes] == [int(bits[:8], 2), int(bits[8:], 2)]


def test_quantization_does_not_depend_on_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    array = normal(100, 20)
    expected = {precision: util.quantize_embeddings(array, precision) for precision in util.PRECISIONS}
    monkeypatch.setattr("minilm_np.util._arrays.BLOCK_BYTES", 1)
    for precision, codes in expected.items():
        np.testing.assert_array_equal(util.quantize_embeddings(array, precision), codes)


def test_quantization_with_given_ranges_or_calibration_embeddings() -> None:
    ranges = np.array([[0, 0, 5], [255, 510, 5]])
    array = np.array([[-1.0, 3, 5], [1.5, 1000, 4], [254.999, 2, 7]])
    assert util.quantize_embeddings(array, "uint8", ranges).tolist() == [[0, 1, 0], [1, 255, 0], [254, 1, 2]]
    assert util.quantize_embeddings(array, "int8", ranges.tolist()).tolist() == [
        [-128, -127, -128],
        [-127, 127, -128],
        [126, -127, -126],
    ]
    single = util.quantize_embeddings(array[0], "uint8", ranges)
    assert single.tolist() == [0, 1, 0]
    by_calibration = util.quantize_embeddings(array[:1], "uint8", calibration_embeddings=ranges)
    assert by_calibration.tolist() == [[0, 1, 0]]
    assert util.quantize_embeddings(array, "uint8", ranges, array).tolist()[0] == [0, 1, 0]  # ranges take precedence


def test_warns_about_ranges_of_fewer_than_100_embeddings(caplog: pytest.LogCaptureFixture) -> None:
    util.quantize_embeddings(normal(100, 3), "int8")
    assert not caplog.records
    util.quantize_embeddings(normal(99, 3), "int8")
    assert "ranges are computed from only 99 embeddings" in caplog.text


def test_quantization_of_empty_single_and_float32_inputs() -> None:
    assert util.quantize_embeddings([], "int8") == []
    for precision, shape, dtype in (
        ("int8", (0, 12), "int8"),
        ("uint8", (0, 12), "uint8"),
        ("binary", (0, 2), "int8"),
        ("ubinary", (0, 2), "uint8"),
        ("float32", (0, 12), "float32"),
    ):
        actual = util.quantize_embeddings(np.empty((0, 12)), precision)
        assert actual.shape == shape and actual.dtype == dtype
    assert util.quantize_embeddings(normal(12), "ubinary").shape == (2,)
    array = normal(3, 4)
    assert not np.shares_memory(util.quantize_embeddings(array, "float32"), array)
    assert util.quantize_embeddings([[1.0, -1.0], [0.0, 2.0]], "ubinary").tolist() == [[128], [64]]


def test_list_of_matrices_shares_its_ranges() -> None:
    matrix = normal(9, 5)
    parts = [matrix[:2], matrix[2:2], matrix[2:3], matrix[3:]]
    for precision in util.PRECISIONS:
        actual = util.quantize_embeddings(parts, precision)
        assert [len(part) for part in actual] == [2, 0, 1, 6]
        np.testing.assert_array_equal(np.concatenate(actual), util.quantize_embeddings(matrix, precision))
