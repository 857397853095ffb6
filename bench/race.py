"""Compare minilm_np's speed with other ways to run the model on a CPU: `python bench/race.py`.

Every installed runtime takes part on the same texts, with tokenization included in its time: in float32, and where it
has them in its lower precisions. Each result is checked against the float64 reference before anything is timed; the
table has the error. Rounds are interleaved and the figures are medians over rounds. The texts are the docstrings of
Python's standard library, which every machine has.
"""

from __future__ import annotations

import argparse
import ast
import logging
import statistics
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from timing import cpu_model, fma_peak, interleaved, machine

from minilm_np import SentenceTransformer, weights
from minilm_np.kernels import simd
from minilm_np.tokenizer import Tokenizer

Array = npt.NDArray[Any]
Encode = Callable[[list[str]], Array]
Ratios = dict[str, dict[str, float]]  # time divided by that of minilm_np (Numba), by runtime and kind of text
BATCH_SIZE = 32
ERROR = "largest error"  # the name of the table's last column
TEMPORARY = tempfile.TemporaryDirectory()
ONNX_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


# --- texts -------------------------------------------------------------------------------------


def docstrings() -> list[str]:
    """Return the paragraphs of the standard library's docstrings with white space folded, in the order of the files."""
    paragraphs: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    paragraphs[" ".join(paragraph.split())] = None
    return [paragraph for paragraph in paragraphs if paragraph]


def texts_by_kind(tokenizer: Tokenizer, seed: int = 0) -> dict[str, list[str]]:
    """Return short texts (16 to 24 word pieces), mixed (8 to 256, long tail), long (cut at 256) and a short query."""
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


# --- runtimes ----------------------------------------------------------------------------------


def minilm_np_numba(folder: Path, threads: int, dtype: str = "float32") -> Encode:
    return SentenceTransformer(folder, backend="numba", threads=threads, dtype=dtype).encode


def minilm_np_numpy(folder: Path, threads: int) -> Encode:
    return SentenceTransformer(folder, backend="numpy").encode


def sentence_transformers(folder: Path, threads: int) -> Encode:
    import sentence_transformers
    import torch

    torch.set_num_threads(threads)
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return lambda texts: model.encode(texts, batch_size=BATCH_SIZE, show_progress_bar=False)


