"""Each script of docs/examples prints the contents of the .txt file next to it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from support.paths import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "docs" / "examples").glob("*.py"))


@pytest.mark.usefixtures("weights_folder")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example_prints_its_text_file(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out == script.with_suffix(".txt").read_text(encoding="utf-8")


def test_every_example_has_its_output() -> None:
    assert len(SCRIPTS) >= 4
    assert {path.stem for path in SCRIPTS[0].parent.glob("*.txt")} == {script.stem for script in SCRIPTS}
