"""What the model learns, with PyTorch's numbers beside ours: `python bench/generate/tables.py learn [OPTIONS]`.

- library: Python's standard library; find a function by the first sentence of its docstring. Nothing to download.
- clinc150: intents of CLINC150 (Larson et al. 2019), from its files in a folder.
- altlex: a random model of 3 layers on pairs of English and Simple English sentences, in float64.

Both have the same batches, the card's symmetric loss and no dropout, so the losses can be compared step by step. Needs
the parity and eval extras.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import random
import statistics
import sysconfig
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from timing import machine

from minilm_np import SentenceTransformer
from minilm_np.checkpoint import parameter_shapes
from minilm_np.evaluate import evaluate
from minilm_np.training import data, learning_rate_at, retrieval_scores, train
from minilm_np.weights import find_or_fetch

Array = npt.NDArray[Any]
Pairs = list[list[str]]
SHARED = Path(__file__).parents[2] / "shared"
SEEDS = (0, 1, 2)


# --- data --------------------------------------------------------------------------------------


def library_pairs() -> tuple[Pairs, Pairs]:
    """Return (train, held-out) pairs of a docstring's first sentence, and name and arguments; split by module."""
    train_pairs: Pairs = []
    held_out: Pairs = []
    seen: set[str] = set()
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py")):
        if {"site-packages", "test", "idlelib", "lib2to3"} & set(path.parts):
            continue
        target = held_out if sum(path.name.encode()) % 5 == 0 else train_pairs
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.FunctionDef):
                continue
            sentence = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()).split(". ")[0]
            signature = f"{node.name}({', '.join(a.arg for a in node.args.args if a.arg != 'self')})"
            if len(sentence.split()) >= 4 and not node.name.startswith("_") and not {sentence, signature} & seen:
                seen |= {sentence, signature}
                target.append([sentence, signature])
    return train_pairs, held_out


def read(path: Path) -> list[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# --- PyTorch -----------------------------------------------------------------------------------


class Torch:
    """The same training in PyTorch: sentence-transformers' model, loss and padding, transformers' schedule."""

    def __init__(self, folder: Path, max_seq_length: int, double: bool = False):
        import torch
        from sentence_transformers import SentenceTransformer as TorchModel

        torch.set_num_threads(2)
        self.torch: Any = torch
        self.model: Any = TorchModel(str(folder), device="cpu")
        self.model = self.model.double() if double else self.model
        self.model.max_seq_length = max_seq_length
        self.model.eval()  # no dropout

    def train(self, rows: Any, seed: int, steps: int, batch_size: int, rate: float, warmup: int) -> list[float]:
        from sentence_transformers import losses

        kinds = ("query_to_doc", "doc_to_query")
        loss = losses.MultipleNegativesRankingLoss(self.model, directions=kinds, partition_mode="per_direction")
        optimizer = self.torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=0.0)
        values = []
        with data.load(rows, seed=seed) as batches:
            for step in range(steps):
                columns = [list(column) for column in zip(*batches.batch(step, batch_size).examples, strict=True)]
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(step, rate, warmup, steps)
                optimizer.zero_grad()
                value = loss([self.model.preprocess(column) for column in columns], None)
                value.backward()
                self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                values.append(float(value.detach()))
        return values

    def encode(self, texts: list[str]) -> Array:
        with self.torch.no_grad():
            return np.asarray(self.model.encode(texts, show_progress_bar=False))


def retrieval(encode: Any, pairs: Pairs) -> dict[str, float]:
    return retrieval_scores(encode([a for a, _ in pairs]), encode([b for _, b in pairs]))


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    return float(np.max(np.abs(np.array(ours) - theirs)))


# --- the three experiments ---------------------------------------------------------------------


def library() -> str:
    pairs, held_out = library_pairs()
    steps, size, rate, warmup = 67, 64, 2e-5, 7
    folder = find_or_fetch().folder
    rows: list[tuple[str, int, float, float, float]] = []
    sts: list[float] = []
    differences = []
    before = SentenceTransformer(folder, backend="numpy")
    first = retrieval(before.encode, held_out)["mrr@10"]
    eval_folder = SHARED / "eval"
    sts_before = evaluate(before, "STSBenchmark", eval_folder).main_score if eval_folder.is_dir() else float("nan")
    options: dict[str, Any] = {"steps": steps, "batch_size": size, "warmup_steps": warmup, "dropout": 0}
    for seed in SEEDS:
        model = SentenceTransformer(folder, backend="numpy")
        history = train(model, pairs, learning_rate=rate, seed=seed, **options)
        ours = retrieval(model.encode, held_out)["mrr@10"]
        if eval_folder.is_dir():
            sts.append(evaluate(model, "STSBenchmark", eval_folder).main_score - sts_before)
        torch_model = Torch(folder, 128)
        losses = torch_model.train(pairs, seed, steps, size, rate, warmup)
        differences.append(largest_difference(history.losses, losses))
        theirs = retrieval(torch_model.encode, held_out)["mrr@10"]
        shuffled = [
            [a, b]
            for (a, _), b in zip(pairs, random.Random(seed).sample([b for _, b in pairs], len(pairs)), strict=True)
        ]
        model = SentenceTransformer(folder, backend="numpy")
        train(model, shuffled, learning_rate=rate, seed=seed, **options)
        rows.append(("2e-5", seed, ours, theirs, retrieval(model.encode, held_out)["mrr@10"]))
    model = SentenceTransformer(folder, backend="numpy")
    train(model, pairs, learning_rate=1e-4, seed=SEEDS[0], **options)
    faster = retrieval(model.encode, held_out)["mrr@10"]
    lines = [
        f"{len(pairs)} pairs to train with, {len(held_out)} held out; {steps} steps of {size}. "
        f"MRR@10 before: {first:.4f}.",
        "",
        "| seed | MRR@10 after | PyTorch | shuffled pairs |",
        "|---|---|---|---|",
        *(
            f"| {seed} | {a:.4f} ({a - first:+.4f}) | {b:.4f} | {c:.4f} ({c - first:+.4f}) |"
            for _, seed, a, b, c in rows
        ),
        "",
        f"With a learning rate of 1e-4: {faster:.4f}. Largest difference of a step's loss from PyTorch's: "
        f"{max(differences):.1e}.",
    ]
    if sts:
        lines.append(f"STSBenchmark: {sts_before:.2f} before, {statistics.mean(sts):+.2f} after (mean of the seeds).")
    return "\n".join(lines) + "\n"


