"""The result of a cross-check as text, JSON and JUnit XML."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from xml.etree import ElementTree

import numpy as np

from minilm_np.crosscheck.causes import Cause

BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


@dataclass(frozen=True)
class Worst:
    """The element with the largest error."""

    probe: str  # name of the probe text
    text: str  # the probe text
    index: tuple[int, ...]  # the element's index: [dimension], [token, dimension], or [head, token, token]
    token: str | None  # the word piece at the element, for a stage with one row per token
    found: float  # the port's value
    wanted: float  # the value of the float64 reference


@dataclass(frozen=True)
class StageResult:
    """The largest error at one stage."""

    stage: str  # name of the stage
    max_error: float  # largest absolute error of an element; inf if a shape differs or a number is not finite
    tolerance: float  # largest absolute error that is allowed
    worst: Worst | None = None  # the element with the largest error; None if the elements were not compared
    problem: str = ""  # why the elements were not compared

    @property
    def ok(self) -> bool:
        """Whether the stage is within its tolerance."""
        return self.max_error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The result of `crosscheck`. `print(report)` shows it as text."""

    stages: list[StageResult]  # results of all stages given, in the order of the forward pass
    causes: list[Cause] = field(default_factory=list)  # causes in the catalogue's order, or else candidates, best first
    searched: bool = False  # whether the report includes a search for causes
    closest: Cause | None = None  # the mistake that explains most, if it explains too little to be a candidate

    part: str = ""  # the part that is wrong, if no mistake fits: tokenizer, batching, encoder, pooling, output format
    known: tuple[str, ...] = ()  # what the values say about that part
    stopped: bool = False  # whether the search's time was over before all mistakes were tried

    @property
    def ok(self) -> bool:
        """Whether every stage given is within its tolerance."""
        return all(stage.ok for stage in self.stages)

    @property
    def last(self) -> StageResult:
        """The stage that `max_error` and `tolerance` describe: the final vectors, or the last stage given."""
        return self.stages[-1]

    @property
    def max_error(self) -> float:
        """The largest absolute error of an element of the last stage."""
        return self.last.max_error

    @property
    def tolerance(self) -> float:
        """The tolerance of the last stage."""
        return self.last.tolerance

    @property
    def first_divergence(self) -> str | None:
        """The first stage, in the order of the forward pass, that is out of tolerance."""
        return next((stage.stage for stage in self.stages if not stage.ok), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict that JSON can represent; an error that is not finite is None."""
        return {
            "ok": self.ok,
            "max_error": _finite_or_none(self.max_error),
            "tolerance": self.tolerance,
            "first_divergence": self.first_divergence,
            "causes": [_cause_dict(cause) for cause in self.causes],
            "closest": None if self.closest is None else _cause_dict(self.closest),
            "part": self.part,
            "known": list(self.known),
            "stopped": self.stopped,
            "stages": [
                {
                    "stage": result.stage,
                    "ok": result.ok,
                    "max_error": _finite_or_none(result.max_error),
                    "tolerance": result.tolerance,
                    "problem": result.problem,
                    "worst": None if result.worst is None else _worst_dict(result.worst),
                }
                for result in self.stages
            ],
        }

    def to_json(self) -> str:
        """Return the report as a JSON object; an error that is not finite is null."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def to_junit(self) -> str:
        """Return the report as JUnit XML with one test case per stage."""
        suite = ElementTree.Element(
            "testsuite",
            name="minilm-np crosscheck",
            tests=str(len(self.stages)),
            failures=str(sum(not stage.ok for stage in self.stages)),
        )
        for result in self.stages:
            case = ElementTree.SubElement(suite, "testcase", classname="crosscheck", name=result.stage)
            if not result.ok:
                failure = ElementTree.SubElement(case, "failure", message=_describe(result))
                failure.text = _printable(str(self))
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)

    def __str__(self) -> str:
        lines = [f"{'PASS' if self.ok else 'DIFFERS'}  {_describe(self.last)}"]
        if len(self.stages) > 1:
            lines += [f"growth   {self.sparkline()}  {len(self.stages)} stages (upper half: out of tolerance)"]
        first = next((stage for stage in self.stages if not stage.ok), None)
        if first:
            if len(self.stages) > 1:
                lines += [f"first    {_describe(first)}"]
            if first.worst:
                lines += [f"worst    {_describe_worst(first.worst)}"]
        if self.searched and not self.ok:
            lines += self._cause_lines()
        return "\n".join(lines)

    def _cause_lines(self) -> list[str]:
        stopped = ["         the search stopped early; --thorough (thorough=True) tries all pairs of mistakes"]
        if not self.causes:
            lines = ["cause    no known mistake explains this"]
            return lines + self._known_lines() + stopped * self.stopped
        lines = [
            f"{'cause' if cause.fits else 'maybe'}    {cause.name}: {cause.says} ({_share(cause)} explained)"
            for cause in self.causes
        ]
        if sum(cause.fits for cause in self.causes) > 1:
            lines += ["         the values given cannot distinguish these causes"]
        return lines + self._known_lines() + stopped * (self.stopped and not self.causes[0].fits)

    def _known_lines(self) -> list[str]:
        return [f"{'known' if not i else '     '}    {self.part}: {says}" for i, says in enumerate(self.known)]

    def sparkline(self) -> str:
        """Return one block character per stage: its error in tolerances, on a logarithmic scale from 1e-4 to 1e4."""
        blocks = []
        for stage in self.stages:
            ratio = stage.max_error / stage.tolerance if stage.tolerance else float(stage.max_error > 0) * 1e4
            height = 3.5 + np.log10(np.clip(ratio, 1e-4, 1e4)) * 3.5 / 4
            blocks.append(BLOCKS[int(np.floor(height)) if ratio <= 1 else int(np.ceil(height))])
        return "".join(blocks)


