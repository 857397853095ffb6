"""Reading hyperparameters: settings that are not supported raise one error that names the file and the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minilm_np import WeightsError
from minilm_np.checkpoint import read_config, read_options


def write_configs(folder: Path, file: str = "", **changes: Any) -> Path:
    """Write a checkpoint's JSON files, with `changes` to the keys of `file`; a value of None removes the key."""
    files: dict[str, Any] = {
        "config.json": {
            "model_type": "bert", "hidden_act": "gelu", "vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 5, "max_position_embeddings": 40, "type_vocab_size": 2,
            "layer_norm_eps": 1e-12, "position_embedding_type": "absolute",
        },
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
        "sentence_bert_config.json": {"max_seq_length": 30, "do_lower_case": False},
    }  # fmt: skip
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in files.items():
        if name == file:
            content = {key: value for key, value in (content | changes).items() if value is not None}
        (folder / name).write_text(json.dumps(content))
    write_modules(folder, "Transformer", "Pooling", "Normalize")
    return folder


def write_modules(folder: Path, *kinds: str, pooling_path: Any = "1_Pooling", transformer_path: Any = "") -> None:
    paths = {"Pooling": pooling_path, "Transformer": transformer_path}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": paths.get(kind, "")} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))


def test_reads_a_valid_configuration(tmp_path: Path) -> None:
    config = read_config(write_configs(tmp_path))
    assert (config.hidden_size, config.pooling_mode, config.normalize, config.max_seq_length) == (6, "mean", True, 30)
    write_modules(tmp_path, "Transformer", "Pooling")
    assert not read_config(tmp_path).normalize


@pytest.mark.parametrize(
    ("saved", "limit", "expected"), [(30, 512, 30), (None, 25, 25), (None, 10**30, 40), (None, None, 40)]
)
def test_reads_max_seq_length_from_either_file_of_sentence_transformers(
    tmp_path: Path, saved: int | None, limit: int | None, expected: int
) -> None:
    write_configs(tmp_path, "sentence_bert_config.json", max_seq_length=saved)
    if limit is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    assert read_config(tmp_path).max_seq_length == expected


POOLING: list[tuple[dict[str, Any], str]] = [
    ({"word_embedding_dimension": 6, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
    ({"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_lasttoken": False}, "mean_sqrt_len_tokens"),
    ({"embedding_dimension": 6, "pooling_mode": "mean", "include_prompt": True}, "mean"),  # version 6
    ({"pooling_mode": ["max"]}, "max"),
    ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "cls"),  # the newer key wins
    ({"word_embedding_dimension": 6}, "mean"),
]


@pytest.mark.parametrize(("saved", "expected"), POOLING)
def test_reads_pooling_mode_of_older_and_newer_checkpoints(
    tmp_path: Path, saved: dict[str, Any], expected: str
) -> None:
    (write_configs(tmp_path) / "1_Pooling" / "config.json").write_text(json.dumps(saved))
    assert read_config(tmp_path).pooling_mode == expected


def test_reads_files_saved_by_sentence_transformers_6(tmp_path: Path) -> None:
    write_configs(tmp_path)
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    saved = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": text},
        "module_output_name": "token_embeddings",
    }
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(saved))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 20, "max_length": 10}))
    kinds = ("base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, ("", "1_Pooling"), strict=True))
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    config = read_config(tmp_path)
    assert (config.max_seq_length, config.normalize, config.pooling_mode) == (20, False, "mean")


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("1_Pooling/config.json", "include_prompt", False),
        ("sentence_bert_config.json", "query_length", 4),
        ("sentence_bert_config.json", "document_length", 4),
    ],
)
def test_rejects_settings_that_change_the_embeddings(tmp_path: Path, file: str, key: str, value: Any) -> None:
    with pytest.raises(WeightsError, match=rf"{file}: {key}: expected .*, got {value}"):
        read_config(write_configs(tmp_path, file, **{key: value}))


@pytest.mark.parametrize(
    ("key", "value"), [("do_lower_case", False), ("strip_accents", False), ("tokenize_chinese_chars", False)]
)
def test_rejects_tokenizer_settings_that_contradict_tokenizer_json(tmp_path: Path, key: str, value: Any) -> None:
    normalizer = {"type": "BertNormalizer", "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    write_configs(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"normalizer": normalizer}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "strip_accents": None}))
    assert read_config(tmp_path).max_seq_length == 30
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({key: value}))
    with pytest.raises(WeightsError, match=rf"tokenizer_config\.json: {key}: expected .*, got False"):
        read_config(tmp_path)


