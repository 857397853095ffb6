"""`minilm-np crosscheck` and `minilm-np goldens`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from minilm_np.cli import main
from minilm_np.crosscheck import probe_texts
from minilm_np.crosscheck.truth import truth


def test_checks_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_port_for_a_test.py").write_text(
        "from minilm_np import SentenceTransformer\n"
        "model = SentenceTransformer(backend='numpy')\n"
        "def right(texts): return model.encode(texts, truncation='ignore')\n"
        "def doubled(texts): return right(texts) * 2\n"
        "number = 1\n"
    )
    name = "my_port_for_a_test"
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


def test_prints_the_probe_texts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crosscheck", "--texts"]) == 0
    assert json.loads(capsys.readouterr().out) == probe_texts()


def test_requires_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crosscheck"]) == 2
    assert "TARGET: expected a port to check" in capsys.readouterr().err


def test_goldens_rejects_a_folder_with_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    assert main(["goldens", str(tmp_path / "full")]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err


def test_rejects_bad_options_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "right.npy")
    np.save(target, truth().embeddings)
    for options, message in (
        (["--json", str(tmp_path)], "--json: expected a file, got the folder"),
        (["--junit", str(tmp_path / "no" / "out.xml")], "--junit: .*no is not a folder"),
        (["--timeout", "1e20"], "--timeout: expected seconds above 0 and at most 86400, got 1e.20"),
        (["--corpus", target, "--threshold", "nan"], "--threshold: expected a cosine, got nan"),
        (["--corpus", target, "-k", "0"], "-k: expected 1 or more, got 0"),
    ):
        assert main(["crosscheck", target, *options]) == 2
        captured = capsys.readouterr()
        assert re.search(message, captured.err) and captured.err.count("\n") == 1 and captured.out == ""


def test_prints_the_report_if_its_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "right.npy", truth().embeddings)

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device", "out.json")

    monkeypatch.setattr("minilm_np.commands.common.write_atomically", disk_full)
    assert main(["crosscheck", str(tmp_path / "right.npy"), "--json", str(tmp_path / "out.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("PASS") and captured.err == "minilm-np: error: out.json: No space left on device\n"