def export_onnx(folder: Path) -> Path:
    """Return the model as an ONNX file, which PyTorch exports once per process into a temporary folder."""
    import torch
    from transformers import AutoModel

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bert = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

        def forward(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> Any:
            return self.bert(
                input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask
            ).last_hidden_state

    path = Path(TEMPORARY.name) / "model.onnx"
    if not path.exists():
        outputs = ["last_hidden_state"]
        example = tuple(torch.ones((2, 8), dtype=torch.int64) for _ in ONNX_INPUTS)
        axes = {name: {0: "batch", 1: "tokens"} for name in (*ONNX_INPUTS, *outputs)}
        torch.onnx.export(
            Encoder(), example, str(path), input_names=list(ONNX_INPUTS), output_names=outputs, dynamic_axes=axes,
            dynamo=False,
        )  # fmt: skip
    return path


def batched(folder: Path, run: Callable[[dict[str, Array]], Array]) -> Encode:
    """Wrap `run` as sentence-transformers wraps a model: sort by length, pad each batch, masked mean, normalize.

    `run` maps the ONNX inputs of a batch, each (B, S), to its hidden states (B, S, H).
    """
    tokenizer = Tokenizer(folder / "tokenizer.json", max_seq_length=256)

    def encode(texts: list[str]) -> Array:
        tokens = tokenizer(texts)
        order = np.argsort(-np.diff(tokens.offsets), kind="stable")
        result = np.empty((len(texts), 384), np.float32)
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            inputs = dict(zip(ONNX_INPUTS, tokens.take(rows).padded(), strict=True))
            mask = inputs["attention_mask"]
            pooled = (run(inputs) * mask[:, :, None]).sum(axis=1, dtype=np.float32) / mask.sum(axis=1)[:, None]
            result[rows] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return result

    return encode


def onnx_runtime(folder: Path, threads: int, int8: bool = False) -> Encode:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(str(export_onnx(folder)), model_type="bert", num_heads=12, hidden_size=384)
    path = Path(TEMPORARY.name) / "fused.onnx"
    fused.save_model_to_file(str(path))
    if int8:
        logging.getLogger().setLevel(logging.ERROR)  # it advises a preprocessing that the optimizer has done
        fused_path, path = path, Path(TEMPORARY.name) / "int8.onnx"
        quantize_dynamic(fused_path, path, per_channel=True, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [graph_input.name for graph_input in session.get_inputs()]
    return batched(folder, lambda inputs: session.run(None, {name: inputs[name] for name in names})[0])


def openvino(folder: Path, threads: int, precision: str | None = "f32") -> Encode:
    import openvino

    core = openvino.Core()
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    compiled = core.compile_model(core.read_model(str(export_onnx(folder))), "CPU", settings)
    return batched(folder, lambda inputs: compiled(inputs)[0])


RUNTIMES: dict[str, Callable[[Path, int], Encode]] = {
    "minilm_np (Numba)": minilm_np_numba,
    "minilm_np (NumPy)": minilm_np_numpy,
    "sentence-transformers (PyTorch)": sentence_transformers,
    "ONNX Runtime, fused graph": onnx_runtime,
    "OpenVINO": openvino,
    "minilm_np, bfloat16": partial(minilm_np_numba, dtype="bfloat16"),
    "minilm_np, int8": partial(minilm_np_numba, dtype="int8"),
    "OpenVINO, its default precision": partial(openvino, precision=None),
    "ONNX Runtime, dynamic int8": partial(onnx_runtime, int8=True),
}
# The largest error of an element that is accepted. OpenVINO computes in bfloat16 by default where the CPU can.
LARGEST_ERROR = dict.fromkeys(RUNTIMES, 1e-6) | {
    "minilm_np, bfloat16": 2.5e-3,
    "OpenVINO, its default precision": 2.5e-3,
    "minilm_np, int8": 4e-2,
    "ONNX Runtime, dynamic int8": 8e-2,
}
# The rows of the README's table.
SUMMARY = tuple(name for name, error in LARGEST_ERROR.items() if error == 1e-6 and name != "minilm_np (NumPy)")


# --- the race ----------------------------------------------------------------------------------


def flop(lengths: npt.NDArray[Any]) -> float:
    """Return the floating-point operations of the matmuls for texts of these lengths: dense layers, then attention."""
    return float((lengths * (21_233_664 + 4 * lengths * 384 * 6)).sum())


def installed(folder: Path, threads: int) -> dict[str, Encode]:
    """Return the runtimes that are installed, ready to run; name the others on stderr."""
    runtimes = {}
    for name, build in RUNTIMES.items():
        try:
            runtimes[name] = build(folder, threads)
        except ImportError as error:
            print(f"{name}: not installed ({error.name})", file=sys.stderr)
        except ValueError as error:  # a dtype that this CPU cannot compute
            print(f"{name}: {error}", file=sys.stderr)
    return runtimes


def measure(folder: Path, kinds: Sequence[str], rounds: int, threads: int, peak: float) -> tuple[Ratios, list[str]]:
    """Return the ratios of the table and the lines of the detailed report, which are also printed as they come.

    peak: GFLOP/s of all threads together. Raises SystemExit if a runtime's vectors are not those of the reference.
    """
    runtimes = installed(folder, threads)
    reference = SentenceTransformer(folder, backend="numpy", dtype="float64")
    all_texts = texts_by_kind(reference.tokenizer)
    ratios: Ratios = {name: {} for name in runtimes}
    report = []
    for kind in kinds:
        texts = all_texts[kind]
        lengths = np.diff(reference.tokens(texts).offsets)
        sample = texts[:64]
        expected = reference.encode(sample)
        for name, encode in runtimes.items():
            error, largest = np.abs(np.asarray(encode(sample)) - expected).max(), LARGEST_ERROR[name]
            if not error < largest:
                message = f"expected an error below {largest:.1e} on {kind} texts, got {error:.1e}; not timed"
                raise SystemExit(f"{name}: {message}")
            ratios[name][ERROR] = max(float(error), ratios[name].get(ERROR, 0.0))
        report.append(f"{kind}: {len(texts)} texts, {lengths.sum()} word pieces, {rounds} rounds")
        print(report[-1])
        warm_ups, repeats = (10, 20) if len(texts) == 1 else (0, 1)
        calls = {name: partial(encode, texts) for name, encode in runtimes.items()}
        seconds = interleaved(calls, rounds, warm_ups=warm_ups, repeats=repeats)
        ours = seconds[next(iter(runtimes))]
        for name, times in seconds.items():
            median = statistics.median(times)
            ratios[name][kind] = statistics.median(t / o for t, o in zip(times, ours, strict=True))
            low, high, p95 = np.percentile(times, [10, 90, 95])
            of_peak = 100 * flop(lengths) / median / 1e9 / peak
            report.append(
                f"  {name:32} {1e3 * median / len(texts):8.3f} ms/text  x{ratios[name][kind]:5.2f}  10 to 90 %: "
                f"{low / median:.2f} to {high / median:.2f}  p95 {1e3 * p95:.1f} ms  {of_peak:3.0f} % of peak"
            )
            print(report[-1])
    return ratios, report


def markdown(ratios: Ratios, names: Iterable[str]) -> str:
    """Return the table with a row for each runtime in `names` that was measured."""
    kinds = [kind for kind in next(iter(ratios.values())) if kind != ERROR]
    lines = [f"| time relative to minilm_np | {' | '.join(kinds)} | {ERROR} |", "|---|" + "---|" * (len(kinds) + 1)]
    for name in names:
        if name in ratios:
            cells = [f"{ratios[name][kind]:.2f}" for kind in kinds]
            lines.append(f"| {name} | {' | '.join(cells)} | {ratios[name][ERROR]:.0e} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> tuple[str, str]:
    """Measure and print; return the page's tables and the README's summary as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=["short", "mixed", "long", "query"], help="kinds of texts")
    arguments = parser.parse_args(argv)
    peak = fma_peak() * arguments.threads
    folder = weights.find_or_fetch().folder
    ratios, report = measure(folder, arguments.kinds, arguments.rounds, arguments.threads, peak)
    about = f"{machine()}; {arguments.threads} threads, FMA peak {peak:.0f} GFLOP/s in the same run."
    page = "\n".join([markdown(ratios, RUNTIMES), about, "", "```text", *report, "```", ""])
    short = f"{cpu_model()}, {simd.WIDTH} float32 per vector, {arguments.threads} threads."
    return page, f"{markdown(ratios, SUMMARY)}\n{short}\n"


if __name__ == "__main__":
    main()
