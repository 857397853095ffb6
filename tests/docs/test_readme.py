"""The README's own commands and code, run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.paths import REPOSITORY
from support.tolerances import FLOAT32, FLOAT64

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [code for kind, code in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S) if kind == language]


def test_first_command_prints_what_it_shows(weights_folder: Path) -> None:
    command = blocks("sh")[0].split(" && ")[1]
    arguments = shlex.split(command)
    assert arguments[0] == "minilm-np"
    run = subprocess.run(
        [sys.executable, "-m", "minilm_np", *arguments[1:]], capture_output=True, text=True, check=True
    )
    found, shown = run.stdout.splitlines(), blocks("")[0].splitlines()
    assert [line.split()[3:] for line in found] == [line.split()[3:] for line in shown]
    for a, b in zip(found[1:], shown[1:], strict=True):  # the last printed digit may round the other way
        assert all(abs(float(x) - float(y)) < 2e-6 for x, y in zip(a.split()[:3], b.split()[:3], strict=True))


def test_python_example(
    weights_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
    code = blocks("python")[0]
    assert len([line for line in code.splitlines() if line]) <= 6
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert capsys.readouterr().out == "(2, 384)\n"


def test_every_command_is_listed() -> None:
    from minilm_np.cli import _parser

    listed = set(re.findall(r"^minilm-np (\w+)", README, re.M))
    (subparsers,) = (a for a in _parser()._actions if a.dest == "==SUPPRESS==" or a.choices)
    assert subparsers.choices is not None
    assert listed == set(subparsers.choices)


def test_files_named_exist() -> None:
    top = REPOSITORY
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for name in [*links, *re.findall(r"`((?:bench|tests)/[\w./]+)`", README)]:
        assert (top / name).exists(), name


def test_no_table_that_a_script_writes_is_empty() -> None:
    found = re.findall(r"<!-- (\w+):begin -->\n(.*?)<!-- \1:end -->", README, re.S)
    assert {name for name, _ in found} >= {"fidelity", "card"}
    assert [name for name, table in found if table.count("\n|") < 3] == []


def test_the_card_table_is_the_cards() -> None:
    """Each row's card column is card.json's, and its verdict is that of the figures beside it."""
    from minilm_np.evaluate import all_tasks

    rows = re.findall(r"^\| ([\w.-]+) \| (\w+) \| (-?[\d.]+) \|(.*)\| (exact|close|differs)(.*) \|$", README, re.M)
    assert len(rows) == 9
    for name, measure, card, figures, verdict, why in rows:
        task = all_tasks()[name]
        assert measure == task.main and card == f"{task.card[task.main]:.4f}"
        peer, *ours = (float(figure) for figure in figures.split("|") if figure != " - ")  # a dash: not measured
        assert len(ours) >= 2 and max(abs(x - peer) for x in ours) <= 0.001, "sentence-transformers, measured here"
        assert (verdict == "exact") == all(abs(x - task.card[task.main]) <= 0.00105 for x in ours)
        assert (verdict == "close") == bool(why)


def test_the_fidelity_table_is_within_the_tolerances() -> None:
    rows = re.findall(r"^\| ([\w.]+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", README, re.M)
    table = {kind: [float(x) for x in figures] for kind, *figures in rows if kind in FLOAT32}
    assert set(table) == set(FLOAT32)
    for kind, (ours, kernels, pytorch, oracle) in table.items():
        assert 0 < max(ours, kernels) <= FLOAT32[kind].atol and 0 < oracle <= FLOAT64 and pytorch > 0
