"""`minilm-np crosscheck` and `minilm-np goldens` on the command line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from minilm_np.cli import main
from minilm_np.crosscheck import (
    probe_texts,
)
from minilm_np.crosscheck.backends import load_function
from minilm_np.crosscheck.goldens import write_goldens
from minilm_np.crosscheck.truth import truth

Encode = Callable[[list[str]], Any]


@pytest.fixture(scope="module", autouse=True)
def _needs_weights(weights_folder: Path) -> Iterator[None]:
    """The default model, wherever the other tests found it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_goldens(tmp_path_factory.mktemp("goldens") / "bundle")


# --- the command line


def test_functions_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_backend_for_a_test.py").write_text(
        "from minilm_np import SentenceTransformer\n"
        "model = SentenceTransformer(backend='numpy')\n"
        "def right(texts): return model.encode(texts, truncation='ignore')\n"
        "def doubled(texts): return right(texts) * 2\n"
        "number = 1\n"
    )
    name = "my_backend_for_a_test"
    assert main(["crosscheck", f"{name}:right"]) == 0
    arguments = ["--json", "out.json", "--junit", "out.xml", "--no-causes"]
    assert main(["crosscheck", f"{name}:doubled", *arguments]) == 1
    assert json.loads(Path("out.json").read_text())["ok"] is False
    assert ElementTree.parse("out.xml").getroot().get("failures") == "1"
    capsys.readouterr()
    for wrong in (f"{name}:nothing", f"{name}:number", f"{name}_2:right", name):
        assert main(["crosscheck", wrong]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
    assert callable(load_function(f"{name}:right"))


def test_texts_and_goldens_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crosscheck", "--texts"]) == 0
    assert json.loads(capsys.readouterr().out) == probe_texts()
    assert main(["crosscheck"]) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    assert main(["goldens", str(tmp_path / "full")]) == 2
    assert "wanted a new or empty folder" in capsys.readouterr().err


# --- a user's own texts


def test_outputs_are_looked_at_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "right.npy", truth().embeddings)
    for option, message in (
        (["--json", str(tmp_path)], "--json: .* is a folder, wanted a file"),
        (["--junit", str(tmp_path / "no" / "out.xml")], "--junit: .*no is not a folder"),
        (["--timeout", "1e20"], "--timeout: found 1e.20, wanted seconds, more than 0 and at most"),
        (["--corpus", str(tmp_path / "right.npy"), "--threshold", "nan"], "--threshold: found nan, wanted a cosine"),
    ):
        assert main(["crosscheck", str(tmp_path / "right.npy"), *option]) == 2
        captured = capsys.readouterr()
        assert re.search(message, captured.err) and captured.err.count("\n") == 1 and captured.out == ""


def test_a_report_that_cannot_be_written_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "right.npy", truth().embeddings)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "out.json")

    monkeypatch.setattr("minilm_np.cli._write_atomically", full)
    assert main(["crosscheck", str(tmp_path / "right.npy"), "--json", str(tmp_path / "out.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("PASS") and captured.err == "minilm-np: error: out.json: No space left on device\n"
