"""Similarities of vectors: of all pairs of rows, of paired rows, and by name."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import wraps
from typing import Any, ParamSpec

import numpy as np

from minilm_np.util._arrays import (
    Array,
    ArrayLike,
    as_matrices,
    as_pairs,
    block_rows,
    blocks,
    cosine_rounding,
    float_type,
    settle_cosines,
    unit_vectors,
    vector_norms,
)
from minilm_np.util.results import like_arguments

P = ParamSpec("P")


def _tensors_for_tensors(similarity: Callable[P, Array]) -> Callable[P, Array]:
    """Return a similarity function whose result is a Tensor if an argument is one, and else a TensorArray."""

    @wraps(similarity)
    def function(*args: P.args, **kwargs: P.kwargs) -> Array:
        result: Array = like_arguments(similarity(*args, **kwargs), *args, *kwargs.values())
        return result

    return function


@_tensors_for_tensors
def cos_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the cosine similarities (n, m) of all rows of a (n, d) and b (m, d).

    A vector (d,) counts as one row. The cosine of equal rows is exactly 1, and with a zero vector it is 0.
    Raises TypeError or ValueError that names a or b, as do all functions of this module.

    Examples
    --------
    >>> from minilm_np import util
    >>> util.cos_sim([[1, 0], [3, 4]], [[2, 0], [0, 1], [0, 0]])
    array([[1. , 0. , 0. ],
           [0.6, 0.8, 0. ]], dtype=float32)
    """
    a, b = as_matrices("a", a, "b", b)
    out = np.empty((len(a), len(b)), float_type(a, b))
    b_norms = np.zeros(len(b), out.dtype)
    for i in blocks(len(a), 4096):
        out[i] = dot_products(unit_vectors(a[i].astype(out.dtype, copy=False)), b, b_norms)
    return out


def pytorch_cos_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Return `cos_sim(a, b)`; sentence-transformers keeps this older name of the function.

    Examples
    --------
    >>> from minilm_np import util
    >>> util.pytorch_cos_sim([1, 0], [3, 4])
    array([[0.6]], dtype=float32)
    """
    return cos_sim(a, b)


@_tensors_for_tensors
def dot_score(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the dot products (n, m) of all rows of a (n, d) and b (m, d).

    Examples
    --------
    >>> from minilm_np import util
    >>> util.dot_score([[1, 2], [3, 4]], [[1, 0], [1, 1]])
    array([[1., 3.],
           [3., 7.]], dtype=float32)
    """
    a, b = as_matrices("a", a, "b", b)
    return dot_products(a, b)


@_tensors_for_tensors
def euclidean_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the negative Euclidean distances (n, m) of all rows of a (n, d) and b (m, d).

    Examples
    --------
    >>> from minilm_np import util
    >>> util.euclidean_sim([[0, 0], [3, 4]], [[3, 4]])
    array([[-5.],
           [-0.]], dtype=float32)
    """
    a, b = as_matrices("a", a, "b", b)
    out = np.empty((len(a), len(b)), float_type(a, b))
    with np.errstate(all="ignore"):
        for i in blocks(len(a), block_rows(a)):
            x = np.asarray(a[i], np.float64)
            xx = np.einsum("nd,nd->n", x, x)
            for j in blocks(len(b), block_rows(b)):
                y = np.asarray(b[j], np.float64)
                size = xx[:, None] + np.einsum("nd,nd->n", y, y)
                squares = size - 2 * (x @ y.T)
                # Cancellation leaves few correct digits of a small distance: compute it from the difference instead.
                rows, columns = np.nonzero(squares < 1e-6 * size)
                for near in blocks(len(rows), len(x)):
                    difference = x[rows[near]] - y[columns[near]]
                    squares[rows[near], columns[near]] = np.einsum("nd,nd->n", difference, difference)
                out[i, j] = np.sqrt(squares)
    return np.negative(out, out=out)


@_tensors_for_tensors
def manhattan_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the negative Manhattan distances (n, m) of all rows of a (n, d) and b (m, d).

    Examples
    --------
    >>> from minilm_np import util
    >>> util.manhattan_sim([[0, 0], [1, 1]], [[3, 4]])
    array([[-7.],
           [-5.]], dtype=float32)
    """
    a, b = as_matrices("a", a, "b", b)
    out = np.empty((len(a), len(b)), float_type(a, b))
    with np.errstate(all="ignore"):
        for j in blocks(len(b), block_rows(b)):
            y = np.asarray(b[j], out.dtype)
            difference = np.empty_like(y)
            for i in range(len(a)):
                np.subtract(y, a[i].astype(out.dtype), out=difference)
                np.abs(difference, out=difference)
                difference.sum(axis=1, out=out[i, j])
    return np.negative(out, out=out)


@_tensors_for_tensors
def pairwise_cos_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the cosine similarities (n,) of a[i] and b[i], for a and b of shape (n, d).

    Examples
    --------
    >>> from minilm_np import util
    >>> util.pairwise_cos_sim([[1, 0], [0, 2]], [[3, 4], [0, 1]])
    array([0.6, 1. ], dtype=float32)
    """
    a, b = as_pairs("a", a, "b", b)
    a, b = unit_vectors(a), unit_vectors(b)
    cosines = pairwise_dot_score(a, b)
    with np.errstate(all="ignore"):
        equal = (a == b).all(-1) & (cosines >= 1 - cosine_rounding(a.shape[-1], cosines.dtype))
        return np.where(equal, cosines.dtype.type(1), np.clip(cosines, -1, 1))


@_tensors_for_tensors
def pairwise_dot_score(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the dot products (n,) of a[i] and b[i], for a and b of shape (n, d).

    Examples
    --------
    >>> from minilm_np import util
    >>> util.pairwise_dot_score([[1, 2], [3, 4]], [[1, 1], [2, 0]])
    array([3., 6.], dtype=float32)
    """
    a, b = as_pairs("a", a, "b", b)
    with np.errstate(all="ignore"):
        return np.asarray(np.einsum("...d,...d->...", a, b))


