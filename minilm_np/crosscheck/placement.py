"""Say in which part of a port a mistake lies that no known mistake explains, from the values alone.

The evidence, in this order:

1. Stages: the first wrong stage names its part.
2. Some texts are right. A mistake of arithmetic changes every text, so encoder and pooling are right, and the wrong
   texts differ in their word pieces, or in their place in the batch. `TRAITS` lists what texts have in common.
3. All directions are right, only lengths are wrong: the output format.
4. The vectors are sums of the right hidden states with wrong weights: the pooling.
5. Otherwise the inputs of the encoder or the encoder itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from minilm_np.crosscheck.probes import PROBES, TEXTS
from minilm_np.crosscheck.variant import Simulator, Variant
from minilm_np.model import Array

MAX_DIRECTION_ERROR = 5e-6  # of an element of a vector scaled to length 1
MAX_SPAN_ERROR = 1e-4  # relative to the length of the vector
SHORT = 18  # word pieces: the hidden states of 7 layers of a text this long span 126 of 384 dimensions
SHORT_TEXTS = 6
SHOWN_CHARACTERS = 60

UNKNOWN = 100  # the word piece [UNK]


class Place(NamedTuple):
    """The part of a port that is wrong, and the sentences that say why."""

    part: str  # "tokenizer", "batching", "encoder", "pooling" or "output format"
    says: tuple[str, ...]


def _any(test: Callable[[str], bool]) -> Callable[[str, Sequence[int]], bool]:
    return lambda text, ids: any(map(test, text))


def _category(*prefixes: str) -> Callable[[str, Sequence[int]], bool]:
    return _any(lambda c: unicodedata.category(c).startswith(prefixes))


def _longer_than(length: int) -> Callable[[str, Sequence[int]], bool]:
    return lambda text, ids: len(ids) > length


def _matches(pattern: str) -> Callable[[str, Sequence[int]], bool]:
    return lambda text, ids: re.search(pattern, text) is not None


# What texts have in common, specific traits first; a test receives a text and its right word pieces, at most 256
TRAITS: tuple[tuple[str, Callable[[str, Sequence[int]], bool]], ...] = (
    ("no characters", lambda text, ids: not text),
    ("more than 256 word pieces", _longer_than(255)),
    ("more than 128 word pieces", _longer_than(128)),
    ("more than 64 word pieces", _longer_than(64)),
    ("special pieces written out, such as [SEP]", _matches(r"\[(CLS|SEP|PAD|MASK|UNK)\]")),
    ("a word of more than 100 characters", _matches(r"\w{101}")),
    ("a word of 100 or more characters", _matches(r"\w{100}")),
    ("control or format characters", _any(lambda c: unicodedata.category(c) in ("Cc", "Cf") and c not in "\t\n\r")),
    ("accents", lambda text, ids: any(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", text))),
    (
        "precomposed accented letters",
        _any(lambda c: len(unicodedata.normalize("NFD", c)) > 1 and not "\uac00" <= c < "\ud7a4"),
    ),
    ("combining accents", _category("Mn")),
    ("Chinese characters", _matches("[\u4e00-\u9fff]")),
    ("Japanese kana", _matches("[\u3040-\u30ff]")),
    ("Korean syllables", _matches("[\uac00-\ud7a3]")),
    ("Arabic, Hebrew or Indic letters", _matches("[\u0590-\u0dff]")),
    ("Cyrillic or Greek letters", _matches("[\u0370-\u052f]")),
    ("emoji", _matches("[\U0001f000-\U0001ffff]")),
    ("white space other than single spaces", _matches(r"[^\S ]|\s\s|^\s|\s$")),
    ("spaces outside ASCII", _any(lambda c: c.isspace() and ord(c) > 127)),
    ("capital letters outside ASCII", _any(lambda c: c != c.lower() and ord(c) > 127)),
    ("words in capitals", _matches(r"[A-Z]{2}")),
    ("capital letters", _any(lambda c: c != c.lower())),
    ("hyphens", _matches("-")),
    ("apostrophes", _matches("['\u2019]")),
    ("underscores", _matches("_")),
    ("punctuation outside ASCII", _any(lambda c: unicodedata.category(c)[0] == "P" and ord(c) > 127)),
    ("symbols outside ASCII", _any(lambda c: unicodedata.category(c)[0] == "S" and ord(c) > 127)),
    ("symbols such as $ + < = >", _category("S")),
    ("punctuation inside words or numbers", _matches(r"\w[^\w\s]\w")),
    ("punctuation", _category("P", "S")),
    ("digits", _any(str.isdigit)),
    ("letters outside ASCII", _any(lambda c: c.isalpha() and ord(c) > 127)),
    ("characters outside ASCII", _any(lambda c: ord(c) > 127)),
    ("[UNK] among the word pieces", lambda text, ids: UNKNOWN in ids),
)


def common_traits(wrong: set[int], whole: Sequence[Sequence[int]]) -> str:
    """Say what the wrong texts have, and the right ones lack; `whole` holds the right word pieces of each text."""
    having = {name: {row for row, text in enumerate(TEXTS) if test(text, whole[row])} for name, test in TRAITS}
    inside = [(name, rows) for name, rows in having.items() if rows and rows <= wrong]
    for size in (1, 2, 3):
        for chosen in combinations(inside, size):
            if set().union(*(rows for _, rows in chosen)) == wrong:
                what = " or ".join(name for name, _ in chosen)
                return f"right on all texts without {what}; wrong on all with {what}"
    around = [(len(rows), name) for name, rows in having.items() if rows >= wrong]
    if around:
        size, name = min(around)
        return f"right on all texts without {name}; wrong on {len(wrong)} of the {size} texts with {name}"
    names = ", ".join(PROBES[row].name for row in sorted(wrong)[:12])
    return f"wrong on {len(wrong)} texts: {names}"


def of_stage(stage: str) -> str:
    """Return the part that a stage belongs to."""
    parts = {"token_ids": "tokenizer", "pooled": "pooling", "sentence_embedding": "output format"}
    return parts.get(stage, "encoder")


def place(
    vectors: Array,
    expected: Array,
    wrong: set[int],
    together: Sequence[Sequence[int]],
    whole: Sequence[Sequence[int]],
    simulator: Simulator,
) -> Place:
    """Return where the mistake in final vectors lies; `wrong` holds the rows that are wrong."""
    right = set(range(len(vectors))) - wrong
    if right:
        return _some_right(wrong, right, together, whole, vectors, simulator)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    if np.abs(unit - expected).max() <= MAX_DIRECTION_ERROR:
        lengths = np.linalg.norm(vectors, axis=1)
        return Place(
            "output format",
            (f"all directions are right, only the lengths are wrong: from {lengths.min():.4g} to {lengths.max():.4g}",),
        )
    return _pooling(vectors, whole, simulator) or Place(
        "encoder",
        (
            "all texts are wrong, even the empty one and single words, and no weights of the right hidden states give "
            "the vectors: the encoder itself or what it receives (special pieces, positions, token types, mask)",
        ),
    )


def _some_right(
    wrong: set[int],
    right: set[int],
    together: Sequence[Sequence[int]],
    whole: Sequence[Sequence[int]],
    vectors: Array,
    simulator: Simulator,
) -> Place:
    names = ", ".join(PROBES[row].name for row in sorted(right)[:8]) + (" ..." if len(right) > 8 else "")
    count = f"{len(right)} of {len(wrong) + len(right)} texts are right ({names}), so encoder and pooling are right"
    lengths = [min(len(ids), 256) for ids in whole]
    longest = {row for rows in together for row in rows if lengths[row] == max(lengths[other] for other in rows)}
    first = {rows[0] for rows in together if rows}
    if len(together) > 1 and right <= longest and len(right) > 1:
        return Place("batching", (count, "only the longest text of each call is right: padding or its mask"))
    if len(together) > 1 and right == first:
        return Place("batching", (count, "only the first text of each call is right: the order or the split of a call"))
    row = min(wrong, key=lambda row: len(whole[row]))
    smallest = TEXTS[row]
    shown = smallest if len(smallest) <= SHOWN_CHARACTERS else f"{smallest[:SHOWN_CHARACTERS]}..."
    return Place(
        "tokenizer",
        (
            count,
            f"word pieces: {common_traits(wrong, whole)}",
            f"smallest text that differs: {shown!r}",
            *_explained_by_pieces(row, vectors[row], list(whole[row]), simulator),
        ),
    )


def _explained_by_pieces(row: int, vector: Array, right: list[int], simulator: Simulator) -> list[str]:
    """Say which word pieces have this vector, if they are near the right ones; for short texts only.

    Tried: the word pieces by each rule of word_pieces.py, and the right ones with a run of neighbors left out, replaced
    by [UNK], or twice.
    """
    if len(right) > SHORT:
        return []
    tried = {tuple(ids): None for ids in simulator.pieces_by_rule(TEXTS[row]).values()}
    for start, stop in combinations(range(len(right) + 1), 2):
        for run in ((), (UNKNOWN,), right[start:stop] * 2):
            tried[(*right[:start], *run, *right[stop:])] = None
    candidates = [ids for ids in tried if ids]
    errors = np.abs(simulator.embed_pieces(candidates) - vector).max(axis=1)
    best = int(np.argmin(errors))
    if errors[best] > MAX_DIRECTION_ERROR:
        return []
    got, expected = simulator.piece_names(candidates[best]), simulator.piece_names(right)
    return [f"its vector is that of the word pieces {got}; right: {expected}"]


def _pooling(vectors: Array, whole: Sequence[Sequence[int]], simulator: Simulator) -> Place | None:
    """Return the pooling as the place if short texts' vectors are weighted sums of right hidden states."""
    rows = sorted((row for row in range(len(TEXTS)) if len(whole[row]) <= SHORT), key=lambda row: len(whole[row]))
    rows = [row for row in rows if vectors[row].any()][:SHORT_TEXTS]
    layers = [f"encoder.layer.{i}.output" for i in reversed(range(simulator.checkpoint.config.num_hidden_layers))]
    stages = [*layers, "embeddings"]
    run = simulator.run(Variant(), [TEXTS[row] for row in rows], [[i] for i in range(len(rows))], stages)
    choices = [(f"the hidden states of {stage}", [stage]) for stage in stages]
    for what, chosen in [*choices, ("the hidden states of several layers", stages)]:
        weights = []
        for i, row in enumerate(rows):
            basis = np.concatenate([run.stages[stage][i] for stage in chosen]).T.astype(np.float64)
            solution = np.linalg.lstsq(basis, vectors[row], rcond=None)[0]
            if np.linalg.norm(basis @ solution - vectors[row]) > MAX_SPAN_ERROR * np.linalg.norm(vectors[row]):
                break
            weights.append(solution / np.abs(solution).sum())
        else:
            says = [f"each vector is a weighted sum of {what} of its text: the encoder is right, the pooling is wrong"]
            if len(chosen) == 1:
                example = weights[-1]
                shown = ", ".join(f"{weight:.3f}" for weight in example)
                says.append(f"weights of the word pieces of {TEXTS[rows[-1]]!r}: {shown}")
            return Place("pooling", tuple(says))
    return None
