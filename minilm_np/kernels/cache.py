"""Keep compiled kernels on disk: a small adapter with the interface of Numba's cache.

Numba's own cache trusts its files: a flipped bit ends the process, a truncated file or a full disk is an exception, and
its key lacks what this package derives from the CPU. Here

- the stamp (`stamp`) holds everything that shapes the machine code, and is part of an entry's file name and digest;
- an entry is one file, whose sha256 is compared before anything in it is read; a damaged one is compiled anew;
- a file appears under its name when it is complete; if it cannot be written, the compiled kernel works all the same;
- folders that others can write to are not used, because an entry is code that runs.

If a later Numba changes what is used of it here, loading or saving fails, and each process compiles the kernels.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import platform
import stat
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba import config
from numba.core import compiler, serialize
from numba.core.codegen import get_host_cpu_features

from minilm_np import ops
from minilm_np.notice import notice
from minilm_np.user_cache import cache_folder

MAGIC = b"minilm_np kernel 1\n"
SUFFIX = ".kernel"
SOURCES = (Path(ops.__file__), *sorted(Path(__file__).parent.glob("*.py")))  # the kernels inline all of these
SETTINGS = (
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "ENABLE_AVX",
    "DISABLE_INTEL_SVML",
)


# --- what the code depends on ------------------------------------------------------------------


def target_features() -> str:
    """Return the features that Numba compiles for, as "+avx2,+fma": those of $NUMBA_CPU_FEATURES, or the host's."""
    pinned: str | None = config.CPU_FEATURES  # type: ignore[attr-defined]
    return get_host_cpu_features() if pinned is None else pinned


def target_cpu() -> str:
    """Return the CPU that Numba compiles for: that of $NUMBA_CPU_NAME, or the host's."""
    name: str = config.CPU_NAME or llvmlite.binding.get_host_cpu_name()  # type: ignore[attr-defined]
    return name


# What the code for a CPU of this name may use. Code for another name than these or the host's is not run.
_AVX2 = ("avx2", "fma", "bmi", "bmi2", "f16c", "movbe", "lzcnt")
_AVX512 = (*_AVX2, "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")
NEEDED = {
    "generic": (),
    "x86-64": (),
    "core2": ("ssse3",),
    "nehalem": ("sse4.2", "popcnt"),
    "westmere": ("sse4.2", "popcnt", "pclmul"),
    "x86-64-v2": ("sse4.2", "popcnt", "cx16"),
    "sandybridge": ("avx", "popcnt", "pclmul", "xsave"),
    "ivybridge": ("avx", "popcnt", "pclmul", "xsave", "f16c", "rdrnd", "fsgsbase"),
    "haswell": (*_AVX2, "rdrnd", "fsgsbase"),
    "broadwell": (*_AVX2, "rdrnd", "fsgsbase", "adx", "rdseed"),
    "x86-64-v3": _AVX2,
    "x86-64-v4": _AVX512,
    "skylake-avx512": (*_AVX512, "rdrnd", "fsgsbase", "adx", "rdseed", "clflushopt", "clwb", "xsavec", "xsaves"),
}


def check_target() -> None:
    """Raise RuntimeError if Numba is told to compile for a CPU whose code may not run on this one."""
    host = llvmlite.binding.get_host_cpu_features()
    wanted = {part[1:] for part in target_features().split(",") if part.startswith("+")}
    missing = sorted(feature for feature in wanted if not host.get(feature))
    if config.CPU_FEATURES is not None and missing:  # type: ignore[attr-defined]
        raise RuntimeError(f"NUMBA_CPU_FEATURES: expected features of this CPU, got also +{', +'.join(missing)}")
    name = target_cpu()
    if name == llvmlite.binding.get_host_cpu_name():
        return
    if name not in NEEDED:
        known = ", ".join(NEEDED)
        raise RuntimeError(
            f"NUMBA_CPU_NAME: expected {llvmlite.binding.get_host_cpu_name()}, this CPU, or {known}, got {name}"
        )
    missing = sorted(feature for feature in NEEDED[name] if not host.get(feature))
    if missing:
        raise RuntimeError(f"NUMBA_CPU_NAME: got {name}, but this CPU lacks {', '.join(missing)}")


def lanes() -> int:
    """Return the width of the kernels' vectors: 16 if Numba compiles for AVX-512, else 8."""
    return 16 if "+avx512f" in target_features().split(",") else 8


@lru_cache(1)
def stamp() -> bytes:
    """Return a hash of everything that shapes the kernels' machine code."""
    parts = [
        *(hashlib.sha256(path.read_bytes()).hexdigest() for path in SOURCES),
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        sys.version,
        platform.machine(),
        llvmlite.binding.get_process_triple(),
        target_cpu(),
        target_features(),
        lanes(),
        *(f"{name}={getattr(config, name, None)}" for name in SETTINGS),
    ]
    return hashlib.sha256(repr(parts).encode()).digest()


# --- where the code is kept --------------------------------------------------------------------


