"""The settings of BERT's tokenizer next to its file, and the tokenizer of a checkpoint that has only a vocab.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from minilm_np.layout import WeightsError, read_json, shown

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
            raise WeightsError(f"{path}: {key}: expected {expected}, got {shown(value)}")
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


def check_special_tokens(tokenizer_json: Path, tokenizer: Any) -> None:
    """Check that the JSON files next to a tokenizer.json name its special tokens, or none.

    With other tokens, transformers changes what it has read from tokenizer.json.

    Raises
    ------
    WeightsError
        If they differ; the message names file and key.
    """
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    around = tokenizer.encode("").tokens
    used = dict(zip(("cls_token", "sep_token"), around, strict=False)) if len(around) == 2 else {}
    if isinstance(unknown := getattr(tokenizer.model, "unk_token", None), str):
        used["unk_token"] = unknown

    def is_new(token: Any) -> bool:
        """Whether a token that is an ordinary word piece becomes a special one."""
        return bool(added) and token not in added and tokenizer.token_to_id(token) is not None

    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tokenizer_json.with_name(name)
        settings = read_json(path) if path.is_file() else {}
        if not isinstance(settings, dict):
            raise WeightsError(f"{path}: expected a JSON object, got {type(settings).__name__}")
        for role in SPECIAL_TOKENS:
            token = settings.get(role)
            if isinstance(token, dict):  # an AddedToken
                token = token.get("content")
            if token is None:
                continue
            is_text = isinstance(token, str) and token.isprintable()
            if not is_text or token != used.get(role, token) or is_new(token):
                expected = f"{used[role]!r}, as in" if role in used else "an added token of"
                raise WeightsError(f"{path}: {role}: expected {expected} tokenizer.json, got {shown(token)}")
        key = "added_tokens_decoder"
        tokens = settings.get(key, {})
        contents = (
            [t.get("content") for t in tokens.values() if isinstance(t, dict)] if isinstance(tokens, dict) else []
        )
        if not isinstance(tokens, dict) or len(contents) < len(tokens) or (added and not added.issuperset(contents)):
            raise WeightsError(f"{path}: {key}: expected the added tokens of tokenizer.json, got {shown(tokens)}")
    path = tokenizer_json.with_name("added_tokens.json")
    tokens = read_json(path) if path.is_file() else {}
    if not isinstance(tokens, dict) or (added and not added.issuperset(tokens)):
        raise WeightsError(f"{path}: expected the added tokens of tokenizer.json, got {shown(tokens)}")
