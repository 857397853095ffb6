"""Write files beside their target, then move them into place; remove what a killed process has left behind."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = ".minilm-np-"  # of a staging folder; it does not hold the target's name, which may be as long as names can be
MARKER, MARK = ".minilm-np-marker", b"A temporary folder of minilm_np. It can be deleted when no process writes it.\n"
LOCK = ".minilm-np-lock"  # the owner holds this lock, which ends with its process


@contextmanager
def staging_folder(parent: Path, prefix: str = PREFIX) -> Iterator[Path]:
    """Yield a new folder in `parent` that is removed at the end; first remove those that killed processes left."""
    from filelock import FileLock

    remove_leftovers(parent, prefix)
    # Another process may remove the folder between the end of the lock and that of the folder.
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name,
        ExitStack() as held,
    ):
        folder = Path(name)
        with suppress(OSError, NotImplementedError):  # without locks, as on some network drives, a leftover stays
            held.enter_context(FileLock(folder / LOCK, timeout=0))
            (folder / MARKER).write_bytes(MARK)  # after the lock: a marked folder without an owner can be deleted
        yield folder


def remove_leftovers(parent: Path, prefix: str = PREFIX) -> None:
    """Remove staging folders in `parent` whose process has ended, and no folder that `staging_folder` did not make."""
    from filelock import FileLock

    with suppress(OSError):  # a folder that cannot be listed may still be written to
        for folder in [path for path in parent.iterdir() if path.name.startswith(prefix)]:
            if _is_ours(folder):
                with suppress(OSError, NotImplementedError):  # filelock's Timeout is an OSError: the owner is alive
                    with FileLock(folder / LOCK, timeout=0):
                        pass
                    shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether `staging_folder` made the folder for this user; links do not count."""
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
            return False
        if not all(stat.S_ISREG((folder / name).lstat().st_mode) for name in (MARKER, LOCK)):
            return False
        return (folder / MARKER).stat().st_size == len(MARK) and (folder / MARKER).read_bytes() == MARK
    except OSError:
        return False


def move(part: Path, target: Path) -> None:
    """Move a file into place. A file that is replaced passes on its mode; a symbolic link is replaced itself."""
    with suppress(FileNotFoundError):
        old = target.lstat()
        if stat.S_ISREG(old.st_mode):
            part.chmod(stat.S_IMODE(old.st_mode) & 0o777)
    os.replace(part, target)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a path to write a file to, then move the file to `path`; if an error is raised, the old file stays.

    A device or a pipe is yielded as it is. The file that a symbolic link points to is replaced, not the link. An
    OSError names `path`, not the temporary file.
    """
    try:
        old = _stat(path)
        if old and not stat.S_ISREG(old.st_mode):
            yield path
            return
        target = Path(os.path.realpath(path))
        with staging_folder(target.parent) as folder:
            part = folder / path.name
            yield part
            try:
                move(part, target)
            except OSError as error:
                # A mount point, as of one file in a container, cannot be replaced, nor another user's file in a folder
                # like /tmp. Their contents can.
                if not old or error.errno not in (errno.EBUSY, errno.EPERM, errno.EACCES):
                    raise
                with part.open("rb") as new, target.open("r+b") as file:
                    shutil.copyfileobj(new, file)
                    file.truncate()
    except OSError as error:
        raise named(error, path) from None


def check_writable(path: Path) -> None:
    """Raise OSError, naming `path`, if `replaced(path)` would fail: all but the move into place is tried."""
    try:
        old = _stat(path)
        if old and not stat.S_ISREG(old.st_mode):
            if stat.S_ISDIR(old.st_mode) or not os.access(path, os.W_OK):  # opening a pipe would wait for its reader
                number = errno.EISDIR if stat.S_ISDIR(old.st_mode) else errno.EACCES
                raise OSError(number, os.strerror(number))
            return
        if old:
            path.open("r+b").close()  # a write-protected file stays as it is
        target = Path(os.path.realpath(path))
        with staging_folder(target.parent) as folder:
            for name in {path.name, target.name}:
                (folder / name).touch()
    except OSError as error:
        raise named(error, path) from None


def in_the_way(folder: Path, files: Iterable[str]) -> str | None:
    """Return what keeps the files from being moved into the folder, or would lead out of it, or None.

    A file that is a symbolic link is in nobody's way: `move` replaces it.
    """
    for path in [folder / file for file in files]:
        if path.parent != folder:
            if path.parent.is_symlink():
                return f"{path.parent}: expected a folder, got a symbolic link"
            if path.parent.exists() and not path.parent.is_dir():
                return f"{path.parent}: expected a folder, got a file"
        if path.is_dir() and not path.is_symlink():
            return f"{path}: expected a file, got a folder"
    return None


def named(error: OSError, path: Path) -> OSError:
    """Return the same error for `path`, instead of for a temporary name."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def _stat(path: Path) -> os.stat_result | None:
    """Return the file's status, or None if there is no such file; a loop of links or a long name is an OSError."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