@pytest.mark.parametrize("limit", [2, 1e30, True, "x", [9]])
def test_rejects_invalid_model_max_length(tmp_path: Path, limit: Any) -> None:
    write_configs(tmp_path, "sentence_bert_config.json", max_seq_length=None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    with pytest.raises(WeightsError, match=r"tokenizer_config\.json: model_max_length: expected 3 to 40 .*, got"):
        read_config(tmp_path)


UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("config.json", {"hidden_act": "swish"}, "hidden_act: expected 'gelu' or 'gelu_new' or 'relu', got 'swish'"),
    (
        "config.json",
        {"position_embedding_type": "relative_key"},
        "position_embedding_type: expected .*, got 'relative_key'",
    ),
    ("config.json", {"model_type": "roberta"}, "model_type: expected 'bert', got 'roberta'"),
    ("config.json", {"model_type": ["bert"]}, r"model_type: expected 'bert', got \['bert'\]"),
    ("config.json", {"is_decoder": True}, "is_decoder: expected False, got True"),
    ("config.json", {"embedding_size": 128}, "embedding_size: expected None, got 128"),
    ("config.json", {"num_attention_heads": 4}, "hidden_size: expected a multiple of num_attention_heads 4, got 6"),
    ("config.json", {"hidden_size": None}, "hidden_size: expected a positive integer, got None"),
    ("config.json", {"num_hidden_layers": True}, "num_hidden_layers: expected a positive integer, got True"),
    ("config.json", {"vocab_size": -1}, "vocab_size: expected a positive integer, got -1"),
    ("config.json", {"vocab_size": "11"}, "vocab_size: expected a positive integer, got '11'"),
    ("config.json", {"layer_norm_eps": float("nan")}, r"layer_norm_eps: expected a number in \[0, 1\), got nan"),
    ("config.json", {"layer_norm_eps": "1e-12"}, "layer_norm_eps: expected a number .*, got '1e-12'"),
    ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, r"pooling_mode: expected .*, got \['mean', 'cls'\]"),
    ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, r"pooling_mode: expected .*, got \[\]"),
    ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pooling_mode: expected .*, got 'lasttoken'"),
    ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, r"got \['mean', 'max'\]"),
    (
        "sentence_bert_config.json",
        {"do_lower_case": True},
        "do_lower_case: expected false, or .*, got true",
    ),
    ("sentence_bert_config.json", {"max_seq_length": 41}, "max_seq_length: expected 3 to 40 .*, got 41"),
    ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length: expected 3 to 40 .*, got 2"),
    ("sentence_bert_config.json", {"max_seq_length": "x"}, "max_seq_length: expected 3 to 40 .*, got 'x'"),
    ("sentence_bert_config.json", {"max_seq_length": True}, "max_seq_length: expected 3 to 40 .*, got True"),
    ("sentence_bert_config.json", {"max_seq_length": 30.0}, "max_seq_length: expected 3 to 40 .*, got 30.0"),
    ("sentence_bert_config.json", {"processor_kwargs": {"model_max_length": 9}}, "processor_kwargs: expected .*, got"),
    ("sentence_bert_config.json", {"tokenizer_args": {"model_max_length": 9}}, "tokenizer_args: expected .*, got"),
    (
        "sentence_bert_config.json",
        {"processing_kwargs": {"text": {"max_length": 9}}},
        "processing_kwargs: expected .*, got",
    ),
    ("sentence_bert_config.json", {"module_output_name": "sentence_embedding"}, "module_output_name: expected .*, got"),
    ("config.json", {"model_type": "distilbert"}, "model_type: expected 'bert', got 'distilbert'"),
    ("config.json", {"add_cross_attention": True}, "add_cross_attention: expected False, got True"),
    ("config.json", {"layer_norm_eps": True}, "layer_norm_eps: expected a number .*, got True"),
    ("config.json", {"num_attention_heads": 2.0}, "num_attention_heads: expected a positive integer, got 2.0"),
    (
        "1_Pooling/config.json",
        {"pooling_mode_lasttoken": True},
        r"expected .*, got \['mean', 'pooling_mode_lasttoken'\]",
    ),
    ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "pooling_mode: expected .*, got 'weightedmean'"),
    ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task: expected .*, got 'fill-mask'"),
]


