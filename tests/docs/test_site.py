"""The documentation site has every page of docs/ and every public name; `mkdocs build --strict` checks the rest."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from support.paths import REPOSITORY

DOCS = REPOSITORY / "docs"
PACKAGES = ("minilm_np", "minilm_np.util", "minilm_np.crosscheck", "minilm_np.evaluate")
INTEGRATIONS = (
    "minilm_np.integrations.bertopic.MiniLMBackend",
    "minilm_np.integrations.chroma.MiniLMEmbeddingFunction",
    "minilm_np.integrations.haystack.MiniLMDocumentEmbedder",
    "minilm_np.integrations.haystack.MiniLMTextEmbedder",
    "minilm_np.integrations.keybert.MiniLMBackend",
    "minilm_np.integrations.langchain.MiniLMEmbeddings",
    "minilm_np.integrations.llama_index.MiniLMEmbedding",
    "minilm_np.integrations.mteb.MiniLMEncoder",
    "minilm_np.integrations.mteb.load_registered",
    "minilm_np.integrations.sklearn.SentenceEncoder",
)
REFERENCE = {
    name for page in (DOCS / "api").glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M)
}


@pytest.mark.parametrize("package", PACKAGES)
def test_api_reference_has_every_public_name(package: str) -> None:
    module = importlib.import_module(package)
    names = [str(name) for name in module.__all__]
    assert names
    if package in REFERENCE:  # a page for a whole module shows the names that have a docstring
        assert [name for name in names if not getattr(module, name).__doc__] == []
    else:
        assert [name for name in names if f"{package}.{name}" not in REFERENCE] == []


def test_api_reference_has_every_integration() -> None:
    assert set(INTEGRATIONS) <= REFERENCE
    modules = {path.stem for path in (REPOSITORY / "minilm_np" / "integrations").glob("[!_]*.py")}
    assert modules == {name.split(".")[2] for name in INTEGRATIONS}


def test_every_page_is_in_the_navigation() -> None:
    configuration = (REPOSITORY / "mkdocs.yml").read_text("utf-8")
    navigation = configuration.partition("\nnav:\n")[2].partition("\nexclude_docs:")[0]
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages and pages <= set(re.findall(r"[\w/]+\.md", navigation))


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?![a-z]+:)([^)#\s]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