def intents(encode: Any, train_rows: list[Any], test_rows: list[Any]) -> dict[str, float]:
    """Return the accuracies of the nearest centroid and of logistic regression, in points."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import NearestCentroid

    x, y = encode([row["text"] for row in train_rows]), [row["label"] for row in train_rows]
    x_test, y_test = encode([row["text"] for row in test_rows]), [row["label"] for row in test_rows]
    return {
        "nearest centroid": 100 * float(NearestCentroid().fit(x, y).score(x_test, y_test)),
        "logistic regression": 100 * float(LogisticRegression(max_iter=1000).fit(x, y).score(x_test, y_test)),
    }


def clinc150() -> str:
    folder, path = find_or_fetch().folder, SHARED / "train" / "clinc150.train.jsonl.gz"
    rows, test = read(path), read(SHARED / "train" / "clinc150.test.jsonl.gz")
    steps, size, rate, warmup = 120, 64, 2e-5, 12

    def scores(model: Any) -> dict[str, float]:
        found = intents(model.encode, rows, test)
        for task in ("STSBenchmark", "SICK-R"):
            found[task] = evaluate(model, task, SHARED / "eval").main_score
        return found

    model = SentenceTransformer(folder, backend="numpy")
    before = scores(model)
    history = train(
        model, path, steps=steps, batch_size=size, learning_rate=rate, warmup_steps=warmup, dropout=0, seed=0
    )
    after = scores(model)
    torch_model = Torch(folder, 128)
    losses = torch_model.train(path, 0, steps, size, rate, warmup)
    theirs = intents(torch_model.encode, rows, test)
    names = {"STSBenchmark": "STSBenchmark, Spearman", "SICK-R": "SICK-R, Spearman"}
    lines = ["| score | before | after | PyTorch |", "|---|---|---|---|"]
    for name, value in after.items():
        other = f"{theirs[name]:.2f}" if name in theirs else ""
        lines.append(f"| {names.get(name, name)} | {before[name]:.2f} | {value:.2f} | {other} |")
    difference = largest_difference(history.losses, losses)
    lines += ["", f"{steps} steps of {size}. Largest difference of a step's loss from PyTorch's: {difference:.1e}."]
    return "\n".join(lines) + "\n"


def random_model(folder: Path, seed: int = 0) -> Path:
    """Write a model of 3 layers with the default model's tokenizer and random parameters, as BERT is initialized."""
    import shutil
    from dataclasses import replace

    from safetensors.numpy import save_file

    source = find_or_fetch().folder
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors", ".*"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    shapes = parameter_shapes(replace(SentenceTransformer(source, backend="numpy").config, num_hidden_layers=3))
    rng = np.random.default_rng(seed)
    params = {
        name: np.full(shape, float(name.endswith("weight")), np.float32)
        if "LayerNorm" in name or name.endswith("bias")
        else rng.normal(0, 0.02, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(params, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def altlex() -> str:
    path, test = SHARED / "train" / "altlex.train.jsonl.gz", read(SHARED / "train" / "altlex.test.jsonl.gz")
    size, rate = 32, 1e-4
    with tempfile.TemporaryDirectory() as name:
        folder = random_model(Path(name) / "model")
        options: dict[str, Any] = {"batch_size": size, "learning_rate": rate, "dropout": 0, "max_seq_length": 32}
        model = SentenceTransformer(folder, backend="numpy", dtype="float64")
        exact = train(model, path, steps=100, warmup_steps=20, seed=0, **options)
        losses = Torch(folder, 32, double=True).train(path, 0, 100, size, rate, 20)
        model = SentenceTransformer(folder, backend="numpy")
        history = train(model, path, steps=600, warmup_steps=60, seed=0, evaluate=test, eval_steps=200, **options)
    lines = [
        f"Largest difference of the loss from PyTorch's over 100 steps of {size} in float64: "
        f"{largest_difference(exact.losses, losses):.1e}.",
        "",
        f"| step | accuracy@1 among {len(test)} | MRR@10 |",
        "|---|---|---|",
        *(
            f"| {line['step']} | {line['scores']['accuracy@1']:.4f} | {line['scores']['mrr@10']:.4f} |"
            for line in history.evaluations
        ),
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> tuple[str, str, str]:
    """Run the experiments and return a table of each."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    warnings.simplefilter("ignore")
    line = f"\n{machine()}.\n"
    return library() + line, clinc150(), altlex()


if __name__ == "__main__":
    print(*main(), sep="\n")
