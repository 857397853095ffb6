"""Throughput and latency beside the other ways to run this model on a CPU: `python bench/race.py`.

Every racer that is installed takes part, in float32, with its own tokenizer calls inside the time, on the same
texts. Results are checked against the float64 oracle before anything is timed. Rounds are interleaved (A B C,
A B C, ...) and the figures are medians over rounds, so a machine that slows down slows everybody down.
The texts are the docstrings of Python's standard library, which everybody has.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.metadata
import platform
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fidelity import write_block

from minilm_np import SentenceTransformer, weights
from minilm_np.kernels import simd
from minilm_np.tokenizer import Tokenizer

Encode = Callable[[list[str]], npt.NDArray[Any]]
BATCH_SIZE = 32
TEMPORARY = tempfile.TemporaryDirectory()


# --- texts -------------------------------------------------------------------------------------


def docstrings() -> list[str]:
    """Paragraphs of the standard library's docstrings, white space folded, in the order of the files."""
    paragraphs: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    paragraphs[" ".join(paragraph.split())] = None
    return [paragraph for paragraph in paragraphs if paragraph]


def corpora(tokenizer: Tokenizer, seed: int = 0) -> dict[str, list[str]]:
    """short: 16 to 24 word pieces. mixed: 8 to 256, a long tail. long: cut at 256. query: one short text."""
    paragraphs = docstrings()
    lengths = np.diff(tokenizer(paragraphs).offsets)
    short = [p for p, n in zip(paragraphs, lengths, strict=True) if 16 <= n <= 24]
    rng = np.random.default_rng(seed)
    joined = " ".join(paragraphs).split(" ")
    words = np.minimum(5 + rng.lognormal(3.0, 1.0, 400).astype(int), 300)  # median 25 words, some cut at 256 pieces
    starts = rng.integers(0, len(joined) - 400, len(words))
    mixed = [" ".join(joined[a : a + n]) for a, n in zip(starts, words, strict=True)]
    long = [" ".join(joined[a : a + 400]) for a in rng.integers(0, len(joined) - 400, 64)]
    return {"short": short[:640], "mixed": mixed, "long": long, "query": short[700:701]}


# --- racers ------------------------------------------------------------------------------------


def minilm_np_numba(folder: Path, threads: int) -> Encode:
    return SentenceTransformer(folder, backend="numba", threads=threads).encode


def minilm_np_numpy(folder: Path, threads: int) -> Encode:
    return SentenceTransformer(folder, backend="numpy").encode


def sentence_transformers(folder: Path, threads: int) -> Encode:
    import sentence_transformers
    import torch

    torch.set_num_threads(threads)
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return lambda texts: model.encode(texts, batch_size=BATCH_SIZE, show_progress_bar=False)


