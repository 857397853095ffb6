"""Recognize the form of a port's vectors: right numbers that were rounded, scaled or transformed afterwards.

No mistake has to be simulated for this. Each row of `FORMS` computes the vectors of one call from the pooled vectors. A
form is recognized if the port's vectors are `factor * form + offset`, with one factor and one offset for all texts, up
to rounding. The rounding is seen in the port's numbers alone: `Grid` is the set of numbers that they lie on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minilm_np import formats
from minilm_np.crosscheck.causes import MAX_REMAINING, Cause
from minilm_np.crosscheck.probes import PROBES
from minilm_np.model import Array

MAX_LEVELS = 256  # different numbers in one vector of 384 that was rounded to a grid
MIN_ROWS = 0.5  # share of the texts that have a form, if some texts have none
FACTOR_DIGITS = 1e-5  # a factor that differs from 1 by less is 1


class Grid(NamedTuple):
    """The numbers that a port's elements lie on."""

    name: str
    says: str
    half: Array  # (n, H) or (n, 1): half the distance of neighbors, the most that rounding changes an element


@dataclass(frozen=True)
class Form:
    """A form that fits some or all rows."""

    name: str
    says: str
    rows: Array  # (n,) bool: the rows that have it
    remaining: float  # largest error of these rows beyond rounding, in tolerances


def _unit(pooled: Array) -> Array:
    return np.asarray(pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12))


def _standardized(x: Array, axis: int) -> Array:
    return np.asarray((x - x.mean(axis, keepdims=True)) / np.maximum(x.std(axis, keepdims=True), 1e-12))


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


# name, description, and the function from the pooled vectors (n, H) of one call to their form
FORMS: tuple[tuple[str, str, Callable[[Array], Array]], ...] = (
    ("unit", "vectors of length 1", _unit),
    ("no-normalization", "vectors are not scaled to length 1", lambda p: p),
    (
        "normalization-twice",
        "vectors are divided by their length twice",
        lambda p: p / np.square(p).sum(1, keepdims=True),
    ),
    (
        "scaled-by-largest-element",
        "each vector is divided by its largest element instead of its length",
        lambda p: p / np.abs(p).max(1, keepdims=True),
    ),
    (
        "scaled-by-largest-signed-element",
        "each vector is divided by its largest element, signs counted, instead of its length",
        lambda p: p / p.max(1, keepdims=True),
    ),
    (
        "scaled-by-sum",
        "each vector is divided by the sum of its absolute elements instead of its length",
        lambda p: p / np.abs(p).sum(1, keepdims=True),
    ),
    (
        "scaled-by-call",
        "vectors are divided by one length for the whole call, not each by its own",
        lambda p: p / np.linalg.norm(p),
    ),
    (
        "scaled-by-largest-element-of-call",
        "vectors are divided by the largest element of the whole call",
        lambda p: p / np.abs(p).max(),
    ),
    (
        "scaled-by-column",
        "each dimension is divided by its length over the call: normalized along the wrong axis",
        lambda p: p / np.linalg.norm(p, axis=0),
    ),
    ("unit-centered-on-call", "the mean vector of the call is subtracted", lambda p: _unit(p) - _unit(p).mean(0)),
    (
        "centered-on-call",
        "the mean vector of the call is subtracted before vectors are scaled to length 1",
        lambda p: _unit(p - p.mean(0)),
    ),
    (
        "centered",
        "the mean element of each vector is subtracted before it is scaled to length 1",
        lambda p: _unit(p - p.mean(1, keepdims=True)),
    ),
    ("standardized", "each vector is scaled to mean 0 and variance 1", lambda p: _standardized(p, 1)),
    ("standardized-by-column", "each dimension is scaled to mean 0 and variance 1", lambda p: _standardized(p, 0)),
    (
        "range-0-1",
        "each vector is scaled to the range 0 to 1",
        lambda p: (p - p.min(1, keepdims=True)) / np.ptp(p, axis=1)[:, None],
    ),
    ("negated", "all signs are wrong", lambda p: -_unit(p)),
    ("dimensions-reversed", "the dimensions are in reverse order", lambda p: _unit(p)[:, ::-1]),
    ("absolute", "signs are lost", lambda p: np.abs(_unit(p))),
    ("tanh-of-pooled", "tanh is applied to the pooled vectors", np.tanh),
    ("tanh-of-pooled-unit", "tanh is applied before vectors are scaled to length 1", lambda p: _unit(np.tanh(p))),
    ("sigmoid-of-pooled", "a sigmoid is applied to the pooled vectors", lambda p: 1 / (1 + np.exp(-p))),
    ("relu-of-pooled", "negative elements are 0", lambda p: _unit(np.maximum(p, 0))),
    ("softmax", "softmax is applied to the pooled vectors", _softmax),
    ("softmax-of-unit", "softmax is applied to the vectors", lambda p: _softmax(_unit(p))),
    ("binary", "only the signs of the elements are kept", lambda p: (p > 0).astype(float)),
    ("binary-unit", "only the signs of the elements are kept", lambda p: np.sign(p)),
)


