"""Reading parameters: an invalid file raises one error that names it, and no bytes crash the interpreter."""

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
    """Return a safetensors file, written by hand so that it can be invalid: header length (8 bytes), header, data."""
    entries: dict[str, Any] = {}
    data = b""
    for key, (dtype, shape, content) in tensors.items():
        entries[key] = info(dtype, list(shape), len(data), len(data) + len(content))
        data += content
    return with_header(json.dumps(entries).encode(), data)


def with_header(text: bytes, data: bytes = b"") -> bytes:
    text += b" " * (-len(text) % 8)  # as safetensors does: data starts at a multiple of 8
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


def test_float32_parameters_are_memory_mapped_and_read_only(tmp_path: Path) -> None:
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


def test_parameters_stay_valid_after_the_file_is_unlinked(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    params = read_params(path, TINY)
    if os.name != "nt":
        path.unlink()
    gc.collect()
    assert b"".join(params[key].tobytes() for key in parameter_shapes(TINY)) == GOOD[-sum(map(len, CONTENTS)) :]


def test_reading_the_default_weights_does_not_copy_them(weights_folder: Path) -> None:
    tracemalloc.start()
    read_params(weights_folder / "model.safetensors", read_config(weights_folder))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # the file has 91 MB


def test_parameters_are_readable_after_release_pages(tmp_path: Path) -> None:
    params = read_params(write(tmp_path, safetensors_bytes(tiny_tensors())), TINY)
    before = {key: value.copy() for key, value in params.items()}
    release_pages(params)
    assert all(np.array_equal(params[key], value) for key, value in before.items())
    release_pages({"not mapped": np.zeros(3)})


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_converts_other_float_formats_exactly(tmp_path: Path, dtype: str, prefix: str) -> None:
    expected = read_params(write(tmp_path, safetensors_bytes(tiny_tensors())), TINY)
    tensors = {prefix + key: value for key, value in tiny_tensors(dtype).items()}
    (tmp_path / "other").mkdir()  # the first file is mapped: writing to it would change `expected`
    path = write(tmp_path / "other", safetensors_bytes(tensors))
    params = read_params(path, TINY)
    for key, value in expected.items():
        assert params[key].dtype == np.float32 and np.array_equal(params[key], value)
        assert not params[key].flags.writeable
    assert all(value.dtype == np.float64 for value in read_params(path, TINY, "f8").values())


def test_leaves_out_parameters_that_the_model_does_not_use(tmp_path: Path) -> None:
    extra = {
        "pooler.dense.weight": ("F32", (1,), b"abcd"),
        "embeddings.position_ids": ("I64", (1, 1), b"12345678"),
        "a": ("F32", (0, 3), b""),
    }
    params = read_params(write(tmp_path, safetensors_bytes(extra | tiny_tensors())), TINY)
    assert set(params) == set(parameter_shapes(TINY))


def test_aligns_unaligned_data(tmp_path: Path) -> None:
    tensors = {"pooler": ("U8", (3,), b"abc")}
    with pytest.raises(WeightsError, match=r"pooler: expected dtype F32 or .*, got U8"):
        read_params(write(tmp_path, safetensors_bytes(tensors | tiny_tensors())), TINY)
    content = safetensors_bytes(tiny_tensors())
    length = struct.unpack("<Q", content[:8])[0]
    spaces = b" " * (5 - (8 + length) % 4)  # the data starts at an odd address
    shifted = struct.pack("<Q", length + len(spaces)) + content[8 : 8 + length] + spaces + content[8 + length :]
    expected = read_params(write(tmp_path, content), TINY)[QUERY].copy()
    params = read_params(write(tmp_path, shifted), TINY)
    assert np.array_equal(params[QUERY], expected)
    assert all(value.flags.aligned for value in params.values())  # compiled code may rely on it


def replaced(key: str, value: tuple[str, tuple[int, ...], bytes] | None) -> bytes:
    tensors = tiny_tensors()
    if value is None:
        del tensors[key]
    else:
        tensors[key] = value
    return safetensors_bytes(tensors)


BROKEN: dict[str, tuple[bytes, str]] = {
    "missing key": (replaced(QUERY, None), rf"{QUERY}: expected shape \(6, 6\), got no such key"),
    "wrong shape": (
        replaced(QUERY, ("F32", (4, 9), bytes(144))),
        rf"{QUERY}: expected shape \(6, 6\), got \(4, 9\); config.json sets hidden_size, hidden_size",
    ),
    "integers": (replaced(QUERY, ("I64", (6, 6), bytes(288))), rf"{QUERY}: expected dtype F32 or .*, got I64"),
    "unknown dtype": (
        replaced(QUERY, ("F8_E4M3", (6, 6), bytes(36))),
        rf"{QUERY}: expected dtype F32 .*, got F8_E4M3",
    ),
    "too many layers": (replaced("encoder.layer.1.output.dense.bias", ("F32", (6,), bytes(24))), r"encoder\.layer\.1"),
    "relative positions": (
        replaced("encoder.layer.0.attention.self.distance_embedding.weight", ("F32", (1,), bytes(4))),
        "distance_embedding.weight: not a parameter of the architecture",
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
    "unknown dtype name": (with_header(header(a=info("Q32", [1], 0, 4)), bytes(4)), "not a valid safetensors file"),
    "line break in dtype": (
        with_header(header(a=info("Q\n32", [1], 0, 4)), bytes(4)),
        "not a valid safetensors file",
    ),
    "overlap": (
        with_header(header(a=info("F32", [1], 0, 4), b=info("F32", [1], 0, 4)), bytes(4)),
        "not a valid safetensors file",
    ),
    "gap": (
        with_header(header(a=info("F32", [1], 0, 4), b=info("F32", [1], 8, 12)), bytes(12)),
        "not a valid safetensors file",
    ),
    "duplicate key": (
        with_header(header(a=info("F32", [1], 0, 4))[:-1] + b"," + header(a=info("F32", [1], 0, 4))[1:], bytes(4)),
        "not a valid safetensors file: duplicate key 'a'",
    ),
    "line break in key": (
        with_header(header(**{"a\nb": info("F8_E4M3", [4], 0, 4)}), bytes(4)),
        r"key 'a\\nb' is not printable",
    ),
    "too many dimensions": (with_header(header(a=info("F32", [1] * 65, 0, 4)), bytes(4)), "dimension"),
    "empty but too large": (with_header(header(a=info("F32", [0, 2**62, 2**62], 0, 0))), "too big"),
    "shape overflows": (replaced(QUERY, ("F32", (2**62, 2**62), bytes(4))), "not a valid safetensors file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_raises_one_error_that_names_it(tmp_path: Path, case: str) -> None:
    content, message = BROKEN[case]
    path = write(tmp_path, content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_params(path, TINY)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_rejects_a_config_of_too_many_layers_before_naming_their_parameters(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected num_hidden_layers 100000, got only 21 tensors"):
        read_params(write(tmp_path, GOOD), replace(TINY, num_hidden_layers=100_000))


@pytest.mark.parametrize("error", [FileNotFoundError, IsADirectoryError])
def test_error_of_opening_a_file_names_it(tmp_path: Path, error: type[OSError]) -> None:
    path = tmp_path if error is IsADirectoryError else tmp_path / "model.safetensors"
    with pytest.raises(error if os.name != "nt" else OSError, match=re.escape(repr(str(path)))):
        read_safetensors(path)


def try_to_read(path: Path, content: bytes) -> None:
    """Read the tensors or catch the WeightsError."""
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
def test_hostile_header_raises_weights_error_or_is_read(tmp_path: Path, tensors: dict[str, Any], data: bytes) -> None:
    try_to_read(tmp_path / "made", with_header(json.dumps(tensors).encode(), data))
    key = next(iter(tensors), "a")  # a valid entry, except perhaps for its shape and its offsets
    shape = tensors[key]["shape"] if isinstance(tensors.get(key), dict) else []
    try_to_read(tmp_path / "fits", with_header(header(**{key: info("F16", shape, 0, len(data))}), data))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 400), st.binary(max_size=4))
def test_hostile_bytes_raise_weights_error_or_are_read(tmp_path: Path, noise: bytes, at: int, patch: bytes) -> None:
    small = safetensors_bytes({"a": ("F32", (2, 3), bytes(24)), "b": ("BF16", (5,), bytes(10))})
    try_to_read(tmp_path / "noise", noise)
    try_to_read(tmp_path / "lengthened", struct.pack("<Q", len(noise)) + noise)
    try_to_read(tmp_path / "patched", small[:at] + patch + small[at + len(patch) :])


def test_hostile_headers_do_not_crash_the_interpreter(tmp_path: Path) -> None:
    # in a separate process, to detect a crash
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