@dataclass(frozen=True)
class GradientReport(Report):
    """The result of `crosscheck(gradients=...)` or `crosscheck(optimizer=...)`.

    `stages` are the loss, if the port returned it, all parameters from the loss backwards, and "second call": whether
    a second call with the same examples returned the same. Errors are relative to a parameter's largest gradient.
    """

    @property
    def last(self) -> StageResult:
        """The result with the largest error in tolerances, which `max_error` and `tolerance` describe."""
        return max(self.stages, key=lambda stage: (stage.max_error / stage.tolerance, not stage.problem))

    def with_causes(self, causes: list[Cause], known: tuple[str, ...] = (), stopped: bool = False) -> GradientReport:
        """Return the report with these causes, and with what is known if none of them fits."""
        return replace(self, causes=causes, part="gradients" if known else "", known=known, stopped=stopped)


def _share(cause: Cause) -> str:
    return f"{100 * min(cause.explained, 0.9999 if not cause.fits else 1):.2f} %"


def _describe(result: StageResult) -> str:
    if result.problem:
        return f"{result.stage}: {result.problem}"
    if result.stage == "token_ids":
        return "token_ids: " + ("equal" if result.ok else "different")
    return f"{result.stage}: largest error {result.max_error:.1e}, tolerance {result.tolerance:.1e}"


def _describe_worst(worst: Worst) -> str:
    token = f", word piece {worst.token}" if worst.token else ""
    text = worst.text if len(worst.text) <= 50 else worst.text[:47] + "..."
    index = f" [{', '.join(map(str, worst.index))}]" if worst.index else ""
    error = abs(worst.found - worst.wanted)
    if worst.found.is_integer() and worst.wanted.is_integer():  # ids of word pieces
        decimals = 0
    else:  # two digits of the error; more would differ between machines
        decimals = 1 - math.floor(math.log10(error)) if 1e-12 < error < 1 else 2
    found = f"{worst.found:.{decimals}f}" if abs(worst.found) < 1e9 else f"{worst.found:.3g}"
    values = f"expected {worst.wanted:.{decimals}f}, got {found}"
    return f"{worst.probe}{index}{token}: {values}" + (f"   {text!r}" if worst.text else "")


def _finite_or_none(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _cause_dict(cause: Cause) -> dict[str, Any]:
    return {"name": cause.name, "explained": cause.explained, "says": cause.says, "fits": cause.fits}


def _worst_dict(worst: Worst) -> dict[str, Any]:
    return asdict(worst) | {"found": _finite_or_none(worst.found), "wanted": _finite_or_none(worst.wanted)}


def _printable(text: str) -> str:
    """Replace the control characters that XML 1.0 does not allow."""
    return "".join(c if c.isprintable() or c in "\t\n" else "\ufffd" for c in text)
