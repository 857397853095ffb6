"""What a cross-check found, for people, for programs, and for CI."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any
from xml.etree import ElementTree

import numpy as np

from minilm_np.crosscheck.causes import Cause

BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


@dataclass(frozen=True)
class Worst:
    """The element that is farthest off."""

    probe: str  # the probe's name
    text: str
    index: tuple[int, ...]  # [dimension], [token, dimension], or [head, token, token]
    token: str | None  # the word piece, where the stage has a row a token
    found: float
    wanted: float


@dataclass(frozen=True)
class StageResult:
    stage: str
    max_error: float  # inf if the shape is another, or a number is not finite
    tolerance: float
    worst: Worst | None = None
    problem: str = ""  # what kept it from being compared element by element

    @property
    def ok(self) -> bool:
        return self.max_error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The outcome; `print(report)` says it in words."""

    stages: list[StageResult]  # in the order of the forward pass
    causes: list[Cause] = field(default_factory=list)  # the best first; empty: no known mistake explains it
    searched: bool = False  # whether causes were looked for
    closest: Cause | None = None  # the best of those that explain too little to be causes

    @property
    def ok(self) -> bool:
        """Whether everything that was given is within tolerance."""
        return all(stage.ok for stage in self.stages)

    @property
    def last(self) -> StageResult:
        """The stage that `max_error` and `tolerance` are about: the final vectors, or the last stage given."""
        return self.stages[-1]

    @property
    def max_error(self) -> float:
        """The largest absolute error of an element of the final vectors."""
        return self.last.max_error

    @property
    def tolerance(self) -> float:
        return self.last.tolerance

    @property
    def first_divergence(self) -> str | None:
        """The first stage, in the order of the forward pass, that is out of tolerance."""
        return next((stage.stage for stage in self.stages if not stage.ok), None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "max_error": _number(self.max_error),
            "tolerance": self.tolerance,
            "first_divergence": self.first_divergence,
            "causes": [_of_cause(cause) for cause in self.causes],
            "closest": None if self.closest is None else _of_cause(self.closest),
            "stages": [
                {
                    "stage": result.stage,
                    "ok": result.ok,
                    "max_error": _number(result.max_error),
                    "tolerance": result.tolerance,
                    "problem": result.problem,
                    "worst": None if result.worst is None else _of_worst(result.worst),
                }
                for result in self.stages
            ],
        }

    def to_json(self) -> str:
        """The report as a JSON object; an error that is not finite is null."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def to_junit(self) -> str:
        """The report as JUnit XML: a test case a stage."""
        suite = ElementTree.Element(
            "testsuite",
            name="minilm-np crosscheck",
            tests=str(len(self.stages)),
            failures=str(sum(not stage.ok for stage in self.stages)),
        )
        for result in self.stages:
            case = ElementTree.SubElement(suite, "testcase", classname="crosscheck", name=result.stage)
            if not result.ok:
                failure = ElementTree.SubElement(case, "failure", message=_error(result))
                failure.text = _printable(str(self))
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)

    def __str__(self) -> str:
        lines = [f"{'PASS' if self.ok else 'DIFFERS'}  {_error(self.last)}"]
        if len(self.stages) > 1:
            lines += [f"growth   {self.sparkline()}  of {len(self.stages)} stages (above the middle: out of tolerance)"]
        first = next((stage for stage in self.stages if not stage.ok), None)
        if first:
            if len(self.stages) > 1:
                lines += [f"first    {_error(first)}"]
            if first.worst:
                lines += [f"worst    {_where(first.worst)}"]
        if self.searched and not self.ok:
            lines += self._causes()
        return "\n".join(lines)

    def _causes(self) -> list[str]:
        if not self.causes:
            closest = f" (closest: {_share(self.closest)} by {self.closest.name})" if self.closest else ""
            return [f"cause    no known mistake explains this{closest}"]
        if self.causes[0].fits:
            lines = [f"cause    {cause.name}: {cause.says} ({_share(cause)} explained)" for cause in self.causes]
            return lines if len(lines) == 1 else [*lines, "         these cannot be told apart by what was given"]
        return [f"maybe    {cause.name}: {cause.says} ({_share(cause)} explained)" for cause in self.causes]

    def sparkline(self) -> str:
        """The error of each stage, in tolerances, on a logarithmic scale: 1e-4 to 1e4."""
        blocks = []
        for stage in self.stages:
            ratio = stage.max_error / stage.tolerance if stage.tolerance else float(stage.max_error > 0) * 1e4
            height = 3.5 + np.log10(np.clip(ratio, 1e-4, 1e4)) * 3.5 / 4
            blocks.append(BLOCKS[int(np.floor(height)) if ratio <= 1 else int(np.ceil(height))])
        return "".join(blocks)


def _share(cause: Cause) -> str:
    return f"{100 * min(cause.explained, 0.9999 if not cause.fits else 1):.2f} %"


def _error(result: StageResult) -> str:
    if result.problem:
        return f"{result.stage}: {result.problem}"
    if result.stage == "token_ids":
        return "token_ids: " + ("equal" if result.ok else "differ")
    return f"{result.stage}: largest error {result.max_error:.1e}, tolerance {result.tolerance:.1e}"


def _where(worst: Worst) -> str:
    token = f", word piece {worst.token}" if worst.token else ""
    text = worst.text if len(worst.text) <= 50 else worst.text[:47] + "..."
    index = ", ".join(map(str, worst.index))
    return f"{worst.probe} [{index}]{token}: found {worst.found:.7g}, wanted {worst.wanted:.7g}   {text!r}"


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _of_cause(cause: Cause) -> dict[str, Any]:
    return {"name": cause.name, "explained": cause.explained, "says": cause.says, "fits": cause.fits}


def _of_worst(worst: Worst) -> dict[str, Any]:
    return asdict(worst) | {"found": _number(worst.found), "wanted": _number(worst.wanted)}


def _printable(text: str) -> str:
    """XML 1.0 has no characters below blank but tab and line ends."""
    return "".join(c if c.isprintable() or c in "\t\n" else "\ufffd" for c in text)
