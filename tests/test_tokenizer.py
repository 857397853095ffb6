"""Packed tokens are the word pieces of the `tokenizers` library, text after text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm_np import SentenceTransformer, WeightsError, encoder
from minilm_np.tokenizer import Tokenizer, Tokens

pytestmark = pytest.mark.quick

CLS, SEP, UNK, MASK = 101, 102, 100, 103


@pytest.fixture(scope="module")
def tokenizer(weights_folder: Path) -> Tokenizer:
    return Tokenizer(weights_folder / "tokenizer.json")


def equal(a: Tokens, b: Tokens) -> bool:
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


def test_word_piece_ids_of_known_texts(tokenizer: Tokenizer) -> None:
    tokens = tokenizer(["Hello world!", "", "[MASK]", "caf\u00e9 CAFE", "\U0001f600"])
    rows = [tokens.token_ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]
    assert rows[0] == [CLS, 7592, 2088, 999, SEP]
    assert rows[1] == [CLS, SEP]
    assert rows[2] == [CLS, MASK, SEP]
    assert rows[3] == [CLS, 7668, 7668, SEP]  # without accents and case
    assert rows[4] == [CLS, 100, SEP]
    assert tokens.token_ids.dtype == tokens.token_type_ids.dtype == np.int32
    assert not tokens.token_type_ids.any()


def test_second_text_of_a_pair_has_token_type_1(tokenizer: Tokenizer) -> None:
    tokens = tokenizer([("hello world", "hello"), "hello"])
    assert tokens.token_ids.tolist() == [CLS, 7592, 2088, SEP, 7592, SEP, CLS, 7592, SEP]
    assert tokens.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert tokens.offsets.tolist() == [0, 6, 9]


@pytest.mark.parametrize("words", [253, 254, 255, 300, 5000])
def test_cuts_off_at_256_word_pieces_and_does_not_pad(tokenizer: Tokenizer, words: int) -> None:
    tokens = tokenizer(["hello " * words, "hello"])
    kept = min(words, 254)
    assert tokens.offsets.tolist() == [0, kept + 2, kept + 5]
    assert tokens.token_ids[kept + 1] == SEP
    pair = tokenizer([("hello " * words, "world " * words)])
    assert len(pair.token_ids) == min(2 * words + 3, 256)


@given(st.lists(st.text(max_size=200), max_size=8))
def test_offsets_delimit_each_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    tokens = tokenizer(texts)
    assert tokens.offsets[0] == 0 and tokens.offsets[-1] == len(tokens.token_ids) == len(tokens.token_type_ids)
    assert len(tokens.offsets) == len(texts) + 1
    assert (np.diff(tokens.offsets) >= 2).all() and (np.diff(tokens.offsets) <= 256).all()
    for text, a, b in zip(texts, tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        assert tokens.token_ids[a] == CLS and tokens.token_ids[b - 1] == SEP
        assert np.array_equal(tokenizer([text]).token_ids, tokens.token_ids[a:b])


def test_take_and_concatenate_give_the_same_batch(tokenizer: Tokenizer) -> None:
    tokens = tokenizer(["a", "b c", "d e f", ("g", "h")])
    taken = tokens.take([3, 0, 2])
    joined = Tokens.concatenate([tokenizer([("g", "h"), "a"]), tokenizer(["d e f"])])
    assert equal(taken, joined)
    empty = Tokens.concatenate([])
    assert [len(part) for part in empty] == [0, 0, 1]


def test_padded_fills_with_zeros_and_masks_them(tokenizer: Tokenizer) -> None:
    tokens = tokenizer(["hello", ("hello", "world"), ""])
    token_ids, token_type_ids, attention_mask = tokens.padded()
    assert token_ids.tolist() == [[CLS, 7592, SEP, 0, 0], [CLS, 7592, SEP, 2088, SEP], [CLS, SEP, 0, 0, 0]]
    assert token_type_ids.tolist() == [[0] * 5, [0, 0, 0, 1, 1], [0] * 5]
    assert attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    for array, longer in zip((token_ids, token_type_ids, attention_mask), tokens.padded(7), strict=True):
        assert array.dtype == longer.dtype == np.int64
        assert np.array_equal(longer, np.pad(array, ((0, 0), (0, 2))))


def test_padded_without_texts_is_empty(tokenizer: Tokenizer) -> None:
    assert [array.shape for array in tokenizer([]).padded()] == [(0, 0)] * 3


def test_padded_rejects_a_length_below_the_longest_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="length: expected at least 5, the longest text's, got 4"):
        tokenizer(["hello", ("hello", "world")]).padded(4)


def test_mask_covers_a_pad_token_written_in_the_text(tokenizer: Tokenizer) -> None:
    token_ids, _, attention_mask = tokenizer(["[PAD]", "hello world"]).padded()
    assert token_ids[0].tolist() == [CLS, 0, SEP, 0]
    assert attention_mask[0].tolist() == [1, 1, 1, 0]


def test_threads_can_share_a_tokenizer(tokenizer: Tokenizer) -> None:
    texts = [f"word{i} " * (i % 300) for i in range(64)]
    expected = tokenizer(texts)
    with ThreadPoolExecutor(8) as pool:
        for tokens in pool.map(lambda _: tokenizer(texts), range(32)):
            assert equal(tokens, expected)


def test_tokens_do_not_depend_on_slices(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text number {i}" for i in range(50)]
    in_one_slice = model.tokens(texts)
    monkeypatch.setitem(encoder.TEXTS_AT_ONCE, "numpy", 7)
    assert equal(model.tokens(texts), in_one_slice)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"model": {"type": "Nonsense"}}'])
def test_rejects_an_invalid_tokenizer_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"tokenizer\.json: not a valid tokenizer\.json"):
        Tokenizer(tmp_path / "tokenizer.json")


def test_rejects_a_vocabulary_larger_than_the_embedding_table(weights_folder: Path) -> None:
    with pytest.raises(WeightsError, match="expected ids below vocab_size 30000, got word piece 30521"):
        Tokenizer(weights_folder / "tokenizer.json", vocab_size=30000)
