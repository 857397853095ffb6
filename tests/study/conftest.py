"""A real browser for the study pages: Debian's chromium, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture
def study_extra() -> None:
    """Skip the test without the study extra."""
    for name in ("jinja2", "pygments"):
        pytest.importorskip(name, reason="needs the study extra")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    pytest.importorskip("jinja2", reason="needs the study extra")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the browser extra")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens a file; the test fails if the page asked for another one, or if the console has a line."""
    found: list[str] = []
    contexts = []

    def open_file(path: Path, ready: str | None = "window.minilm", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: found.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: found.append(f"error: {error}"))
        page.on("request", lambda request: None if is_allowed(request.url, path) else found.append(request.url))
        page.goto(path.as_uri())
        if ready:
            page.wait_for_function(ready)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert found == []


def is_allowed(url: str, path: Path) -> bool:
    return url.split("#")[0] == path.as_uri() or url.startswith(("data:", "blob:"))


@pytest.fixture
def violations() -> Callable[[Any], list[tuple[str, str]]]:
    """A function that returns the violated rules of axe-core and an element of each. $AXE_CORE names axe.min.js."""
    script = os.environ.get("AXE_CORE")
    if not script:
        pytest.skip("needs axe-core: $AXE_CORE is not set")

    def violations(page: Any) -> list[tuple[str, str]]:
        page.add_script_tag(path=script)
        return [(one["id"], one["nodes"][0]["html"]) for one in page.evaluate("axe.run()")["violations"]]

    return violations
