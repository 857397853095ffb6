"""Writing files: what stands in the way is found first, the old file's mode stays, leftovers of a killed process go."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from support.commands import HANG_SECONDS

from minilm_np.files import LOCK, MARK, MARKER, PREFIX, check_writable, in_the_way, move, replaced, staging_folder

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and signals")
NO_ROOM = Path("/proc/nowhere.npy")  # not even root can create a file in /proc


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
@posix
def test_a_replaced_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(mode)
    with replaced(path) as part:
        part.write_bytes(b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == mode
    assert names(tmp_path) == ["out"]


@posix
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with replaced(tmp_path / "out") as part:
        part.touch()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_error_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(KeyError), replaced(tmp_path / "out") as part:
        part.write_bytes(b"half")
        raise KeyError
    assert (tmp_path / "out").read_bytes() == b"old" and names(tmp_path) == ["out"]


@posix
def test_the_file_behind_a_link_is_replaced_but_a_moved_file_replaces_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")  # it does not exist yet
    for content in (b"1", b"2"):
        with replaced(tmp_path / "link") as part:
            part.write_bytes(content)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == content
    (tmp_path / "part").write_bytes(b"3")
    move(tmp_path / "part", tmp_path / "link")
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"2"


@pytest.mark.parametrize("number", [1, 13, 16])  # EPERM, EACCES, EBUSY
def test_a_file_that_cannot_be_replaced_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr("os.replace", refuse)
    (tmp_path / "out").write_bytes(b"a longer old content")
    inode = (tmp_path / "out").stat().st_ino
    with replaced(tmp_path / "out") as part:
        part.write_bytes(b"new")
    assert (tmp_path / "out").read_bytes() == b"new" and (tmp_path / "out").stat().st_ino == inode
    with pytest.raises(OSError, match="refused"), replaced(tmp_path / "another") as part:
        part.write_bytes(b"new")
    assert names(tmp_path) == ["out"]


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".npy")
    check_writable(path)
    with replaced(path) as part:
        part.touch()
    assert names(tmp_path) == [path.name]


@posix
def test_what_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("no/file")
    (tmp_path / "file").touch()
    paths = [tmp_path / ("n" * 300), tmp_path / "loop", tmp_path / "dangling", tmp_path / "file" / "x", tmp_path]
    for path in [*paths, *([NO_ROOM] if Path("/proc").is_dir() else [])]:
        with pytest.raises(OSError) as caught:
            check_writable(path)
        assert caught.value.filename == str(path) and caught.value.strerror
    assert names(tmp_path) == ["dangling", "file", "loop"]


def test_a_check_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    before = (tmp_path / "old").stat()
    for name in ("old", "new"):
        check_writable(tmp_path / name)
    after = (tmp_path / "old").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns) and names(tmp_path) == ["old"]
    check_writable(Path(os.devnull))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write any file")
def test_a_write_protected_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o444)
    with pytest.raises(PermissionError):
        check_writable(tmp_path / "file")


KILLED = """
import os, sys
from pathlib import Path
from minilm_np.files import staging_folder
with staging_folder(Path(sys.argv[1])) as folder:
    (folder / "big").write_bytes(b"half of it")
    os._exit(9)
"""


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for _ in range(2):  # the second removes what the first has left
        killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=HANG_SECONDS)
        assert killed.returncode == 9 and len(names(tmp_path)) == 1
    mine = tmp_path / f"{PREFIX}mine"
    mine.mkdir()
    (mine / "thesis").write_text("years of work")
    (tmp_path / f"{PREFIX}file").write_text("mine, too")
    with staging_folder(tmp_path) as ours:
        with staging_folder(tmp_path):  # the outer one is in use
            assert ours.is_dir()
        assert names(tmp_path) == sorted([f"{PREFIX}file", f"{PREFIX}mine", ours.name])
    assert names(tmp_path) == [f"{PREFIX}file", f"{PREFIX}mine"] and (mine / "thesis").exists()


@posix
def test_no_link_is_followed_when_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / MARKER).write_bytes(MARK)
    (tmp_path / "outside" / LOCK).touch()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{PREFIX}link").symlink_to("../outside")
    with staging_folder(tmp_path / "in"):
        pass
    assert names(tmp_path / "outside") == sorted([MARKER, LOCK]) and names(tmp_path / "in") == [f"{PREFIX}link"]


def test_works_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(FileLock, "acquire", no_locks)
    with replaced(tmp_path / "out") as part:
        assert names(part.parent) == []  # without the mark, nobody removes it
        part.write_bytes(b"new")
    assert names(tmp_path) == ["out"]


@posix
def test_finds_what_is_in_the_way(tmp_path: Path) -> None:
    assert in_the_way(tmp_path, ["a", "b/c"]) is None
    (tmp_path / "a").symlink_to("/")
    assert in_the_way(tmp_path, ["a", "b/c"]) is None
    (tmp_path / "b").symlink_to("/")
    assert in_the_way(tmp_path, ["a", "b/c"]) == f"{tmp_path / 'b'}: expected a folder, got a symbolic link"
    (tmp_path / "b").unlink()
    (tmp_path / "b").touch()
    assert in_the_way(tmp_path, ["a", "b/c"]) == f"{tmp_path / 'b'}: expected a folder, got a file"
    (tmp_path / "d").mkdir()
    assert in_the_way(tmp_path, ["d"]) == f"{tmp_path / 'd'}: expected a file, got a folder"


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")

    def full(source: Path, to: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(to))

    with pytest.raises(OSError) as while_written, replaced(target) as part:
        full(part, part)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError) as while_moved, replaced(target) as part:
        part.write_text("new")
    for error in (while_written.value, while_moved.value):
        assert (error.errno, error.filename, error.filename2) == (errno.ENOSPC, str(target), None)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.txt"]