@_tensors_for_tensors
def pairwise_euclidean_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the negative Euclidean distances (n,) of a[i] and b[i], for a and b of shape (n, d).

    Examples
    --------
    >>> from minilm_np import util
    >>> util.pairwise_euclidean_sim([[0, 0], [1, 1]], [[3, 4], [1, 3]])
    array([-5., -2.], dtype=float32)
    """
    a, b = as_pairs("a", a, "b", b)
    with np.errstate(all="ignore"):
        return np.asarray(-np.sqrt(np.square(a - b).sum(axis=-1)))


@_tensors_for_tensors
def pairwise_manhattan_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the negative Manhattan distances (n,) of a[i] and b[i], for a and b of shape (n, d).

    Examples
    --------
    >>> from minilm_np import util
    >>> util.pairwise_manhattan_sim([[0, 0], [1, 1]], [[3, 4], [1, 3]])
    array([-7., -2.], dtype=float32)
    """
    a, b = as_pairs("a", a, "b", b)
    with np.errstate(all="ignore"):
        return np.asarray(-np.abs(a - b).sum(axis=-1))


@_tensors_for_tensors
def pairwise_angle_sim(x: ArrayLike, y: ArrayLike) -> Array:
    """Return |cosine + sine| (n,) of x[i] and y[i], for x and y of shape (n, d), as in AnglE (arXiv:2309.12871).

    Dimensions i and i + d/2 are the real and the imaginary part of a complex number; an odd d is padded with a zero.

    Examples
    --------
    >>> from minilm_np import util
    >>> util.pairwise_angle_sim([[1, 0], [1, 0]], [[2, 0], [1, 1]])
    array([1., 0.], dtype=float32)
    """
    x, y = as_pairs("x", x, "y", y)
    half = (x.shape[-1] + 1) // 2
    x, y = unit_vectors(x), unit_vectors(y)
    paired = 2 * half - x.shape[-1]
    with np.errstate(all="ignore"):
        cosine = np.einsum("...d,...d->...", x, y)
        sine = np.einsum("...d,...d->...", x[..., half:], y[..., : half - paired])
        sine = sine - np.einsum("...d,...d->...", x[..., : half - paired], y[..., half:])
        return np.asarray(np.abs(cosine + sine))


class SimilarityFunction(Enum):
    """Names of the similarity functions; DOT is an alias of DOT_PRODUCT.

    Examples
    --------
    >>> from minilm_np import util
    >>> util.SimilarityFunction("dot")
    <SimilarityFunction.DOT_PRODUCT: 'dot'>
    >>> util.SimilarityFunction.to_similarity_fn("cosine") is util.cos_sim
    True
    """

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        names = ", ".join(map(repr, cls.possible_values()))
        raise ValueError(f"similarity_function: expected one of {names}, got {value!r}")

    @staticmethod
    def to_similarity_fn(similarity_function: str | SimilarityFunction) -> Callable[[ArrayLike, ArrayLike], Array]:
        """Return the function of all pairs of rows, (n, d), (m, d) -> (n, m). Raises ValueError on an unknown name."""
        return {
            SimilarityFunction.COSINE: cos_sim,
            SimilarityFunction.DOT_PRODUCT: dot_score,
            SimilarityFunction.EUCLIDEAN: euclidean_sim,
            SimilarityFunction.MANHATTAN: manhattan_sim,
        }[SimilarityFunction(similarity_function)]

    @staticmethod
    def to_similarity_pairwise_fn(
        similarity_function: str | SimilarityFunction,
    ) -> Callable[[ArrayLike, ArrayLike], Array]:
        """Return the function of paired rows, (n, d), (n, d) -> (n,). Raises ValueError on an unknown name."""
        return {
            SimilarityFunction.COSINE: pairwise_cos_sim,
            SimilarityFunction.DOT_PRODUCT: pairwise_dot_score,
            SimilarityFunction.EUCLIDEAN: pairwise_euclidean_sim,
            SimilarityFunction.MANHATTAN: pairwise_manhattan_sim,
        }[SimilarityFunction(similarity_function)]

    @staticmethod
    def possible_values() -> list[str]:
        """Return the names: ["cosine", "dot", "euclidean", "manhattan"]."""
        return [function.value for function in SimilarityFunction]


def dot_products(a: Array, b: Array, b_norms: Array | None = None) -> Array:
    """Return the dot products (n, m) of the rows of a and b; if b_norms (m,) is given, the cosines, for unit vectors a.

    Norms that are 0 have not been computed yet; they are filled in here, one block of b at a time.
    """
    out = np.empty((len(a), len(b)), float_type(a, b))
    with np.errstate(all="ignore"):
        for i in blocks(len(a), 4096):
            x = np.asarray(a[i], out.dtype)
            for j in blocks(len(b), block_rows(b) * (1 if len(x) < 16 else 16)):  # BLAS is faster on large matrices
                y = np.asarray(b[j], out.dtype)
                np.matmul(x, y.T, out=out[i, j])
                if b_norms is not None:
                    if not b_norms[j.start]:
                        b_norms[j] = vector_norms(y)
                    settle_cosines(out[i, j], x, y, b_norms[j])
    return out
