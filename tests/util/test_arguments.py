"""Inputs that util accepts, and the errors for those that it rejects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.embeddings import corpus_ids

from minilm_np import util

Array = npt.NDArray[Any]


class Tensor:
    """The part of a PyTorch tensor's interface that util uses; numpy() checks that the required calls came first."""

    def __init__(self, array: Array, dtype: str = "torch.float32", is_sparse: bool = False, calls: str = ""):
        self.array, self.dtype, self.is_sparse, self.calls = array, dtype, is_sparse, calls
        self.shape, self.ndim = array.shape, array.ndim

    def _after(self, call: str) -> Tensor:
        dtype = "torch.float32" if call == "float" else self.dtype
        return Tensor(self.array, dtype, self.is_sparse and call != "to_dense", f"{self.calls} {call}")

    def detach(self) -> Tensor:
        return self._after("detach")

    def to_dense(self) -> Tensor:
        return self._after("to_dense")

    def float(self) -> Tensor:
        return self._after("float")

    def cpu(self) -> Tensor:
        return self._after("cpu")

    def numpy(self) -> Array:
        assert "detach" in self.calls and "cpu" in self.calls and not self.is_sparse
        assert self.dtype != "torch.bfloat16"
        return self.array

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise AssertionError("a tensor that requires grad cannot be read without detach()")


def test_accepts_lists_and_tensors() -> None:
    rows = [[1.0, 2.0], [3.0, 4.0]]
    assert util.dot_score(rows, rows).dtype == np.float32
    assert util.dot_score(rows, rows).tolist() == [[5, 11], [11, 25]]
    array = np.array(rows)
    assert util.dot_score(list(array), list(array)).dtype == np.float64
    for tensor in (
        Tensor(array),
        [Tensor(array[0]), Tensor(array[1])],
        Tensor(array, is_sparse=True),
        Tensor(array, "torch.bfloat16"),
    ):
        assert util.dot_score(tensor, rows).tolist() == [[5, 11], [11, 25]]
        assert corpus_ids(util.semantic_search(tensor, tensor, top_k=1)) == [[0], [1]]
    assert util.quantize_embeddings(Tensor(array), "ubinary").tolist() == [[192], [192]]


