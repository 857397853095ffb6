"""Measure how time and memory grow with texts, text length and threads: `python bench/scale.py`."""

from __future__ import annotations

import resource
import statistics
import time

import numpy as np
from race import docstrings, flop

from minilm_np import SentenceTransformer


def peak_rss() -> float:
    """Return this process's largest resident size so far in MB (ru_maxrss is in KB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(model: SentenceTransformer, texts: list[str], rounds: int) -> float:
    """Return the median time of encoding all texts."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        model.encode(texts, truncation="ignore")
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    model = SentenceTransformer(backend="numba")
    print(f"loaded: peak RSS {peak_rss():.0f} MB")
    paragraphs = docstrings()
    lengths = np.diff(model.tokens(paragraphs).offsets)
    short = [text for text, n in zip(paragraphs, lengths, strict=True) if 16 <= n <= 24]
    model.encode(short[:100])
    print("short texts; peak RSS without the result + the result, an array (n, 384):")
    for n in (100, 1000, 10_000, 100_000):
        texts = (short * (n // len(short) + 1))[:n]
        took = seconds(model, texts, rounds=max(1, 3000 // n))
        result = n * 384 * 4 / 2**20
        print(f"  {n:7} texts {1e6 * took / n:7.0f} us/text   {peak_rss() - result:4.0f} MB + {result:.0f} MB")

    print("text length; time of 8192 word pieces; time per FLOP relative to the first row:")
    base = 0.0
    for length in (8, 16, 32, 64, 128, 256):
        words = " ".join(["word"] * (length - 2))
        n = 8192 // length
        took = seconds(model, [words] * n, rounds=5)
        each = took / flop(np.full(n, length))
        base = base or each
        print(f"  {length:4} word pieces  {1e3 * took:7.1f} ms  x{each / base:5.2f}")

    ratios = []
    for _ in range(5):
        times = []
        for model.threads in (1, 2):
            times.append(seconds(model, short[:640], 1))
        ratios.append(times[0] / times[1])
    print(f"speed-up of two threads over one: x{statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
