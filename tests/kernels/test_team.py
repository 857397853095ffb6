"""Several threads that share one text."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import HANG_SECONDS
from support.kernels import needs_jit, normal

from minilm_np import kernels
from minilm_np.kernels import team as team_module
from minilm_np.kernels.instructions import INSTRUCTION_SIZE, address_of, linear_piece
from minilm_np.kernels.linear import PANEL
from minilm_np.kernels.simd import WITHOUT_JIT
from minilm_np.kernels.team import BOX_SIZE, INSTRUCTION, PIECES_DONE, UNTAKEN_PIECES, Team


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile worker_loop, so that workers do not spend the time of a test on it."""
    if not WITHOUT_JIT:
        team_module.worker_loop(np.zeros(BOX_SIZE, np.int64), 0)


@needs_jit
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_team_computes_the_same_bits(threads: int) -> None:
    lengths = [1, 5, 8, 30]
    offsets = np.cumsum([0, *lengths])
    x, weight, bias = normal(44, 3 * PANEL), normal(9 * PANEL, 3 * PANEL) / 12, normal(9 * PANEL)
    dense = kernels.prepare_dense(weight, bias)
    with team_module.team(threads) as team:
        assert team
        for rows in (1, 7, 8, 44):
            for activation in (None, "gelu", "relu"):
                shared = team.linear(x[:rows], dense, activation)
                assert np.array_equal(shared, kernels.linear(x[:rows], dense, activation))
        qkv = team.linear(x, dense, None)
        assert np.array_equal(team.attention(qkv, offsets, 3), kernels.attention(qkv, offsets, 3))


@needs_jit
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_overlapping_panels_are_not_computed_at_the_same_time(activation: str | None) -> None:
    """The last two panels overlap if PANEL does not divide the outputs, as in models of hidden size 512 or 1024."""
    outputs = 2 * PANEL - 8
    x, weight, bias = normal(64, 960), normal(outputs, 960), normal(outputs)
    dense = kernels.prepare_dense(weight, bias)
    expected = kernels.linear(x, dense, activation)
    with team_module.team(2) as team:
        assert team
        for _ in range(500):
            team.start_workers()
            assert np.array_equal(team.linear(x, dense, activation), expected)


@needs_jit
def test_only_one_call_at_a_time_gets_the_team() -> None:
    with team_module.team(2) as first, team_module.team(2) as second:
        assert isinstance(first, Team) and second is None
    with team_module.team(2) as again:
        assert again is first


@needs_jit
def test_worker_loop_finishes_a_posted_operation_without_the_caller() -> None:
    """The caller only posts; worker_loop, run here on one thread, takes all pieces and then finds none."""
    T, pieces = 5, 3
    x, dense = normal(T, PANEL), kernels.prepare_dense(normal(pieces * PANEL, PANEL), normal(pieces * PANEL))
    y = np.zeros((T, pieces * PANEL), np.float32)
    box = np.zeros(BOX_SIZE, np.int64)
    addresses = [address_of(array) for array in (x, dense.panels, dense.bias, y)]
    instruction = np.zeros(INSTRUCTION_SIZE, np.int64)
    instruction[:10] = [linear_piece.address, pieces, *addresses, T, PANEL, pieces * PANEL, 0]
    box[INSTRUCTION] = address_of(instruction)
    box[UNTAKEN_PIECES] = (1 << 32) + pieces
    assert team_module.worker_loop(box, 2)
    assert box[UNTAKEN_PIECES] == 1 << 32 and box[PIECES_DONE] == pieces
    assert np.array_equal(y, kernels.linear(x, dense, None))
    assert not team_module.worker_loop(box, 2)


@needs_jit
def test_workers_take_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    took_pieces = threading.Event()
    worker_loop = team_module.worker_loop

    def observed(*arguments: Any) -> bool:
        was_useful: bool = worker_loop(*arguments)
        if was_useful:
            took_pieces.set()
        return was_useful

    monkeypatch.setattr(team_module, "worker_loop", observed)
    x, dense = normal(2000, PANEL), kernels.prepare_dense(normal(8 * PANEL, PANEL), normal(8 * PANEL))
    team = Team(2)
    deadline = time.monotonic() + HANG_SECONDS
    while not took_pieces.is_set() and time.monotonic() < deadline:  # on a busy machine the worker may come late
        team.start_workers()
        team.linear(x, dense, None)
    assert took_pieces.is_set()


@needs_jit
def test_caller_does_not_wait_for_idle_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(Team, "_work", lambda self: end.wait(60))
    team = Team(3)
    team.start_workers()
    x, dense = normal(9, PANEL), kernels.prepare_dense(normal(3 * PANEL, PANEL), normal(3 * PANEL))
    assert np.array_equal(team.linear(x, dense, None), kernels.linear(x, dense, None))
    end.set()


@needs_jit
def test_workers_end_when_idle_and_start_again() -> None:
    team = Team(2)
    x, dense = normal(9, PANEL), kernels.prepare_dense(normal(3 * PANEL, PANEL), normal(3 * PANEL))
    for _ in range(2):
        team.start_workers()
        assert len(team._workers) == 1
        assert np.array_equal(team.linear(x, dense, None), kernels.linear(x, dense, None))
        deadline = time.monotonic() + HANG_SECONDS
        while team._workers and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not team._workers


@needs_jit
def test_worker_may_end_before_start_workers_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is counted before it starts; the other order raised IndexError in the worker."""
    monkeypatch.setattr("_thread.start_new_thread", lambda function, arguments: function(*arguments))
    team = Team(3)
    team.start_workers()
    assert not team._workers


@needs_jit
def test_works_with_fewer_workers_if_the_system_allows_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import _thread

    start, started = _thread.start_new_thread, list[int]()

    def start_only_one(*arguments: Any) -> Any:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(start(*arguments))

    monkeypatch.setattr(_thread, "start_new_thread", start_only_one)
    x, dense = normal(9, PANEL), kernels.prepare_dense(normal(PANEL, PANEL), normal(PANEL))
    team = Team(3)
    team.start_workers()
    assert np.array_equal(team.linear(x, dense, None), kernels.linear(x, dense, None))
    assert len(started) == 1


@needs_jit
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_model_works_after_fork_and_pickle(weights_folder: Path) -> None:
    code = f"""
import os, pickle, sys
from minilm_np import SentenceTransformer
model = SentenceTransformer({str(weights_folder)!r}, backend="numba", threads=2)
texts = ["a text to encode"] * 200
expected = model.encode(texts)
single = model.encode("one text for the team")
child = os.fork()
if child == 0:
    same = (model.encode(texts) == expected).all() and (model.encode("one text for the team") == single).all()
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
data = pickle.dumps(model)
assert len(data) < 1000
assert (pickle.loads(data).encode(texts) == expected).all()
"""
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=True, timeout=HANG_SECONDS)
