"""The command line as a user meets it: a process, its output, its exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import minilm_np
from minilm_np import SentenceTransformer, cli

THREE = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]


def run(
    *arguments: str, given: bytes | None = None, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "minilm_np", *arguments],
        input=given,
        capture_output=True,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        timeout=120,
    )


def fails(result: subprocess.CompletedProcess[bytes], message: str) -> None:
    """Exit 2, nothing on stdout, one line on stderr that has the message."""
    assert result.returncode == 2
    assert result.stdout == b""
    assert message in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1 and result.stderr.startswith(b"minilm-np: error: ")


@pytest.fixture(scope="module", autouse=True)
def _weights(weights_folder: Path) -> None:
    """The commands find the weights themselves."""


def test_similarity_of_two_is_one_number() -> None:
    result = run("similarity", *THREE[:2])
    assert (result.returncode, result.stderr) == (0, b"")
    assert abs(float(result.stdout) - 0.755337) < 2e-6  # sentence-transformers: 0.7553


def test_similarity_of_three_is_a_matrix() -> None:
    result = run("similarity", *THREE)
    lines = result.stdout.decode().splitlines()
    assert lines[0].split() == ["1", "2", "3"]
    scores = np.array([[float(x) for x in line.split()[:3]] for line in lines[1:]])
    assert np.array_equal(scores, scores.T) and scores.diagonal().tolist() == [1, 1, 1]
    assert [line.split("   ")[-1].strip() for line in lines[1:]] == [f"{i + 1} {t}" for i, t in enumerate(THREE)]


def test_similarity_shortens_what_it_shows_not_what_it_computes(model: SentenceTransformer) -> None:
    long = "word\n" * 100
    lines = run("similarity", long, "word", "other").stdout.decode().splitlines()
    assert len(lines) == 4 and lines[1].endswith("...")
    wanted = float(model.encode(long) @ model.encode("word"))
    assert abs(float(lines[1].split()[1]) - wanted) < 2e-6


def test_encode_npy_and_jsonl_hold_the_same_numbers(model: SentenceTransformer, tmp_path: Path) -> None:
    texts = ["hello", "", "caf\u00e9 \U0001f600", "\u2028 is not the end of a line", "last"]
    data = b"\xef\xbb\xbf" + "\r\n".join(texts).encode() + b"\n"
    (tmp_path / "in.txt").write_bytes(data)
    for name in ("out.npy", "out.jsonl"):
        result = run("encode", str(tmp_path / "in.txt"), "-o", str(tmp_path / name))
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    array = np.load(tmp_path / "out.npy")
    assert array.dtype == np.float32
    assert np.abs(array - model.encode(texts)).max() < 2e-7
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().decode().split("\n") if line]
    assert [row["text"] for row in rows] == texts
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), array)
    piped = run("encode", "-", given=data)
    assert piped.stdout == (tmp_path / "out.jsonl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.txt", "out.jsonl", "out.npy"]


def test_encode_of_nothing(tmp_path: Path) -> None:
    assert run("encode", given=b"").stdout == b""
    run("encode", "-o", str(tmp_path / "out.npy"), given=b"")
    assert np.load(tmp_path / "out.npy").shape == (0, 384)


def test_search_ranks_lines_and_the_earlier_of_equals_is_first(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("the stock market fell\na cat sat on a mat\nTHE STOCK MARKET FELL\nkittens\n")
    result = run("search", str(tmp_path / "corpus"), "stocks lost value", "-k", "3")
    assert result.returncode == 0
    rows = [line.split("\t") for line in result.stdout.decode().splitlines()]
    assert [row[1:] for row in rows[:2]] == [["1", "the stock market fell"], ["3", "THE STOCK MARKET FELL"]]
    scores = [float(row[0]) for row in rows]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True) and scores[0] == scores[1]


def test_search_of_many_equal_lines_keeps_their_order(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("the same line\n" * 45)
    rows = run("search", str(tmp_path / "corpus"), "hello", "-k", "5").stdout.decode().splitlines()
    assert [row.split("\t")[1] for row in rows] == ["1", "2", "3", "4", "5"]


def test_info_says_where_and_what(weights_folder: Path) -> None:
    out = run("info").stdout.decode()
    assert str(weights_folder) in out
    assert "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors\n" in out
    for fact in ("22,565,376", "num_hidden_layers 6", "max_seq_length 256", "op set", "threads", "cache"):
        assert fact in out


def test_fetch_of_what_is_there_prints_the_folder(weights_folder: Path) -> None:
    result = run("fetch", "--to", str(weights_folder))
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().strip() == str(weights_folder)


def test_errors_are_one_line(tmp_path: Path) -> None:
    fails(run("similarity", "only one"), "TEXT: found 1 text, wanted two or more")
    fails(run("encode", "no/such/file"), "no/such/file: No such file or directory")
    fails(run("encode", "-", "-o", "out.csv", given=b"x"), "--output: found 'out.csv'")
    fails(run("encode", "-", "-o", "no/such/out.npy", given=b"x"), "is not a folder")
    fails(run("encode", "--batch-size", "0", given=b"x\n"), "batch_size: found 0")
    fails(run("encode", given=b"good\nbad \xff\n"), "standard input, line 2: not UTF-8 at byte 4")
    fails(run("search", "-", "query", given=b""), "CORPUS: - has no lines")
    fails(run("search", "-", "query", "-k", "0", given=b"x"), "-k: found 0")
    fails(run("info", "--model", str(tmp_path)), "explicit path")
    fails(run("info", environment={"MINILM_NP_WEIGHTS": str(tmp_path)}), "$MINILM_NP_WEIGHTS")


def test_unknown_arguments_exit_2() -> None:
    for arguments in ([], ["bogus"], ["encode", "--bogus"], ["search", "corpus"]):
        result = run(*arguments)
        assert result.returncode == 2 and b"usage" in result.stderr and b"Traceback" not in result.stderr


def test_offline_without_weights_lists_every_file_and_place(tmp_path: Path) -> None:
    # A copy of the package outside a checkout, with empty caches.
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


def test_a_failed_encode_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out.npy").write_bytes(b"old")
    fails(run("encode", "-o", str(tmp_path / "out.npy"), given=b"good\n\xff\n"), "line 2")
    assert (tmp_path / "out.npy").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.npy"]


def test_output_may_be_a_device() -> None:
    cli._write_atomically(Path(os.devnull), lambda file: cli._write_npy(file, np.zeros((1, 2), np.float32)))
    assert Path(os.devnull).is_char_device()


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_closed_pipe_is_no_traceback() -> None:
    command = [sys.executable, "-m", "minilm_np", "encode"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout and process.stdin and process.stderr
    process.stdout.close()
    process.stdin.write(b"hello\n" * 100)
    process.stdin.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_is_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "minilm_np", "encode", "-o", str(tmp_path / "out.npy")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stderr
    process.stdin.write(b"hello\n")
    process.stdin.flush()  # the process waits for the rest of its input
    time.sleep(2)
    for _ in range(12):  # again, if the first came while a library was importing and swallowed it
        process.send_signal(signal.SIGINT)
        time.sleep(5)
        if process.poll() is not None:
            break
    else:
        process.kill()
    assert process.returncode == 130
    assert process.stderr.read() == b""
    process.stderr.close()
    process.stdin.close()
    assert not list(tmp_path.iterdir())
