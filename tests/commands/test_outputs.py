"""Options that write: what cannot be written is refused before the work, in one line that names the option."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.commands import HANG_SECONDS

from minilm_np.cli import main
from minilm_np.crosscheck.goldens import FILES

linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which not even root can write")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX paths")


class WorkError(AssertionError):
    """The work was begun."""


@pytest.fixture(autouse=True)
def _no_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def begun(*_: object, **__: object) -> None:
        raise WorkError

    for name in (
        "commands.encode.read_lines",
        "commands.crosscheck.open_target",
        "commands.evaluate._encoder",
        "evaluate.data.check",
        "crosscheck.goldens.compute",
    ):
        monkeypatch.setattr(f"minilm_np.{name}", begun)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("a\nb\n")


OPTIONS = {
    "encode -o": (["encode", "in.txt", "-o"], ".npy"),
    "crosscheck --json": (["crosscheck", "x.npy", "--json"], ".json"),
    "crosscheck --junit": (["crosscheck", "x.npy", "--junit"], ".xml"),
    "crosscheck --plot": (["crosscheck", "x.npy", "--plot"], ".html"),
    "crosscheck --corpus --json": (["crosscheck", "x.npy", "--corpus", "in.txt", "--json"], ".json"),
    "evaluate --json": (["evaluate", "STSBenchmark", "--data", ".", "--json"], ".json"),
}
BAD = {
    "unwritable folder": "/proc/x",
    "unwritable folder behind a link": "proc/x",
    "too long name": "n" * 300,
    "no such folder": "no/x",
    "file as folder": "in.txt/x",
    "folder": "folder",
    "loop of links": "loop",
    "link into no folder": "dangling",
}


@posix
@linux
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("bad", BAD)
def test_refuses_an_output_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, bad: str
) -> None:
    arguments, suffix = OPTIONS[option]
    path = BAD[bad] + suffix
    Path("proc").symlink_to("/proc")
    Path("folder" + suffix).mkdir()
    Path("loop" + suffix).symlink_to("loop" + suffix)
    Path("dangling" + suffix).symlink_to("no/x")
    before = sorted(tmp_path.iterdir())
    assert main([*arguments, path]) == 2
    captured = capsys.readouterr()
    name = arguments[-1].replace("-o", "--output")
    assert captured.err.startswith(f"minilm-np: error: {name}: ") and captured.err.count("\n") == 1
    assert not captured.out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("option", OPTIONS)
def test_begins_the_work_if_the_output_can_be_written(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, suffix = OPTIONS[option]
    monkeypatch.setattr("minilm_np.commands.crosscheck.find_spec", lambda name: True)
    with pytest.raises(WorkError):
        main([*arguments, "out" + suffix])
    assert os.listdir() == ["in.txt"]  # noqa: PTH208


def test_refuses_a_plot_without_matplotlib_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("minilm_np.commands.crosscheck.find_spec", lambda name: None)
    assert main(["crosscheck", "x.npy", "--plot", "out.png"]) == 2
    assert "--plot: needs matplotlib, which is not installed" in capsys.readouterr().err


@posix
@linux
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("/proc/x", "/proc/x: "),
        ("/proc/x/y", "/proc/x"),
        ("n" * 300, "n: File name too long"),
        ("in.txt", "in.txt: expected a new or empty folder, got a file"),
        ("in.txt/x", "in.txt: File exists"),
        (".", ".: expected a new or empty folder, got the current folder"),
        ("empty/..", "empty/..: expected a new or empty folder, got the current folder"),
        ("link", "link: expected a new or empty folder, got a symbolic link"),
        ("loop", "loop: expected a new or empty folder, got a symbolic link"),
        ("full", "full: expected a new or empty folder, got a folder with files"),
    ],
)
def test_goldens_refuses_a_folder_before_the_work(
    capsys: pytest.CaptureFixture[str], folder: str, message: str
) -> None:
    for name in ("empty", "full", "full/x"):
        Path(name).mkdir()
    Path("link").symlink_to("empty")
    Path("loop").symlink_to("loop")
    assert main(["goldens", folder]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
    assert not list(Path("empty").iterdir())


def test_goldens_begins_the_work_in_a_new_or_empty_folder(tmp_path: Path) -> None:
    Path("empty").mkdir()
    for folder in ("empty", "new", "new2/new", str(tmp_path / "new")):
        with pytest.raises(WorkError):
            main(["goldens", folder])
    assert not list(Path("empty").iterdir()) and not Path("new").exists()


KILLED = """
import os, sys
import numpy as np
from minilm_np.commands import encode
encode._write_npy = lambda file, rows: os._exit(9)
from minilm_np.cli import main
main(sys.argv[1:])
"""


@posix
def test_next_run_removes_what_a_killed_one_left_and_keeps_the_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "in.txt").write_text("a\n")
    output = tmp_path / "out.npy"
    output.touch(mode=0o600)
    arguments = ["encode", str(tmp_path / "in.txt"), "-o", str(output)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=HANG_SECONDS)
    assert killed.returncode == 9 and len(list(tmp_path.iterdir())) == 3
    assert main(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.npy"]
    assert np.load(output).shape == (1, 384) and stat.S_IMODE(output.stat().st_mode) == 0o600


MOUNT = """
mount -t tmpfs none mounted && touch file.npy && touch source && mount --bind source file.npy || exit 77
"$@" goldens mounted && ls mounted && "$@" encode in.txt -o file.npy && wc -c < file.npy
mount -o remount,ro,bind file.npy && ! "$@" encode missing.txt -o file.npy
"""


WITHOUT_WORK = """
import sys
from unittest.mock import MagicMock
from minilm_np.cli import main
from minilm_np.crosscheck import goldens
for name in ("compute", "_cases", "_stages", "_manifest"):
    setattr(goldens, name, MagicMock())
goldens._json = goldens._safetensors = lambda *_, **__: b"{}"
sys.exit(main())
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_mount_points(tmp_path: Path) -> None:
    """Bundles go into an empty mount point and vectors into a mounted file; a read-only one is refused."""
    Path("mounted").mkdir()
    command = ["unshare", "-m", "sh", "-c", MOUNT, "sh", sys.executable, "-c", WITHOUT_WORK]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if result.returncode in (1, 77) and "mounted\n" not in result.stdout:
        pytest.skip(f"cannot mount here: {result.stderr}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["mounted", *sorted([*FILES, "manifest.json"]), str(128 + 2 * 4 * 384)]
    assert "file.npy is not writable: Read-only file system" in result.stderr
