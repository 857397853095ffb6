"""Reading a checkpoint: every wrong file is one clear error, and no bytes whatever crash the interpreter."""

from __future__ import annotations

import gc
import json
import os
import re
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minilm_np import WeightsError
from minilm_np.checkpoint import parameter_shapes, read_config, read_params, read_safetensors, release_pages
from minilm_np.model import BertConfig

TINY = BertConfig(
    vocab_size=11, hidden_size=6, num_hidden_layers=1, num_attention_heads=2, intermediate_size=5,
    max_position_embeddings=7, max_seq_length=7,
)  # fmt: skip
QUERY = "encoder.layer.0.attention.self.query.weight"


def safetensors_bytes(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """The format by hand, so that it can be wrong: 8 bytes of header length, JSON header, data."""
    entries: dict[str, Any] = {}
    data = b""
    for key, (dtype, shape, content) in tensors.items():
        entries[key] = info(dtype, list(shape), len(data), len(data) + len(content))
        data += content
    return with_header(json.dumps(entries).encode(), data)


def with_header(text: bytes, data: bytes = b"") -> bytes:
    text += b" " * (-len(text) % 8)  # as safetensors does: the data begins at a multiple of 8
    return struct.pack("<Q", len(text)) + text + data


def info(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def header(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


def tiny_tensors(dtype: str = "F32") -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    rng = np.random.default_rng(0)
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for key, shape in parameter_shapes(TINY).items():
        value = rng.integers(-8, 8, shape) / 4  # exact in every float format
        if dtype == "BF16":
            content = (value.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            content = value.astype({"F32": "<f4", "F64": "<f8", "F16": "<f2"}[dtype]).tobytes()
        tensors[key] = (dtype, shape, content)
    return tensors


GOOD = safetensors_bytes(tiny_tensors())
CONTENTS = [content for _, _, content in tiny_tensors().values()]


def write(folder: Path, content: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return path


# --- parameters


def test_float32_is_mapped_not_copied_and_read_only(tmp_path: Path) -> None:
    params = read_params(write(tmp_path, safetensors_bytes(tiny_tensors())), TINY)
    assert set(params) == set(parameter_shapes(TINY))
    for key, value in params.items():
        assert value.dtype == np.float32 and value.shape == parameter_shapes(TINY)[key]
        base: Any = value
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        assert type(base).__name__ == "mmap"
        with pytest.raises(ValueError, match="read-only"):
            value[...] = 0


def test_the_map_outlives_the_function_and_the_name_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    params = read_params(path, TINY)
    if os.name != "nt":
        path.unlink()
    gc.collect()
    assert b"".join(params[key].tobytes() for key in parameter_shapes(TINY)) == GOOD[-sum(map(len, CONTENTS)) :]


def test_the_real_weights_are_not_copied(weights_folder: Path) -> None:
    tracemalloc.start()
    read_params(weights_folder / "model.safetensors", read_config(weights_folder))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # of 91 MB


def test_released_pages_come_back(tmp_path: Path) -> None:
    params = read_params(write(tmp_path, safetensors_bytes(tiny_tensors())), TINY)
    before = {key: value.copy() for key, value in params.items()}
    release_pages(params)
    assert all(np.array_equal(params[key], value) for key, value in before.items())
    release_pages({"not mapped": np.zeros(3)})


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_other_float_formats_convert_exactly(tmp_path: Path, dtype: str, prefix: str) -> None:
    wanted = read_params(write(tmp_path, safetensors_bytes(tiny_tensors())), TINY)
    tensors = {prefix + key: value for key, value in tiny_tensors(dtype).items()}
    (tmp_path / "other").mkdir()  # the first file is mapped: writing to it would change `wanted`
    path = write(tmp_path / "other", safetensors_bytes(tensors))
    found = read_params(path, TINY)
    for key, value in wanted.items():
        assert found[key].dtype == np.float32 and np.array_equal(found[key], value)
        assert not found[key].flags.writeable
    assert all(value.dtype == np.float64 for value in read_params(path, TINY, "f8").values())


def test_what_the_model_does_not_use_is_left_out(tmp_path: Path) -> None:
    extra = {
        "pooler.dense.weight": ("F32", (1,), b"abcd"),
        "embeddings.position_ids": ("I64", (1, 1), b"12345678"),
        "a": ("F32", (0, 3), b""),
    }
    params = read_params(write(tmp_path, safetensors_bytes(extra | tiny_tensors())), TINY)
    assert set(params) == set(parameter_shapes(TINY))


def test_data_may_be_unaligned(tmp_path: Path) -> None:
    tensors = {"pooler": ("I8", (3,), b"abc")}
    with pytest.raises(WeightsError, match="pooler: found dtype I8"):
        read_params(write(tmp_path, safetensors_bytes(tensors | tiny_tensors())), TINY)
    content = safetensors_bytes(tiny_tensors())
    length = struct.unpack("<Q", content[:8])[0]
    spaces = b" " * (5 - (8 + length) % 4)  # the data begins at an odd address
    shifted = struct.pack("<Q", length + len(spaces)) + content[8 : 8 + length] + spaces + content[8 + length :]
    wanted = read_params(write(tmp_path, content), TINY)[QUERY].copy()
    found = read_params(write(tmp_path, shifted), TINY)
    assert np.array_equal(found[QUERY], wanted)
    assert all(value.flags.aligned for value in found.values())  # which compiled code may rely on


def replaced(key: str, value: tuple[str, tuple[int, ...], bytes] | None) -> bytes:
    tensors = tiny_tensors()
    if value is None:
        del tensors[key]
    else:
        tensors[key] = value
    return safetensors_bytes(tensors)


BROKEN: dict[str, tuple[bytes, str]] = {
    "missing key": (replaced(QUERY, None), rf"{QUERY}: key missing; wanted shape \(6, 6\)"),
    "wrong shape": (replaced(QUERY, ("F32", (4, 9), bytes(144))), rf"{QUERY}: found shape \(4, 9\), wanted \(6, 6\)"),
    "integers": (replaced(QUERY, ("I64", (6, 6), bytes(288))), rf"{QUERY}: found dtype I64, wanted F32 or"),
    "unknown dtype": (replaced(QUERY, ("F8_E4M3", (6, 6), bytes(36))), rf"{QUERY}: found dtype F8_E4M3"),
    "one layer more": (replaced("encoder.layer.1.output.dense.bias", ("F32", (6,), bytes(24))), r"encoder\.layer\.1"),
    "relative positions": (
        replaced("encoder.layer.0.attention.self.distance_embedding.weight", ("F32", (1,), bytes(4))),
        "distance_embedding.weight: found a parameter that the architecture",
    ),
    "empty": (b"", "not a valid safetensors file"),
    "truncated header": (GOOD[:100], "not a valid safetensors file"),
    "truncated data": (GOOD[:-1], "not a valid safetensors file"),
    "trailing byte": (GOOD + b"x", "not a valid safetensors file"),
    "text": (b"not weights at all, but a web page" * 10, "not a valid safetensors file"),
    "huge header": (struct.pack("<Q", 2**63) + GOOD[8:], "not a valid safetensors file"),
    "header is a list": (struct.pack("<Q", 2) + b"[]", "not a valid safetensors file"),
    "shape and bytes disagree": (replaced(QUERY, ("F32", (6, 6), bytes(100))), "not a valid safetensors file"),
    "negative header": (struct.pack("<q", -1) + GOOD[8:], "not a valid safetensors file"),
    "header past the end": (struct.pack("<Q", len(GOOD)) + GOOD[8:], "not a valid safetensors file"),
    "header is not JSON": (with_header(b'{"a": '), "not a valid safetensors file"),
    "header is not UTF-8": (with_header(b'{"\xff": 1}'), "not a valid safetensors file"),
    "entry is a number": (with_header(header(a=1)), "not a valid safetensors file"),
    "entry is a list": (with_header(header(a=["F32", [1], [0, 4]]), bytes(4)), "model.safetensors: "),
    "shape is a string": (with_header(header(a=info("F32", "x", 0, 4)), bytes(4)), "not a valid safetensors file"),  # type: ignore[arg-type]
    "negative shape": (with_header(header(a=info("F32", [-1], 0, 4)), bytes(4)), "not a valid safetensors file"),
    "dtype of no format": (with_header(header(a=info("Q32", [1], 0, 4)), bytes(4)), "not a valid safetensors file"),
    "dtype of two lines": (with_header(header(a=info("Q\n32", [1], 0, 4)), bytes(4)), "not a valid safetensors file"),
    "overlap": (
        with_header(header(a=info("F32", [1], 0, 4), b=info("F32", [1], 0, 4)), bytes(4)),
        "not a valid safetensors file",
    ),
    "gap": (
        with_header(header(a=info("F32", [1], 0, 4), b=info("F32", [1], 8, 12)), bytes(12)),
        "not a valid safetensors file",
    ),
    "key twice": (
        with_header(header(a=info("F32", [1], 0, 4))[:-1] + b"," + header(a=info("F32", [1], 0, 4))[1:], bytes(4)),
        "not a valid safetensors file: key 'a' found twice",
    ),
    "key of two lines": (
        with_header(header(**{"a\nb": info("F8_E4M3", [4], 0, 4)}), bytes(4)),
        r"key 'a\\nb' is not printable",
    ),
    "too many dimensions": (with_header(header(a=info("F32", [1] * 65, 0, 4)), bytes(4)), "dimension"),
    "empty, but too large": (with_header(header(a=info("F32", [0, 2**62, 2**62], 0, 0))), "too big"),
    "shape overflows": (replaced(QUERY, ("F32", (2**62, 2**62), bytes(4))), "not a valid safetensors file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, case: str) -> None:
    content, message = BROKEN[case]
    path = write(tmp_path, content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_params(path, TINY)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_of_far_too_many_layers_is_one_clear_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="found 21 tensors, wanted num_hidden_layers 100000"):
        read_params(write(tmp_path, GOOD), replace(TINY, num_hidden_layers=100_000))


@pytest.mark.parametrize("error", [FileNotFoundError, IsADirectoryError])
def test_what_cannot_be_opened_is_named(tmp_path: Path, error: type[OSError]) -> None:
    path = tmp_path if error is IsADirectoryError else tmp_path / "model.safetensors"
    with pytest.raises(error if os.name != "nt" else OSError, match=re.escape(repr(str(path)))):
        read_safetensors(path)


def try_to_read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        for tensor in read_safetensors(path).values():
            tensor.data.sum()  # touch every byte
    except WeightsError as error:
        assert str(path) in str(error) and "\n" not in str(error)


sizes = st.integers(-1, 9) | st.sampled_from([2**31, 2**62, 2**64 - 1, 2**64])
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "I32", "BOOL", "U8", "F8_E4M3", "F4", "C64", ""]),
        "shape": st.lists(sizes, max_size=4) | st.just([1] * 70),
        "data_offsets": st.lists(sizes, min_size=2, max_size=2),
    }
)
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
json_values = st.recursive(values, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=3), entries | json_values, max_size=3), st.binary(max_size=48))
def test_hostile_headers_give_an_error_or_tensors(tmp_path: Path, tensors: dict[str, Any], data: bytes) -> None:
    try_to_read(tmp_path / "made", with_header(json.dumps(tensors).encode(), data))
    key = next(iter(tensors), "a")  # one that is right but for its shape and its offsets
    shape = tensors[key]["shape"] if isinstance(tensors.get(key), dict) else []
    try_to_read(tmp_path / "fits", with_header(header(**{key: info("F16", shape, 0, len(data))}), data))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 400), st.binary(max_size=4))
