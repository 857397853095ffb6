"""Build the tokenizer of a checkpoint that has a vocab.txt and no tokenizer.json, as transformers does for BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from minilm_np.layout import WeightsError, read_json

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


class VocabularySettings(NamedTuple):
    """The settings of BertTokenizer that tokenizer_config.json may have, with the defaults of transformers."""

    lowercase: bool
    strip_accents: bool | None  # None: as lowercase
    handle_chinese_chars: bool
    special_tokens: dict[str, str]  # by role: "cls_token": "[CLS]"


def read_vocabulary_settings(vocabulary: Path) -> VocabularySettings:
    """Return the settings from the tokenizer_config.json next to a vocab.txt; without that file, the defaults.

    Raises
    ------
    WeightsError
        If a setting has the wrong type, or if added_tokens.json has tokens that vocab.txt lacks.
    """
    path = vocabulary.with_name("added_tokens.json")
    if path.is_file() and read_json(path):
        raise WeightsError(f"{path}: expected no added tokens; save the tokenizer with transformers as tokenizer.json")
    path = vocabulary.with_name("tokenizer_config.json")
    saved = read_json(path) if path.is_file() else {}
    if not isinstance(saved, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {type(saved).__name__}")

    def setting(key: str, default: Any, kinds: tuple[type, ...], expected: str) -> Any:
        value = saved.get(key, default)
        if isinstance(value, dict) and str in kinds:  # an AddedToken
            value = value.get("content")
        if not isinstance(value, kinds):
            raise WeightsError(f"{path}: {key}: expected {expected}, got {value!r}")
        return value

    return VocabularySettings(
        setting("do_lower_case", True, (bool,), "true or false"),
        setting("strip_accents", None, (bool, type(None)), "true, false or null"),
        setting("tokenize_chinese_chars", True, (bool,), "true or false"),
        {role: setting(role, token, (str,), "a string") for role, token in SPECIAL_TOKENS.items()},
    )


def read_vocabulary(path: Path) -> Any:
    """Return the tokenizers.Tokenizer of a vocab.txt, which has one word piece per line; its id is the line's number.

    Raises
    ------
    WeightsError
        If the file is not UTF-8, or if the vocabulary lacks [CLS], [SEP] or [UNK].
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    settings = read_vocabulary_settings(path)
    try:
        with path.open(encoding="utf-8") as lines:  # not str.splitlines, which splits at other characters, too
            vocabulary = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path}: not UTF-8 at byte {error.start}") from None
    cls, sep, unk = (settings.special_tokens[role] for role in ("cls_token", "sep_token", "unk_token"))
    for token in (cls, sep, unk):
        if token not in vocabulary:
            raise WeightsError(f"{path}: expected a line {token!r}, got none among {len(vocabulary)} word pieces")
    tokenizer: Any = Tokenizer(models.WordPiece(vocabulary, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.handle_chinese_chars,
        strip_accents=settings.strip_accents,
        lowercase=settings.lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([token for token in settings.special_tokens.values() if token in vocabulary])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, vocabulary[token]) for token in (cls, sep)],
    )
    return tokenizer
