"""A long text is tokenized only as far as the model reads it; the word pieces are those of the whole text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import HANG_SECONDS

from minilm_np import SentenceTransformer, long_texts
from minilm_np.tokenizer import Text, TextInfo, Tokenizer

pytest.importorskip("resource", reason="measures memory as Unix does")
CHARACTERS = (
    "\x00\t\n\x1c #'-.[]9Z_a\u00a0\u00e9\u0301\u0308\u0e01\u0e31\u200b\u201c\u3000\u3002\u304b\u4e2d\u6587\U0001f600"
)


@pytest.fixture(scope="module")
def tokenizer(weights_folder: Path) -> Tokenizer:
    return Tokenizer(weights_folder / "tokenizer.json")


@pytest.fixture(scope="module")
def whole(weights_folder: Path) -> Tokenizer:
    """The same tokenizer, which tokenizes whole texts."""
    result = Tokenizer(weights_folder / "tokenizer.json")
    result._long_texts.supported = False
    return result


def assert_same(tokenizer: Tokenizer, whole: Tokenizer, texts: list[Text]) -> None:
    """Check the word pieces that are read, whether some are cut off, and every TextInfo."""
    found, cut = tokenizer.pack(texts)
    expected, expected_cut = whole.pack(texts)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert cut.keys() == expected_cut.keys()
    assert all(0 < cut[row] <= expected_cut[row] for row in cut)
    infos: list[TextInfo] = []
    expected_infos: list[TextInfo] = []
    tokenizer.pack(texts, infos)
    whole.pack(texts, expected_infos)
    assert infos == expected_infos


words = st.lists(
    st.one_of(
        st.text(alphabet=CHARACTERS, max_size=8),
        st.sampled_from(["word ", "[SEP]", "[MASK]", "don't ", "aB3/xYz+", "\u4e2d"]),
        st.builds(lambda text, n: text * n, st.text(alphabet=CHARACTERS, min_size=1, max_size=3), st.integers(1, 900)),
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module", autouse=True)
def short_parts() -> Iterator[None]:
    """Shorten the parts, because the library needs seconds and gigabytes for a pair of long texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "PART", 300)
        patch.setattr(long_texts, "LONG", 600)
        yield


@settings(max_examples=150)
@given(st.lists(st.one_of(words, st.tuples(words, words)), min_size=1, max_size=3))
def test_has_the_word_pieces_of_the_whole_text(tokenizer: Tokenizer, whole: Tokenizer, texts: list[Text]) -> None:
    assert_same(tokenizer, whole, texts)


@pytest.mark.parametrize(
    "unit", ["word ", "a", "\u00e9", "\u4e2d", "aB3/xYz+", " ", "\u0301", "[SEP]", "a\u0301", "\u304b\u306a\u3002"]
)
def test_long_texts_of_every_kind(tokenizer: Tokenizer, whole: Tokenizer, unit: str) -> None:
    text = unit * (3000 // len(unit))
    assert_same(tokenizer, whole, [text, text + " end", " " * 1200 + text, (text, "b"), ("b", text), (text, text)])


@pytest.mark.parametrize(
    "unit",
    [
        "q[SEP]r",
        "a\x1cb",
        "e\u0301f",
        "a\x00.",
        "\u4e2d\u0301a",
        "_a'\u0300",
        "\u201cA\u2019",
        "a\u200b b",
        "\u0e01\u0e31-",
    ],
)
def test_parts_have_the_word_pieces_of_the_whole(tokenizer: Tokenizer, unit: str) -> None:
    def ids(text: str) -> list[int]:
        encoding = tokenizer.encode([text])[0]
        parts = [encoding, *encoding.overflowing]
        kept = [[i for i, s in zip(e.ids, e.special_tokens_mask, strict=True) if not s] for e in parts]
        return [i for part in kept for i in part]

    for shift in range(len(unit)):  # the end of the first part meets every character of the unit
        text = "x" * shift + unit * 400
        parts = tokenizer._long_texts.parts(text)
        assert [i for part in parts for i in ids(part)] == ids(text)


@pytest.mark.parametrize("longer", ["first", "second", "equal"])
def test_of_two_long_texts_the_longer_one_keeps_more(tokenizer: Tokenizer, whole: Tokenizer, longer: str) -> None:
    a, b = "word " * 500, "other " * 500
    pair = {"first": (a + "word", b), "second": (a, b + "other"), "equal": (a, b)}[longer]
    assert_same(tokenizer, whole, [pair])


def test_other_tokenizers_read_the_whole_text(weights_folder: Path, tmp_path: Path) -> None:
    content = (weights_folder / "tokenizer.json").read_text(encoding="utf-8")
    settings = json.loads(content) | {"pre_tokenizer": {"type": "Whitespace"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    other = Tokenizer(tmp_path / "tokenizer.json")
    assert not other._long_texts.supported
    assert len(other(["word " * 500]).token_ids) == 256


def test_warning_says_at_least(weights_folder: Path) -> None:
    model = SentenceTransformer(weights_folder, backend="numpy")
    with pytest.warns(UserWarning, match=r"sentences\[1\]: at least \d+ word pieces beyond max_seq_length 256"):
        model.encode(["short", "word " * 500])
    assert model.token_count("word " * 500) == 502


CHILD = """
import resource, sys, time, warnings
from minilm_np import SentenceTransformer
warnings.simplefilter("ignore")
model = SentenceTransformer(sys.argv[1], backend="numpy")
model.encode(["hello"])
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
model.encode([eval(sys.argv[2])])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - start)
"""


@pytest.mark.parametrize("text", ["'word ' * 4_000_000", "'a' * 20_000_000", "'aB3/xYz+' * 2_500_000"])
def test_a_line_of_20_mb_takes_little_memory_and_time(weights_folder: Path, text: str) -> None:
    """Measured on Zen 4: at most 1 MB and 0.25 s; whole texts took 1.0 to 4.5 GB and 7 to 25 s."""
    child: Any = subprocess.run(
        [sys.executable, "-c", CHILD, str(weights_folder), text],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=True,
    )
    kilobytes, seconds = map(float, child.stdout.split())
    assert kilobytes < 200_000
    assert seconds < 5
