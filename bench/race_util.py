"""minilm_np.util beside sentence_transformers.util, which needs the parity extra: `python bench/race_util.py`.

Results are checked equal before anything is timed. Rounds are interleaved (A B, A B, ...); the figures are medians over
rounds of one call each, and of the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from fidelity import write_block
from race import machine

from minilm_np import util

Array = npt.NDArray[Any]
D = 384


def unit_vectors(n: int, seed: int) -> Array:
    """Directions (n, D) at random, float32."""
    vectors = np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]  # in place: a million of them are 1.5 GB
    return vectors


def clustered(n: int, clusters: int, seed: int) -> Array:
    """Unit vectors (n, D): nine tenths around centres, cosine with them about 0.9, the rest far from all."""
    rng = np.random.default_rng(seed)
    vectors = unit_vectors(n, seed + 1)
    near = rng.random(n) > 0.1
    vectors[near] = 0.45 * vectors[near] + unit_vectors(clusters, seed + 2)[rng.integers(0, clusters, near.sum())]
    return util.normalize_embeddings(vectors)


def check_search(found: util.Results, wanted: util.Results) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in theirs]
        assert np.abs(np.subtract([h["score"] for h in ours], [h["score"] for h in theirs])).max() < 1e-6


def check_communities(found: list[list[int]], wanted: list[list[int]]) -> None:
    """The same centres and members; within a community, cosines equal to rounding may change places."""
    assert [(c[0], sorted(c)) for c in found] == [(c[0], sorted(c)) for c in wanted]


def race(
    what: str, ours: Callable[[], Any], theirs: Callable[[], Any], check: Callable[[Any, Any], None], rounds: int
) -> str:
    """A row of the table."""
    found = ours()
    check(found, theirs())
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for times, call in zip(seconds, (ours, theirs), strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    ratios = sorted(b / a for a, b in zip(*seconds, strict=True))
    mine, other = map(statistics.median, seconds)
    print(
        f"{what}: {len(found)} results, {rounds} rounds: {mine:.3f} s, theirs {other:.3f} s, "
        f"theirs / ours {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )
    return f"| {what} | {mine:.2f} | {other:.2f} | {statistics.median(ratios):.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the corpus that is searched")
    parser.add_argument("--community-rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--community-rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the table in README.md")
    arguments = parser.parse_args()
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
    if arguments.write:
        write_block("util", "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
