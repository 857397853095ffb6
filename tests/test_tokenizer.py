"""Packing: what the `tokenizers` library gives for each text, one after another, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm_np import SentenceTransformer, WeightsError, encoder
from minilm_np.tokenizer import Tokenizer, Tokens

CLS, SEP, UNK, MASK = 101, 102, 100, 103


@pytest.fixture(scope="module")
def tokenizer(weights_folder: Path) -> Tokenizer:
    return Tokenizer(weights_folder / "tokenizer.json")


def same(a: Tokens, b: Tokens) -> bool:
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


def test_known_ids(tokenizer: Tokenizer) -> None:
    tokens = tokenizer(["Hello world!", "", "[MASK]", "caf\u00e9 CAFE", "\U0001f600"])
    rows = [tokens.token_ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]
    assert rows[0] == [CLS, 7592, 2088, 999, SEP]
    assert rows[1] == [CLS, SEP]
    assert rows[2] == [CLS, MASK, SEP]
    assert rows[3] == [CLS, 7668, 7668, SEP]  # accents and case are dropped
    assert rows[4] == [CLS, 100, SEP]
    assert tokens.token_ids.dtype == tokens.token_type_ids.dtype == np.int32
    assert not tokens.token_type_ids.any()


def test_pairs_have_token_types(tokenizer: Tokenizer) -> None:
    tokens = tokenizer([("hello world", "hello"), "hello"])
    assert tokens.token_ids.tolist() == [CLS, 7592, 2088, SEP, 7592, SEP, CLS, 7592, SEP]
    assert tokens.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert tokens.offsets.tolist() == [0, 6, 9]


@pytest.mark.parametrize("words", [253, 254, 255, 300, 5000])
def test_cut_at_256_and_never_padded(tokenizer: Tokenizer, words: int) -> None:
    tokens = tokenizer(["hello " * words, "hello"])
    kept = min(words, 254)
    assert tokens.offsets.tolist() == [0, kept + 2, kept + 5]
    assert tokens.token_ids[kept + 1] == SEP
    pair = tokenizer([("hello " * words, "world " * words)])
    assert len(pair.token_ids) == min(2 * words + 3, 256)


@given(st.lists(st.text(max_size=200), max_size=8))
def test_offsets_add_up(tokenizer: Tokenizer, texts: list[str]) -> None:
    tokens = tokenizer(texts)
    assert tokens.offsets[0] == 0 and tokens.offsets[-1] == len(tokens.token_ids) == len(tokens.token_type_ids)
    assert len(tokens.offsets) == len(texts) + 1
    assert (np.diff(tokens.offsets) >= 2).all() and (np.diff(tokens.offsets) <= 256).all()
    for text, a, b in zip(texts, tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        assert tokens.token_ids[a] == CLS and tokens.token_ids[b - 1] == SEP
        assert np.array_equal(tokenizer([text]).token_ids, tokens.token_ids[a:b])


def test_take_and_concatenate(tokenizer: Tokenizer) -> None:
    tokens = tokenizer(["a", "b c", "d e f", ("g", "h")])
    turned = tokens.take([3, 0, 2])
    again = Tokens.concatenate([tokenizer([("g", "h"), "a"]), tokenizer(["d e f"])])
    assert same(turned, again)
    empty = Tokens.concatenate([])
    assert [len(part) for part in empty] == [0, 0, 1]


def test_threads_share_one_tokenizer(tokenizer: Tokenizer) -> None:
    texts = [f"word{i} " * (i % 300) for i in range(64)]
    wanted = tokenizer(texts)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: tokenizer(texts), range(32)):
            assert same(found, wanted)


def test_tokenizing_in_slices_changes_nothing(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text number {i}" for i in range(50)]
    whole = model.tokens(texts)
    monkeypatch.setitem(encoder.TEXTS_AT_ONCE, "numpy", 7)
    assert same(model.tokens(texts), whole)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"model": {"type": "Nonsense"}}'])
def test_a_bad_tokenizer_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"tokenizer\.json: not a valid tokenizer\.json"):
        Tokenizer(tmp_path / "tokenizer.json")


def test_a_vocabulary_larger_than_the_table_is_refused(weights_folder: Path) -> None:
    with pytest.raises(WeightsError, match="found word piece 30521, wanted ids below vocab_size 30000"):
        Tokenizer(weights_folder / "tokenizer.json", vocab_size=30000)