def test_hostile_bytes_give_an_error_or_tensors(tmp_path: Path, noise: bytes, at: int, patch: bytes) -> None:
    small = safetensors_bytes({"a": ("F32", (2, 3), bytes(24)), "b": ("BF16", (5,), bytes(10))})
    try_to_read(tmp_path / "noise", noise)
    try_to_read(tmp_path / "lengthened", struct.pack("<Q", len(noise)) + noise)
    try_to_read(tmp_path / "patched", small[:at] + patch + small[at + len(patch) :])


def test_the_interpreter_survives_hostile_headers(tmp_path: Path) -> None:
    """In a process of its own, so that a crash is seen as one."""
    headers = [
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[1000000,1000004]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}',
        b'{"__metadata__":{"a":1}}',
        b"[" * 200_000,
    ]
    for i, header in enumerate(headers):
        (tmp_path / f"{i}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    code = """
import sys, pathlib
from minilm_np.checkpoint import WeightsError, read_safetensors
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        print(path.name, {k: float(t.data.sum()) for k, t in read_safetensors(path).items()})
    except WeightsError as error:
        print(path.name, "refused")
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == len(headers)
    assert run.stdout.count("refused") == len(headers)


# --- hyperparameters


def write_configs(folder: Path, file: str = "", **changes: Any) -> Path:
    """The JSON files of a checkpoint, with changes in one of them; None removes a key."""
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


def write_modules(folder: Path, *kinds: str, pooling_path: str = "1_Pooling", transformer_path: str = "") -> None:
    paths = {"Pooling": pooling_path, "Transformer": transformer_path}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": paths.get(kind, "")} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))


def test_a_good_configuration(tmp_path: Path) -> None:
    config = read_config(write_configs(tmp_path))
    assert (config.hidden_size, config.pooling_mode, config.normalize, config.max_seq_length) == (6, "mean", True, 30)
    write_modules(tmp_path, "Transformer", "Pooling")
    assert not read_config(tmp_path).normalize


@pytest.mark.parametrize(
    ("saved", "limit", "wanted"), [(30, 512, 30), (None, 25, 25), (None, 10**30, 40), (None, None, 40)]
)
def test_max_seq_length_from_where_sentence_transformers_saves_it(
    tmp_path: Path, saved: int | None, limit: int | None, wanted: int
) -> None:
    write_configs(tmp_path, "sentence_bert_config.json", max_seq_length=saved)
    if limit is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    assert read_config(tmp_path).max_seq_length == wanted


POOLING: list[tuple[dict[str, Any], str]] = [
    ({"word_embedding_dimension": 6, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
    ({"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_lasttoken": False}, "mean_sqrt_len_tokens"),
    ({"embedding_dimension": 6, "pooling_mode": "mean", "include_prompt": True}, "mean"),  # version 6
    ({"pooling_mode": ["max"]}, "max"),
    ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "cls"),  # the newer key wins
    ({"word_embedding_dimension": 6}, "mean"),
]


@pytest.mark.parametrize(("saved", "wanted"), POOLING)
def test_pooling_as_older_and_newer_versions_save_it(tmp_path: Path, saved: dict[str, Any], wanted: str) -> None:
    (write_configs(tmp_path) / "1_Pooling" / "config.json").write_text(json.dumps(saved))
    assert read_config(tmp_path).pooling_mode == wanted


def test_the_files_that_sentence_transformers_6_saves(tmp_path: Path) -> None:
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
def test_what_would_give_other_vectors_is_refused(tmp_path: Path, file: str, key: str, value: Any) -> None:
    with pytest.raises(WeightsError, match=rf"{file}: {key}: {value} is not supported"):
        read_config(write_configs(tmp_path, file, **{key: value}))


@pytest.mark.parametrize(
    ("key", "value"), [("do_lower_case", False), ("strip_accents", False), ("tokenize_chinese_chars", False)]
)
def test_the_tokenizers_settings_must_be_those_of_tokenizer_json(tmp_path: Path, key: str, value: Any) -> None:
    normalizer = {"type": "BertNormalizer", "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    write_configs(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"normalizer": normalizer}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "strip_accents": None}))
    assert read_config(tmp_path).max_seq_length == 30
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({key: value}))
    with pytest.raises(WeightsError, match=rf"tokenizer_config\.json: {key}: False is not supported; wanted"):
        read_config(tmp_path)


@pytest.mark.parametrize("limit", [2, 1e30, True, "x", [9]])
def test_a_wrong_length_in_the_tokenizers_file_is_refused(tmp_path: Path, limit: Any) -> None:
    write_configs(tmp_path, "sentence_bert_config.json", max_seq_length=None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    with pytest.raises(WeightsError, match=r"tokenizer_config\.json: model_max_length: found .*, wanted 3 to 40"):
        read_config(tmp_path)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("config.json", {"hidden_act": "swish"}, "hidden_act: 'swish' is not supported; wanted 'gelu' or 'gelu_new' or"),
    ("config.json", {"position_embedding_type": "relative_key"}, "position_embedding_type: 'relative_key' is not"),
    ("config.json", {"model_type": "roberta"}, "model_type: 'roberta' is not supported; wanted 'bert'"),
    ("config.json", {"model_type": ["bert"]}, r"model_type: \['bert'\] is not supported"),
    ("config.json", {"is_decoder": True}, "is_decoder: True is not supported"),
    ("config.json", {"embedding_size": 128}, "embedding_size: 128 is not supported"),
    ("config.json", {"num_attention_heads": 4}, "hidden_size 6 is not a multiple of num_attention_heads 4"),
    ("config.json", {"hidden_size": None}, "hidden_size: found None, wanted a positive integer"),
    ("config.json", {"num_hidden_layers": True}, "num_hidden_layers: found True"),
    ("config.json", {"vocab_size": -1}, "vocab_size: found -1"),
    ("config.json", {"vocab_size": "11"}, "vocab_size: found '11'"),
    ("config.json", {"layer_norm_eps": float("nan")}, "layer_norm_eps: found nan"),
    ("config.json", {"layer_norm_eps": "1e-12"}, "layer_norm_eps: found '1e-12'"),
    ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, r"pooling_mode: \['mean', 'cls'\] is not supported"),
    ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, r"pooling_mode: \[\] is not supported"),
    ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pooling_mode: 'lasttoken' is not supported"),
    ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "is not supported"),
    ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case: True is not supported"),
    ("sentence_bert_config.json", {"max_seq_length": 41}, "max_seq_length: found 41, wanted 3 to 40"),
    ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length: found 2"),
    ("sentence_bert_config.json", {"max_seq_length": "x"}, "max_seq_length: found 'x'"),
    ("sentence_bert_config.json", {"max_seq_length": True}, "max_seq_length: found True"),
    ("sentence_bert_config.json", {"max_seq_length": 30.0}, "max_seq_length: found 30.0"),
    ("sentence_bert_config.json", {"processor_kwargs": {"model_max_length": 9}}, "processor_kwargs: .* not supported"),
    ("sentence_bert_config.json", {"tokenizer_args": {"model_max_length": 9}}, "tokenizer_args: .* not supported"),
    ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 9}}}, "processing_kwargs: .* not supp"),
    ("sentence_bert_config.json", {"module_output_name": "sentence_embedding"}, "module_output_name: .* not supported"),
    ("config.json", {"model_type": "distilbert"}, "model_type: 'distilbert' is not supported; wanted 'bert'"),
    ("config.json", {"add_cross_attention": True}, "add_cross_attention: True is not supported"),
    ("config.json", {"layer_norm_eps": True}, "layer_norm_eps: found True"),
    ("config.json", {"num_attention_heads": 2.0}, "num_attention_heads: found 2.0, wanted a positive integer"),
    (
        "1_Pooling/config.json",
        {"pooling_mode_lasttoken": True},
        r"\['mean', 'pooling_mode_lasttoken'\] is not supported",
    ),
    ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "pooling_mode: 'weightedmean' is not supported"),
    ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task: 'fill-mask' is not supported"),
]


