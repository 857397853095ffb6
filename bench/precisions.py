"""Measure the error of the embeddings of each dtype against the float64 reference: `python bench/precisions.py`.

The reference is minilm_np in float64, which bench/fidelity.py confirms. On a CPU that cannot compute a dtype, the
dtype is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minilm_np import SentenceTransformer
from minilm_np.crosscheck import probe_texts
from minilm_np.encoder import LOW_PRECISION


class Errors(NamedTuple):
    """The errors of the embeddings of some texts."""

    largest: float  # |difference| of an element
    mean_distance: float  # 1 - cosine


def measure(texts: Sequence[str], dtypes: Sequence[str] = ("float32", *LOW_PRECISION)) -> dict[str, Errors]:
    """Return the errors by dtype, computed by the Numba op set."""
    exact = SentenceTransformer(dtype="float64").encode(texts, truncation="ignore")
    errors = {}
    for dtype in dtypes:
        try:
            model = SentenceTransformer(backend="numba", dtype=dtype)
        except ValueError as error:  # the CPU lacks the instructions
            print(error)
            continue
        embeddings = model.encode(texts, truncation="ignore").astype(np.float64)
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        # For unit vectors a, b it is |a - b|^2 / 2, which keeps the digits that 1 - cosine loses.
        distances = np.square(unit - exact).sum(axis=1) / 2
        errors[dtype] = Errors(float(np.abs(embeddings - exact).max()), float(distances.mean()))
    return errors


def markdown(errors: dict[str, Errors]) -> str:
    """Return the table with a row for each dtype."""
    lines = ["| `dtype` | largest error of an element | mean of 1 - cosine |", "|---|---|---|"]
    lines += [f"| `{dtype}` | {of.largest:.1e} | {of.mean_distance:.1e} |" for dtype, of in errors.items()]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> tuple[str]:
    """Measure and print; return the table as Markdown."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args(argv)
    texts = probe_texts()
    table = f"{markdown(measure(texts))}\n{len(texts)} texts of 2 to 256 word pieces.\n"
    print(table)
    return (table,)


if __name__ == "__main__":
    main()
