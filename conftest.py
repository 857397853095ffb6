"""Run the Python blocks of README.md and docs/*.md, and compare what each prints with the text block after it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import tempfile
from pathlib import Path
from typing import Any

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

collect_ignore_glob = ["docs/examples/*", "bench/*"]  # scripts; tests/docs and tests/bench run them
run_python = PythonEvaluator()


def run_and_keep_output(example: Example) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run_python(example)
    example.namespace["printed"] = printed.getvalue() or None


def compare_with_output(example: Example) -> str | None:
    expected, printed = str(example.parsed), example.namespace.pop("printed", None)
    if printed is None or printed.strip() == expected.strip():  # None: the output of a command
        return None
    return f"expected:\n{expected}\ngot:\n{printed}"


def make_notes(namespace: dict[str, Any]) -> None:
    """Enter a temporary folder with the files that the recipes read; define the names that `skip` comments use."""
    namespace["_folder"] = folder = tempfile.TemporaryDirectory()
    namespace["_before"] = Path.cwd()
    namespace |= {name: importlib.util.find_spec(name) for name in ("sklearn", "scipy")}
    notes = Path(folder.name) / "notes"
    notes.mkdir()
    (notes / "bread.txt").write_text("Feed the starter flour and water every day.\n\nBake for 40 minutes.")
    (notes / "garden.txt").write_text("Water the tomatoes in the morning.\n\nPrune the roses in spring.")
    os.chdir(folder.name)


def remove_notes(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_before"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[
        CodeBlockParser("python", run_and_keep_output),
        CodeBlockParser("text", compare_with_output),
        SkipParser(),
    ],
    patterns=["README.md", "docs/*.md"],
    excludes=["docs/frameworks.md"],  # tests/integrations/test_recipes.py runs its blocks
    setup=make_notes,
    teardown=remove_notes,
).pytest()
