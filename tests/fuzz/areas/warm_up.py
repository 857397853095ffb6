"""No fuzzing: the first case of a child, which imports and compiles what the others use."""

from __future__ import annotations

from pathlib import Path

from fuzz import checks, tiny
from fuzz.case import Case


def run(case: Case, scratch: Path) -> str:
    from minilm_np.crosscheck.truth import truth

    truth()
    outcome = checks.check_checkpoint(tiny.write(scratch / "model"), ["the cat", ["a", "b"]])
    assert outcome == "vectors", outcome
    return outcome
