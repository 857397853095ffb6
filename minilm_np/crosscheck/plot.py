"""Plot the error of every stage of a report; needs matplotlib (the bench extra)."""

from __future__ import annotations

from html import escape
from io import StringIO
from pathlib import Path

import numpy as np

from minilm_np.crosscheck.report import Report

SUFFIXES = (".png", ".svg", ".html")


def plot(report: Report, path: Path) -> None:
    """Plot the largest error and the tolerance of each stage, on a logarithmic scale.

    The suffix of `path` is .png, .svg, or .html for a page that also contains the report as text. Raises ValueError
    for another suffix and ImportError without matplotlib.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected one of the suffixes {', '.join(SUFFIXES)}, got {path.suffix!r}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"{path}: a plot needs matplotlib, which is not installed") from None
    stages = [stage for stage in report.stages if stage.tolerance > 0]
    errors = [np.clip(stage.max_error, 1e-12, 1e6) for stage in stages]
    figure = Figure(figsize=(max(6.0, 0.2 * len(stages)), 5.0), layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.plot([stage.tolerance for stage in stages], color="0.5", linestyle="--", label="tolerance")
    axes.plot(errors, color="0.2", linewidth=0.8)
    for ok, color, label in ((True, "tab:blue", "within tolerance"), (False, "tab:red", "out of tolerance")):
        places = [i for i, stage in enumerate(stages) if stage.ok is ok]
        axes.plot(places, [errors[i] for i in places], "o", color=color, markersize=4, label=label)
    axes.set_xticks(range(len(stages)), [stage.stage for stage in stages], rotation=90, fontsize=6)
    axes.set_ylabel("largest absolute error")
    axes.legend()
    if path.suffix != ".html":
        figure.savefig(path, dpi=120)
        return
    svg = StringIO()
    figure.savefig(svg, format="svg")
    image = svg.getvalue()[svg.getvalue().index("<svg") :]
    head = "<!doctype html><meta charset=utf-8><title>minilm-np crosscheck</title>"
    page = f"{head}<pre>{escape(str(report))}</pre>{image}"
    path.write_text(page, encoding="utf-8")
