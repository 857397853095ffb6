"""The report as text, JSON, JUnit XML and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from minilm_np.crosscheck.causes import Cause
from minilm_np.crosscheck.report import Report, StageResult, Worst


def example_report() -> Report:
    worst = Worst("bell\u0007", "a\u0007b <&>", (2, 3), "a", 1.0, 2.0)
    stages = [StageResult("embeddings", 1e-7, 1e-6), StageResult("pooled", np.inf, 1e-6, worst)]
    return Report(stages, [Cause("gelu-tanh", 0.75, "tanh", 30.0)], True)


def test_report_as_text() -> None:
    assert example_report().sparkline() == "\u2583\u2588"
    assert str(example_report()).splitlines() == [
        "DIFFERS  pooled: largest error inf, tolerance 1.0e-06",
        "growth   \u2583\u2588  2 stages (upper half: out of tolerance)",
        "first    pooled: largest error inf, tolerance 1.0e-06",
        "worst    bell\u0007 [2, 3], word piece a: expected 2, got 1   'a\\x07b <&>'",
        "maybe    gelu-tanh: tanh (75.00 % explained)",
    ]


def test_report_lists_causes_that_fit_equally_well() -> None:
    stages = [StageResult("pooled", 1.0, 1e-6)]
    causes = [Cause("first", 1.0, "one", 0.5), Cause("second", 1.0, "two", 0.5)]
    assert str(Report(stages, causes, True)).splitlines()[1:] == [
        "cause    first: one (100.00 % explained)",
        "cause    second: two (100.00 % explained)",
        "         the values given cannot distinguish these causes",
    ]
    closest = Cause("first", 0.25, "one", 99.0)
    assert str(Report(stages, [], True, closest)).endswith("no known mistake explains this")
    assert (
        str(Report(stages, [], True, closest, stopped=True)).splitlines()[-1].startswith("         the search stopped")
    )


def test_report_as_json_and_junit_xml() -> None:
    report = json.loads(example_report().to_json())
    assert (report["ok"], report["max_error"], report["first_divergence"]) == (False, None, "pooled")
    assert report["causes"] == [{"name": "gelu-tanh", "explained": 0.75, "says": "tanh", "fits": False}]
    suite = ElementTree.fromstring(example_report().to_junit())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


def test_report_as_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    from minilm_np.crosscheck.plot import plot

    for name in ("a.png", "a.svg", "a.html"):
        plot(example_report(), tmp_path / name)
    assert "gelu-tanh" in (tmp_path / "a.html").read_text() and "<svg" in (tmp_path / "a.html").read_text()
    with pytest.raises(ValueError, match=r"expected one of the suffixes \.png.*, got '\.gif'"):
        plot(example_report(), tmp_path / "a.gif")
