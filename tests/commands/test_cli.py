"""The program as a whole: exit codes, errors, pipes, signals."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.commands import HANG_SECONDS, assert_fails, run

import minilm_np
from minilm_np import cli
from minilm_np.notice import notice


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


needs_posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and descriptors")


@needs_posix
@pytest.mark.parametrize("module", ["minilm_np.cli", "argparse", "minilm_np.commands", "numpy", "tokenizers", "numba"])
def test_ctrl_c_while_a_module_is_imported(tmp_path: Path, module: str) -> None:
    code = """
import importlib.abc, os, signal, sys
class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)
import minilm_np
sys.modules.pop(sys.argv[-1], None)
sys.meta_path.insert(0, Interrupt())
module = sys.argv.pop()
sys.argv.append(module)
from minilm_np.__main__ import run
sys.exit(run())
"""
    lines = tmp_path / "lines.txt"
    lines.write_text("a\n" * 300)
    command = [sys.executable, "-c", code, "search", str(lines), "-k1", module]
    result = subprocess.run(command, capture_output=True, timeout=HANG_SECONDS)
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"")


def test_ctrl_c_while_arguments_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", interrupted)
    assert cli.main(["info"]) == 130


def run_in_shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = f'PYTHONUNBUFFERED= "$0" -W error -m minilm_np "$@" {redirection}'
    command_line = ["sh", "-c", command, sys.executable, *arguments]
    return subprocess.run(command_line, input=b"text\n", capture_output=True, timeout=HANG_SECONDS)


@needs_posix
@pytest.mark.parametrize("arguments", [["similarity", "a", "b"], ["encode"], ["--help"], ["crosscheck", "--texts"]])
@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">&-", "standard output: Bad file descriptor"),
        ("<&- >&-", "Bad file descriptor"),
        (">/dev/full", "standard output: No space left on device"),
    ],
)
def test_output_that_cannot_be_written_is_an_error(arguments: list[str], redirection: str, message: str) -> None:
    if redirection.endswith("/dev/full") and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    assert_fails(run_in_shell(redirection, *arguments), message)


@needs_posix
def test_closed_standard_input_is_an_error_if_it_is_read() -> None:
    assert_fails(run_in_shell("<&-", "encode"), "standard input: Bad file descriptor")
    assert_fails(run_in_shell("<&-", "search", "-", "query"), "standard input: Bad file descriptor")
    assert run_in_shell("<&-", "similarity", "a", "b").returncode == 0


@needs_posix
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- >/dev/null 2>&-"])
def test_messages_for_a_closed_stderr_are_lost(redirection: str) -> None:
    result = run_in_shell(redirection, "similarity", "a")
    assert (result.returncode, result.stdout, result.stderr) == (2, b"", b"")
    result = run_in_shell(redirection, "similarity", "a", "b")
    assert (result.returncode, result.stderr) == (0, b"")
    assert bool(result.stdout) == (">/dev/null" not in redirection)


@needs_posix
def test_a_file_is_written_without_standard_streams(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("text\n")
    result = run_in_shell("<&- >&- 2>&-", "encode", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"))
    assert result.returncode == 0 and np.load(tmp_path / "out.npy").shape == (1, 384)


def test_notice_without_stderr_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notice("hello")
    assert capsys.readouterr() == ("", "minilm_np: hello\n")
    monkeypatch.setattr(sys, "stderr", None)
    notice("hello")
    assert capsys.readouterr().out == ""
