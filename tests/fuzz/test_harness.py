"""The harness finds faults that are made on purpose, goes on after each, and its valid cases are valid."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz import search
from fuzz.areas import dumps
from fuzz.case import Case
from fuzz.parent import Child, FuzzError
from support.paths import REPOSITORY

from minilm_np.crosscheck.truth import truth

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the child process needs POSIX pipes")


@pytest.fixture(scope="module")
def child(weights_folder: Path) -> Iterator[Child]:
    with Child(hang_seconds=3) as child:
        yield child


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("crash", "^crash SIGSEGV in "),
        ("hang", "^hang in .*no answer within 3 s"),
        pytest.param(
            "grow", "^memory in self_test: 30. MB", marks=pytest.mark.skipif(sys.platform != "linux", reason="/proc")
        ),
        ("undocumented", "^exception KeyError in .*'key'"),
        ("unnamed", "^message in .*names neither file nor argument: ValueError: .could not convert"),
        ("wrong_vectors", "^op sets in .*vectors of text 0 differ"),
        ("neighbors", "^neighbor in .*text 0 alone and beside others differ by 1"),
        ("one_refuses", r"^op sets in .*numpy answers; numba ValueError: sentences\[0\]: refused"),
    ],
)
def test_finds_a_fault_and_goes_on(child: Child, fault: str, message: str) -> None:
    with pytest.raises(FuzzError, match=message):
        child.run(Case("self_test", {}, {"fault": fault}))
    assert child.run(Case("self_test", {}, {"fault": "none"})) == "fine"


def test_a_valid_dump_passes_and_one_without_a_case_does_not(child: Child) -> None:
    rows = [(f"{i:02}/sentence_embedding", vector) for i, vector in enumerate(truth().embeddings)]
    whole = Case("dumps", {"results.npz": dumps.npz(rows)}, {"expected": "right"})
    assert child.run(whole) == "right exit 0"
    with pytest.raises(FuzzError, match=r"^refused, though right"):
        child.run(Case("dumps", {"results.npz": dumps.npz(rows[:5])}, {"expected": "right"}))
    with pytest.raises(FuzzError, match=r"^passed, wrong: missing"):
        child.run(Case("dumps", whole.files, {"expected": "wrong: missing"}))


def test_saves_and_replays_the_smallest_case(child: Child, tmp_path: Path) -> None:
    case = Case("self_test", {"folder/file": b"\xff\n"}, {"fault": "undocumented", "text": "\ud800"})
    with pytest.raises(FuzzError) as raised:
        child.run(case)
    report = search.save(case, raised.value, tmp_path)
    assert "replay: python tests/fuzz/run.py --replay " in report
    (folder,) = tmp_path.iterdir()
    assert Case.read(folder) == case
    replay = [sys.executable, "tests/fuzz/run.py", "--replay", str(folder)]
    result = subprocess.run(replay, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 1 and result.stdout.startswith("FAILED  exception KeyError"), result.stderr


def test_the_same_seed_draws_the_same_cases(child: Child) -> None:
    drawn: list[list[Case]] = []
    for _ in range(2):
        cases: list[Case] = []
        drawn.append(cases)
        search.draw("model_settings", seed_value=1, examples=5, use=cases.append)
    assert drawn[0] == drawn[1] != []