def places() -> Iterator[Path]:
    """Yield the folders to use, in order: the package's, the user's, a temporary one; or that of $NUMBA_CACHE_DIR."""
    if config.CACHE_DIR:  # type: ignore[attr-defined]
        yield Path(config.CACHE_DIR) / "minilm_np"  # type: ignore[attr-defined]
        return
    yield Path(__file__).parent / "__pycache__"
    if not str(cache_folder()).startswith("~"):  # the home folder is known
        yield cache_folder() / "kernels"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    yield Path(tempfile.gettempdir()) / f"minilm_np-{user}"


def problem(folder: Path) -> str | None:
    """Return why the code in an existing folder must not run, or None if it may."""
    status = folder.lstat()
    if folder.parent == Path(tempfile.gettempdir()) and stat.S_ISLNK(status.st_mode):
        return "a symbolic link in the folder for temporary files"
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        return "not a folder"
    if hasattr(os, "getuid"):
        if status.st_uid not in (os.getuid(), 0):
            return f"owned by another user, {status.st_uid}"
        if status.st_mode & stat.S_IWOTH:
            return "writable by everyone"
    return None


def readable() -> Iterator[Path]:
    """Yield the folders from which code is loaded."""
    for folder in places():
        with contextlib.suppress(OSError):
            if problem(folder) is None:
                yield folder


def writable() -> Path | None:
    """Return the first folder in which code can be kept, creating it if needed, or None."""
    for folder in places():
        with contextlib.suppress(OSError):
            is_shared_place = folder.parent == Path(tempfile.gettempdir())
            folder.mkdir(mode=0o700 if is_shared_place else 0o755, parents=True, exist_ok=True)
            if problem(folder) is None:
                with tempfile.TemporaryFile(dir=folder):
                    return folder
    return None


def refused() -> list[tuple[Path, str]]:
    """Return the existing folders that are not used, with the reasons."""
    found = []
    for folder in places():
        with contextlib.suppress(OSError):
            if reason := problem(folder):
                found.append((folder, reason))
    return found


def entries() -> list[Path]:
    """Return the files of all folders, of this CPU and others."""
    return [path for folder in readable() for path in sorted(folder.glob(f"*{SUFFIX}"))]


# --- the adapter -------------------------------------------------------------------------------


class KernelCache:
    """Load and save the machine code of one kernel: the interface of numba.core.caching._Cache."""

    compiled = 0  # number of kernels of this process that were not in the cache
    loaded = 0
    unsaved: str | None = None  # why the last kernel could not be kept

    def __init__(self, function: Any) -> None:
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._enabled = True

    @property
    def cache_path(self) -> str:
        """The folder, for Numba's statistics."""
        return str(next(readable(), ""))

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Remove this kernel's files."""
        for path in entries():
            if path.name.startswith(f"{self.name}-"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled kernel for a signature, or None."""
        key = self._key(sig)
        for folder in readable() if self._enabled else ():
            path = folder / self._file_name(key)
            try:
                payload = _verified(path.read_bytes(), key)
                target_context.refresh()
                kernel = compiler.CompileResult._rebuild(target_context, *pickle.loads(payload))
            except FileNotFoundError:
                continue
            except Exception:  # damaged, or written by other internals of Numba
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            KernelCache.loaded += 1
            return kernel
        KernelCache.compiled += 1
        if KernelCache.compiled == 1:
            _say_what_takes_so_long()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled kernel, if a folder can be written."""
        if not self._enabled:
            return
        try:
            if data.library.has_dynamic_globals:
                return
            payload, key, folder = serialize.dumps(data._reduce()), self._key(sig), writable()
            if folder is None:
                raise OSError("no folder can be written")
            _write(folder / self._file_name(key), MAGIC + _digest(payload, key) + payload)
        except Exception as error:
            KernelCache.unsaved = str(error) or type(error).__name__

    def _key(self, sig: Any) -> bytes:
        return stamp() + f"{self.name}{sig}".encode()

    def _file_name(self, key: bytes) -> str:
        return f"{self.name}-{hashlib.sha256(key).hexdigest()[:24]}{SUFFIX}"


def _digest(payload: bytes, key: bytes) -> bytes:
    return hashlib.sha256(key + payload).digest()


def _verified(content: bytes, key: bytes) -> bytes:
    """Return the payload of an entry. Raises ValueError if a byte is wrong, or if it belongs to another key."""
    start = len(MAGIC) + 32
    magic, digest, payload = content[: len(MAGIC)], content[len(MAGIC) : start], content[start:]
    if magic != MAGIC or digest != _digest(payload, key):
        raise ValueError("damaged")
    return payload


def _write(path: Path, content: bytes) -> None:
    """Write a file that appears when it is complete."""
    descriptor, name = tempfile.mkstemp(prefix=".minilm_np-", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        part.chmod(0o644)  # so that a user can load what root has compiled for an image
        part.replace(path)
    except BaseException:
        part.unlink()
        raise


def _say_what_takes_so_long() -> None:
    folder = writable()
    if folder is None:
        what = (
            f"at every start (about 15 s), because the code cannot be kept in {', '.join(map(str, places()))}; "
            "set NUMBA_CACHE_DIR to a folder that you can write to"
        )
    else:
        what = f"once on this machine (about 15 s); the code is kept in {folder}"
    notice(f"compiling the Numba kernels, {what}")
