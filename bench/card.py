"""Compute the model card's rows: `python bench/card.py DATA`, where DATA is a folder of evaluation data.

Each task is evaluated with sentence-transformers and with minilm_np: float32 on both op sets, and float64. --speed
instead compares the time of all STS tasks together with the time that sentence-transformers takes to encode their
texts, and measures the memory of a retrieval task. Needs the parity and eval extras.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from timing import interleaved

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


class Encoder(NamedTuple):
    identity: str  # files, versions and settings: stored scores count for the same identity only
    encode: Any  # texts -> vectors


def peer(folder: Path) -> Callable[[list[str]], Any]:
    """Return the encode function of sentence-transformers on PyTorch."""
    from sentence_transformers import SentenceTransformer as Peer

    model = Peer(str(folder), device="cpu")
    return lambda texts: model.encode(texts, show_progress_bar=False)


def encoders(folder: Path) -> dict[str, Encoder]:
    """Return the encoder of each column."""
    ours = {name: SentenceTransformer(folder, **options) for name, options in OURS.items()}  # type: ignore[arg-type]
    versions = f"sentence-transformers {version('sentence-transformers')}, torch {version('torch')}"
    columns = {PEER: Encoder(versions, peer(folder))}
    return columns | {name: Encoder(fingerprint(model), model) for name, model in ours.items()}


def measure(folder: Path, data: Path, scores: Path, tasks: list[str], columns: list[str]) -> list[dict[str, Any]]:
    """Return all valid scores, one dict for each encoder and task; add those that the file `scores` lacks to it."""
    source = Files(data)
    names = tasks or [name for name, task in all_tasks().items() if source.has(task)]
    lines = []
    for column, encoder in encoders(folder).items():
        key = {"encoder": column, "exactly": encoder.identity}
        stored = [line for line in read_scores(scores) if key == {name: line[name] for name in key}]
        lines += stored
        for name in names:
            if any(line["task"] == name for line in stored) or (columns and column not in columns):
                continue
            result = evaluate(encoder.encode, name, source)
            line = {**key, "task": name, "score": result.main_score, "details": result.details}
            with scores.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            lines.append(line)
            print(f"{column:24}{name:36}{result.main_score:10.4f}{result.seconds:8.1f} s", file=sys.stderr)
    return lines


def read_scores(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def markdown(lines: list[dict[str, Any]]) -> str:
    """Return the table of main measures, with a dash where nothing was measured."""
    results = {
        (line["encoder"], line["task"]): Result(
            task := all_tasks()[line["task"]], {task.main: line["score"]}, line["details"]
        )
        for line in lines
    }
    columns = [PEER, *OURS]
    rows = ["| task | measure | card | " + " | ".join(columns) + " | |", "|---|---|---|" + "---|" * (len(columns) + 1)]
    for name, task in all_tasks().items():
        measured = {column: results[column, name] for column in columns if (column, name) in results}
        ours = [result for column, result in measured.items() if column in OURS]
        if not ours:
            continue
        verdicts = list(dict.fromkeys(result.verdict() for result in ours))
        cells = " | ".join(f"{measured[column].main_score:.4f}" if column in measured else "-" for column in columns)
        rows.append(f"| {name} | {task.main} | {task.card[task.main]:.4f} | {cells} | {', '.join(verdicts)} |")
    if any("| - |" in row for row in rows):
        rows += ["", "A dash: not computed."]
    return "\n".join(rows) + "\n"


def speed(folder: Path, data: Path, rounds: int) -> str:
    """Time the evaluation of all STS tasks, and the encoding of their texts alone, in interleaved rounds."""
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
    calls: dict[str, Callable[[], Any]] = {
        "evaluate": lambda: [evaluate(ours, name, source) for name in names],
        "ours": partial(ours.encode, texts),
        "theirs": partial(theirs, texts),
    }
    seconds = {name: statistics.median(times) for name, times in interleaved(calls, rounds).items()}
    return (
        f"{len(names)} STS tasks, {len(texts)} texts: evaluated in {seconds['evaluate']:.1f} s; encoding them alone: "
        f"{seconds['ours']:.1f} s, sentence-transformers {seconds['theirs']:.1f} s "
        f"(speed-up {seconds['theirs'] / seconds['ours']:.2f})"
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


def main(argv: Sequence[str] | None = None) -> tuple[str, ...]:
    """Compute and print; return the table as Markdown, or nothing with --speed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--kept", type=Path, default=Path("card.jsonl"), help="file of the scores computed so far")
    parser.add_argument("--task", action="append", default=[], help="compute this task only; may be repeated")
    parser.add_argument("--encoder", action="append", default=[], help="compute this column only; may be repeated")
    parser.add_argument("--speed", action="store_true", help="measure time and memory instead of scores")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of --speed")
    arguments = parser.parse_args(argv)
    folder = weights.find_or_fetch().folder
    if arguments.speed:
        # Memory first: a child's largest size begins with that of its parent.
        command = [sys.executable, "-c", MEMORY, str(folder), str(arguments.data)]
        before, after = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        print(f"NFCorpus: {after} MB resident at most, {before} MB before it")
        print(speed(folder, arguments.data, arguments.rounds))
        return ()
    text = markdown(measure(folder, arguments.data, arguments.kept, arguments.task, arguments.encoder))
    print(text)
    return (text,)


if __name__ == "__main__":
    main()
