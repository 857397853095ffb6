"""Measure the memory and time of large batches: `python bench/generate/tables.py train-memory`.

A batch has 1024 pairs of texts of 128 word pieces, from the docstrings of Python's library. Each row of the table is a
process of its own, with the largest resident memory that the system reports for it; it reads the pairs from a file, so
that only minilm_np and its dependencies are in it. The last line compares the time of
64 short pairs with and without gradient caching, interleaved. Needs the bench extra.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from timing import interleaved, machine

from minilm_np import SentenceTransformer
from minilm_np.training import loss_and_gradients, train
from minilm_np.weights import find_or_fetch

PAIRS, LENGTH, STEPS = 1024, 128, 100_000  # the model card's
WORK = {"gradients": "gradients", "step": "one step of `train`, with AdamW"}


def pairs() -> list[list[str]]:
    """Return 1024 pairs of texts that are longer than 128 word pieces."""
    from race import docstrings

    words = " ".join(docstrings()).split(" ")
    texts = [" ".join(words[(97 * i) % (len(words) - 130) :][:130]) for i in range(2 * PAIRS)]
    return [texts[i : i + 2] for i in range(0, len(texts), 2)]


def measure(work: str, data: Path) -> dict[str, float]:
    """Return the largest resident memory of this process in MiB, and the seconds of the work."""
    model = SentenceTransformer(find_or_fetch().folder, backend="numpy")
    model.max_seq_length = LENGTH
    start = time.perf_counter()
    if work == "gradients":
        loss_and_gradients(model, [json.loads(line) for line in data.read_text().splitlines()])
    else:
        train(model, data, steps=1, batch_size=PAIRS)
    seconds = time.perf_counter() - start
    return {"MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "seconds": seconds}


def caching_ratio(rounds: int) -> float:
    """Return the time of 64 short pairs in mini-batches of 32 texts, divided by that of all of them together."""
    from race import texts_by_kind

    model = SentenceTransformer(find_or_fetch().folder, backend="numpy")
    short = texts_by_kind(model.tokenizer)["short"]
    examples = [short[i : i + 2] for i in range(0, 128, 2)]
    calls = {size: (lambda size=size: loss_and_gradients(model, examples, mini_batch_size=size)) for size in (None, 32)}
    seconds = interleaved({str(size): call for size, call in calls.items()}, rounds, warm_ups=1)
    return statistics.median(b / a for a, b in zip(seconds["None"], seconds["32"], strict=True))


def main(argv: Sequence[str] | None = None) -> tuple[str]:
    """Return the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        work, data = arguments.child
        return (json.dumps(measure(work, Path(data))),)
    lines = ["| 1024 pairs of 128 word pieces each | memory | seconds |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pairs.jsonl"
        data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs()))
        for work, name in WORK.items():
            command = [sys.executable, __file__, "--child", work, str(data)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            lines.append(f"| {name} | {found['MiB']:.0f} MiB | {found['seconds']:.0f} |")
    days = STEPS * found["seconds"] / 86400
    lines += [
        "",
        f"At that rate the card's 100,000 steps would take {days:.0f} days. Mini-batches of 32 texts take "
        f"{caching_ratio(arguments.rounds):.2f} times the time of 64 short pairs computed together.",
        "",
        f"{machine()}.",
        "",
    ]
    return ("\n".join(lines),)


if __name__ == "__main__":
    print(*main())
