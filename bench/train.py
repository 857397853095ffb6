"""Compare the speed of a training step with PyTorch's: `python bench/generate/tables.py train [OPTIONS]`.

A step is tokenization, forward, backward, clipping and AdamW of 64 pairs, by MultipleNegativesRankingLoss in float32.
PyTorch runs sentence-transformers' own model and loss, which pad each column to its longest text. Both have the same
texts and the same number of threads. The losses of the first steps are compared before anything is timed. Rounds are
interleaved; the figures are medians over rounds. Needs the parity and bench extras.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from race import docstrings, texts_by_kind
from timing import interleaved, machine

from minilm_np import SentenceTransformer
from minilm_np.training import AdamW, MultipleNegativesRankingLoss, data
from minilm_np.training.trainer import Run
from minilm_np.training.workers import Workers
from minilm_np.weights import find_or_fetch

PAIRS, RATE, MAX_NORM = 64, 2e-5, 1.0
DROPOUT = 0.1
LENGTHS = {"short": 128, "mixed": 128, "equal": 64}  # the max_seq_length of each kind
Step = Callable[[], float]


def pairs_by_kind(model: SentenceTransformer) -> dict[str, list[list[str]]]:
    """Return 64 pairs of short texts (16 to 24 word pieces), mixed lengths (8 to 128), and 64 word pieces each."""
    kinds = texts_by_kind(model.tokenizer)
    words = " ".join(docstrings()).split(" ")
    kinds["equal"] = [" ".join(words[80 * i : 80 * i + 80]) for i in range(2 * PAIRS)]  # cut at 64 word pieces
    return {
        kind: [list(pair) for pair in zip(kinds[kind][:PAIRS], kinds[kind][PAIRS:], strict=False)] for kind in LENGTHS
    }


def ours(pairs: list[list[str]], length: int, dropout: float, workers: Workers) -> Step:
    model = SentenceTransformer(find_or_fetch().folder)
    model.max_seq_length = length
    batches = data.load(pairs, seed=0)
    loss = MultipleNegativesRankingLoss()
    run = Run(
        model, model.tokenizer, batches, loss, 20.0, AdamW(model.weights), workers, None, (dropout,) * 2, 0, len(pairs)
    )
    return lambda: float(run.step(RATE, MAX_NORM)["loss"])


def pytorch(pairs: list[list[str]], length: int, dropout: float, threads: int) -> Step:
    import torch
    from sentence_transformers import SentenceTransformer as TorchModel
    from sentence_transformers import losses

    torch.set_num_threads(threads)
    model: Any = TorchModel(str(find_or_fetch().folder), device="cpu")
    model.max_seq_length = length
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = dropout
    loss = losses.MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)

    def step() -> float:
        columns = [model.preprocess(list(column)) for column in zip(*pairs, strict=True)]
        optimizer.zero_grad()
        value = loss(columns, None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return float(value.detach())

    return step


def race(kind: str, pairs: list[list[str]], dropout: float, workers: Workers, rounds: int) -> str:
    """Check and time both; return a row of the table."""
    steps = {
        "minilm_np": ours(pairs, LENGTHS[kind], dropout, workers),
        "PyTorch": pytorch(pairs, LENGTHS[kind], dropout, workers.count),
    }
    first = {name: [step() for _ in range(3)] for name, step in steps.items()}
    if not dropout:
        assert np.allclose(first["minilm_np"], first["PyTorch"], rtol=1e-4, atol=1e-5), first
    seconds = interleaved(steps, rounds, warm_ups=1)
    ratio = statistics.median(b / a for a, b in zip(seconds["minilm_np"], seconds["PyTorch"], strict=True))
    times = " | ".join(f"{1000 * statistics.median(seconds[name]):.0f}" for name in steps)
    return f"| {kind} | {dropout:g} | {times} | x{ratio:.2f} |"


def main(argv: Sequence[str] | None = None) -> tuple[str]:
    """Return the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(LENGTHS), choices=LENGTHS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    kinds = pairs_by_kind(SentenceTransformer(find_or_fetch().folder, backend="numpy"))
    lines = ["| texts | dropout | minilm_np, ms | PyTorch, ms | speed |", "|---|---|---|---|---|"]
    for kind in arguments.kinds:
        for dropout in (0.0, DROPOUT):
            with Workers(arguments.threads) as workers:
                lines.append(race(kind, kinds[kind], dropout, workers, arguments.rounds))
    return ("\n".join([*lines, "", f"{machine()}, {arguments.threads} threads.", ""]),)


if __name__ == "__main__":
    print(*main())
