"""Every block of docs/recipes.md, run as it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.paths import REPOSITORY

PAGE = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## ([^\n]+)\n.*?```python\n(.*?)```", PAGE, re.M | re.S))


def search(out: str) -> None:
    lines = out.splitlines()
    assert len(lines) == 3 and "bread.txt" in lines[0] and "Feed the starter" in lines[0]


def clusters(out: str) -> None:
    groups: dict[str, list[str]] = {}
    for line in out.splitlines():
        groups.setdefault(line[0], []).append(line[2:])
    animals = next(group for group in groups.values() if any("cat" in text for text in group))
    assert len(groups) == 2 and sorted(animals) == [
        "A dog barks at the postman.",
        "The cat sleeps on the sofa.",
        "Two horses graze in the field.",
    ]


def duplicates(out: str) -> None:
    assert "How do I reset my password?  |  I forgot my password, how can I reset it?" in out.splitlines()[0]
    assert "opening hours" not in out and out.count("[") == 2


def truncation(out: str) -> None:
    assert re.match(r"256 of \d{3} word pieces, up to \.\.\.'.*'$", out)


CHECKS: dict[str, Callable[[str], None]] = {
    "Semantic search over a folder": search,
    "Clusters with scikit-learn": clusters,
    "Near-duplicates": duplicates,
    "How much of a long text is read": truncation,
}


def test_every_recipe_has_a_check() -> None:
    assert set(RECIPES) == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_recipe(
    name: str, weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "sklearn" in RECIPES[name]:
        pytest.importorskip("sklearn", reason="needs the integrations extra")
    monkeypatch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "bread.txt").write_text("Feed the starter flour and water every day.\n\nBake for 40 minutes.")
    (tmp_path / "notes" / "garden.txt").write_text("Water the tomatoes in the morning.\n\nPrune the roses in spring.")
    exec(RECIPES[name], {})
    CHECKS[name](capsys.readouterr().out)
