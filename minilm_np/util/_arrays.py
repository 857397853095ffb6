"""Shared by the modules of util: argument checks, iteration in blocks, vector norms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ArrayLike = Any  # an array, a (nested) list of numbers, a list of arrays, a tensor

MIN_NORM = 1e-12  # smaller norms are replaced by this, so a zero vector has cosine 0 with every vector
BLOCK_BYTES = 3 << 19  # a block of the corpus stays in the L2 cache between its norms and its dot products
MAX_SCORES = 1 << 26  # scores in memory at any time: 256 MB of float32


def as_array(name: str, value: ArrayLike) -> Array:
    """Return value as an array of real numbers (..., d); an array is not copied.

    Lists of Python numbers become float32, as in PyTorch.
    Raises TypeError or ValueError that names the argument.
    """
    array: Array
    if not isinstance(value, list | tuple):
        array = np.asarray(_from_tensor(value))
        if array.dtype == object and array.ndim == 1:  # a data frame's column of vectors
            value = list(array)
    if isinstance(value, list | tuple):
        array = _stack(name, value)
    if array.dtype.kind not in "biuf":
        kind = type(value).__name__ if array.ndim == 0 else f"{type(value).__name__} of {array.dtype}"
        raise TypeError(f"{name}: expected an array of real numbers, got {kind}")
    if array.ndim == 0:
        raise ValueError(f"{name}: expected an array of at least one dimension, got a single number")
    return array


def _stack(name: str, values: list[Any] | tuple[Any, ...]) -> Array:
    """Return numbers, or vectors that are arrays, lists or tensors, as one array."""
    for i, item in enumerate(values):
        if item is None or type(item).__name__ == "NAType":
            raise TypeError(f"{name}[{i}]: expected an array of real numbers, got a missing value ({item})")
    leaf: Any = values
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    try:
        array = np.asarray([_from_tensor(item) for item in values])
    except ValueError:
        raise ValueError(f"{name}: expected rows of equal length, got rows of different lengths") from None
    return array.astype(np.float32) if array.dtype.kind in "biuf" and not hasattr(leaf, "dtype") else array


def _from_tensor(value: Any) -> Any:
    """Return a PyTorch tensor as a NumPy array, and any other value unchanged."""
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach()
    if getattr(tensor, "is_sparse", False):
        tensor = tensor.to_dense()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no bfloat16
        tensor = tensor.float()
    return tensor.cpu().numpy()


def as_rows(name: str, value: ArrayLike) -> Array:
    """Return value as a matrix (n, d): a vector becomes one row, an empty vector becomes no rows."""
    array = as_array(name, value)
    if array.ndim == 1:
        return array[None] if len(array) else array.reshape(0, 0)
    if array.ndim != 2:
        raise ValueError(f"{name}: expected shape (n, d), got {array.shape}")
    return array


def as_matrices(name_a: str, a: ArrayLike, name_b: str, b: ArrayLike) -> tuple[Array, Array]:
    """Return a (n, d) and b (m, d) as matrices of equal width; a matrix without rows fits any width."""
    a, b = as_rows(name_a, a), as_rows(name_b, b)
    if a.shape == (0, 0):
        a = a.reshape(0, b.shape[1])
    if b.shape == (0, 0):
        b = b.reshape(0, a.shape[1])
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{name_b}: expected {a.shape[1]} dimensions to match {name_a}, got {b.shape[1]}")
    return a, b


def as_pairs(name_a: str, a: ArrayLike, name_b: str, b: ArrayLike) -> tuple[Array, Array]:
    """Return a and b (..., d) in their common float type, checked to be paired row by row.

    A single row is paired with every row of the other argument.
    """
    a, b = as_array(name_a, a), as_array(name_b, b)
    try:
        np.broadcast_shapes(a.shape, b.shape)
        fits = a.shape[-1] == b.shape[-1]
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name_b}: expected shape {a.shape} to match {name_a}, got {b.shape}")
    dtype = float_type(a, b)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless value is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")


def float_type(*arrays: Array) -> np.dtype[Any]:
    """Return the dtype to compute in: float64 if any array is float64 or wider, else float32."""
    wide = any(array.dtype.kind == "f" and array.itemsize >= 8 for array in arrays)
    return np.dtype(np.float64 if wide else np.float32)


def blocks(n: int, size: int, start: int = 0) -> Iterator[slice]:
    """Yield slices of at most `size` that cover range(start, n)."""
    return (slice(s, min(s + size, n)) for s in range(start, n, size))


def block_rows(array: Array) -> int:
    """Return the number of rows of array (n, d) that fit into BLOCK_BYTES, at least 16."""
    return max(16, BLOCK_BYTES // max(1, int(array.shape[-1]) * max(4, array.itemsize)))


def vector_norms(array: Array) -> Array:
    """Return the Euclidean norms (...) of vectors (..., d), at least MIN_NORM each."""
    return np.asarray(np.maximum(np.sqrt(np.einsum("...d,...d->...", array, array)), array.dtype.type(MIN_NORM)))


def cosine_rounding(d: int, dtype: npt.DTypeLike) -> float:
    """Return how far a computed cosine of vectors (d,) can be off: d/2 eps for each of its sums, and a few eps more."""
    return (2 * d + 4) * float(np.finfo(dtype).eps)


def settle_cosines(products: Array, a: Array, b: Array, b_norms: Array) -> None:
    """Divide products (n, m) of unit vectors a (n, d) and vectors b (m, d) by the norms of b, in place.

    Rounding leaves the cosine of equal vectors at 1.0000011 or 0.9999995, for example. So it is set to 1, and no cosine
    is left outside [-1, 1].
    """
    limit = 1 - cosine_rounding(a.shape[-1], products.dtype)
    groups: Array | None = None
    for rows in blocks(len(products), max(1, (1 << 16) // max(1, len(b)))):  # they stay in the L2 cache
        cosines = products[rows]
        cosines /= b_norms
        if not cosines.min(initial=1) >= -1:  # also if one is NaN
            np.clip(cosines, -1, 1, out=cosines)
        if cosines.max(initial=-1) < limit:
            continue
        i, j = divmod(np.flatnonzero(cosines >= limit), len(b))
        if len(i) <= 1024:
            equal = (a[rows][i] == b[j] / b_norms[j, None]).all(axis=-1)
        else:  # of many equal vectors, number the distinct ones, once, instead of comparing every pair
            if groups is None:
                vectors = np.concatenate([a, b / b_norms[:, None]]) + 0.0  # + 0.0 makes -0.0 equal to 0.0
                groups = np.unique(vectors, axis=0, return_inverse=True)[1].reshape(-1)
            equal = groups[: -len(b)][rows][i] == groups[-len(b) :][j]
        cosines[i, j] = np.where(equal, 1, np.minimum(cosines[i, j], 1))


def unit_vectors(array: Array) -> Array:
    """Return vectors (..., d) divided by their norms."""
    with np.errstate(all="ignore"):
        return np.asarray(array / vector_norms(array)[..., None])
