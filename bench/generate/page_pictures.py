"""Take the pictures of a study page for docs/images: `python bench/generate/page_pictures.py`.

Needs the browser extra and Debian's chromium.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).parents[2] / "docs" / "images"
TEXTS = "A man is eating food.", "Someone eats bread."
# Without what only a reader of the page needs, and with margins.
STYLE = "details.numbers, .readout { display: none !important; } #pairs-body, .heads, #cell, .group { padding: 8px; }"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def texts(page: Any) -> Any:
    return page.locator("#texts")


def model(page: Any) -> Any:
    return page.locator("#model-body .group").nth(1)


def layer(page: Any) -> Any:
    return page.locator("#layer-body .heads")


def cell(page: Any) -> Any:
    page.locator("#layer-body .heads canvas").nth(4).click(position={"x": 30, "y": 45})
    return page.locator("#cell")


def pairs(page: Any) -> Any:
    return page.locator("#pairs-body")


def ablation(page: Any) -> Any:
    return page.locator("#ablation")


PICTURES: dict[str, Callable[[Any], Any]] = {
    "texts": texts,
    "model": model,
    "layer": layer,
    "cell": cell,
    "pairs": pairs,
    "ablation": ablation,
}


def main() -> None:
    """Write trace-{level}.png for each level."""
    from playwright.sync_api import sync_playwright

    from minilm_np import SentenceTransformer
    from minilm_np.study import trace

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder) / "page.html"
        trace(SentenceTransformer(backend="numpy"), *TEXTS).save(path)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme="light")
        page.goto(path.as_uri())
        page.wait_for_function("window.minilm")
        page.add_style_tag(content=STYLE)
        for name, find in PICTURES.items():
            find(page).screenshot(path=IMAGES / f"trace-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
