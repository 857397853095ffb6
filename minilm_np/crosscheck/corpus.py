"""Do two backends find the same things among a user's own texts? Go or no-go."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minilm_np.crosscheck.compare import CannotCompareError
from minilm_np.model import Array

EQUAL = 1e-6  # cosines that are this near are the same: float32 rounding is 2e-7 of an element
BLOCK = 1024  # rows: similarities are never all in memory


@dataclass(frozen=True)
class Equivalence:
    """What changes for the user of `texts` when one backend takes the place of the other."""

    texts: int
    max_error: float  # of an element, the vectors scaled to length 1
    max_similarity_error: float  # of a cosine
    neighbours: int  # how many were compared: the k nearest of each text
    flipped: int  # of those, how many are not among the other's k nearest
    worst_margin: float  # largest difference in cosine, by the first backend, between a neighbour lost and one gained
    threshold: float
    crossings: list[tuple[int, int, float, float]]  # pairs that cross it: rows, both cosines; the first hundred
    crossing_pairs: int  # by more than rounding

    @property
    def go(self) -> bool:
        """No pair crosses the threshold, and no neighbour changes, but by rounding: cosines within 1e-6."""
        return self.crossing_pairs == 0 and self.worst_margin <= EQUAL

    def to_dict(self) -> dict[str, Any]:
        return {"go": self.go, **asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{'GO' if self.go else 'NO-GO'}  {self.texts} texts; largest error {self.max_error:.1e}, "
            f"of a cosine {self.max_similarity_error:.1e}",
            f"neighbours  {self.flipped} of {self.neighbours} change; worst margin {self.worst_margin:.1e}",
            f"threshold   {self.crossing_pairs} pairs cross {self.threshold:g}",
        ]
        for i, j, a, b in self.crossings[:5]:
            lines.append(f"            lines {i + 1} and {j + 1}: {a:.6f} and {b:.6f}")
        return "\n".join(lines)


def equivalence(first: Any, second: Any, *, k: int = 10, threshold: float = 0.7) -> Equivalence:
    """Compare two backends' vectors (n, D) of the same n texts; what matters is what a search would find.

    Raises CannotCompareError if they are not two finite matrices of the same number of rows, at least two.
    """
    a, b = (_unit(name, value) for name, value in (("first", first), ("second", second)))
    n = len(a)
    if len(b) != n or n < 2:
        raise CannotCompareError(f"equivalence: found {n} and {len(b)} vectors, wanted the same number, two or more")
    k = min(k, n - 1)
    flipped, crossing_pairs, worst_margin, worst_similarity = 0, 0, 0.0, 0.0
    crossings: list[tuple[int, int, float, float]] = []
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n))
        similar_a, similar_b = a[rows] @ a.T, b[rows] @ b.T
        worst_similarity = max(worst_similarity, float(np.abs(similar_a - similar_b).max()))
        crosses = (similar_a >= threshold) != (similar_b >= threshold)
        i, j = np.nonzero(crosses & (np.abs(similar_a - similar_b) > EQUAL))
        later = rows[i] < j
        crossing_pairs += int(later.sum())
        for row, other in list(zip(i[later], j[later], strict=True))[: 100 - len(crossings)]:
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


def _unit(name: str, value: Any) -> Array:
    vectors = np.asarray(value, np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise CannotCompareError(f"{name}: found shape {vectors.shape}, wanted finite vectors (n, D)")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise CannotCompareError(f"{name}: vector {int(np.argmin(lengths))} is zero")
    return np.asarray(vectors / lengths)
