"""Compare the search results of two ports on a user's own texts; the result is go or no-go."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minilm_np.crosscheck.compare import CannotCompareError, numbers
from minilm_np.model import Array

COSINE_TOLERANCE = 1e-6  # cosines that differ by less count as equal; float32 rounds an element by 2e-7
BLOCK_ROWS = 1024  # rows of similarities in memory at a time
MAX_CROSSINGS = 100  # pairs that `Equivalence.crossings` lists
PRINTED_CROSSINGS = 5


@dataclass(frozen=True)
class Equivalence:
    """What changes in a search over n texts if the second port replaces the first."""

    texts: int  # number of texts
    max_error: float  # largest difference of an element, after scaling the vectors to length 1
    max_similarity_error: float  # largest difference of a cosine
    neighbours: int  # number of neighbours compared: the k nearest of each text
    flipped: int  # number of neighbours that are not among the k nearest of the same text in the second port
    worst_margin: float  # largest difference, in the first port's cosines, between a lost and a gained neighbour
    threshold: float  # cosine from which a pair of texts counts as similar
    crossings: list[tuple[int, int, float, float]]  # the first 100 crossing pairs: both rows, then both ports' cosines
    crossing_pairs: int  # number of pairs that are similar in one port only, by more than rounding

    @property
    def go(self) -> bool:
        """Whether no pair crosses the threshold and no neighbour changes, except by rounding (cosines within 1e-6)."""
        return self.crossing_pairs == 0 and self.worst_margin <= COSINE_TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and `go` as a dict that JSON can represent."""
        return {"go": self.go, **asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{'GO' if self.go else 'NO-GO'}  {self.texts} texts; largest error {self.max_error:.1e} of an element, "
            f"{self.max_similarity_error:.1e} of a cosine",
            f"neighbours  {self.flipped} of {self.neighbours} change; worst margin {self.worst_margin:.1e}",
            f"threshold   {self.crossing_pairs} pairs cross {self.threshold:g}",
        ]
        for i, j, first, second in self.crossings[:PRINTED_CROSSINGS]:
            lines.append(f"            lines {i + 1} and {j + 1}: {first:.6f} and {second:.6f}")
        return "\n".join(lines)


def equivalence(first: Any, second: Any, *, k: int = 10, threshold: float = 0.7) -> Equivalence:
    """Compare the search results of two ports, given their vectors (n, D) of the same n texts.

    Parameters
    ----------
    first, second
        The vectors of the first and of the second port. Their sizes D may differ.
    k
        How many nearest neighbours of each text to compare.
    threshold
        A cosine. Pairs of texts that are at least this similar in one port only are reported.

    Raises
    ------
    CannotCompareError
        If an argument is not a matrix of finite non-zero vectors, or if the numbers of rows differ or are below two.
    """
    a, b = (_unit_vectors(name, value) for name, value in (("first", first), ("second", second)))
    n = len(a)
    if len(b) != n or n < 2:
        raise CannotCompareError(f"equivalence: expected two or more vectors, as many of each, got {n} and {len(b)}")
    k = min(k, n - 1)
    flipped, crossing_pairs, worst_margin, worst_similarity = 0, 0, 0.0, 0.0
    crossings: list[tuple[int, int, float, float]] = []
    for start in range(0, n, BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, n))
        similar_a, similar_b = a[rows] @ a.T, b[rows] @ b.T
        worst_similarity = max(worst_similarity, float(np.abs(similar_a - similar_b).max()))
        crosses = (similar_a >= threshold) != (similar_b >= threshold)
        i, j = np.nonzero(crosses & (np.abs(similar_a - similar_b) > COSINE_TOLERANCE))
        later = rows[i] < j  # each pair once
        crossing_pairs += int(later.sum())
        for row, other in list(zip(i[later], j[later], strict=True))[: MAX_CROSSINGS - len(crossings)]:
            crossings.append((int(rows[row]), int(other), float(similar_a[row, other]), float(similar_b[row, other])))
        similar_a[np.arange(len(rows)), rows] = similar_b[np.arange(len(rows)), rows] = -np.inf
        near_a, near_b = (np.argsort(-s, axis=1, kind="stable")[:, :k] for s in (similar_a, similar_b))
        for row in range(len(rows)):
            lost, gained = np.setdiff1d(near_a[row], near_b[row]), np.setdiff1d(near_b[row], near_a[row])
            flipped += len(lost)
            if len(lost):
                margin = similar_a[row, lost].max() - similar_a[row, gained].min()
                worst_margin = max(worst_margin, float(margin))
    error = float(np.abs(a - b).max()) if a.shape == b.shape else np.inf
    return Equivalence(n, error, worst_similarity, n * k, flipped, worst_margin, threshold, crossings, crossing_pairs)


def _unit_vectors(name: str, value: Any) -> Array:
    vectors = numbers(name, value)
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise CannotCompareError(f"{name}: expected vectors (n, D), got shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise CannotCompareError(f"{name}: expected finite vectors, got NaN or infinity in vector {row}")
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    if (largest == 0).any():
        raise CannotCompareError(f"{name}: expected non-zero vectors, got zeros in vector {int(np.argmin(largest))}")
    vectors = vectors / largest  # so that no square overflows
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
