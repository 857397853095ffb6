"""Let hypothesis draw cases, and shrink one that fails."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.case import Case
from fuzz.parent import Child, FuzzError
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

AREAS = {  # name -> number of cases in CI, about six seconds each on two cores
    "model_weights": 300,
    "model_settings": 250,
    "model_tokenizer": 500,
    "dumps": 300,
    "endpoints": 100,
    "evaluation": 200,
    "arguments": 200,
    "standard_input": 200,
}
CASES_PER_ROUND = 300


def draw(area: str, seed_value: int, examples: int, use: Callable[[Case], Any]) -> None:
    """Draw cases of an area and call `use` with each; if it raises, call it with smaller cases, and raise the error."""
    cases: st.SearchStrategy[Case] = importlib.import_module(f"fuzz.areas.{area}").cases()

    @seed(seed_value)
    @settings(
        max_examples=examples, database=None, deadline=None, derandomize=False, report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink], verbosity=Verbosity.quiet, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases)
    def call(case: Case) -> None:
        use(case)

    call()


def find_failure(
    child: Child,
    area: str,
    seed_value: int,
    examples: int,
    known: set[str],
    outcomes: Counter[str],
    until: float = float("inf"),
    shrink_seconds: float = 10.0,
) -> tuple[Case, FuzzError] | None:
    """Run cases of an area; return the smallest case found that fails in a way not yet known, or None.

    `outcomes` counts how the cases ended. No new case is run after the time `until`; a case that has failed is made
    smaller for `shrink_seconds` more.
    """
    failed: list[tuple[Case, FuzzError]] = []  # the smallest so far is the last
    stop = [until]

    def check(case: Case) -> None:
        if time.monotonic() > stop[0]:
            return
        try:
            outcome = child.run(case)
            outcomes[outcome.partition(":")[0]] += 1
        except FuzzError as error:
            if error.signature in known or (failed and error.signature != failed[-1][1].signature):
                outcomes["known fault"] += 1
                return
            if not failed:
                stop[0] = time.monotonic() + shrink_seconds
            if not failed or case.size <= failed[-1][0].size:
                failed.append((case, error))
            raise

    try:
        draw(area, seed_value, examples, check)
    except (FuzzError, Flaky):  # Flaky: the time to shrink was over
        if not failed:
            raise
    return failed[-1] if failed else None


def save(case: Case, error: FuzzError, failures: Path) -> str:
    """Save a failed case in a folder of its own and return a report with the command that replays it."""
    folder = failures / f"{case.area}-{hashlib.sha256(error.signature.encode()).hexdigest()[:8]}"
    shutil.rmtree(folder, ignore_errors=True)
    case.write(folder)
    lines = [f"{case.area}: {error}", f"  settings: {dict(case.settings)}"]
    for name, content in case.files.items():
        lines.append(f"  {name} ({len(content)} bytes): {content[:600]!r}")
    lines.append(f"  replay: python tests/fuzz/run.py --replay {folder}")
    report = "\n".join(lines).encode("utf-8", "backslashreplace").decode()
    (folder / "report.txt").write_text(report + "\n", encoding="utf-8")
    return report


def many_rounds(areas: list[str], seconds: float, seed_value: int, failures: Path) -> int:
    """Fuzz the areas in turn until the time is over; print each new fault once. Return 1 if there was one."""
    start = time.monotonic()
    known: set[str] = set()
    outcomes: dict[str, Counter[str]] = {area: Counter() for area in areas}
    with Child() as child:
        while time.monotonic() < start + seconds:
            for area in areas:
                until = min(start + seconds, time.monotonic() + seconds / len(areas))
                shrink = min(10.0, seconds / 50)
                found = find_failure(child, area, seed_value, CASES_PER_ROUND, known, outcomes[area], until, shrink)
                if found:
                    known.add(found[1].signature)
                    report = save(*found, failures)
                    print(f"\nFAILED after {time.monotonic() - start:.0f} s, seed {seed_value}\n{report}", flush=True)
            seed_value += 1
    for area, counts in outcomes.items():
        most = ", ".join(f"{n} {what}" for what, n in counts.most_common(5))
        print(f"{area}: {counts.total()} cases: {most}")
    print(f"{len(known)} faults found" if known else "no fault found")
    return 1 if known else 0
