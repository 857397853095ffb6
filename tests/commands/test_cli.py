"""The program as a whole: exit codes, errors, pipes, signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import HANG_SECONDS, assert_fails, run

import minilm_np


def test_prints_errors_on_one_line(tmp_path: Path) -> None:
    assert_fails(run("similarity", "only one"), "TEXT: expected two or more texts, got 1")
    assert_fails(run("encode", "no/such/file"), "no/such/file: No such file or directory")
    assert_fails(run("encode", "-", "-o", "out.csv", stdin=b"x"), "in .npy or .jsonl, got 'out.csv'")
    assert_fails(run("encode", "-", "-o", "no/such/out.npy", stdin=b"x"), "--output: no/such is not a folder")
    assert_fails(run("encode", "--batch-size", "0", stdin=b"x\n"), "--batch-size: expected 1 or more, got 0")
    assert_fails(run("encode", stdin=b"good\nbad \xff\n"), "standard input, line 2: not UTF-8 at byte 4")
    assert_fails(run("search", "-", "query", stdin=b""), "CORPUS: expected at least one line, got none in -")
    assert_fails(run("search", "-", "query", "-k", "0", stdin=b"x"), "-k: expected 1 or more, got 0")
    assert_fails(run("info", "--model", str(tmp_path)), "model_name_or_path: expected a folder with config.json")
    assert_fails(run("info", environment={"MINILM_NP_WEIGHTS": str(tmp_path)}), "$MINILM_NP_WEIGHTS")


def test_exits_with_2_for_unknown_arguments() -> None:
    for arguments in ([], ["bogus"], ["encode", "--bogus"], ["search", "corpus"]):
        result = run(*arguments)
        assert result.returncode == 2 and b"usage" in result.stderr and b"Traceback" not in result.stderr


def test_help_does_not_import_numpy() -> None:
    code = """
import contextlib, sys
from minilm_np.cli import main
with contextlib.suppress(SystemExit):
    main(["similarity", "--help"])
heavy = {"numpy", "numba", "tokenizers", "safetensors", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lists_files_and_places_if_offline_without_weights(tmp_path: Path) -> None:
    # Run a copy of the package outside a checkout, with empty caches.
    package = Path(minilm_np.__file__).parent
    shutil.copytree(package, tmp_path / "minilm_np", ignore=shutil.ignore_patterns("__pycache__"))
    empty = {
        "MINILM_NP_WEIGHTS": "",
        "HF_HUB_CACHE": "",
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    result = run("similarity", "a", "b", cwd=tmp_path, environment={**empty, "MINILM_NP_OFFLINE": "1"})
    assert result.returncode == 2 and result.stdout == b""
    message = result.stderr.decode()
    assert "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors" in message
    assert str(tmp_path / "cache") in message and "Traceback" not in message


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_closed_pipe_prints_no_traceback() -> None:
    command = [sys.executable, "-m", "minilm_np", "encode"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout and process.stdin and process.stderr
    process.stdout.close()
    process.stdin.write(b"hello\n" * 100)
    process.stdin.close()
    assert process.wait(HANG_SECONDS) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_prints_no_traceback(tmp_path: Path) -> None:
    fifo, output = tmp_path / "input", tmp_path / "output"
    os.mkfifo(fifo)
    output.mkdir()
    command = [sys.executable, "-m", "minilm_np", "encode", str(fifo), "-o", str(output / "out.npy")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr
    writer = None
    while writer is None and process.poll() is None:
        try:  # fails until the process has opened its input
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.05)
    assert writer is not None
    os.write(writer, b"hello\n")  # the process waits for the rest
    for _ in range(12):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(5)
            break
        except subprocess.TimeoutExpired:
            continue
    else:
        process.kill()
    os.close(writer)
    assert process.returncode == 130
    assert process.stderr.read() == b""
    process.stderr.close()
    assert not list(output.iterdir())
