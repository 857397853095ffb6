"""How the encoder runs chunks of texts on threads: their sizes, errors, and Ctrl-C."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.commands import HANG_SECONDS
from support.kernels import needs_jit

from minilm_np import SentenceTransformer
from minilm_np.encoder import cut_by_tokens

Array = npt.NDArray[Any]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("limit", [1, 50, 320])
def test_chunks_have_every_text_once_and_about_equal_sizes(threads: int, limit: int) -> None:
    for lengths in ([5], [256] * 7, [256, 200, 100, 100, 50, 3, 2], [20] * 1000, list(range(256, 2, -1))):
        cuts = cut_by_tokens(np.array(lengths), limit, threads)
        chunks = np.split(np.array(lengths), cuts)
        assert np.concatenate(chunks).tolist() == lengths
        sizes = [int(chunk.sum()) for chunk in chunks]
        assert min(len(chunk) for chunk in chunks) > 0
        assert max(sizes) < limit + max(lengths)
        if len(lengths) == 1000:
            assert max(sizes) - min(sizes) <= 20
            assert limit == 1 or len(chunks) % threads == 0


@needs_jit
@pytest.mark.parametrize("failing_chunk", [1, 40, 80])
def test_error_in_a_thread_reaches_the_caller_and_cancels_the_rest(
    numba_model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, failing_chunk: int
) -> None:
    chunks, cancelled = itertools.count(1), threading.Event()
    started: list[int] = []

    def forward(*_: Any, **__: Any) -> Array:
        chunk = next(chunks)
        started.append(chunk)
        if chunk == failing_chunk:
            raise KeyboardInterrupt
        if chunk > failing_chunk:
            cancelled.wait()
        return np.zeros((1, 384), np.float32)

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            cancelled.set()
            super().shutdown(wait=wait)

    monkeypatch.setattr(numba_model, "_forward", forward)
    monkeypatch.setattr(futures, "ThreadPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        numba_model.encode(["word " * 400] * 100)  # 80 chunks; when the 40th fails, later ones are waiting
    assert len(started) <= failing_chunk + numba_model.threads  # each thread may have begun one more


@needs_jit
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_interrupts_encode(weights_folder: Path) -> None:
    code = f"""
from minilm_np import SentenceTransformer
model = SentenceTransformer({str(weights_folder)!r}, backend="numba", threads=2)
expected = model.encode("again")
texts, finished = ["a text " * 200] * 20_000, []
def progress(count):
    if not finished:
        print("begin", flush=True)
    finished.append(count)
try:
    model.encode_texts(texts, progress=progress)
except KeyboardInterrupt:
    assert sum(finished) < len(texts)
    assert (model.encode("again") == expected).all()
    print("interrupted, and works again")
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout and run.stdout.readline() == "begin\n"
        run.send_signal(signal.SIGINT)
        out, error = run.communicate(timeout=HANG_SECONDS)
    assert out == "interrupted, and works again\n", error


LATE = {
    "a thread that outlives the main thread": "threading.Thread(target=lambda: (ended.wait(), check())).start()",
    "an atexit handler": "atexit.register(check)",
    "no threads": "setattr(threading, name, refuse); _thread.start_new_thread = refuse; check()",
    "one thread": "setattr(threading, name, refuse_second); check()",
}


@needs_jit
@pytest.mark.parametrize("case", LATE)
def test_encodes_where_no_thread_can_be_started(weights_folder: Path, case: str) -> None:
    """At the interpreter's end, and where the system allows no more threads (ulimit -u)."""
    code = f"""
import _thread, atexit, threading
from minilm_np import SentenceTransformer
model = SentenceTransformer({str(weights_folder)!r}, backend="numba", threads=2)
texts = [f"short text {{i}}" for i in range(300)]  # more than one chunk, and more than one slice
one, many = model.encode("one"), model.encode(texts)
name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
start, ended = getattr(threading, name), threading.Event()
threading._register_atexit(ended.set)  # called at the end of the main thread, when the pool refuses new work
def refuse(*_, **__):
    raise RuntimeError("can't start new thread")
def refuse_second(*arguments, **options):
    setattr(threading, name, refuse)
    return start(*arguments, **options)
def check():
    assert (model.encode("one") == one).all()
    done = []
    assert (model.encode_texts(texts, progress=done.append) == many).all()
    assert sum(done) == 300
    print("same", flush=True)
{LATE[case]}
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_SECONDS)
    assert (run.stdout, run.stderr) == ("same\n", "")


def test_imports_in_an_atexit_handler(weights_folder: Path) -> None:
    """There `concurrent.futures` cannot be imported for the first time."""
    code = f"""
import atexit
def encode():
    from minilm_np import SentenceTransformer
    print(SentenceTransformer({str(weights_folder)!r}, backend="numpy").encode(["a"] * 300).shape)
atexit.register(encode)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_SECONDS)
    assert (run.stdout, run.stderr) == ("(300, 384)\n", "")


def test_pickled_model_keeps_its_arguments(weights_folder: Path) -> None:
    model = SentenceTransformer(weights_folder, backend="numpy", dtype="float64")
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.encode("same"), model.encode("same"))
