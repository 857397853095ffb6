"""`minilm-np encode`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from support.commands import assert_fails, run

from minilm_np import SentenceTransformer
from minilm_np.commands.common import write_atomically


def test_npy_and_jsonl_hold_the_same_numbers(model: SentenceTransformer, tmp_path: Path) -> None:
    texts = ["hello", "", "caf\u00e9 \U0001f600", "\u2028 is not the end of a line", "last"]
    data = b"\xef\xbb\xbf" + "\r\n".join(texts).encode() + b"\n"
    (tmp_path / "in.txt").write_bytes(data)
    for name in ("out.npy", "out.jsonl"):
        result = run("encode", str(tmp_path / "in.txt"), "-o", str(tmp_path / name))
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    array = np.load(tmp_path / "out.npy")
    assert array.dtype == np.float32
    assert np.abs(array - model.encode(texts)).max() < 2e-7
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().decode().split("\n") if line]
    assert [row["text"] for row in rows] == texts
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), array)
    piped = run("encode", "-", stdin=data)
    assert piped.stdout == (tmp_path / "out.jsonl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.txt", "out.jsonl", "out.npy"]


def test_empty_input_gives_an_empty_result(tmp_path: Path) -> None:
    assert run("encode", stdin=b"").stdout == b""
    run("encode", "-o", str(tmp_path / "out.npy"), stdin=b"")
    assert np.load(tmp_path / "out.npy").shape == (0, 384)


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out.npy").write_bytes(b"old")
    assert_fails(run("encode", "-o", str(tmp_path / "out.npy"), stdin=b"good\n\xff\n"), "line 2")
    assert (tmp_path / "out.npy").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.npy"]


def test_failure_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out.npy").write_bytes(b"old")

    def fail(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "out.npy", fail)
    assert (tmp_path / "out.npy").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.npy"]


def test_writes_to_a_device() -> None:
    write_atomically(Path(os.devnull), lambda file: np.save(file, np.zeros((1, 2), np.float32)))
    assert Path(os.devnull).is_char_device()
