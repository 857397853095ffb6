"""Compare minilm_np.util's speed with sentence_transformers.util's: `python bench/race_util.py`.

Results are checked to be equal before anything is timed. Rounds are interleaved; the figures are medians over rounds
of the time of one call, and of the ratio within a round. Needs the parity extra.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from timing import interleaved, machine

from minilm_np import util

Array = npt.NDArray[Any]
D = 384


def unit_vectors(n: int, seed: int) -> Array:
    """Return n random unit vectors (n, D), float32."""
    vectors = np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]  # in place: a million of them are 1.5 GB
    return vectors


def clustered(n: int, clusters: int, seed: int) -> Array:
    """Return unit vectors (n, D): nine tenths lie near a cluster center (cosine about 0.9), the rest far from all."""
    rng = np.random.default_rng(seed)
    vectors = unit_vectors(n, seed + 1)
    near = rng.random(n) > 0.1
    vectors[near] = 0.45 * vectors[near] + unit_vectors(clusters, seed + 2)[rng.integers(0, clusters, near.sum())]
    return util.normalize_embeddings(vectors)


def check_search(actual: util.Results, expected: util.Results) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in theirs]
        assert np.abs(np.subtract([h["score"] for h in ours], [h["score"] for h in theirs])).max() < 1e-6


def check_communities(actual: list[list[int]], expected: list[list[int]]) -> None:
    """Compare centers and members; the order within a community may differ where cosines are equal to rounding."""
    assert [(c[0], sorted(c)) for c in actual] == [(c[0], sorted(c)) for c in expected]


def race(
    title: str, ours: Callable[[], Any], theirs: Callable[[], Any], check: Callable[[Any, Any], None], rounds: int
) -> str:
    """Check and time two functions that do the same; return a row of the table."""
    result = ours()
    check(result, theirs())
    seconds = interleaved({"ours": ours, "theirs": theirs}, rounds)
    ratios = sorted(b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
    ratio = statistics.median(ratios)
    our_time, their_time = (statistics.median(times) for times in seconds.values())
    print(
        f"{title}: {len(result)} results, {rounds} rounds: {our_time:.3f} s, theirs {their_time:.3f} s, "
        f"theirs / ours {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )
    return f"| {title} | {our_time:.2f} | {their_time:.2f} | {ratio:.1f} |"


def main(argv: Sequence[str] | None = None) -> tuple[str]:
    """Measure and print; return the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the corpus that is searched")
    parser.add_argument("--community-rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--community-rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    from sentence_transformers import util as theirs

    print(machine())
    table = ["| seconds | minilm_np.util | sentence_transformers.util | ratio |", "|---|---|---|---|"]
    corpus = unit_vectors(arguments.rows, seed=0)
    for n in (1, 100):
        queries = unit_vectors(n, seed=1)
        table.append(
            race(
                f"semantic_search, {n} x {arguments.rows:,} x {D}",
                partial(util.semantic_search, queries, corpus),
                partial(theirs.semantic_search, queries, corpus),
                check_search,
                arguments.rounds,
            )
        )
    rows = clustered(arguments.community_rows, arguments.community_rows // 100, seed=2)
    table.append(
        race(
            f"community_detection, {arguments.community_rows:,} x {D}",
            partial(util.community_detection, rows),
            partial(theirs.community_detection, rows),
            check_communities,
            arguments.community_rounds,
        )
    )
    return ("\n".join(table) + "\n",)


if __name__ == "__main__":
    main()
