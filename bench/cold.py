"""Measure the time from the start of a process to its first embedding: `python bench/cold.py`.

Whole processes, in interleaved rounds; the figures are medians. Each does the same job: load the model, encode two
texts, print their cosine similarity. The times of importing the package are checked as well (see `check_imports`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from race import export_onnx
from timing import interleaved

from minilm_np import weights

TEXTS = ("A man is eating food.", "A man is eating a piece of bread.")

# Imports nothing but the two libraries: importing minilm_np or this folder's modules would count as their time.
ONNX = """
import sys
import numpy as np, onnxruntime
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
tokenizer.enable_truncation(256)
tokenizer.enable_padding()
encodings = tokenizer.encode_batch(sys.argv[3:])
ids, mask = (np.array([getattr(e, name) for e in encodings], np.int64) for name in ("ids", "attention_mask"))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
hidden = session.run(None, {put.name: feed[put.name] for put in session.get_inputs()})[0]
pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
a, b = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
print(f"{a @ b:.6f}")
"""
CLASS = """
import sys
from {package} import SentenceTransformer
a, b = SentenceTransformer(sys.argv[1], **{options}).encode(sys.argv[3:])
print(f"{{a @ b:.6f}}")
"""
IMPORTS = {
    "interpreter": "",
    "import numpy": "import numpy",
    "import minilm_np": "import minilm_np",
    "import SentenceTransformer": "from minilm_np import SentenceTransformer",
}


def commands(folder: Path, onnx: Path | None) -> dict[str, list[str]]:
    def script(code: str) -> list[str]:
        return [sys.executable, "-c", code, str(folder), str(onnx), *TEXTS]

    result = {
        "minilm-np similarity": [sys.executable, "-m", "minilm_np", "similarity", "--model", str(folder), *TEXTS],
        'SentenceTransformer(backend="numba")': script(CLASS.format(package="minilm_np", options={"backend": "numba"})),
    }
    if onnx:
        result["onnxruntime + tokenizers"] = script(ONNX)
        options = {"device": "cpu"}
        result["sentence-transformers"] = script(CLASS.format(package="sentence_transformers", options=options))
    return result


def check_imports(rounds: int) -> None:
    """Print the import times, the interpreter's start included; raise SystemExit if one is over its budget.

    The budget of the package is 0.35 s. That of the class is 0.35 s where NumPy alone takes 0.2 s: a ratio, because
    machines differ in speed. The best of all rounds counts, because other programs may run at the same time.
    """
    calls = {name: partial(subprocess.run, [sys.executable, "-c", code], check=True) for name, code in IMPORTS.items()}
    best = {name: min(times) for name, times in interleaved(calls, rounds).items()}
    print(", ".join(f"{name} {seconds:.3f} s" for name, seconds in best.items()))
    for name, budget in (
        ("import minilm_np", 0.35),
        ("import SentenceTransformer", 0.35 / 0.2 * best["import numpy"]),
    ):
        if best[name] >= budget:
            raise SystemExit(f"{name}: expected less than {budget:.2f} s, got {best[name]:.2f} s")


def main(argv: Sequence[str] | None = None) -> tuple[str]:
    """Measure and print; return the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args(argv)
    folder = weights.find_or_fetch().folder
    try:
        onnx: Path | None = export_onnx(folder)
    except ImportError as error:
        onnx = None
        print(f"onnxruntime, sentence-transformers: not measured, {error.name} is not installed", file=sys.stderr)
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    answers = set()

    def run(command: list[str]) -> None:
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        answers.add(round(float(output.splitlines()[-1]), 5))

    calls = {name: partial(run, command) for name, command in commands(folder, onnx).items()}
    interleaved(calls, 1)  # fills the caches of files and of compiled code
    seconds = interleaved(calls, arguments.rounds)
    if len(answers) != 1:
        raise SystemExit(f"expected the same similarity from every process, got {sorted(answers)}")
    lines = ["| from process start to the first embedding | seconds |", "|---|---|"]
    lines += [f"| {name} | {statistics.median(times):.2f} |" for name, times in seconds.items()]
    print("\n".join(lines))
    check_imports(arguments.rounds)
    return ("\n".join(lines) + "\n",)


if __name__ == "__main__":
    main()
