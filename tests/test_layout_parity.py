"""Folders of other models give the vectors of sentence-transformers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.texts import TEXTS
from support.tiny import split_weights, tiny_params, use_vocabulary, write_json, write_plain, write_tiny

from minilm_np import SentenceTransformer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the parity extra")

pytestmark = pytest.mark.parity
texts = [text for text in TEXTS.values() if isinstance(text, str)]


def plain(folder: Path, weights_folder: Path) -> None:
    write_plain(folder, weights_folder)
    write_json(folder / "tokenizer_config.json", {"model_max_length": 20, "tokenizer_class": "BertTokenizer"})


def plain_without_settings(folder: Path, weights_folder: Path) -> None:
    write_plain(folder, weights_folder)


def masked_lm(folder: Path, weights_folder: Path) -> None:
    from safetensors.numpy import save_file

    write_plain(folder, weights_folder, architectures=["BertForMaskedLM"])
    params = {f"bert.{key}": value for key, value in tiny_params().items()}
    params["cls.predictions.bias"] = np.zeros(30522, np.float32)
    save_file(params, folder / "model.safetensors", metadata={"format": "pt"})


def old_layout(folder: Path, weights_folder: Path) -> None:
    write_tiny(folder, weights_folder, transformer="0_Transformer")


def changed(change: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    return lambda folder, weights_folder: change(write_tiny(folder, weights_folder))


def lower_case(folder: Path) -> None:
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 30, "do_lower_case": True})


def roberta_name(folder: Path) -> None:
    (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json")


LAYOUTS: dict[str, Callable[[Path, Path], None]] = {
    "plain BertModel": plain,
    "plain BertModel without tokenizer_config.json": plain_without_settings,
    "BertForMaskedLM": masked_lm,
    "0_Transformer": old_layout,
    "vocab.txt": changed(lambda folder: use_vocabulary(folder)),
    "vocab.txt, cased": changed(lambda folder: use_vocabulary(folder, {"do_lower_case": False})),
    "vocab.txt, accents": changed(
        lambda folder: use_vocabulary(folder, {"strip_accents": False, "tokenize_chinese_chars": False})
    ),
    "shards": changed(split_weights),
    "do_lower_case": changed(lower_case),
    "no sentence_bert_config.json": changed(lambda folder: (folder / "sentence_bert_config.json").unlink()),
    "sentence_roberta_config.json": changed(roberta_name),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_gives_the_vectors_of_sentence_transformers(weights_folder: Path, tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path, weights_folder)
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    ours = SentenceTransformer(tmp_path, backend="numpy")
    assert ours.max_seq_length == theirs.max_seq_length
    expected: Any = theirs.encode(texts)
    np.testing.assert_allclose(ours.encode(texts), expected, rtol=0, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
def test_lowercasing_before_the_tokenizer_changes_no_word_piece(weights_folder: Path, tmp_path: Path) -> None:
    """If do_lower_case is set, sentence-transformers lowercases first; the tokenizer's own lowercasing is enough."""
    write_tiny(tmp_path, weights_folder)
    lower_case(tmp_path)
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu").tokenizer.backend_tokenizer
    theirs.no_padding()
    theirs.enable_truncation(30)
    ours = SentenceTransformer(tmp_path, backend="numpy").tokenizer
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    for start in range(0, len(characters), 10000):
        batch = [f"a{character}B" for character in characters[start : start + 10000]]
        assert [e.ids for e in theirs.encode_batch(batch)] == [e.ids for e in ours.encode(batch)]
