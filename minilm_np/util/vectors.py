"""Normalize and truncate embeddings."""

from __future__ import annotations

from minilm_np.util._arrays import Array, ArrayLike, as_array, check_positive, float_type, unit_vectors


def normalize_embeddings(embeddings: ArrayLike) -> Array:
    """Return the vectors (..., d) scaled to length 1, as a copy; a zero vector stays zero.

    Raises TypeError or ValueError that names the argument.

    Examples
    --------
    >>> from minilm_np import util
    >>> util.normalize_embeddings([[3, 4], [0, 0]])
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    array = as_array("embeddings", embeddings)
    return unit_vectors(array.astype(float_type(array), copy=False))


def truncate_embeddings(embeddings: ArrayLike, truncate_dim: int | None) -> Array:
    """Return the first truncate_dim dimensions (..., min(d, truncate_dim)) as a view; None keeps all.

    The result is not normalized again. Raises TypeError or ValueError that names the argument.

    Examples
    --------
    >>> from minilm_np import util
    >>> util.truncate_embeddings([[1, 2, 3], [4, 5, 6]], 2)
    array([[1., 2.],
           [4., 5.]], dtype=float32)
    """
    if truncate_dim is not None:
        check_positive("truncate_dim", truncate_dim)
    return as_array("embeddings", embeddings)[..., :truncate_dim]
