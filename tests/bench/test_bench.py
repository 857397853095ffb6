"""The ladder's steps and where.py's figures, on small sizes: right before they are timed."""

from __future__ import annotations

from typing import Any

import ladder
import numpy as np
import pytest
import where

from minilm_np import SentenceTransformer, model
from minilm_np.kernels.simd import WITHOUT_JIT

pytestmark = pytest.mark.skipif(WITHOUT_JIT, reason="sizes are too large without the JIT")


@pytest.mark.parametrize("name", ["three loops", "rows", "blocked", "packed", "register tile", "BLAS"])
def test_every_step_is_the_product(name: str) -> None:
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((9, 40), (96, 40)))
    y = np.full((9, 96), np.nan, np.float32)
    ladder.steps(x, w)[name](y)
    ladder.check(name, y, x, w)
    assert np.abs(y - x.astype("f8") @ w.T.astype("f8")).max() < 1e-4


def test_a_wrong_step_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ladder.steps

    def wrong(x: Any, w: Any) -> Any:
        def skip_a_term(y: Any) -> None:
            np.matmul(x[:, 1:], w[:, 1:].T, out=y)

        return {**right(x, w), "packed": skip_a_term}

    monkeypatch.setattr(ladder, "steps", wrong)
    with pytest.raises(SystemExit, match=r"packed: .* off, .* not timed"):
        ladder.measure(8, 40, 96, rounds=1)


def test_where_names_all_operations_and_counts_their_arithmetic(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, "LENGTHS", (8,))
    (table,) = where.measure({"NumPy": model._bert}, rounds=1, tokens=16).values()
    dense = {"query, key, value", "attention.output", "intermediate", "output"}
    assert set(table) == dense | {"embed", "attention", "add_layer_norm", "pool", "l2_normalize"}
    assert all(seconds > 0 for seconds in table.values())
    total = sum(where.flop(name, 16, 8, model.config) for name in table)
    assert total == 16 * (21_233_664 + 4 * 8 * 384 * 6)  # README's and race.py's count


def test_timing_changes_nothing(model: SentenceTransformer) -> None:
    tokens = model.tokens(["a text", "another"])
    timed = model._bert._replace(ops=where.Timed(model._bert.ops))
    assert np.array_equal(_forward(timed, tokens), _forward(model._bert, tokens))


def _forward(bert: Any, tokens: Any) -> Any:
    return model.forward(bert, *tokens)