def export_onnx(folder: Path) -> Path:
    """The model as ONNX, exported by PyTorch; once a run, in a folder that goes with the process."""
    import torch
    from transformers import AutoModel

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bert = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.bert(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    path = Path(TEMPORARY.name) / "model.onnx"
    if not path.exists():
        inputs, outputs = ["input_ids", "attention_mask", "token_type_ids"], ["last_hidden_state"]
        example = tuple(torch.ones((2, 8), dtype=torch.int64) for _ in inputs)
        axes = {name: {0: "batch", 1: "tokens"} for name in inputs + outputs}
        torch.onnx.export(
            Encoder(), example, str(path), input_names=inputs, output_names=outputs, dynamic_axes=axes, dynamo=False
        )
    return path


def batched(folder: Path, run: Callable[[list[Any]], Any]) -> Encode:
    """As sentence-transformers does around a model: sort by length, pad each batch, masked mean, normalise."""
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    tokenizer: Any = HuggingFaceTokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()

    def encode(texts: list[str]) -> npt.NDArray[Any]:
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        result = np.empty((len(ids), 384), np.float32)
        for start in range(0, len(ids), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            padded = np.zeros((len(rows), len(ids[rows[0]])), np.int64)
            for row, i in zip(padded, rows, strict=True):
                row[: len(ids[i])] = ids[i]
            lengths = np.array([len(ids[i]) for i in rows])
            mask = (np.arange(padded.shape[1]) < lengths[:, None]).astype(np.int64)  # a text may have written [PAD]
            hidden_states = run([padded, mask, np.zeros_like(padded)])
            pooled = (hidden_states * mask[:, :, None]).sum(axis=1, dtype=np.float32) / mask.sum(axis=1)[:, None]
            result[rows] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return result

    return encode


def onnx_runtime(folder: Path, threads: int) -> Encode:
    import onnxruntime
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(str(export_onnx(folder)), model_type="bert", num_heads=12, hidden_size=384)
    path = Path(TEMPORARY.name) / "fused.onnx"
    fused.save_model_to_file(str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [put.name for put in session.get_inputs()]
    feed = dict(zip(["input_ids", "attention_mask", "token_type_ids"], range(3), strict=True))
    return batched(folder, lambda inputs: session.run(None, {name: inputs[feed[name]] for name in names})[0])


def openvino(folder: Path, threads: int) -> Encode:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(str(export_onnx(folder))), "CPU", settings)
    return batched(folder, lambda inputs: compiled(inputs)[0])


RACERS: dict[str, Callable[[Path, int], Encode]] = {
    "minilm_np (Numba)": minilm_np_numba,
    "minilm_np (NumPy)": minilm_np_numpy,
    "sentence-transformers (PyTorch)": sentence_transformers,
    "ONNX Runtime, fused graph": onnx_runtime,
    "OpenVINO": openvino,
}


# --- the race ----------------------------------------------------------------------------------


def race(racers: dict[str, Encode], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each racer's calls, in the order of the rounds: one call a round, or 20 in a row for a single text.

    Those 20 follow ten that do not count, in which the threads of the racer before come to rest: some spin for a while.
    """
    settle, calls = (10, 20) if len(texts) == 1 else (0, 1)
    seconds: dict[str, list[float]] = {name: [] for name in racers}
    for _ in range(rounds):
        for name, encode in racers.items():
            for _ in range(settle):
                encode(texts)
            for _ in range(calls):
                start = time.perf_counter()
                encode(texts)
                seconds[name].append(time.perf_counter() - start)
    return seconds


def fma_peak() -> float:
    """GFLOP/s of one thread on a register tile whose operands never leave the first-level cache."""
    from minilm_np.kernels.linear import ROWS, VECTORS
    from minilm_np.kernels.simd import WIDTH, accumulate, jit, store_tile, zero_tile

    @jit
    def spin(x: Any, y: Any, times: int) -> None:
        tile = zero_tile(ROWS, VECTORS)
        for _ in range(times):
            tile = accumulate(tile, x, 0, 0, 0, x, 0, 0, 1000)
        store_tile(tile, y, 0, VECTORS * WIDTH)

    x, y = np.zeros(VECTORS * WIDTH, np.float32), np.zeros(ROWS * VECTORS * WIDTH, np.float32)
    spin(x, y, 1)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        spin(x, y, 200)
        seconds.append(time.perf_counter() - start)
    return 2 * 200_000 * ROWS * VECTORS * WIDTH / min(seconds) / 1e9


def flop(lengths: npt.NDArray[Any]) -> float:
    """Floating-point operations of the matmuls, for texts of these lengths: dense layers, then attention."""
    return float((lengths * (21_233_664 + 4 * lengths * 384 * 6)).sum())


def machine() -> str:
    cpu, facts = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if facts.exists():
        cpu = next((line.split(": ")[1] for line in facts.read_text().splitlines() if "model name" in line), cpu)
    packages = []
    for name in ("numpy", "numba", "torch", "sentence-transformers", "onnxruntime", "openvino"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages.append(f"{name} {importlib.metadata.version(name)}")
    return f"{cpu}, {simd.WIDTH} float32 a vector; Python {platform.python_version()}, {', '.join(packages)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=["short", "mixed", "long", "query"], help="of texts")
    parser.add_argument("--write", action="store_true", help="write bench/results.md and the table in README.md")
    arguments = parser.parse_args()
    folder = weights.find_or_fetch().folder
    racers: dict[str, Encode] = {}
    for name, build in RACERS.items():
        try:
            racers[name] = build(folder, arguments.threads)
        except ImportError as missing:
            print(f"{name}: not installed ({missing.name})", file=sys.stderr)
    model = SentenceTransformer(folder, backend="numpy")
    oracle = SentenceTransformer(folder, backend="numpy", dtype="float64")
    peak = fma_peak() * arguments.threads
    table: dict[str, dict[str, str]] = {name: {} for name in racers}
    report = []
    texts_of = corpora(model.tokenizer)
    for kind in arguments.kinds:
        texts = texts_of[kind]
        lengths = np.diff(model.tokens(texts).offsets)
        sample = texts[:64]
        truth = oracle.encode(sample)
        for name, encode in racers.items():
            error = np.abs(np.asarray(encode(sample)) - truth).max()
            if not error < 1e-6:
                raise SystemExit(f"{name}: {error:.1e} off on {kind} texts: not timed")
        report.append(f"{kind}: {len(texts)} texts, {lengths.sum()} word pieces, {arguments.rounds} rounds")
        print(report[-1])
        seconds = race(racers, texts, arguments.rounds)
        ours = seconds[next(iter(racers))]
        for name, times in seconds.items():
            median = statistics.median(times)
            ratio = statistics.median(t / o for t, o in zip(times, ours, strict=True))
            low, high, p95 = np.percentile(times, [10, 90, 95])
            table[name][kind] = f"{ratio:.2f}"
            of_peak = 100 * flop(lengths) / median / 1e9 / peak
            report.append(
                f"  {name:32} {1e3 * median / len(texts):8.3f} ms a text  x{ratio:5.2f}  10 to 90 %: "
                f"{low / median:.2f} to {high / median:.2f}  p95 {1e3 * p95:.1f} ms  {of_peak:3.0f} % of peak"
            )
            print(report[-1])
    kinds = list(next(iter(table.values())))
    lines = [f"| time, ours = 1 | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    lines += [f"| {name} | {' | '.join(row[kind] for kind in kinds)} |" for name, row in table.items()]
    about = f"{machine()}; {arguments.threads} threads, FMA peak {peak:.0f} GFLOP/s in the same run."
    if arguments.write:
        text = "\n".join(lines) + f"\n\n{about}\n"
        write_block("race", text)
        results = ["# Results of bench/race.py", "", text, "```", *report, "```", ""]
        (Path(__file__).parent / "results.md").write_text("\n".join(results), encoding="utf-8")


if __name__ == "__main__":
    main()