@pytest.mark.parametrize(("file", "changes", "message"), UNSUPPORTED)
def test_unsupported_setting_raises_one_error_that_names_it(
    tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read_config(write_configs(tmp_path, file, **changes))
    assert str(tmp_path / file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kinds", [["Transformer"], ["Transformer", "Pooling", "Dense"], ["WordEmbeddings", "Pooling"]])
def test_rejects_other_modules(tmp_path: Path, kinds: list[str]) -> None:
    write_modules(write_configs(tmp_path), *kinds)
    with pytest.raises(WeightsError, match=f"modules.json: expected modules Transformer, .*, got {', '.join(kinds)}"):
        read_config(tmp_path)


OUTSIDE = ["../1_Pooling", "/1_Pooling", "..", ".", "a/b", "a\\b", "c:", "a\0", 3, None]


@pytest.mark.parametrize("path", ["", *OUTSIDE])
def test_rejects_paths_of_pooling_that_lead_elsewhere(tmp_path: Path, path: Any) -> None:
    write_modules(write_configs(tmp_path), "Transformer", "Pooling", pooling_path=path)
    with pytest.raises(WeightsError, match=r"modules.json: path of Pooling: expected the name of a folder in .*, got"):
        read_config(tmp_path)


@pytest.mark.parametrize("path", OUTSIDE)
def test_rejects_paths_of_the_transformer_that_lead_elsewhere(tmp_path: Path, path: Any) -> None:
    write_modules(write_configs(tmp_path), "Transformer", "Pooling", transformer_path=path)
    with pytest.raises(WeightsError, match=r"modules.json: path of Transformer: expected the name of a folder in"):
        read_config(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"3", b"null", b"[1]", b'"text"'])
def test_malformed_json_raises_one_error_that_names_the_file(tmp_path: Path, file: str, content: bytes) -> None:
    (write_configs(tmp_path) / file).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_config(tmp_path)
    assert str(tmp_path / file) in str(caught.value) and "\n" not in str(caught.value)


def test_error_names_a_missing_file(tmp_path: Path) -> None:
    (write_configs(tmp_path) / "1_Pooling" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"1_Pooling/config\.json: no such file"):
        read_config(tmp_path)


OPTIONS = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([], "expected a JSON object, got list"),
        ({"prompts": ["query"]}, r"prompts: expected an object .*, got \['query'\]"),
        ({"prompts": {"query": 1}}, r"prompts: expected an object .*, got \{'query': 1\}"),
        ({"default_prompt_name": "no"}, "default_prompt_name: expected None, got 'no'"),
        ({"default_prompt_name": ["query"]}, r"default_prompt_name: expected None, got \['query'\]"),
        ({"similarity_fn_name": 3}, "similarity_fn_name: expected None or 'cosine' .*, got 3"),
        ({"truncate_dim": "x"}, "truncate_dim: expected a positive integer, got 'x'"),
        ({"truncate_dim": True}, "truncate_dim: expected a positive integer, got True"),
        ({"similarity_fn_name": "x" * 9999}, "similarity_fn_name: expected .*, got 'x{40,60}[.]{3}x{40,60}'"),
    ],
)
def test_wrong_saved_options_raise_one_error_that_names_them(tmp_path: Path, saved: Any, message: str) -> None:
    (tmp_path / OPTIONS).write_text(json.dumps(saved))
    with pytest.raises(WeightsError, match=rf"{OPTIONS}: {message}$"):
        read_options(tmp_path)


def test_reads_saved_options(tmp_path: Path) -> None:
    assert read_options(tmp_path) == ({}, None, None, None)
    saved = {"prompts": {"a": "b: ", "c": None}, "default_prompt_name": "a", "similarity_fn_name": "dot"}
    (tmp_path / OPTIONS).write_text(json.dumps({**saved, "truncate_dim": 5}))
    assert read_options(tmp_path) == ({"a": "b: ", "c": ""}, "a", "dot", 5)


@pytest.mark.parametrize(
    ("file", "changes", "key"),
    [
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": "yes"}, "pooling_mode_mean_tokens"),
        ("sentence_bert_config.json", {"do_lower_case": "no"}, "do_lower_case"),
        ("sentence_bert_config.json", {"modality_config": 1}, "modality_config"),
        ("sentence_bert_config.json", {"modality_config": {"text": {"method": "x"}}}, "modality_config: text: method"),
    ],
)
def test_settings_of_a_wrong_type_are_named(tmp_path: Path, file: str, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(
        WeightsError, match=f"{file}: {key}: expected .*, got |{file}: {key}: expected a JSON object, got"
    ):
        read_config(write_configs(tmp_path, file, **changes))


def test_refuses_settings_that_would_fill_the_memory(tmp_path: Path) -> None:
    (write_configs(tmp_path) / "config.json").write_text("[" + "[]," * 2**21 + "[]]")
    with pytest.raises(WeightsError, match=r"config\.json: expected at most 4194304 bytes, got 6291460"):
        read_config(tmp_path)
