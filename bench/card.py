"""The model card's rows, computed: `python bench/card.py DATA --write`, where DATA is a folder of evaluation data.

Each task is evaluated with sentence-transformers and with this package: float32 on both op sets, and float64. Writes
the table in README.md. --speed: instead, the time of all STS tasks together against the time that sentence-transformers
needs to encode their texts, and the memory of retrieval.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fidelity import write_block

from minilm_np import SentenceTransformer, weights
from minilm_np.evaluate import Result, all_tasks, evaluate
from minilm_np.evaluate.cache import fingerprint
from minilm_np.evaluate.data import Files

OURS = {
    "Numba float32": {"backend": "numba"},
    "NumPy float32": {"backend": "numpy"},
    "NumPy float64": {"dtype": "float64"},
}
PEER = "sentence-transformers"


Encoder = tuple[str, Any]  # what exactly it is, so that scores of another are not taken for its; and what encodes


def peer(folder: Path) -> Callable[[list[str]], Any]:
    """sentence-transformers on PyTorch."""
    from sentence_transformers import SentenceTransformer as Peer

    model = Peer(str(folder), device="cpu")
    return lambda texts: model.encode(texts, show_progress_bar=False)


def encoders(folder: Path) -> dict[str, Encoder]:
    ours = {name: SentenceTransformer(folder, **options) for name, options in OURS.items()}  # type: ignore[arg-type]
    theirs = f"sentence-transformers {version('sentence-transformers')}, torch {version('torch')}"
    return {PEER: (theirs, peer(folder)), **{name: (fingerprint(model), model) for name, model in ours.items()}}


def measure(folder: Path, data: Path, kept: Path, tasks: list[str], only: list[str]) -> list[dict[str, Any]]:
    """Evaluate what `kept` has not yet; a line of JSON for each encoder and task is added to it. All that are valid."""
    source = Files(data)
    names = tasks or [name for name, task in all_tasks().items() if source.has(task)]
    lines = []
    for encoder, (exactly, encode) in encoders(folder).items():
        found = [line for line in lines_of(kept) if (line["encoder"], line["exactly"]) == (encoder, exactly)]
        lines += found
        for name in names:
            if any(line["task"] == name for line in found) or (only and encoder not in only):
                continue
            result = evaluate(encode, name, source)
            line: dict[str, Any] = {"encoder": encoder, "exactly": exactly, "task": name}
            line |= {"score": result.main_score, "details": result.details}
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            lines.append(line)
            print(f"{encoder:24}{name:36}{result.main_score:10.4f}{result.seconds:8.1f} s", file=sys.stderr)
    return lines


def lines_of(kept: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []


def markdown(lines: list[dict[str, Any]]) -> str:
    """Main measures; a dash where nothing was measured."""
    results = {
        (line["encoder"], line["task"]): Result(
            task := all_tasks()[line["task"]], {task.main: line["score"]}, line["details"]
        )
        for line in lines
    }
    columns = [PEER, *OURS]
    rows = ["| task | measure | card | " + " | ".join(columns) + " | |", "|---|---|---|" + "---|" * (len(columns) + 1)]
    for name, task in all_tasks().items():
        found = {column: results[column, name] for column in columns if (column, name) in results}
        ours = [result for column, result in found.items() if column in OURS]
        if not ours:
            continue
        verdicts = list(dict.fromkeys(result.verdict() for result in ours))
        cells = " | ".join(f"{found[column].main_score:.4f}" if column in found else "-" for column in columns)
        rows.append(f"| {name} | {task.main} | {task.card[task.main]:.4f} | {cells} | {', '.join(verdicts)} |")
    if any("| - |" in row for row in rows):
        rows += ["", "A dash: not computed."]
    return "\n".join(rows) + "\n"


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
    parser.add_argument("--kept", type=Path, default=Path("card.jsonl"), help="file of scores so far")
    parser.add_argument("--task", action="append", default=[], help="only this; may be repeated")
    parser.add_argument("--encoder", action="append", default=[], help="only this column; may be repeated")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = weights.find_or_fetch().folder
    if arguments.speed:
        # first: a process's largest size begins with that of the one that has started it
        command = [sys.executable, "-c", MEMORY, str(folder), str(arguments.data)]
        before, after = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        print(f"NFCorpus: at most {after} MB resident, {before} MB of them before it")
        print(speed(folder, arguments.data, arguments.rounds))
        return
    text = markdown(measure(folder, arguments.data, arguments.kept, arguments.task, arguments.encoder))
    print(text)
    if arguments.write:
        write_block("card", text)


if __name__ == "__main__":
    main()
