"""transformers' tokenizer in plain Python, with one mistake; it shares no code with crosscheck/word_pieces.py."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

from transformers.models.bert.tokenization_bert_legacy import BasicTokenizer, WordpieceTokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class PythonTokenizer:
    """Called as transformers' tokenizers are; `change` makes the mistake."""

    def __init__(self, folder: Path, change: Callable[[PythonTokenizer], None] = lambda _: None):
        spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.vocabulary = spec["model"]["vocab"]
        self.basic = BasicTokenizer(do_lower_case=True)
        self.pieces = WordpieceTokenizer(self.vocabulary, "[UNK]")
        self.before: Callable[[str], str] = lambda text: text
        self.specials: tuple[str, ...] = SPECIALS
        self.around: Callable[[list[int], int], list[int]] = lambda ids, length: [101, *ids[: length - 2], 102]
        change(self)

    def __call__(self, texts: list[str], max_length: int, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [self.around(self.content(self.before(text)), max_length) for text in texts]}

    def content(self, text: str) -> list[int]:
        parts = re.split("(" + "|".join(map(re.escape, self.specials)) + ")", text) if self.specials else [text]
        ids = []
        for part in parts:
            if part in self.specials:
                ids.append(self.vocabulary[part])
                continue
            for word in self.basic.tokenize(part):
                ids += [self.vocabulary[piece] for piece in self.pieces.tokenize(word)]
        return ids


def settings(**values: Any) -> Callable[[Any], None]:
    """Return a mistake that sets attributes which a port or a tokenizer has."""

    def change(target: Any) -> None:
        for name, value in values.items():
            assert hasattr(target, name), name
            setattr(target, name, value)

    return change


def words(change: Callable[[list[str]], list[str]]) -> Callable[[PythonTokenizer], None]:
    """Change the words that the basic tokenizer returns."""

    def apply(tokenizer: PythonTokenizer) -> None:
        right = tokenizer.basic.tokenize
        tokenizer.basic.tokenize = lambda text: change(right(text))

    return apply


def punctuation(is_mark: Callable[[str], bool]) -> Callable[[PythonTokenizer], None]:
    def split(self: Any, text: str, never_split: Any = None) -> list[str]:
        return "".join(f" {c} " if is_mark(c) else c for c in text).split()

    def apply(tokenizer: PythonTokenizer) -> None:
        tokenizer.basic._run_split_on_punc = MethodType(split, tokenizer.basic)

    return apply


def chinese(also: Callable[[int], bool]) -> Callable[[PythonTokenizer], None]:
    def apply(tokenizer: PythonTokenizer) -> None:
        right = tokenizer.basic._is_chinese_char
        tokenizer.basic._is_chinese_char = lambda cp: right(cp) or also(cp)

    return apply


def accents(strip: Callable[[str], str]) -> Callable[[PythonTokenizer], None]:
    def apply(tokenizer: PythonTokenizer) -> None:
        tokenizer.basic._run_strip_accents = strip

    return apply


def word_limit(length: int) -> Callable[[PythonTokenizer], None]:
    def apply(tokenizer: PythonTokenizer) -> None:
        tokenizer.pieces.max_input_chars_per_word = length

    return apply


def without_unknown(tokenizer: PythonTokenizer) -> None:
    right = tokenizer.pieces.tokenize
    tokenizer.pieces.tokenize = lambda word: [piece for piece in right(word) if piece != "[UNK]"]


def whole_words(tokenizer: PythonTokenizer) -> None:
    tokenizer.pieces.tokenize = lambda word: [word if word in tokenizer.vocabulary and len(word) <= 100 else "[UNK]"]


def start_cut_off(ids: list[int], length: int) -> list[int]:
    return [101, *ids[max(0, len(ids) - length + 2) :], 102]


WORD_PIECE_CHANGES: dict[str, Callable[[PythonTokenizer], None]] = {
    "encoding-latin-1": settings(before=lambda text: text.encode().decode("latin-1")),
    "characters-outside-ascii-dropped": settings(before=lambda text: re.sub(r"[^\x00-\x7f]", "", text)),
    "normalized-nfkc": settings(before=lambda text: unicodedata.normalize("NFKC", text)),
    "digits-dropped": settings(before=lambda text: "".join(c for c in text if c not in string.digits)),
    "special-pieces-not-recognized": settings(specials=()),
    "kana-split": chinese(lambda cp: 0x3040 <= cp <= 0x30FF),
    "hangul-split": chinese(lambda cp: 0xAC00 <= cp <= 0xD7A3),
    "accents-composed": accents(lambda text: "".join(c for c in text if unicodedata.category(c) != "Mn")),
    "punctuation-ascii": punctuation(lambda c: c in string.punctuation),
    "punctuation-by-category": punctuation(lambda c: unicodedata.category(c)[0] == "P"),
    "punctuation-not-split": punctuation(lambda c: False),
    "punctuation-dropped": words(lambda all: [w for w in all if not (len(w) == 1 and _is_mark(w))]),
    "hyphens-kept": punctuation(lambda c: c != "-" and _is_mark(c)),
    "digits-split": words(lambda all: [part for w in all for part in re.findall(r"\d|\D+", w)]),
    "word-limit-none": word_limit(10**6),
    "word-limit-50": word_limit(50),
    "unknown-left-out": without_unknown,
    "whole-words": whole_words,
    "start-cut-off": settings(around=start_cut_off),
    "sep-cut-off": settings(around=lambda ids, length: [101, *ids, 102][:length]),
    "cls-twice": settings(around=lambda ids, length: [101, 101, *ids[: length - 3], 102]),
    "specials-swapped": settings(around=lambda ids, length: [102, *ids[: length - 2], 101]),
    "backwards": settings(around=lambda ids, length: [101, *ids[::-1][: length - 2], 102]),
}


def _is_mark(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character)[0] == "P"
