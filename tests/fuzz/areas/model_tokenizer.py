"""tokenizer.json: every model, normalizer, pre-tokenizer and post-processor, with ids and types out of range."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fuzz import checks, inputs, mutations, tiny
from fuzz.case import Case
from hypothesis import strategies as st

Draw = st.DrawFn
UNKNOWN = st.sampled_from(["[UNK]"] * 6 + ["", "missing"])
PREFIX = st.sampled_from(["##", "##", "", "a"])
# ids of special tokens, and token types: mostly those of a valid file
SIZE = tiny.CONFIG.vocab_size
IDS = st.sampled_from([2] * 16 + [0, SIZE - 1, SIZE, 99_999_999, 2**31 - 1, 2**31, 2**32 - 1])
TYPES = st.sampled_from([0] * 9 + [1] * 6 + [2, 7, 2_000_000_000, 2**32 - 1])
MODELS: dict[str, st.SearchStrategy[dict[str, Any]]] = {  # settings by type, without the vocabulary
    "WordPiece": st.fixed_dictionaries(
        {
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": PREFIX,
            "max_input_chars_per_word": st.sampled_from([100, 100, 0, 1, 2**40]),
        }
    ),
    "WordLevel": st.fixed_dictionaries({"unk_token": UNKNOWN}),
    "BPE": st.fixed_dictionaries(
        {
            "dropout": st.sampled_from([None, 0.0, 0.3, 0.3, 1.0]),
            "unk_token": st.one_of(st.none(), UNKNOWN),
            "continuing_subword_prefix": st.sampled_from([None, None, "##"]),
            "end_of_word_suffix": st.sampled_from([None, None, "</w>"]),
            "fuse_unk": st.booleans(),
            "byte_fallback": st.booleans(),
            "ignore_merges": st.booleans(),
        }
    ),
    "Unigram": st.fixed_dictionaries(
        {"unk_id": st.sampled_from([1, 1, 1, None, 0, 10**6, 2**40]), "byte_fallback": st.booleans()}
    ),
}


@st.composite
def models(draw: Draw) -> Any:
    kind = draw(st.sampled_from(["WordPiece", "BPE", *MODELS]))
    settings: dict[str, Any] = {"type": kind, **draw(MODELS[kind])}
    vocabulary = dict(tiny.VOCABULARY)
    for token in draw(st.lists(st.sampled_from(["a", "##a", "the", "[UNK]", "[CLS]"]), max_size=1)):
        del vocabulary[token]
    if mutations.seldom(draw, 8):
        vocabulary[draw(st.sampled_from(["the", "new"]))] = draw(IDS)
    if kind == "Unigram":
        score = draw(st.sampled_from([-3.0, 0.0, -1e30, 1e300]))
        return {**settings, "vocab": [[token, score if i % 9 == 0 else -3.0] for i, token in enumerate(vocabulary)]}
    if kind == "BPE":
        pairs = ["t h", "th e", "u n", "a b"][: draw(st.integers(0, 4))]
        vocabulary |= {pair.replace(" ", ""): i for i, pair in enumerate(pairs, len(tiny.SPECIAL))}
        settings["merges"] = [pair.split() for pair in pairs] if draw(st.booleans()) else pairs
    return {**settings, "vocab": vocabulary}


BERT_NORMALIZER = tiny.TOKENIZER_JSON["normalizer"]
NORMALIZERS: list[Any] = [
    None, BERT_NORMALIZER, BERT_NORMALIZER, {**BERT_NORMALIZER, "lowercase": False, "handle_chinese_chars": False},
    {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Nmt"}, {"type": "ByteLevel"}, {"type": "Lowercase"},
    {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Prepend", "prepend": "the "},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "cat " * 5},
    {"type": "Replace", "pattern": {"Regex": "."}, "content": ""},
    {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
    {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, {"type": "Precompiled", "precompiled_charsmap": ""},
]  # fmt: skip
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
PRE_TOKENIZERS: list[Any] = [
    None, {"type": "BertPreTokenizer"}, {"type": "BertPreTokenizer"}, {"type": "BertPreTokenizer"},
    {"type": "Whitespace"}, {"type": "WhitespaceSplit"}, METASPACE,
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Punctuation", "behavior": "Isolated"}, {"type": "Digits", "individual_digits": True},
    {"type": "CharDelimiterSplit", "delimiter": "a"}, {"type": "UnicodeScripts"}, {"type": "FixedLength", "length": 0},
    {"type": "FixedLength", "length": 3},
    {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Removed", "invert": False},
    {"type": "Split", "pattern": {"Regex": "[a-m]"}, "behavior": "Contiguous", "invert": True},
    {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "Digits", "individual_digits": False}]},
]  # fmt: skip


@st.composite
def templates(draw: Draw) -> Any:
    """Draw a TemplateProcessing with special tokens and texts in any order, number, id and type."""

    def parts(names: list[str], usual: list[Any]) -> list[Any]:
        if draw(st.booleans()):
            return usual
        texts = [tiny.sequence(name, draw(TYPES)) for name in names]
        specials = [
            tiny.special(draw(st.sampled_from(["[CLS]", "[SEP]"])), draw(TYPES)) for _ in range(draw(st.integers(0, 2)))
        ]
        many = draw(st.sampled_from([1] * 6 + [2, 30]))
        return [*specials[:1] * many, *texts, *specials[1:]]

    tokens: Any = {
        name: {"id": name, "ids": [draw(IDS)] * draw(st.sampled_from([1] * 8 + [0, 2, 25])), "tokens": [name]}
        for name in ("[CLS]", "[SEP]")
    }
    for token in tokens.values():
        token["tokens"] = [token["id"]] * len(token["ids"])
    return {
        **tiny.TEMPLATE,
        "single": parts(["A"], tiny.TEMPLATE["single"]),
        "pair": parts(["A", "B"], tiny.TEMPLATE["pair"]),
        "special_tokens": tokens,
    }


@st.composite
def post_processors(draw: Draw) -> Any:
    kind = draw(st.sampled_from(["template"] * 12 + ["bert", "roberta", "bytes", "sequence", "none"]))
    ends = {"sep": ["[SEP]", draw(IDS)], "cls": ["[CLS]", draw(IDS)]}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    if kind == "template":
        return draw(templates())
    if kind == "bert":
        return {"type": "BertProcessing", **ends}
    if kind == "roberta":
        return {"type": "RobertaProcessing", **ends, "trim_offsets": True, "add_prefix_space": draw(st.booleans())}
    if kind == "sequence":
        processors = st.one_of(st.just(byte_level), templates())
        return {"type": "Sequence", "processors": draw(st.lists(processors, min_size=1, max_size=2))}
    return byte_level if kind == "bytes" else None


@st.composite
def added_tokens(draw: Draw) -> Any:
    tokens = list(tiny.TOKENIZER_JSON["added_tokens"])
    contents = st.sampled_from(["the", "new", " ", "", "a", "\n", "cat sat", "[MASK]", "\u4f60"])
    for content in draw(st.lists(contents, max_size=2)):
        flags = {flag: draw(st.booleans()) for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        tokens.append(tiny.added_token(content, draw(IDS), **flags))
    return tokens


TRUNCATIONS: list[Any] = [
    None, {"direction": "Left", "max_length": 0, "strategy": "OnlySecond", "stride": 0},
    {"direction": "Right", "max_length": 10, "strategy": "LongestFirst", "stride": 9},
]  # fmt: skip
PADDINGS: list[Any] = [None, {**tiny.TOKENIZER_JSON["padding"], "strategy": {"Fixed": 10**6}}]
PARTS = {
    "model": models(),
    "normalizer": st.sampled_from(NORMALIZERS),
    "pre_tokenizer": st.sampled_from(PRE_TOKENIZERS),
    "post_processor": post_processors(),
    "added_tokens": added_tokens(),
    "truncation": st.sampled_from(TRUNCATIONS),
    "padding": st.sampled_from(PADDINGS),
}


@st.composite
def tokenizers(draw: Draw) -> bytes:
    """Draw a tokenizer.json with up to three other parts, and seldom with other mistakes."""
    if mutations.seldom(draw, 80):
        return draw(mutations.json_bombs())
    chosen = draw(st.lists(st.sampled_from(["model", "post_processor", *PARTS]), max_size=3, unique=True))
    value: Any = {**tiny.TOKENIZER_JSON, **{part: draw(PARTS[part]) for part in chosen}}
    if mutations.seldom(draw, 4):
        value = draw(mutations.json_mutations(value, 1))
    return draw(mutations.texts_of(value)) if mutations.seldom(draw, 8) else json.dumps(value).encode()


def one_type() -> dict[str, bytes]:
    """Return the files of a valid model with one token type only, which cannot read pairs."""
    parameters = tiny.parameters()
    key = "embeddings.token_type_embeddings.weight"
    parameters[key] = parameters[key][:1]
    return {
        "config.json": json.dumps({**tiny.CONFIG_JSON, "type_vocab_size": 1}).encode(),
        "model.safetensors": tiny.safetensors(*tiny.header_and_data(parameters)),
    }


@st.composite
def cases(draw: Draw) -> Case:
    files = {"tokenizer.json": draw(tokenizers()), **(one_type() if mutations.seldom(draw, 5) else {})}
    return Case("model_tokenizer", files, {"texts": draw(inputs.batches())})


def run(case: Case, scratch: Path) -> str:
    case.put_files(tiny.write(scratch))
    return checks.check_checkpoint(scratch, case.settings["texts"])
