"""Draw docs/images/ladder.svg and where.svg from new measurements: `python bench/generate/pictures.py`.

Needs the bench extra. The numbers that bench/ladder.py and bench/where.py print are those of the pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np

IMAGES = Path(__file__).parents[2] / "docs" / "images"

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "minilm_np"  # the same numbers give the same bytes
from matplotlib import pyplot  # noqa: E402


def draw_ladder(speeds: dict[str, float], peak: float, path: Path) -> None:
    """Draw a bar for each step, in GFLOP/s, and the peak as a line."""
    figure, axes = pyplot.subplots(figsize=(8, 3))
    bars = axes.barh(list(speeds), list(speeds.values()), color=["#4c72b0"] * (len(speeds) - 1) + ["#999999"])
    axes.bar_label(bars, [f"{speed:.0f}" for speed in speeds.values()], padding=3)
    axes.axvline(peak, color="#c44e52", linestyle="--")
    axes.text(peak, -0.7, f"FMA peak {peak:.0f}", color="#c44e52", ha="right", va="bottom")
    axes.set(xlabel="GFLOP/s, one thread", xlim=(0, 1.1 * max(peak, *speeds.values())))
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def draw_where(tables: dict[tuple[str, int], dict[str, float]], path: Path) -> None:
    """Draw each operation's share of the time, in a bar for each op set and text length."""
    labels = [f"{op_set}, texts of {length}" for op_set, length in tables]
    figure, axes = pyplot.subplots(figsize=(9, 3.2))
    left = np.zeros(len(tables))
    colors = pyplot.get_cmap("tab10")
    for i, name in enumerate(next(iter(tables.values()))):
        shares = np.array([100 * table[name] / sum(table.values()) for table in tables.values()])
        axes.barh(labels, shares, left=left, label=name, color=colors(i))
        left += shares
    axes.set(xlabel="% of the time of the forward pass", xlim=(0, 100))
    axes.invert_yaxis()
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.45, -0.2), frameon=False)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import ladder
    import where

    draw_ladder(*ladder.main(), IMAGES / "ladder.svg")
    draw_where(where.main(), IMAGES / "where.svg")


if __name__ == "__main__":
    main()
