"""Run a benchmark and write its tables: `python bench/generate/tables.py race|cold|util|fidelity|card [OPTIONS]`.

OPTIONS are those of the benchmark's own script (bench/race.py, ...). A table stands between the lines
<!-- NAME:begin --> and <!-- NAME:end --> of README.md or of a page in docs/. The race's table has a block for each
family of CPUs, named as LLVM names it (race-znver5, race-sapphirerapids), so that no machine overwrites another's.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import llvmlite.binding

REPOSITORY = Path(__file__).parents[2]
BLOCKS = {  # benchmark: its module, the blocks that it fills
    "race": ("race", (f"race-{llvmlite.binding.get_host_cpu_name()}", "summary-speed")),
    "cold": ("cold", ("cold",)),
    "util": ("race_util", ("util",)),
    "fidelity": ("fidelity", ("fidelity", "summary-fidelity")),
    "card": ("card", ("card",)),
}


def page_of(name: str) -> Path:
    """Return the page that has the block; raise SystemExit unless there is exactly one."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    files = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    pages = []
    for page in files:
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        if end in text.partition(f"{begin}\n")[2]:
            pages.append(page)
    if len(pages) != 1:
        names = ", ".join(page.name for page in pages) or "none"
        raise SystemExit(f"{name}: expected one page of README.md and docs/ with {begin} ... {end}, got {names}")
    return pages[0]


def write_block(name: str, text: str) -> None:
    """Replace what stands between <!-- name:begin --> and <!-- name:end -->."""
    page = page_of(name)
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(before + begin + text + end + rest.partition(end)[2], encoding="utf-8")


def main() -> None:
    name, *options = sys.argv[1:] or [""]
    if name not in BLOCKS:
        raise SystemExit(f"usage: python bench/generate/tables.py {'|'.join(BLOCKS)} [OPTIONS]")
    module, blocks = BLOCKS[name]
    for block in blocks:
        page_of(block)  # fail before the measurement, not after it
    sys.path.insert(0, str(REPOSITORY / "bench"))
    for block, text in zip(blocks, import_module(module).main(options), strict=True):
        write_block(block, text)
        print(f"{page_of(block).relative_to(REPOSITORY)}: {block} written")


if __name__ == "__main__":
    main()
