"""Paraphrase mining against a sort of all pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.embeddings import normal, ranking, small_integers

from minilm_np import util

Array = npt.NDArray[Any]


def mined_by_definition(table: Array, top_k: int, max_pairs: int) -> list[list[float | int]]:
    """Return pairs by definition: either row is in the other's top_k, where a row is not its own neighbor."""
    best: dict[tuple[int, int], float] = {}
    for i, row in enumerate(table):
        for j in [j for j in ranking(row, top_k + 1) if j != i][:top_k]:
            best[min(i, j), max(i, j)] = float(row[j])
    pairs = sorted(best, key=lambda pair: (-best[pair], pair))
    return [[best[pair], *pair] for pair in pairs[:max_pairs]]


@given(st.data())
def test_mining_equals_a_sort_of_all_pairs(data: st.DataObject) -> None:
    rows = data.draw(small_integers(data.draw(st.integers(0, 20)), 3))
    top_k, max_pairs = data.draw(st.integers(1, 22)), data.draw(st.integers(1, 60))
    chunks = data.draw(st.integers(1, 22)), data.draw(st.integers(1, 22))
    actual = util.paraphrase_mining_embeddings(rows, *chunks, 10**6, top_k, util.dot_score)
    assert actual == mined_by_definition(rows @ rows.T, top_k, 10**6)
    actual = util.paraphrase_mining_embeddings(rows, 100, 100, max_pairs, top_k, util.dot_score)
    assert actual == mined_by_definition(rows @ rows.T, top_k, max_pairs)


def test_mining_in_chunks_keeps_the_best_pairs() -> None:
    rows = normal(60, 5)
    all_pairs = util.paraphrase_mining_embeddings(rows)
    assert [pair[1:] for pair in all_pairs[:9]] == [
        pair[1:] for pair in util.paraphrase_mining_embeddings(rows, 7, 11, 9)
    ]
    assert len(all_pairs) == 60 * 59 / 2
    assert all(type(value) is kind for value, kind in zip(all_pairs[0], (float, int, int), strict=True))


def test_paraphrase_mining_passes_options_to_encode() -> None:
    calls = []

    def encode(sentences: list[str], **options: Any) -> Array:
        calls.append((sentences, options))
        return np.array([[1, 0], [0, 1], [1, 0.1]], np.float32)

    actual = util.paraphrase_mining(SimpleNamespace(encode=encode), ["a", "b", "c"], batch_size=7, top_k=1)
    assert [pair[1:] for pair in actual] == [[0, 2], [1, 2]]
    util.paraphrase_mining(SimpleNamespace(encode=encode), ["a"], True, truncate_dim=2, prompt="p")
    assert calls == [
        (["a", "b", "c"], {"show_progress_bar": False, "batch_size": 7}),
        (["a"], {"show_progress_bar": True, "batch_size": 32, "truncate_dim": 2, "prompt": "p"}),
    ]


def test_mining_refuses_a_single_str() -> None:
    with pytest.raises(TypeError, match="sentences: expected a list of texts, got a single str 'hello'"):
        util.paraphrase_mining(None, "hello")  # type: ignore[arg-type]
