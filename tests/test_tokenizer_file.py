"""A tokenizer.json that does not fit the model, or that the library cannot use, is refused by name on every op set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minilm_np import SentenceTransformer, WeightsError
from minilm_np.tokenizer import TextInfo, Tokenizer

Settings = dict[str, Any]
VOCABULARY = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4, "ab": 5}


def special(token: str, type_id: int = 0) -> Settings:
    return {"SpecialToken": {"id": token, "type_id": type_id}}


def sequence(name: str, type_id: int = 0) -> Settings:
    return {"Sequence": {"id": name, "type_id": type_id}}


SINGLE = [special("[CLS]"), sequence("A"), special("[SEP]")]
PAIR = [*SINGLE, sequence("B", 1), special("[SEP]", 1)]


def template(single: list[Settings] = SINGLE, pair: list[Settings] = PAIR, cls: int = 1, sep: int = 2) -> Settings:
    tokens = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in (("[CLS]", cls), ("[SEP]", sep))}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def added(token: str, token_id: int) -> Settings:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": token, "special": True, **flags}


def settings(**changes: Any) -> Settings:
    """Return the contents of a small, valid tokenizer.json with some keys changed."""
    return {
        "version": "1.0",
        "added_tokens": [added("[CLS]", 1), added("[SEP]", 2)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template(),
        "model": {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"},
        **changes,
    }


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Tokenizer]:
    """Return a function that makes a tokenizer for a model with 6 ids, 2 types and 16 word pieces."""

    def tokenizer(type_vocab_size: int = 2, **changes: Any) -> Tokenizer:
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(settings(**changes)), encoding="utf-8")
        return Tokenizer(path, 16, len(VOCABULARY), type_vocab_size)

    return tokenizer


def test_small_tokenizer_is_valid(make: Callable[..., Tokenizer]) -> None:
    tokens = make()(["a ab c", ("a", "b")])
    assert tokens.token_ids.tolist() == [1, 3, 5, 0, 2, 1, 3, 2, 4, 2]
    assert tokens.token_type_ids.tolist() == [0] * 5 + [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"post_processor": template(cls=99_999_999)}, r"ids below vocab_size 6, got 99999999 for '\[CLS\]'"),
        ({"post_processor": template(sep=6)}, r"ids below vocab_size 6, got 6 for '\[SEP\]'"),
        ({"post_processor": template(cls=2**31)}, r"ids below vocab_size 6, got 2147483648 for '\[CLS\]'"),
        ({"post_processor": template(cls=2**32 - 1)}, r"ids below vocab_size 6, got 4294967295"),
        (
            {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 99_999_999]}},
            "ids below vocab_size 6, got 99999999",
        ),
        (
            {"post_processor": {"type": "Sequence", "processors": [template(cls=77)]}},
            r"ids below vocab_size 6, got 77 for '\[CLS\]'",
        ),
        ({"post_processor": template(pair=[special("[CLS]", 7), *PAIR])}, "type_vocab_size 2, got 7 for"),
        ({"post_processor": template(pair=[*SINGLE, sequence("B", 7)])}, "type_vocab_size 2, got 7 for"),
        ({"post_processor": template(pair=[*SINGLE, sequence("B", 2_000_000_000)])}, "got 2000000000 for"),
        ({"post_processor": template([sequence("A", 7), special("[SEP]")])}, "type_vocab_size 2, got 7 for"),
        ({"post_processor": template([special("[CLS]")] * 17 + [sequence("A")])}, "at most 16 special tokens"),
        ({"post_processor": template(pair=[special("[CLS]")] * 17 + PAIR)}, "at most 16 special tokens"),
        ({"post_processor": None}, r"expected \[CLS\] and \[SEP\] around a single text"),
        (
            {"post_processor": None, "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_id": 0}},
            r"expected \[CLS\] and \[SEP\]|not a valid",
        ),
        ({"post_processor": template(pair=[sequence("A"), sequence("B")])}, "around a pair, got no special tokens"),
    ],
)
def test_refuses_a_post_processor_outside_the_tables(
    make: Callable[..., Tokenizer], changes: Settings, message: str
) -> None:
    with pytest.raises(WeightsError, match=rf"tokenizer\.json: .*({message})"):
        make(**changes)


def test_refuses_an_id_outside_the_vocabulary(make: Callable[..., Tokenizer]) -> None:
    with pytest.raises(WeightsError, match=r"tokenizer\.json: .* below vocab_size 6, got word piece 6, 'zzz'"):
        make(added_tokens=[added("[CLS]", 1), added("[SEP]", 2), added("zzz", 5_000_000)])
    vocabulary = VOCABULARY | {"far": 2**31}
    with pytest.raises(WeightsError, match="expected ids below vocab_size 6, got word piece 2147483648, 'far'"):
        make(model={"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"})


def test_refuses_ids_beyond_int32_also_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings(post_processor=template(cls=2**31))))
    with pytest.raises(WeightsError, match="got 2147483648"):
        Tokenizer(tmp_path / "tokenizer.json")


def test_model_with_one_type_takes_single_texts_and_refuses_pairs(make: Callable[..., Tokenizer]) -> None:
    tokenizer = make(type_vocab_size=1)
    assert tokenizer(["a", "b"]).token_type_ids.tolist() == [0] * 6
    with pytest.raises(WeightsError, match=r"sentences\[1\], a pair: .* below type_vocab_size 1, got 1"):
        tokenizer(["a", ("a", "b")])


def test_refuses_a_text_to_which_the_template_adds_too_much(make: Callable[..., Tokenizer]) -> None:
    tokenizer = make(post_processor=template([special("[CLS]"), *[sequence("A")] * 3]))
    assert tokenizer(["a b"]).token_ids.tolist() == [1, 3, 4, 3, 4, 3, 4]
    with pytest.raises(WeightsError, match=r"post_processor: expected at most 16 word pieces for sentences\[1\], got"):
        tokenizer(["a", "a " * 20])


def test_a_single_text_has_type_0_alone_and_beside_a_pair(make: Callable[..., Tokenizer]) -> None:
    tokenizer = make(post_processor=template([special("[CLS]", 1), sequence("A", 1), special("[SEP]", 1)]))
    assert tokenizer(["a"]).token_type_ids.tolist() == [0, 0, 0]
    assert tokenizer(["a", ("a", "b"), "b"]).token_type_ids.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]


def test_switches_off_bpe_dropout(make: Callable[..., Tokenizer]) -> None:
    model = {"type": "BPE", "vocab": VOCABULARY, "merges": ["a b"], "unk_token": "[UNK]", "dropout": 0.5}
    tokenizer = make(model=model)
    assert {tuple(tokenizer(["ab"]).token_ids) for _ in range(40)} == {(1, 5, 2)}


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordLevel", "vocab": {"[CLS]": 1, "[SEP]": 2, "a": 3}, "unk_token": "[UNK]"},
        {
            "type": "WordPiece",
            "vocab": {"[CLS]": 1, "[SEP]": 2, "a": 3},
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        {"type": "Unigram", "unk_id": None, "vocab": [["[CLS]", 0.0], ["[SEP]", 0.0], ["a", -1.0]]},
        {"type": "BPE", "vocab": {"[CLS]": 1, "[SEP]": 2, "a": 3}, "merges": [], "unk_token": "[UNK]"},
    ],
    ids=lambda model: model["type"],
)
def test_names_a_text_with_an_unknown_word_if_there_is_no_unknown_token(
    make: Callable[..., Tokenizer], model: Settings
) -> None:
    tokenizer = make(model=model)
    assert len(tokenizer(["a", "a"]).token_ids) == 6
    with pytest.raises(WeightsError, match=r"tokenizer\.json: cannot tokenize sentences\[2\]: .*(?i:unk)"):
        tokenizer(["a", "a", "zebra", "a"])


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"post_processor": {"type": "Sequence", "processors": [template(), template()]}},
    ],
    ids=["charsmap", "two templates"],
)
def test_refuses_a_file_with_which_the_library_panics(
    make: Callable[..., Tokenizer], changes: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsError, match=r"tokenizer\.json: not a valid tokenizer\.json"):
        make(**changes)
    capfd.readouterr()  # the library's own message


def test_names_a_text_with_which_the_library_panics(
    make: Callable[..., Tokenizer], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsError, match=r"tokenizer\.json: cannot tokenize sentences\[0\]: chunk size"):
        make(pre_tokenizer={"type": "FixedLength", "length": 0})(["a b"])
    capfd.readouterr()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_both_op_sets_name_file_and_text(tmp_path: Path, weights_folder: Path, backend: str) -> None:
    for file in ("config.json", "modules.json", "sentence_bert_config.json", "1_Pooling", "model.safetensors"):
        (tmp_path / file).symlink_to(weights_folder / file)
    original = json.loads((weights_folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = [{**original["post_processor"]["special_tokens"]["[CLS]"], "ids": [99_999_999]}]
    broken = original["post_processor"] | {
        "special_tokens": original["post_processor"]["special_tokens"] | {"[CLS]": tokens[0]}
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(original | {"post_processor": broken}), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"tokenizer\.json: post_processor: .* got 99999999 for '\[CLS\]'"):
        SentenceTransformer(tmp_path, backend=backend)
    model = {
        "type": "WordLevel",
        "vocab": {"[CLS]": 101, "[SEP]": 102, "hello": 7592},
        "unk_token": "[UNK]",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(original | {"model": model}), encoding="utf-8")
    embedder = SentenceTransformer(tmp_path, backend=backend)
    assert np.isfinite(embedder.encode("hello")).all()
    with pytest.raises(WeightsError, match=r"tokenizer\.json: cannot tokenize sentences\[1\]"):
        embedder.encode(["hello", "zebra"])


def test_a_pair_that_is_too_long_where_word_pieces_share_an_id(make: Callable[..., Tokenizer]) -> None:
    """The library can read such a vocabulary, but not what it then writes itself."""
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4, "ab": 5, "bb": 5, "abb": 5}
    model = {"type": "BPE", "vocab": vocabulary, "merges": ["a b", "b b", "ab b"], "unk_token": "[UNK]"}
    tokenizer = make(model=model)
    infos: list[TextInfo] = []
    tokenizer.pack([("a " * 20, "b " * 20)], infos)
    assert [(info.tokens, info.kept) for info in infos] == [(43, 16)]


def test_a_pair_whose_rests_would_fill_the_memory_is_refused(make: Callable[..., Tokenizer]) -> None:
    """The library keeps every pair of rests: 2 * 3000 letters took more than 4 GB with this normalizer."""
    normalizer = {"type": "Replace", "pattern": {"String": "a"}, "content": "a " * 5}
    tokenizer = make(normalizer=normalizer)
    assert len(tokenizer([("a" * 50, "a" * 50)]).token_ids) == 16
    with pytest.raises(WeightsError, match=r"sentences\[1\], a pair: expected .* 1000 \* 16\^2, got 15000 \* 15000"):
        tokenizer(["a", ("a" * 3000, "a" * 3000)])
