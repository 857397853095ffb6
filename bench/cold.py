"""From the start of a process to its first embedding: `python bench/cold.py`.

Whole processes, interleaved, medians. The same job for each: load the model, embed two texts, print their cosine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from fidelity import write_block
from race import export_onnx

from minilm_np import weights

TEXTS = ("A man is eating food.", "A man is eating a piece of bread.")

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="write the table in README.md")
    arguments = parser.parse_args()
    folder = weights.find_or_fetch().folder
    try:
        onnx: Path | None = export_onnx(folder)
    except ImportError as missing:
        onnx = None
        print(f"peers: not installed ({missing.name})", file=sys.stderr)
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    seconds: dict[str, list[float]] = {}
    answers = set()
    for number in range(arguments.rounds + 1):  # the first round warms the caches of files and of compiled code
        for name, command in commands(folder, onnx).items():
            start = time.perf_counter()
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            if number:
                seconds.setdefault(name, []).append(time.perf_counter() - start)
            answers.add(round(float(run.stdout.splitlines()[-1]), 5))
    if len(answers) != 1:
        raise SystemExit(f"different answers: {answers}")
    lines = ["| from process start to the first embedding | seconds |", "|---|---|"]
    lines += [f"| {name} | {statistics.median(times):.2f} |" for name, times in seconds.items()]
    print("\n".join(lines))
    if arguments.write:
        write_block("cold", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
