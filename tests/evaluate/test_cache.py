"""The cache of embeddings on disk, and the fingerprint that names its files."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.evaluation import RecordingEncoder, encode, numbered

from minilm_np import SentenceTransformer
from minilm_np.evaluate import cache as cache_module
from minilm_np.evaluate import cached, fingerprint


def test_cached_encodes_only_new_texts(tmp_path: Path) -> None:
    encoder = RecordingEncoder()
    first = cached(encoder, tmp_path, "a")(numbered("x", 700))
    again = cached(encoder, tmp_path, "a")([*reversed(numbered("x", 700)), "new"])
    assert encoder.texts == [*numbered("x", 700), "new"]
    assert np.array_equal(first, again[699::-1]) and again.dtype == np.float32
    cached(encoder, tmp_path, "b")(["x 1"])
    assert encoder.texts[-1] == "x 1", "each model has its own file"
    lone_surrogate = "half of a surrogate pair \ud800"
    assert np.array_equal(cached(lambda texts: np.ones((1, 2)), tmp_path, "c")([lone_surrogate]), np.ones((1, 2)))


def test_rejects_damaged_cache_files(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 9)
    with pytest.raises(ValueError, match=r"a.sqlite: file is not a database; the file is a cache and can be deleted"):
        cached(encode, tmp_path, "a")
    cached(encode, tmp_path, "b")(["x"])
    database = sqlite3.connect(tmp_path / "b.sqlite")
    with database:
        database.execute("UPDATE embeddings SET vector = ?", (b"<f4\0",))
    database.close()
    with pytest.raises(ValueError, match=r"b.sqlite: a vector is damaged; the file is a cache and can be deleted"):
        cached(encode, tmp_path, "b")(["x"])


def test_failing_encoder_keeps_the_cached_vectors(tmp_path: Path) -> None:
    cached(encode, tmp_path, "a")(["x"])

    def fails(texts: list[str]) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(fails, tmp_path, "a")(["x", "y"])
    assert np.array_equal(cached(fails, tmp_path, "a")(["x"]), encode(["x"]))


def test_fingerprint_changes_with_the_model(weights_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(weights_folder, folder)

    def fingerprint_with(**options: Any) -> str:
        model = SentenceTransformer(folder, **{"backend": "numpy", **options})
        return fingerprint(model)

    seen = [fingerprint_with(), fingerprint_with(dtype="float64"), fingerprint_with(truncate_dim=8)]
    seen.append(fingerprint_with(backend="numba"))
    seen.append(fingerprint_with(prompts={"p": "before: "}, default_prompt_name="p"))
    model = SentenceTransformer(folder, backend="numpy")
    model.max_seq_length = 100
    seen.append(fingerprint(model))
    assert seen[0] == fingerprint_with(), "it is the same for the same model"
    assert fingerprint(SentenceTransformer(weights_folder, backend="numpy")) == seen[0], (
        "it does not depend on the folder"
    )
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1  # not at the end: those are the pooler's weights, which are unused
    loaded = SentenceTransformer(folder, backend="numpy")
    weights.unlink()  # the loaded model keeps its memory map of the old file
    weights.write_bytes(content)
    assert fingerprint(loaded) == seen[0], "it hashes the loaded weights, not the file"
    seen.append(fingerprint_with())
    monkeypatch.setattr(cache_module, "version", lambda library: f"a different {library}")
    seen.append(fingerprint_with())
    monkeypatch.setattr(cache_module, "__file__", str(tmp_path / "package" / "evaluate" / "cache.py"))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "ops.py").write_text("# different code")
    seen.append(fingerprint_with())
    assert len(set(seen)) == len(seen)
