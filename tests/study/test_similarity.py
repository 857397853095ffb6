"""The split of a similarity into token pairs adds up, in every pooling mode, and groups as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import write_json, write_tiny

from minilm_np import SentenceTransformer, ops
from minilm_np.study import TokenPairs, layer_cosines, token_pairs
from minilm_np.study.similarity import FOLDED, weighted_tokens

PAIRS = [
    ("A man is eating food.", "Someone eats bread."),
    ("", "unbelievably"),
    ("", ""),
    ("a", "word " * 300),
    ("emoji 🙂 and 漢字", "<b>html</b> & \u0000"),
]


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_values_add_up_to_the_cosine(float64_model: SentenceTransformer, a: str, b: str) -> None:
    pairs = token_pairs(float64_model, a, b)
    u, v = float64_model.encode([a, b])
    assert pairs.cosine == pytest.approx(float(u @ v), abs=1e-14)  # measured: 2.2e-16
    assert pairs.values.shape == (len(pairs.rows), len(pairs.columns))
    assert pairs.row_sums.sum() == pytest.approx(pairs.cosine, abs=1e-14)
    assert pairs.column_sums.sum() == pytest.approx(pairs.cosine, abs=1e-14)


def test_in_float32_it_is_the_similarity_of_the_models_vectors(model: SentenceTransformer) -> None:
    a, b = PAIRS[0]
    expected = float(model.similarity(model.encode(a), model.encode(b))[0, 0])
    assert token_pairs(model, a, b).cosine == pytest.approx(expected, abs=5e-7)  # measured: 3e-8


def test_one_value_by_hand(float64_model: SentenceTransformer) -> None:
    a, b = PAIRS[0]
    stages = float64_model.stages([a, b])
    n, m = 8, 6
    h, g = np.split(stages["encoder.layer.5.output"], [n])
    u, v = stages["pooled"]
    expected = h[3] @ g[2] / (n * m * np.linalg.norm(u) * np.linalg.norm(v))
    assert token_pairs(float64_model, a, b).values[3, 2] == pytest.approx(float(expected), abs=1e-15)


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "mean_sqrt_len_tokens"])
def test_weighted_tokens_add_up_to_the_pooled_vector(mode: str) -> None:
    hidden_states = np.random.default_rng(0).normal(size=(7, 12))
    hidden_states[2] = hidden_states[5]  # of equal largest elements the first counts
    expected = ops.pool(hidden_states, np.array([0, 7]), mode)[0]
    np.testing.assert_allclose(weighted_tokens(hidden_states, mode).sum(axis=0), expected, atol=1e-14)


def test_another_pooling_mode(tmp_path: Path, weights_folder: Path) -> None:
    folder = write_tiny(tmp_path / "tiny", weights_folder)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 8, "pooling_mode_max_tokens": True})
    tiny = SentenceTransformer(folder, backend="numpy", dtype="float64")
    u, v = tiny.encode(list(PAIRS[0]))
    assert token_pairs(tiny, *PAIRS[0]).cosine == pytest.approx(float(u @ v), abs=1e-14)


def test_words_and_special_tokens_are_added_up(float64_model: SentenceTransformer) -> None:
    pairs = token_pairs(float64_model, "embeddings of unbelievable things", "word embeddings")
    words = pairs.words()
    assert words.rows == ("[CLS]", "embeddings", "of", "unbelievable", "things", "[SEP]")
    piece = [i for i, token in enumerate(pairs.rows) if token in ("em", "##bed", "##ding", "##s")]
    expected = pairs.values[np.ix_(piece, [1])].sum()
    assert words.values[1, 1] == pytest.approx(float(expected), abs=1e-15)
    folded = words.fold_special_tokens()
    assert folded.rows == ("embeddings", "of", "unbelievable", "things", FOLDED)
    assert folded.values[-1, -1] == pytest.approx(float(words.values[np.ix_([0, 5], [0, 3])].sum()), abs=1e-15)
    for other in (words, folded):
        assert other.cosine == pytest.approx(pairs.cosine, abs=1e-14)


def test_the_largest_pairs_come_first() -> None:
    pairs = TokenPairs(("a", "b"), ("c", "d"), np.array([[0.1, 0.4], [0.4, -1.0]]))
    assert pairs.largest(3) == [("a", "d", 0.4), ("b", "c", 0.4), ("a", "c", 0.1)]


def test_a_piece_that_begins_a_text_is_a_word_of_its_own() -> None:
    names: Any = ("[CLS]", "##s", "##", "#", "##x", "[SEP]")
    pairs = TokenPairs(names, ("a",), np.arange(6.0)[:, None])
    assert pairs.words().rows == ("[CLS]", "##s", "##", "#x", "[SEP]")
    assert replace(pairs, rows=("[PAD]", "a", "b", "c", "d", "e")).fold_special_tokens().rows[-1] == FOLDED


def test_the_cosine_after_each_layer(float64_model: SentenceTransformer) -> None:
    a, b = PAIRS[0]
    cosines = layer_cosines(float64_model, a, b)
    assert list(cosines) == ["embeddings", *(f"encoder.layer.{i}.output" for i in range(6))]
    u, v = float64_model.encode([a, b])
    assert cosines["encoder.layer.5.output"] == pytest.approx(float(u @ v), abs=1e-14)
    first, second = (float64_model.stages(text)["embeddings"].mean(axis=0) for text in (a, b))
    expected = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    assert cosines["embeddings"] == pytest.approx(float(expected), abs=1e-14)
