"""The report as text, JSON, JUnit XML and a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from minilm_np.crosscheck.causes import Cause
from minilm_np.crosscheck.report import Report, StageResult, Worst

Encode = Callable[[list[str]], Any]


# --- the report


def a_report() -> Report:
    worst = Worst("bell\u0007", "a\u0007b <&>", (2, 3), "a", 1.0, 2.0)
    stages = [StageResult("embeddings", 1e-7, 1e-6), StageResult("pooled", np.inf, 1e-6, worst)]
    return Report(stages, [Cause("gelu-tanh", 0.75, "tanh", 30.0)], True)


def test_a_report_in_every_form() -> None:
    report = a_report()
    found = json.loads(report.to_json())
    assert (found["ok"], found["max_error"], found["first_divergence"]) == (False, None, "pooled")
    assert found["causes"] == [{"name": "gelu-tanh", "explained": 0.75, "says": "tanh", "fits": False}]
    suite = ElementTree.fromstring(report.to_junit())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert report.sparkline() == "\u2583\u2588"
    assert "maybe    gelu-tanh: tanh (75.00 % explained)" in str(report)


def test_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    from minilm_np.crosscheck.plot import plot

    for name in ("a.png", "a.svg", "a.html"):
        plot(a_report(), tmp_path / name)
    assert "gelu-tanh" in (tmp_path / "a.html").read_text() and "<svg" in (tmp_path / "a.html").read_text()
    with pytest.raises(ValueError, match=r"wanted a name that ends in \.png"):
        plot(a_report(), tmp_path / "a.gif")
