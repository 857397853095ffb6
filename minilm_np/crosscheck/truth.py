"""What is right: the probes' word pieces and stages in float64, and how far from them a right backend may be."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minilm_np import model
from minilm_np.crosscheck.probes import BATCHES, PROBES, TEXTS
from minilm_np.crosscheck.variant import Checkpoint, Simulator, Stages
from minilm_np.model import Array
from minilm_np.tokenizer import Tokenizer

K = 4.0
"""What is allowed is K times the largest error measured. Right backends that were not measured for the table (ONNX
Runtime, OpenVINO) stay within 1.0 of that largest error in the final vectors; the smallest mistake of the catalogue
(LayerNorm eps 1e-6) is at 30 times the tolerance."""

STAGE_ROWS = tuple(row for row, probe in enumerate(PROBES) if probe.stages)


def batches() -> list[list[int]]:
    """Rows of TEXTS that are asked for together."""
    rows = iter(range(len(TEXTS)))
    return [[next(rows) for _ in batch] for batch in BATCHES]


@lru_cache(1)
def float32_errors() -> dict[str, dict[str, float]]:
    """Of each stage the largest error of NumPy, Numba and PyTorch in float32 (bench/generate/float32_errors.py)."""
    table: dict[str, dict[str, float]] = json.loads(
        (Path(__file__).parent / "float32_errors.json").read_text(encoding="utf-8")
    )
    return table


def tolerance(stage: str) -> float:
    """The largest absolute error of an element that is allowed at a stage; 0 for token_ids."""
    return 0.0 if stage == "token_ids" else K * max(float32_errors()[stage].values())


class Truth(NamedTuple):
    checkpoint: Checkpoint
    token_ids: list[Array]  # of each of TEXTS, (S,)
    embeddings: Array  # (n, H) float64, of TEXTS
    stages: Stages  # of the texts of STAGE_ROWS only

    def of(self, stage: str, rows: Iterable[int]) -> list[Array]:
        """A stage's value for each of these rows of TEXTS."""
        if stage == "token_ids":
            return [self.token_ids[row] for row in rows]
        if stage == "sentence_embedding":
            return [self.embeddings[row] for row in rows]
        return [self.stages[stage][STAGE_ROWS.index(row)] for row in rows]


def compute(ops: Any) -> Truth:
    """The truth about the probes, by a float64 op set."""
    checkpoint = Checkpoint.load(dtype="float64")
    bert = model.prepare(checkpoint.params, checkpoint.config, ops)
    tokens = Tokenizer(checkpoint.folder / "tokenizer.json", checkpoint.config.max_seq_length)(TEXTS)
    some = tokens.take(STAGE_ROWS)
    stages: Stages = {}

    def observe(stage: str, value: Any) -> None:
        stages[stage] = by_text(stage, value, some.offsets)

    model.forward(bert, *some, observe)
    embeddings = model.forward(bert, *tokens)
    return Truth(checkpoint, by_text("token_ids", tokens.token_ids, tokens.offsets), embeddings, stages)


def by_text(stage: str, value: Any, offsets: Array) -> list[Array]:
    """A stage's packed value as one array for each text."""
    if stage.endswith("attention_probs") or stage in ("pooled", "sentence_embedding"):
        return [np.asarray(of_text) for of_text in value]
    return np.split(value, offsets[1:-1])


@lru_cache(1)
def truth() -> Truth:
    """The truth with all stages, computed once in a process; about two seconds."""
    from minilm_np import ops

    return compute(ops)


@lru_cache(1)
def simulator() -> Simulator:
    """What makes mistakes on purpose; it remembers what it made."""
    return Simulator(Checkpoint.load())