def grid_of(vectors: Array) -> Grid | None:
    """Return the grid on which all elements lie, or None; the coarsest that fits."""
    largest = float(np.abs(vectors).max(initial=0))
    for decimals in range(7):
        steps = vectors * 10.0**decimals
        float32_error = 1e-7 * largest * 10.0**decimals + 1e-9
        if float32_error < 0.05 and np.abs(steps - np.round(steps)).max() <= float32_error:
            says = f"elements are rounded to {decimals} decimals" if decimals else "elements are whole numbers"
            return Grid(f"rounded-to-{decimals}-decimals", says, np.full((len(vectors), 1), 0.5 / 10.0**decimals))
    single = vectors.astype(np.float32)
    for name, rounded, relative, smallest in (
        ("bf16", formats.round_to_bf16(single), 2.0**-8, 0.0),
        ("fp16", formats.round_to_fp16(single), 2.0**-11, 2.0**-25),
    ):
        if np.array_equal(rounded, single) and np.allclose(single, vectors, rtol=1e-7, atol=0):
            return Grid(f"rounded-to-{name}", f"elements are rounded to {name}", np.abs(vectors) * relative + smallest)
    levels = [np.unique(np.round(row, 9)) for row in vectors]
    if max(len(row) for row in levels) > MAX_LEVELS:
        return None
    gaps = [np.diff(row) if len(row) > 1 else np.zeros(1) for row in levels]
    even = all(np.abs(gap / gap.min() - np.round(gap / gap.min())).max() < 0.05 for gap in gaps if gap.min() > 0)
    most = max(len(row) for row in levels)
    if even:
        half = np.array([[gap.min() / 2] for gap in gaps])
        return Grid("rounded-to-grid", f"elements are rounded to a grid of even steps, at most {most} per vector", half)
    half = np.array([[gap.max() / 2] for gap in gaps])
    return Grid("few-values", f"elements take at most {most} different values per vector, in uneven steps", half)


def recognize(vectors: Array, pooled: Array, together: Sequence[Sequence[int]], tolerance: float) -> Form | None:
    """Return the form that fits most rows, if it is at least half of them; `tolerance` is that of a vector of length 1.

    pooled: (n, H), the reference before it is scaled to length 1. together: the rows of each call.
    """
    grid, best = grid_of(vectors), None
    for name, says, function in FORMS:
        form = np.empty_like(pooled)
        with np.errstate(all="ignore"):
            for rows in together:
                form[list(rows)] = function(pooled[list(rows)])
        if not np.isfinite(form).all():
            continue
        estimate, shift = _factor_and_offset(vectors, form)
        # Rounding blurs the estimate, so the whole number next to it is tried, too.
        for factor, offset in ((1.0, 0.0), (float(round(estimate)), shift), (estimate, shift)):
            made = factor * form + offset
            scale = np.maximum(abs(factor), np.linalg.norm(made, axis=1))[:, None]
            half = 0.0 if grid is None else grid.half
            left = np.maximum(np.abs(vectors - made) - half, 0) / (tolerance * np.maximum(scale, 1e-6))
            rows_ok = (left <= MAX_REMAINING).all(axis=1)
            informative = (half < form.std(axis=1, keepdims=True) * abs(factor)).all() or "binary" in name
            if informative and rows_ok.mean() > (MIN_ROWS if best is None else best.rows.mean()):
                title, sentence = _title(name, says, factor, offset, grid)
                best = Form(title, sentence, rows_ok, float(left[rows_ok].max()))
    return best


def _factor_and_offset(vectors: Array, form: Array) -> tuple[float, float]:
    """Return the medians over the rows of factor and offset in vectors = factor * form + offset."""
    centered = form - form.mean(1, keepdims=True)
    square = np.square(centered).sum(1)
    factors = (centered * vectors).sum(1) / np.where(square > 0, square, 1)
    factor = float(np.median(factors))
    offset = float(np.median(vectors.mean(1) - factor * form.mean(1)))
    return factor, (offset if abs(offset) > 1e-4 * abs(factor) * float(np.abs(form).max()) else 0.0)


def _title(name: str, says: str, factor: float, offset: float, grid: Grid | None) -> tuple[str, str]:
    """Return the name and the description of a form with its factor, offset and grid."""
    names, sentences = ([], []) if name == "unit" else ([name], [says])
    if abs(factor - 1) > FACTOR_DIGITS:
        names.append("scaled-by-one-factor")
        sentences.append(f"all elements are multiplied by {factor:.6g}")
    if offset:
        names.append("offset")
        sentences.append(f"{offset:.4g} is added to all elements")
    if grid:
        names.append(grid.name)
        sentences.append(grid.says)
    return " + ".join(names) or "right", "; and ".join(sentences) or "vectors of length 1"


def constant_vector(vectors: Array, wrong: Sequence[int]) -> Cause | None:
    """Return the cause if the rows `wrong`, and no others, all hold one vector, such as zeros"""
    if not 0 < len(wrong) < len(vectors):
        return None
    rows = vectors[list(wrong)]
    same = np.abs(rows - rows[0]).max() < 1e-9
    plain = len(np.unique(np.round(rows[0], 9))) <= 2  # zeros, a constant, a single 1
    if not same or not (plain or len(wrong) > 1):
        return None
    what = "zeros" if not rows.any() else "one constant vector"
    names = ", ".join(PROBES[row].name for row in wrong)
    return Cause("constant-vector", 1.0, f"{what} instead of the vector of: {names}; all other texts are right", 0.0)
