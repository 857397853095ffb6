"""What surrounds a model that computes in bfloat16 or int8: options, pickle, saved files, names of caches."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minilm_np import SentenceTransformer
from minilm_np.cli import main
from minilm_np.commands.common import load_model
from minilm_np.encoder import LOW_PRECISION
from minilm_np.evaluate.cache import fingerprint
from minilm_np.kernels.simd import WITHOUT_JIT

pytestmark = pytest.mark.skipif(WITHOUT_JIT, reason="minutes without the JIT")
TEXTS = ["A man is eating food.", "Someone has a meal.", "The stock market fell."]


@pytest.fixture(scope="module")
def models(weights_folder: Path) -> dict[str, SentenceTransformer]:
    return {dtype: SentenceTransformer(weights_folder, dtype=dtype) for dtype in LOW_PRECISION}


@pytest.mark.parametrize("dtype", LOW_PRECISION)
def test_pickle_keeps_the_dtype(models: dict[str, SentenceTransformer], dtype: str) -> None:
    stored = pickle.dumps(models[dtype])
    assert len(stored) < 10_000
    again = pickle.loads(stored)
    assert again.compute_dtype == dtype and again.dtype == np.float32
    assert np.array_equal(again.encode(TEXTS), models[dtype].encode(TEXTS))


@pytest.mark.parametrize("dtype", LOW_PRECISION)
def test_saved_parameters_are_not_rounded(
    models: dict[str, SentenceTransformer], dtype: str, model: SentenceTransformer, tmp_path: Path
) -> None:
    models[dtype].save_pretrained(tmp_path / "untrained")
    trained = pickle.loads(pickle.dumps(models[dtype]))
    trained.replace_weights({name: value * np.float32(0.9) for name, value in model.weights.items()})
    trained.save_pretrained(tmp_path / "trained")
    for name, factor in (("untrained", 1), ("trained", 0.9)):
        again = SentenceTransformer(tmp_path / name, backend="numpy")
        assert again.compute_dtype == "float32"
        for parameter, value in model.weights.items():
            assert np.array_equal(again.weights[parameter], value * np.float32(factor)), parameter


def test_fingerprint_has_the_dtype(models: dict[str, SentenceTransformer], monkeypatch: pytest.MonkeyPatch) -> None:
    bfloat16, int8 = models.values()
    assert fingerprint(bfloat16) != fingerprint(int8)
    seen = fingerprint(int8)
    monkeypatch.setattr(int8, "compute_dtype", "float32")  # the weights alone would tell most models apart
    assert fingerprint(int8) != seen


@pytest.mark.parametrize("dtype", LOW_PRECISION)
def test_commands_load_numba_for_a_low_precision(weights_folder: Path, dtype: str) -> None:
    """Numba even for few texts, because NumPy has no low precision."""
    loaded = load_model(str(weights_folder), 1, dtype)
    assert (loaded.backend, loaded.compute_dtype) == ("numba", dtype)


def test_default_of_the_commands_is_float32_on_numpy(weights_folder: Path) -> None:
    loaded = load_model(str(weights_folder), 1)
    assert (loaded.backend, loaded.compute_dtype) == ("numpy", "float32")


@pytest.mark.parametrize("command", ["encode", "similarity", "search"])
def test_commands_compute_in_the_dtype(
    command: str,
    models: dict[str, SentenceTransformer],
    weights_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(TEXTS))
    options = ["--dtype", "int8", "--model", str(weights_folder)]
    a, b, c = models["int8"].encode(TEXTS).astype(np.float64)
    if command == "encode":
        assert main(["encode", str(lines), "-o", str(tmp_path / "out.npy"), *options]) == 0
        assert np.array_equal(np.load(tmp_path / "out.npy"), models["int8"].encode(TEXTS))
    elif command == "similarity":
        assert main(["similarity", *TEXTS[:2], "--digits", "6", *options]) == 0
        assert abs(float(capsys.readouterr().out) - a @ b) < 1e-6
    else:
        assert main(["search", str(lines), TEXTS[0], "-k", "3", *options]) == 0
        scores = [float(line.split("\t")[0]) for line in capsys.readouterr().out.splitlines()]
        assert np.abs(np.array(scores) - sorted((a @ a, a @ b, a @ c), reverse=True)).max() < 2e-6


@pytest.mark.parametrize("dtype", ["float32", *LOW_PRECISION])
def test_info_names_the_dtype(dtype: str, weights_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", str(weights_folder), "--dtype", dtype]) == 0
    out = capsys.readouterr().out
    assert f"\ndtype       {dtype} in dense layers, float32 elsewhere\n" in out
    assert ("numpy for up to 100 texts" in out) is (dtype == "float32")


def test_unknown_dtype_is_refused(weights_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similarity", "a", "b", "--dtype", "int4", "--model", str(weights_folder)]) == 2
    expected = "dtype: expected 'float32', 'float64', 'bfloat16' or 'int8', got 'int4'"
    assert expected in capsys.readouterr().err


def test_evaluate_records_the_dtype(weights_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scipy")
    import json

    from support.evaluation import STS_TSV, write_files

    folder = write_files(tmp_path, {"STS12.tsv": STS_TSV})
    arguments: list[Any] = ["evaluate", "STS12", "--data", folder, "--dtype", "int8", "--json", "-"]
    assert main([str(argument) for argument in [*arguments, "--model", weights_folder]]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["encoder"]["dtype"] == "int8"
