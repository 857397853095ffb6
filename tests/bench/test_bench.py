"""The measuring scripts on small sizes: their calculations are right before they are timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ladder
import numpy as np
import pytest
import race
import where

from minilm_np import SentenceTransformer, ops
from minilm_np.crosscheck import probe_texts
from minilm_np.kernels.simd import WITHOUT_JIT
from minilm_np.model import forward, prepare
from minilm_np.tokenizer import Tokens

pytestmark = pytest.mark.skipif(WITHOUT_JIT, reason="sizes are too large without the JIT")


@pytest.mark.parametrize(
    "name", ["three loops", "rows", "blocked", "packed", "register tile", "bfloat16", "int8", "BLAS"]
)
def test_each_ladder_step_computes_the_product(name: str) -> None:
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((9, 64), (96, 64)))
    y = np.full((9, 96), np.nan, np.float32)
    ladder.steps(x, w)[name](y)
    ladder.check(name, y, x, w)
    largest = {"bfloat16": 0.1, "int8": 0.4}.get(name, 1e-4)
    assert np.abs(y - x.astype("f8") @ w.T.astype("f8")).max() < largest


def test_ladder_does_not_time_a_wrong_step(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ladder.steps

    def wrong(x: Any, w: Any) -> Any:
        def skip_a_term(y: Any) -> None:
            np.matmul(x[:, 1:], w[:, 1:].T, out=y)

        return {**right(x, w), "packed": skip_a_term}

    monkeypatch.setattr(ladder, "steps", wrong)
    with pytest.raises(SystemExit, match=r"packed: expected an error of at most .*, got .*; not timed"):
        ladder.measure(8, 64, 96, rounds=1)


def test_where_names_every_operation_and_counts_its_flops(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, "LENGTHS", (8,))
    (table,) = where.measure({"NumPy": prepare(model.weights, model.config, ops)}, rounds=1, tokens=16).values()
    dense = {"query, key, value", "attention.output", "intermediate", "output"}
    assert set(table) == dense | {"embed", "attention", "add_layer_norm", "pool", "l2_normalize"}
    assert all(seconds > 0 for seconds in table.values())
    total = sum(where.flop(name, 16, 8, model.config) for name in table)
    assert total == 16 * (21_233_664 + 4 * 8 * 384 * 6) == race.flop(np.array([8, 8]))


def test_timed_op_set_returns_the_same_values(model: SentenceTransformer) -> None:
    tokens = model.tokens(["a text", "another"])
    bert = prepare(model.weights, model.config, ops)
    timed = bert._replace(ops=where.Timed(ops))
    assert np.array_equal(forward(timed, *tokens), forward(bert, *tokens))


def test_race_pads_masks_and_restores_the_order(
    model: SentenceTransformer, weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hidden states of padding are huge here, so that a wrong mask shows."""

    def run(inputs: dict[str, Any]) -> Any:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        assert {name: (part.dtype, part.shape) for name, part in inputs.items()} == dict.fromkeys(
            race.ONNX_INPUTS, (np.dtype("int64"), ids.shape)
        )
        offsets = np.cumsum([0, *mask.sum(axis=1)])
        tokens = Tokens(ids[mask == 1], inputs["token_type_ids"][mask == 1], offsets)
        hidden_states = np.full((*ids.shape, 384), 1e6, np.float32)
        hidden_states[mask == 1] = model.token_embeddings(tokens)
        return hidden_states

    monkeypatch.setattr(race, "BATCH_SIZE", 4)
    texts = probe_texts()[:10]
    assert np.abs(race.batched(weights_folder, run)(texts) - model.encode(texts)).max() < 1e-6
