"""util beside sentence-transformers' own: `python bench/race_util.py`. Interleaved rounds, medians.

One query in 1,000,000 x 384 float32, and community_detection on 50,000 rows. The results are compared before anything
is timed. Needs the parity extra, and 6 GB of memory for sentence-transformers' copy of the corpus.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minilm_np import util


def race(ways: dict[str, Callable[[], Any]], same: Callable[[Any, Any], bool], rounds: int) -> None:
    results = [way() for way in ways.values()]
    if not same(*results):
        raise SystemExit("different results: not timed")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    ours, theirs = (statistics.median(times) for times in seconds.values())
    print(f"  minilm_np {ours:.3f} s, sentence-transformers {theirs:.3f} s: x{theirs / ours:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=50_000)
    arguments = parser.parse_args()
    import sentence_transformers.util as theirs
    import torch

    rng = np.random.default_rng(0)
    corpus = rng.standard_normal((arguments.corpus, 384), np.float32)
    query = rng.standard_normal((1, 384), np.float32)
    print(f"semantic_search, 1 query in {arguments.corpus:,}:")
    tensor, query_tensor = torch.from_numpy(corpus), torch.from_numpy(query)
    race(
        {
            "ours": lambda: util.semantic_search(query, corpus),
            "theirs": lambda: theirs.semantic_search(query_tensor, tensor),
        },
        lambda a, b: [h["corpus_id"] for h in a[0]] == [h["corpus_id"] for h in b[0]],
        rounds=5,
    )
    centres = rng.standard_normal((arguments.rows // 50, 384), np.float32)
    rows = centres[rng.integers(0, len(centres), arguments.rows)] + 0.4 * rng.standard_normal(
        (arguments.rows, 384), np.float32
    )
    tensor = torch.from_numpy(rows)
    print(f"community_detection, {arguments.rows:,} rows:")
    race(
        {"ours": lambda: util.community_detection(rows), "theirs": lambda: theirs.community_detection(tensor)},
        lambda a, b: {frozenset(group) for group in a} == {frozenset(group) for group in b},
        rounds=1,
    )


if __name__ == "__main__":
    main()
