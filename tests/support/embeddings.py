"""Random embeddings, and slow definitions in float64 to compare minilm_np.util with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minilm_np.util import Results

Array = npt.NDArray[Any]
SIMILARITIES: dict[str, Callable[[Array, Array], Any]] = {
    "cosine": lambda a, b: a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b)) if a.any() and b.any() else 0.0,
    "dot": lambda a, b: a @ b,
    "euclidean": lambda a, b: -math.sqrt(((a - b) ** 2).sum()),
    "manhattan": lambda a, b: -np.abs(a - b).sum(),
}


def random_generator(seed: int = 20260801) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, dtype: Any = np.float32, seed: int = 20260801) -> Array:
    return random_generator(seed).standard_normal(shape).astype(dtype)


def small_integers(n: int, d: int) -> st.SearchStrategy[Array]:
    """Return a strategy for rows (n, d) of small integers, whose dot products are exact and often equal."""
    return hnp.arrays(np.float32, (n, d), elements=st.integers(-2, 2))


def float64_similarities(name: str, a: Array, b: Array) -> Array:
    """Return the similarities (n, m) of all rows by their definition."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.array([[SIMILARITIES[name](x, y) for y in b] for x in a]).reshape(len(a), len(b))


def assert_within_rounding(actual: Array, expected: Any, size: float, d: int) -> None:
    """Check that errors stay within the rounding of a sum of d + 4 products of this size."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max(initial=0) <= (d + 4) * np.finfo(actual.dtype).eps * size


def ranking(scores: Array, k: int) -> list[int]:
    """Return the ids of the k best scores by definition: descending score, then ascending id, NaN last."""
    return sorted(range(len(scores)), key=lambda i: (math.isnan(scores[i]), -scores[i], i))[:k]


def corpus_ids(results: Results) -> list[list[Any]]:
    return [[hit["corpus_id"] for hit in hits] for hits in results]


def hit_scores(results: Results) -> list[list[float]]:
    return [[hit["score"] for hit in hits] for hits in results]
