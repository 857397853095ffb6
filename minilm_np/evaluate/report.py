"""Format Results as a table: task, measure, card, ours, difference, verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from minilm_np.evaluate.data import Source
from minilm_np.evaluate.run import Result
from minilm_np.evaluate.tasks import FORMATS, Task


def table(results: Iterable[Result], *, all_measures: bool = False) -> str:
    """Return a table with a line for each task's main measure, or with a line for every measure."""
    rows = [("task", "measure", "card", "ours", "difference", "verdict")]
    for result in results:
        for name in result.scores if all_measures else [result.task.main]:
            ours = f"{result.scores[name]:.4f}"
            if name in result.task.card:
                card, difference = f"{result.task.card[name]:.4f}", f"{result.difference(name):+.4f}"
                rows.append((result.task.name, name, card, ours, difference, result.verdict(name)))
            else:
                rows.append((result.task.name, name, "", ours, "", "not on the card"))
    return _aligned(rows, right=(2, 3, 4))


def listing(tasks: Iterable[Task], source: Source | None) -> str:
    """Return a table of tasks (type, main measure, the card's score, whether the source has data) and of file formats.

    source=None leaves the last column empty.
    """
    rows = [("task", "type", "measure", "card", "data")]
    for task in tasks:
        has_data = "" if source is None else "yes" if source.has(task) else "no"
        rows.append((task.name, task.type, task.main, f"{task.card[task.main]:.4f}", has_data))
    header = "files of a task called NAME, plain or with .gz appended:"
    formats = [f"{kind:20}{file}" for kind, files in FORMATS.items() for file in files]
    return "\n".join([_aligned(rows, right=(3,)), "", header, *formats])


def _aligned(rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> str:
    """Return the rows with padded columns; `right` lists the columns that are aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
