"""The recipes of docs/frameworks.md run inside the real frameworks, print what they show, and use our vectors."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import re
from pathlib import Path
from typing import Any

import pytest
from support.frameworks import framework, no_other_model
from support.paths import REPOSITORY

from minilm_np import SentenceTransformer

PAGE = (REPOSITORY / "docs" / "frameworks.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", re.M | re.S)
RECIPES = {
    section.partition("\n")[0]: block
    for section in PAGE.split("\n## ")[1:]
    for block in BLOCKS.findall(section)  # (code, what it prints)
}
MODULES = {  # the framework that a recipe needs
    **{"KeyBERT": "keybert", "BERTopic": "bertopic", "MTEB": "mteb", "LlamaIndex": "llama_index.core"},
    **{"Haystack": "haystack", "txtai": "txtai", "SetFit": "setfit", "spaCy": "spacy"},
    **{"LangChain": "langchain_core", "Chroma": "chromadb"},
}


def test_every_recipe_is_found() -> None:
    assert list(RECIPES) == list(MODULES) and PAGE.count("```python") == len(MODULES)
    assert all(code and output for code, output in RECIPES.values())


@pytest.mark.integrations
@pytest.mark.filterwarnings("default")  # we cannot fix the frameworks' warnings
@pytest.mark.usefixtures("weights_folder")
@pytest.mark.parametrize("name", MODULES)
def test_recipe_prints_what_it_shows(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    framework(MODULES[name])
    no_other_model(monkeypatch)
    monkeypatch.chdir(tmp_path)
    calls: list[Any] = []
    encode = SentenceTransformer.encode

    def counting(self: SentenceTransformer, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", counting)
    code, output = RECIPES[name]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"docs/frameworks.md, {name}", "exec"), {"__name__": "recipe"})
    assert printed.getvalue() == output
    assert calls or name == "MTEB"  # whose recipe only loads the model


@pytest.mark.integrations
@pytest.mark.filterwarnings("default")
def test_page_names_the_versions_that_are_tested() -> None:
    """The table's versions are those of the frameworks that are installed; only the first two numbers may differ."""
    distributions = {"LlamaIndex": "llama-index-core", "Haystack": "haystack-ai", "LangChain": "langchain-core"}
    distributions["Chroma"] = "chromadb"
    rows = dict(re.findall(r"^\| ([\w-]+) (\d[\d.]*) \|", PAGE, re.M))
    assert set(rows) >= set(MODULES)
    compared = 0
    for name, version in rows.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed = importlib.metadata.version(distributions.get(name, name.lower()))
            assert installed.split(".")[0] == version.split(".")[0], f"{name}: measure again with {installed}"
            compared += 1
    if not compared:
        pytest.skip("needs the integrations extra")