@pytest.mark.parametrize(("file", "changes", "message"), REFUSED)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read_config(write_configs(tmp_path, file, **changes))
    assert str(tmp_path / file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kinds", [["Transformer"], ["Transformer", "Pooling", "Dense"], ["WordEmbeddings", "Pooling"]])
def test_other_modules_are_refused_by_name(tmp_path: Path, kinds: list[str]) -> None:
    write_modules(write_configs(tmp_path), *kinds)
    with pytest.raises(WeightsError, match=f"modules.json: found modules {', '.join(kinds)}; wanted"):
        read_config(tmp_path)


@pytest.mark.parametrize("pooling_path", ["../1_Pooling", "/1_Pooling", "", "2_Pooling"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, pooling_path: str) -> None:
    write_modules(write_configs(tmp_path), "Transformer", "Pooling", pooling_path=pooling_path)
    with pytest.raises(WeightsError, match="path of Pooling"):
        read_config(tmp_path)


def test_a_transformer_in_a_folder_of_its_own_is_refused(tmp_path: Path) -> None:
    write_modules(write_configs(tmp_path), "Transformer", "Pooling", transformer_path="0_Transformer")
    with pytest.raises(WeightsError, match="path of Transformer: '0_Transformer' is not supported"):
        read_config(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"3", b"null", b"[1]", b'"text"'])
def test_malformed_json_is_one_clear_error(tmp_path: Path, file: str, content: bytes) -> None:
    (write_configs(tmp_path) / file).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_config(tmp_path)
    assert str(tmp_path / file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (write_configs(tmp_path) / "modules.json").unlink()
    with pytest.raises(WeightsError, match=r"modules\.json: no such file"):
        read_config(tmp_path)
