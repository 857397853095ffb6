"""Reference values for the probe texts (word pieces, and stages in float64), and the tolerance of each stage."""

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

TOLERANCE_FACTOR = 4.0
"""A tolerance is this many times the largest float32 error measured at the stage. ONNX Runtime and OpenVINO, which were
not measured for the table, stay within 1.0 times that error in the final vectors. Of the mistakes that change final
vectors, the smallest (LayerNorm eps 1e-6) exceeds the tolerance 30 times."""

STAGE_ROWS = tuple(row for row, probe in enumerate(PROBES) if probe.stages)


def batches() -> list[list[int]]:
    """Return the rows of TEXTS that a port receives together, batch by batch."""
    rows = iter(range(len(TEXTS)))
    return [[next(rows) for _ in batch] for batch in BATCHES]


@lru_cache(1)
def float32_errors() -> dict[str, dict[str, float]]:
    """Return the largest float32 errors per stage on NumPy, Numba and PyTorch (bench/generate/float32_errors.py)."""
    table: dict[str, dict[str, float]] = json.loads(
        (Path(__file__).parent / "float32_errors.json").read_text(encoding="utf-8")
    )
    return table


def tolerance(stage: str) -> float:
    """Return the largest absolute error of an element that is allowed at a stage; 0 for token_ids."""
    return 0.0 if stage == "token_ids" else TOLERANCE_FACTOR * max(float32_errors()[stage].values())


class Truth(NamedTuple):
    """The float64 reference for the probe texts."""

    checkpoint: Checkpoint  # the checkpoint that computed the reference
    token_ids: list[Array]  # word pieces (S,) of each probe text
    embeddings: Array  # final vectors (40, 384), float64
    stages: Stages  # a list of float64 arrays by stage, for the probe texts with stages only (STAGE_ROWS)

    def of(self, stage: str, rows: Iterable[int]) -> list[Array]:
        """Return a stage's value for each of these rows of TEXTS."""
        if stage == "token_ids":
            return [self.token_ids[row] for row in rows]
        if stage == "sentence_embedding":
            return [self.embeddings[row] for row in rows]
        return [self.stages[stage][STAGE_ROWS.index(row)] for row in rows]


def compute(ops: Any) -> Truth:
    """Return the reference values for the probe texts, computed in float64 by the op set `ops`."""
    checkpoint = Checkpoint.load(dtype="float64")
    bert = model.prepare(checkpoint.params, checkpoint.config, ops)
    tokens = Tokenizer(checkpoint.folder / "tokenizer.json", checkpoint.config.max_seq_length)(TEXTS)
    stage_tokens = tokens.take(STAGE_ROWS)
    stages: Stages = {}

    def observe(stage: str, value: Any) -> None:
        stages[stage] = by_text(stage, value, stage_tokens.offsets)

    model.forward(bert, *stage_tokens, observe)
    embeddings = model.forward(bert, *tokens)
    return Truth(checkpoint, by_text("token_ids", tokens.token_ids, tokens.offsets), embeddings, stages)


def by_text(stage: str, value: Any, offsets: Array) -> list[Array]:
    """Split a stage's packed value into one array per text."""
    if stage.endswith("attention_probs") or stage in ("pooled", "sentence_embedding"):
        return [np.asarray(part) for part in value]
    return np.split(value, offsets[1:-1])


@lru_cache(1)
def truth() -> Truth:
    """Return the reference values, computed once per process by the NumPy op set in about two seconds."""
    from minilm_np import ops

    return compute(ops)


@lru_cache(1)
def simulator() -> Simulator:
    """Return the simulator of mistakes, one per process, which caches the values it simulates."""
    return Simulator(Checkpoint.load())
