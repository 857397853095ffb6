"""Write the walk as Jupyter notebooks: `python bench/generate/notebooks.py`. Needs the notebooks extra.

Each chapter of docs/walk, and docs/bert_for_gpt.md, becomes a notebook of the same name in docs/notebooks. A block of
Python becomes a code cell, and the text block after it becomes the cell's output. The rest is Markdown.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "notebooks"
OUTPUT = re.compile(r"\A\s*```text\n(.*?)^```$\s*", re.M | re.S)


def pages() -> list[Path]:
    """Return the pages that become notebooks."""
    return [*sorted((DOCS / "walk").glob("[0-9]*.md")), DOCS / "bert_for_gpt.md"]


def notebook(page: Path) -> Any:
    """Return a page as a notebook (nbformat.NotebookNode) with the outputs that the page shows."""
    import jupytext
    from nbformat.v4 import new_output

    made = jupytext.reads(page.read_text(encoding="utf-8"), fmt="md")
    cells: list[Any] = []
    for cell in made.cells:
        if cell.cell_type == "markdown":
            shown = OUTPUT.match(cell.source)
            if shown and cells and cells[-1].cell_type == "code":
                cells[-1].outputs = [new_output("stream", name="stdout", text=shown[1])]
                cell.source = cell.source[shown.end() :]
            cell.source = with_links(cell.source, page)
            if not cell.source:
                continue
        cells.append(cell)
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"  # jupytext draws random ones
    made.cells = cells
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return made


def with_links(text: str, page: Path) -> str:
    """Return Markdown of a page with its links as they are in docs/notebooks."""
    notebooks = {other.name: f"{other.stem}.ipynb" for other in pages()}

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        path = (page.parent / target).resolve()
        if path.parent in (DOCS / "walk", DOCS) and path.name in notebooks:
            target = notebooks[path.name]
        elif target:
            target = Path(os.path.relpath(path, FOLDER)).as_posix()
        return f"{match[1]}({target}{'#' if anchor else ''}{anchor})"

    return re.sub(r"(\])\((?![a-z]+:)([^)\s]+)\)", link, text)


def written(page: Path) -> str:
    """Return the contents of a page's notebook file."""
    import nbformat

    return str(nbformat.writes(notebook(page), version=4)) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for page in pages():
        path = FOLDER / f"{page.stem}.ipynb"
        path.write_text(written(page), encoding="utf-8")
        print(f"{path.relative_to(DOCS.parent)} written")


if __name__ == "__main__":
    main()
