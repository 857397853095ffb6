"""The command `minilm-np evaluate`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from support.evaluation import STS_TSV, TINY_TASKS, write_files, write_tiny_data

from minilm_np import cli
from minilm_np.evaluate import all_tasks


def run_evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["evaluate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_list_shows_tasks_and_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run_evaluate(capsys, "--list", "--data", write_tiny_data(tmp_path))
    rows = [line.split() for line in out.split("\n\n")[0].splitlines()[1:]]
    assert code == 0 and len(rows) == 95
    assert [row[0] for row in rows if row[-1] == "yes"] == sorted(TINY_TASKS, key=list(all_tasks()).index)
    assert ["STS12", "STS", "cos_sim_spearman", "72.3690", "yes"] in rows
    assert "NAME/qrels.tsv: query-id, corpus-id, score" in out
    monkeypatch.setitem(sys.modules, "datasets", None)  # its import raises ImportError
    assert run_evaluate(capsys, "--list")[1].splitlines()[1].endswith("64.1493")


def test_evaluates_and_writes_json(weights_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out_file = write_tiny_data(tmp_path / "data"), tmp_path / "out.json"
    options = ["--model", weights_folder, "--data", folder, "--backend", "numpy"]
    code, out, err = run_evaluate(
        capsys, "STS12", "NFCorpus", *options, "--json", out_file, "--cache", tmp_path / "cache"
    )
    assert (code, err) == (1, "")  # the three pairs do not give the card's scores
    header, *rows = out.splitlines()
    assert header.split() == ["task", "measure", "card", "ours", "difference", "verdict"]
    assert [row.split()[:3] for row in rows] == [
        ["STS12", "cos_sim_spearman", "72.3690"],
        ["NFCorpus", "ndcg_at_10", "31.5940"],
    ]
    assert [row.split()[-1] for row in rows] == ["differs", "differs"]
    written = json.loads(out_file.read_text())
    assert [result["task"] for result in written["results"]] == ["STS12", "NFCorpus"]
    assert written["encoder"]["backend"] == "numpy" and len(written["encoder"]["fingerprint"]) == 64
    assert (tmp_path / "cache" / f"{written['encoder']['fingerprint']}.sqlite").is_file()
    ours = written["results"][0]["scores"]["cos_sim_spearman"]
    assert f"{ours:.4f}" in rows[0]
    code, out, _ = run_evaluate(capsys, "STS12", *options, "--json", "-", "--cache", tmp_path / "cache")
    assert json.loads(out)["results"][0]["scores"]["cos_sim_spearman"] == ours
    code, out, _ = run_evaluate(capsys, *options, "--measures")
    assert len(out.splitlines()) == 1 + sum(len(all_tasks()[name].card) for name in TINY_TASKS) + 2


def test_encoder_option_evaluates_a_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign_encoder.py").write_text(
        "import numpy as np\n"
        "def encode(texts):\n"
        "    assert len(texts) <= 32\n"
        "    return np.stack([np.cos(np.arange(8) * sum(map(ord, t))) for t in texts])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, _ = run_evaluate(
        capsys, "ImdbClassification", "--data", write_tiny_data(tmp_path / "d"), "--encoder", "foreign_encoder:encode"
    )
    assert code in (0, 1) and "ImdbClassification" in out
    for options, message in (
        (["--cache", tmp_path], "--cache: .* with --encoder"),
        (["--encoder", "foreign_encoder:nothing"], "foreign_encoder:nothing: AttributeError"),
        (["--encoder", "nowhere"], "nowhere: .*package.module:function"),
    ):
        code, out, err = run_evaluate(
            capsys, "STS12", "--data", tmp_path / "d", "--encoder", "foreign_encoder:encode", *options
        )
        assert (code, out) == (2, "") and re.search(message, err) and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["STS12", "--data", "/nowhere"], "--data: /nowhere is not a folder"),
        (["STS13", "--data", "."], "STS13: no data in .; expected STS13.tsv"),
        (["--data", "."], "--data: .*no .*data.*; see --list"),
        (["NFCorpse", "--data", "."], "TASK: expected NFCorpus.*, got 'NFCorpse'"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    weights_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_evaluate(capsys, *arguments, "--model", weights_folder, "--backend", "numpy")
    assert (code, out) == (2, "") and re.search(message, err) and err.count("\n") == 1


def test_reports_missing_data_before_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(tmp_path, {"STS12.tsv": STS_TSV, "STS13.tsv": STS_TSV + b"only one column\n"})
    calls = tmp_path / "calls"
    (tmp_path / "an_encoder_for_a_test.py").write_text(
        "import numpy as np\n"
        "def encode(texts):\n"
        f"    open({str(calls)!r}, 'a').close()\n"
        "    return np.array([[len(text) + 1.0, ord(text[0]) % 7] for text in texts])\n"
    )
    data, encoder = ["--data", str(tmp_path)], ["--encoder", "an_encoder_for_a_test:encode"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(sys, "path", list(sys.path))
        for arguments, message in (
            (["STS12", "STS14", *data], "STS14: no data in"),
            (["STS12", *data, "--json", str(tmp_path / "no" / "out.json")], "no is not a folder"),
            (["STS12", *data, "--json", str(tmp_path)], "--json: .* folder"),
            (["STS12", *data, "--dtype", "float64"], "--dtype: .* with --encoder"),
            (["STS12", *data, "--timeout", "nan"], "--timeout: .*nan"),
        ):
            assert cli.main(["evaluate", *arguments, *encoder]) == 2
            captured = capsys.readouterr()
            assert re.search(message, captured.err) and captured.err.count("\n") == 1 and captured.out == ""
        assert not calls.exists()
        out_file = tmp_path / "out.json"  # gets the first task's result although the second fails
        assert cli.main(["evaluate", "STS12", "STS13", *data, *encoder, "--json", str(out_file)]) == 2
    captured = capsys.readouterr()
    assert [result["task"] for result in json.loads(out_file.read_text())["results"]] == ["STS12"]
    assert "STS13.tsv, line 5: expected 3 columns" in captured.err
    assert "STS12" in captured.out and "differs" in captured.out and calls.exists()


def test_parts_of_a_mean_are_evaluated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without task names, every row with data is evaluated: here the mean row and its twelve parts."""
    folder = tmp_path / "data"
    for name in all_tasks()["CQADupstackRetrieval"].parts:
        shutil.copytree(write_tiny_data(tmp_path / "tiny") / "NFCorpus", folder / name)
    log = tmp_path / "texts"
    (tmp_path / "logging_encoder.py").write_text(
        "import numpy as np\n"
        "def encode(texts):\n"
        f"    with open({str(log)!r}, 'a') as file:\n"
        "        file.writelines(text + '\\n' for text in texts)\n"
        "    return np.array([[len(text) + 1.0, ord(text[0]) % 7] for text in texts])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, _ = run_evaluate(capsys, "--data", folder, "--encoder", "logging_encoder:encode")
    assert code == 1 and len(out.splitlines()) == 1 + 13
    assert len(log.read_text().splitlines()) == 12 * 3  # one query and two documents
