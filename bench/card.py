"""The model card's rows, computed: `python bench/card.py DATA --write`, where DATA is a folder of evaluation data.

Each task is evaluated with sentence-transformers and with this package: float32 on both op sets, and float64. Writes
the table in README.md. --speed: instead, the time of all STS tasks together against the time that sentence-transformers
needs to encode their texts, and the memory of retrieval.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fidelity import write_block

from minilm_np import SentenceTransformer, weights
from minilm_np.evaluate import Result, all_tasks, evaluate
from minilm_np.evaluate.data import Files

OURS = {
    "Numba float32": {"backend": "numba"},
    "NumPy float32": {"backend": "numpy"},
    "NumPy float64": {"dtype": "float64"},
}
Table = dict[str, dict[str, Result]]  # by encoder, by task


def peer(folder: Path) -> Callable[[list[str]], Any]:
    """sentence-transformers on PyTorch."""
    from sentence_transformers import SentenceTransformer as Peer

    model = Peer(str(folder), device="cpu")
    return lambda texts: model.encode(texts, show_progress_bar=False)


def encoders(folder: Path) -> dict[str, Any]:
    ours = {name: SentenceTransformer(folder, **options) for name, options in OURS.items()}  # type: ignore[arg-type]
    return {"sentence-transformers": peer(folder), **ours}


def measure(folder: Path, data: Path) -> Table:
    source = Files(data)
    names = [name for name, task in all_tasks().items() if source.has(task)]
    table: Table = {}
    for encoder, encode in encoders(folder).items():
        for name in names:
            result = table.setdefault(encoder, {})[name] = evaluate(encode, name, source)
            print(f"{encoder:24}{name:36}{result.main_score:10.4f}{result.seconds:8.1f} s", file=sys.stderr)
    return table


def markdown(table: Table) -> str:
    lines = ["| task | measure | card | " + " | ".join(table) + " | |", "|---|---|---|" + "---|" * (len(table) + 1)]
    for name in next(iter(table.values())):
        results = [by_task[name] for by_task in table.values()]
        task = results[0].task
        scores = " | ".join(f"{result.main_score:.4f}" for result in results)
        ours = {result.verdict().split(":")[0] for result in results[1:]}
        verdict = results[1].verdict() if len(ours) == 1 else ", ".join(sorted(ours))
        lines.append(f"| {name} | {task.main} | {task.card[task.main]:.4f} | {scores} | {verdict} |")
    first = next(iter(table))
    measures = sum(len(result.task.card) for result in table[first].values())
    exact = [
        sum(abs(result.difference(name)) <= 0.001 for result in by_task.values() for name in result.task.card)
        for encoder, by_task in table.items()
        if encoder != first
    ]
    counts = ", ".join(map(str, exact))
    lines += ["", f"Of the {measures} measures that the card has for these tasks, ours are exact in {counts}."]
    return "\n".join(lines) + "\n"


def speed(folder: Path, data: Path, rounds: int) -> str:
    """Interleaved rounds over all STS tasks."""
    source = Files(data)
    names = [name for name, task in all_tasks().items() if task.type == "STS" and source.has(task)]
    ours, theirs = SentenceTransformer(folder, backend="numba"), peer(folder)
    texts = [
        text
        for name in names
        for _, row in source.rows(all_tasks()[name], "test")
        for text in (str(row["sentence1"]), str(row["sentence2"]))
    ]
    evaluate(ours, names[0], source)  # compiles, imports
    whole: list[float] = []
    alone: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        start = time.perf_counter()
        for name in names:
            evaluate(ours, name, source)
        whole.append(time.perf_counter() - start)
        for encoder, encode in (("ours", ours.encode), ("theirs", theirs)):
            start = time.perf_counter()
            encode(texts)
            alone[encoder].append(time.perf_counter() - start)
    evaluation, own, peers = map(statistics.median, (whole, alone["ours"], alone["theirs"]))
    return (
        f"{len(names)} STS tasks, {len(texts)} texts: evaluated in {evaluation:.1f} s; encoding all of them alone: "
        f"{own:.1f} s, sentence-transformers {peers:.1f} s (speed-up {peers / own:.2f})"
    )


MEMORY = """
import resource, sys
from minilm_np import SentenceTransformer
from minilm_np.evaluate import evaluate
model = SentenceTransformer(sys.argv[1])
model.encode(["warm"] * 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evaluate(model, "NFCorpus", sys.argv[2])
print(before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--write", action="store_true", help="write the table in README.md")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = weights.find_or_fetch().folder
    if arguments.speed:
        print(speed(folder, arguments.data, arguments.rounds))
        command = [sys.executable, "-c", MEMORY, str(folder), str(arguments.data)]
        before, after = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        print(f"NFCorpus: at most {after} MB resident, {before} MB of them before it")
        return
    text = markdown(measure(folder, arguments.data))
    print(text)
    if arguments.write:
        write_block("card", text)


if __name__ == "__main__":
    main()
