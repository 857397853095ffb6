"""The minute of fuzzing that runs with all tests. By hand it runs for hours; see README.md in this folder."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz import search
from fuzz.parent import Child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the child process needs POSIX pipes")
SEED = 20260801


@pytest.fixture(scope="module")
def child(weights_folder: Path) -> Iterator[Child]:
    with Child() as child:
        yield child


@pytest.mark.parametrize("area", search.AREAS)
def test_no_case_fails(child: Child, area: str) -> None:
    outcomes: Counter[str] = Counter()
    found = search.find_failure(child, area, SEED, search.AREAS[area], set(), outcomes)
    assert found is None, search.save(*found, Path("fuzz-failures"))
    assert len(outcomes) > 1, f"all {outcomes.total()} cases ended in the same way: {outcomes}"
