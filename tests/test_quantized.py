"""Checkpoints whose dense weights are stored in int8."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.kernels import needs_jit

from minilm_np import SentenceTransformer
from minilm_np.checkpoint import CODES, SCALE
from minilm_np.cli import main
from minilm_np.layout import WeightsError

TEXTS = ["A man is eating food.", "", "word " * 300]
QUERY = f"encoder.layer.0.attention.self.query{CODES}"


@pytest.fixture(scope="module")
def quantized(weights_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "model"
    assert main(["quantize", "--model", str(weights_folder), "-o", str(folder)]) == 0
    return folder


@needs_jit
def test_has_the_bits_of_the_original_in_int8(quantized: Path, weights_folder: Path) -> None:
    original = SentenceTransformer(weights_folder, dtype="int8").encode(TEXTS)
    np.testing.assert_array_equal(SentenceTransformer(quantized, dtype="int8").encode(TEXTS), original)


def test_parameters_are_the_nearest_ones_that_int8_represents(quantized: Path, weights_folder: Path) -> None:
    original = SentenceTransformer(weights_folder, backend="numpy").weights
    stored = SentenceTransformer(quantized, backend="numpy").weights
    assert sorted(stored) == sorted(original) and len(stored) == len(original)
    for name, value in original.items():
        if name.startswith("encoder.") and value.ndim == 2:
            steps = np.abs(value).max(axis=1, keepdims=True) / 127
            assert (np.abs(stored[name] - value) <= 0.501 * steps).all()
            assert not stored[name].flags.writeable
        else:
            np.testing.assert_array_equal(stored[name], value)


def test_size_and_checksums(quantized: Path, weights_folder: Path) -> None:
    path = quantized / "model.safetensors"
    assert path.stat().st_size < 62e6
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    own, source = hashlib.sha256(), hashlib.sha256()
    for key in sorted(tensors):
        own.update(key.encode() + tensors[key].tobytes())
    weights = SentenceTransformer(weights_folder, backend="numpy").weights
    for key in sorted(weights):
        source.update(key.encode() + weights[key].tobytes())
    digests = {"sha256": own.hexdigest(), "source_sha256": source.hexdigest()}
    assert json.loads(metadata["minilm_np_int8"]) == digests
    config = json.loads((quantized / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "minilm_np_int8"}


def test_trained_parameters_replace_the_quantized_ones(quantized: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(quantized, backend="numpy")
    model.replace_weights({name: value * np.float32(0.5) for name, value in model.weights.items()})
    model.save_pretrained(tmp_path / "trained")
    again = SentenceTransformer(tmp_path / "trained", backend="numpy")
    assert "quantization_config" not in json.loads((tmp_path / "trained" / "config.json").read_text())
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_refuses_other_formats(tmp_path: Path, quantized: Path) -> None:
    with pytest.raises(ValueError, match="dtype: expected None or 'int8', got 'int4'"):
        SentenceTransformer(quantized, backend="numpy").save_pretrained(tmp_path / "x", dtype="int4")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(QUERY.replace(CODES, SCALE)), f"{SCALE}: expected F32 of shape (384,), got no such key"),
        (
            lambda t: t.update({QUERY: t[QUERY][:3].copy()}),
            f"{CODES}: expected I8 of shape (384, 384), got I8 of shape (3",
        ),
        (lambda t: t.update({QUERY: t[QUERY].astype(np.int32)}), f"{CODES}: expected I8 of shape (384, 384), got I32"),
        (lambda t: t[QUERY.replace(CODES, SCALE)].fill(np.nan), f"{SCALE}: expected positive numbers, got nan"),
        (lambda t: t.update({QUERY.replace(CODES, ".weight"): np.zeros((384, 384), np.float32)}), "got both"),
        (
            lambda t: t.update({f"encoder.layer.9.x{CODES}": t[QUERY]}),
            f"encoder.layer.9.x{CODES}: expected I8 of shape ()",
        ),
    ],
)
def test_damaged_files_are_refused(quantized: Path, tmp_path: Path, change: object, message: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(quantized, folder)
    tensors = {key: value.copy() for key, value in load_file(folder / "model.safetensors").items()}
    assert callable(change)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        SentenceTransformer(folder, backend="numpy")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_command_says_what_it_refuses(quantized: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "--model", str(quantized), "-o", str(quantized)]) == 2
    assert "path: expected a folder that this model was not loaded from" in capsys.readouterr().err