A, B = np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)
CODES = np.zeros((2, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "name", "value"),
    [
        (lambda: util.truncate_embeddings(A, 0), "truncate_dim", 0),
        (lambda: util.truncate_embeddings(A, -1), "truncate_dim", -1),
        (lambda: util.semantic_search(A, A, top_k=0), "top_k", 0),
        (lambda: util.semantic_search(A, A, top_k=True), "top_k", True),
        (lambda: util.semantic_search(A, A, top_k=2.0), "top_k", 2.0),  # type: ignore[arg-type]
        (lambda: util.semantic_search(A, A, 0), "query_chunk_size", 0),
        (lambda: util.semantic_search(A, A, 1, 0), "corpus_chunk_size", 0),
        (lambda: util.paraphrase_mining_embeddings(A, max_pairs=0), "max_pairs", 0),
        (lambda: util.paraphrase_mining_embeddings(A, top_k=0), "top_k", 0),
        (lambda: util.paraphrase_mining_embeddings(A, 0), "query_chunk_size", 0),
        (lambda: util.paraphrase_mining_embeddings(A, 1, -1), "corpus_chunk_size", -1),
        (lambda: util.community_detection(A, 0.5, 0), "min_community_size", 0),
        (lambda: util.community_detection(A, 0.5, 1, 0), "batch_size", 0),
        (lambda: util.semantic_search_quantized(A, CODES, top_k=0), "top_k", 0),
        (lambda: util.semantic_search_quantized(A, CODES, rescore_multiplier=0), "rescore_multiplier", 0),
    ],
)
def test_rejects_sizes_that_are_not_positive_integers(call: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected a positive integer, got {value!r}$"):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: util.cos_sim(A, B), ValueError, "b: expected 3 dimensions to match a, got 4"),
        (lambda: util.dot_score(A[None], A), ValueError, r"a: expected shape \(n, d\), got \(1, 2, 3\)"),
        (
            lambda: util.cos_sim(1.5, A),
            ValueError,
            "a: expected an array of at least one dimension, got a single number",
        ),
        (lambda: util.cos_sim(None, A), TypeError, "a: expected an array of real numbers, got NoneType"),
        (lambda: util.cos_sim("text", A), TypeError, "a: expected an array of real numbers, got str"),
        (lambda: util.cos_sim(A, ["x"]), TypeError, "b: expected an array of real numbers, got list of <U1"),
        (
            lambda: util.cos_sim(A.astype(complex), A),
            TypeError,
            "a: expected an array of real numbers, got ndarray of complex128",
        ),
        (
            lambda: util.cos_sim([[1.0], [1.0, 2.0]], A),
            ValueError,
            "a: expected rows of equal length, got rows of different lengths",
        ),
        (lambda: util.pairwise_dot_score(A, B), ValueError, r"b: expected shape \(2, 3\) to match a, got \(2, 4\)"),
        (
            lambda: util.pairwise_cos_sim(A, A[[0, 0, 0]]),
            ValueError,
            r"b: expected shape \(2, 3\) to match a, got \(3, 3\)",
        ),
        (
            lambda: util.pairwise_manhattan_sim(A, A[:, :1]),
            ValueError,
            r"b: expected shape \(2, 3\) to match a, got \(2, 1\)",
        ),
        (lambda: util.pairwise_angle_sim(A, B), ValueError, r"y: expected shape \(2, 3\) to match x, got \(2, 4\)"),
        (
            lambda: util.semantic_search(A, B),
            ValueError,
            "corpus_embeddings: expected 3 dimensions to match query_embeddings, got 4",
        ),
        (
            lambda: util.semantic_search(A, A, score_function="dot"),  # type: ignore[arg-type]
            TypeError,
            "score_function: expected a function of two arrays, got 'dot'",
        ),
        (
            lambda: util.semantic_search(A, A, score_function=lambda q, c: c),
            ValueError,
            r"score_function: expected a result of shape \(2, 2\), got \(2, 3\)",
        ),
        (lambda: util.community_detection(A, "0.7"), ValueError, "threshold: expected a number, got '0.7'"),  # type: ignore[arg-type]
        (lambda: util.community_detection(A, math.nan), ValueError, "threshold: expected a number, got nan"),
        (lambda: util.community_detection(A, True), ValueError, "threshold: expected a number, got True"),
        (
            lambda: util.community_detection(A[None]),
            ValueError,
            r"embeddings: expected shape \(n, d\), got \(1, 2, 3\)",
        ),
        (
            lambda: util.quantize_embeddings(A, "int4"),
            ValueError,
            "precision: expected one of float32, int8, .*, got 'int4'",
        ),
        (
            lambda: util.quantize_embeddings(A, "xint8"),
            ValueError,
            "precision: expected one of float32, int8, .*, got 'xint8'",
        ),
        (
            lambda: util.quantize_embeddings(CODES, "binary"),
            TypeError,
            "embeddings: expected floats that are not quantized yet, got uint8",
        ),
        (
            lambda: util.quantize_embeddings(A[0], "int8"),
            ValueError,
            "ranges: expected .*, got None: a single embedding",
        ),
        (lambda: util.quantize_embeddings(A[:1], "int8"), ValueError, "a single embedding has no int8 ranges"),
        (lambda: util.quantize_embeddings(A, "int8", B), ValueError, r"ranges: expected shape \(2, 3\), got \(2, 4\)"),
        (
            lambda: util.quantize_embeddings(A, "int8", A + np.inf),
            ValueError,
            "ranges: expected finite ranges, got NaN or infinity",
        ),
        (
            lambda: util.quantize_embeddings(A, "int8", None, B),
            ValueError,
            r"calibration_embeddings: expected shape \(m, 3\), m > 0, got \(2, 4\)",
        ),
        (lambda: util.quantize_embeddings(A + np.nan, "int8", A), ValueError, "embeddings: expected numbers, got NaN"),
        (
            lambda: util.semantic_search_quantized(A, CODES, "int4"),
            ValueError,
            "corpus_precision: expected one of float32, .*, got 'int4'",
        ),
        (
            lambda: util.semantic_search_quantized(A, CODES, "binary"),
            TypeError,
            "corpus_embeddings: expected int8 for 'binary', got uint8",
        ),
        (
            lambda: util.semantic_search_quantized(CODES.view(np.int8), CODES),
            TypeError,
            "query_embeddings: expected floats or uint8 like the corpus, got int8",
        ),
        (
            lambda: util.semantic_search_quantized(A, np.zeros((2, 3), np.int8), "int8"),
            ValueError,
            "ranges: expected those that the int8 corpus was quantized with, .*, got None",
        ),
        (
            lambda: util.semantic_search_quantized(np.zeros((1, 9)), CODES),
            ValueError,
            "corpus_embeddings: expected 2 dimensions to match quantized query_embeddings, got 1",
        ),
    ],
)
def test_errors_name_the_argument(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
