"""Run a benchmark and write its tables: `python bench/generate/tables.py NAME [OPTIONS]`.

NAME is race, cold, util, fidelity, precisions, card, confusion, gradients, learn, train or train-memory. OPTIONS are
those of the benchmark's own script (bench/race.py, ...). A table stands in a block of README.md or of a page in docs/,
between the lines <!-- BLOCK:begin --> and <!-- BLOCK:end -->. The race's table has a block for each CPU family, named
as LLVM names the CPU (race-znver5, race-sapphirerapids), so that no machine overwrites the numbers of another. On a CPU
family without a block, a section with a new block is added behind the last one.
"""

from __future__ import annotations

import re
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
    "precisions": ("precisions", ("precisions",)),
    "card": ("card", ("card",)),
    "confusion": ("confusion", ("confusion",)),
    "gradients": ("gradient_errors", ("gradients",)),
    "learn": ("learn", ("learn-library", "learn-clinc150", "learn-altlex")),
    "train": ("train", ("train-speed",)),
    "train-memory": ("train_memory", ("train-memory",)),
}


def pages_with(block: str) -> list[Path]:
    """Return README.md and the pages of docs/ that have the block."""
    begin, end = f"<!-- {block}:begin -->\n", f"<!-- {block}:end -->"
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    return [page for page in pages if page.exists() and end in page.read_text(encoding="utf-8").partition(begin)[2]]


def page_of(block: str) -> Path:
    """Return the page that has the block; raise SystemExit unless there is exactly one."""
    pages = pages_with(block)
    if len(pages) != 1:
        names = ", ".join(page.name for page in pages) or "none"
        lines = f"<!-- {block}:begin --> ... <!-- {block}:end -->"
        raise SystemExit(f"{block}: expected one page of README.md and docs/ with {lines}, got {names}")
    return pages[0]


def write_block(block: str, text: str) -> None:
    """Replace what stands between <!-- block:begin --> and <!-- block:end -->."""
    page = page_of(block)
    begin, end = f"<!-- {block}:begin -->\n", f"<!-- {block}:end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(before + begin + text + end + rest.partition(end)[2], encoding="utf-8")


def last_race_block() -> str:
    """Return the name of the race's last block on its page; raise SystemExit if there is none."""
    page = REPOSITORY / "docs" / "benchmarks.md"
    blocks = re.findall(r"<!-- (race-[\w.-]+):end -->", page.read_text(encoding="utf-8"))
    if not blocks:
        raise SystemExit(f"{page}: expected a block <!-- race-CPU:begin --> ... <!-- race-CPU:end -->, got none")
    return str(blocks[-1])


def add_race_block(block: str, title: str) -> None:
    """Add a section with an empty block behind the race's last block."""
    last = last_race_block()
    page = page_of(last)
    before, end, after = page.read_text(encoding="utf-8").partition(f"<!-- {last}:end -->\n")
    section = f"\n### {title}\n\n<!-- {block}:begin -->\n<!-- {block}:end -->\n"
    page.write_text(before + end + section + after, encoding="utf-8")


def main() -> None:
    name, *options = sys.argv[1:] or [""]
    if name not in BLOCKS:
        raise SystemExit(f"usage: python bench/generate/tables.py {'|'.join(BLOCKS)} [OPTIONS]")
    module, blocks = BLOCKS[name]
    new = [block for block in blocks if block.startswith("race-") and not pages_with(block)]
    for block in blocks:  # fail before the measurement, not after it
        page_of(last_race_block() if block in new else block)
    sys.path.insert(0, str(REPOSITORY / "bench"))
    texts = import_module(module).main(options)
    for block in new:
        from timing import cpu_model

        add_race_block(block, f"{cpu_model()} ({block.removeprefix('race-')})")
    for block, text in zip(blocks, texts, strict=True):
        write_block(block, text)
        print(f"{page_of(block).relative_to(REPOSITORY)}: {block} written")


if __name__ == "__main__":
    main()
