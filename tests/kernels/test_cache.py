"""The compile cache: nothing damaged, foreign or unsafe is ever run, and a failure to save never stops a kernel."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import config
from numba.core import compiler
from support.commands import HANG_SECONDS, run

from minilm_np.kernels import cache, simd
from minilm_np.kernels.cache import KernelCache

pytestmark = pytest.mark.skipif(simd.WITHOUT_JIT, reason="nothing is compiled without the JIT")


def plus_one(x: Any) -> Any:
    return x + 1


def kernel() -> Any:
    """Return a new kernel, as a new process would, which has compiled nothing yet."""
    return simd.jit(plus_one)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder that is searched; counts begin at 0."""
    monkeypatch.setattr(cache, "places", lambda: iter([tmp_path / "kernels"]))
    monkeypatch.setattr(cache, "_say_what_takes_so_long", lambda: None)
    for name, value in {"compiled": 0, "loaded": 0, "unsaved": None}.items():
        monkeypatch.setattr(KernelCache, name, value)
    yield tmp_path / "kernels"


def counts() -> tuple[int, int]:
    return KernelCache.compiled, KernelCache.loaded


def entry(folder: Path) -> Path:
    (path,) = folder.glob("*.kernel")
    return path


def test_second_process_loads_what_the_first_has_compiled(folder: Path) -> None:
    assert kernel()(1) == 2 and counts() == (1, 0)
    assert kernel()(1) == 2 and counts() == (1, 1)
    assert kernel()(1.5) == 2.5 and counts() == (2, 1)  # another signature
    assert [path.suffix for path in folder.iterdir()] == [".kernel", ".kernel"]


def test_no_damaged_entry_is_run(folder: Path) -> None:
    kernel()(1)
    right = entry(folder).read_bytes()
    random = np.random.default_rng(14)
    places = [*range(60), *random.integers(0, len(right), 40)]
    damaged = [right[:i] + bytes([right[i] ^ (1 << random.integers(8))]) + right[i + 1 :] for i in places]
    damaged += [right[:n] for n in (0, 1, 18, 19, 50, 51, 52, len(right) // 2, len(right) - 1)]
    damaged += [right + b"\0", b"\0" * len(right), b"not a kernel", right[:51] + b"cos\nsystem\n(S'exit 3'\ntR."]
    for number, content in enumerate(damaged):
        entry(folder).write_bytes(content)
        assert kernel()(1) == 2
        assert counts() == (number + 2, 0)
        assert entry(folder).read_bytes()[51:] != b"" and len(entry(folder).read_bytes()) > 1000  # rebuilt
    assert kernel()(1) == 2 and KernelCache.loaded == 1


def test_entry_of_another_kernel_is_not_run(folder: Path) -> None:
    kernel()(1)
    first = entry(folder)
    content = first.read_bytes()
    first.unlink()
    kernel()(1.5)
    entry(folder).write_bytes(content)
    assert kernel()(1.5) == 2.5 and KernelCache.loaded == 0


def test_full_disk_does_not_stop_the_kernel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    assert kernel()(1) == 2 and "No space" in (KernelCache.unsaved or "")
    assert not list(folder.iterdir())


def test_disk_that_is_full_while_writing_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert kernel()(1) == 2 and KernelCache.unsaved
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["_rebuild", "_reduce"])
def test_compiles_anew_if_the_internals_of_numba_have_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kernel()(1)
    monkeypatch.delattr(compiler.CompileResult, name)
    assert kernel()(1) == 2 and kernel()(1.5) == 2.5


def test_no_writable_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_bytes(b"a file")
    assert kernel()(1) == 2 and KernelCache.unsaved == "no folder can be written"


@pytest.mark.skipif(os.name == "nt", reason="owners and modes are those of POSIX")
def test_unsafe_folders_are_not_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel()(1)
    folder.chmod(0o777)
    assert kernel()(1) == 2 and counts() == (2, 0)
    assert KernelCache.unsaved == "no folder can be written"
    assert cache.refused() == [(folder, "writable by everyone")]
    folder.chmod(0o755)
    assert kernel()(1) == 2 and counts() == (2, 1)
    status = os.stat_result((stat.S_IFDIR | 0o755, 0, 0, 1, 4242, 0, 0, 0, 0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", lambda self, **_: status)
        assert cache.problem(folder) == "owned by another user, 4242"
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "link").symlink_to(folder)
    assert cache.problem(tmp_path / "link") == "a symbolic link in the folder for temporary files"
    assert cache.problem(folder) is None


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_only_the_user_can_write_to_the_folder_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(cache, "places", lambda: iter([tmp_path / "minilm_np-0"]))
    assert cache.writable() == tmp_path / "minilm_np-0"
    assert stat.S_IMODE((tmp_path / "minilm_np-0").stat().st_mode) == 0o700


def test_places_in_the_documented_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "user"))
    package = Path(cache.__file__).parent / "__pycache__"
    names = list(cache.places())
    assert names[:2] == [package, tmp_path / "user" / "minilm_np" / "kernels"]
    assert names[2].name.startswith("minilm_np-") and len(names) == 3
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "named"))
    assert list(cache.places()) == [tmp_path / "named" / "minilm_np"]


@pytest.mark.parametrize("name", [*cache.SETTINGS, "CPU_NAME", "CPU_FEATURES"])
def test_stamp_holds_every_setting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = cache.stamp.__wrapped__()
    assert before == cache.stamp.__wrapped__()
    monkeypatch.setattr(config, name, "other")
    assert cache.stamp.__wrapped__() != before


@pytest.mark.parametrize("name", ["lanes", "target_cpu", "target_features"])
def test_stamp_holds_the_target(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = cache.stamp.__wrapped__()
    monkeypatch.setattr(cache, name, lambda: "other")
    assert cache.stamp.__wrapped__() != before


def test_stamp_holds_the_bytes_of_every_source_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel_files = Path(simd.__file__).parent.glob("*.py")
    assert {path.name for path in cache.SOURCES} == {"ops.py", *(path.name for path in kernel_files)}
    before = cache.stamp.__wrapped__()
    (tmp_path / "ops.py").write_text("changed")
    monkeypatch.setattr(cache, "SOURCES", (tmp_path / "ops.py", *cache.SOURCES[1:]))
    assert cache.stamp.__wrapped__() != before


@pytest.mark.parametrize(
    ("features", "expected"),
    [("+avx512f", 16), ("+avx2,+avx512f,+fma", 16), ("+avx2,+fma", 8), ("-avx512f", 8), ("+avx512fp16", 8), ("", 8)],
)
def test_width_follows_what_numba_compiles_for(monkeypatch: pytest.MonkeyPatch, features: str, expected: int) -> None:
    monkeypatch.setattr(config, "CPU_FEATURES", features)
    assert cache.lanes() == expected


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        (None, "+no-such-feature", r"NUMBA_CPU_FEATURES: expected features of this CPU, got also \+no-such-feature"),
        ("pentium9", None, "NUMBA_CPU_NAME: expected .*, this CPU, or generic, .*, got pentium9"),
        ("needs-more", "", "NUMBA_CPU_NAME: got needs-more, but this CPU lacks no-such-feature"),
    ],
)
def test_code_for_another_cpu_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str | None, features: str | None, message: str
) -> None:
    monkeypatch.setitem(cache.NEEDED, "needs-more", ("no-such-feature",))
    monkeypatch.setattr(config, "CPU_NAME", name)
    monkeypatch.setattr(config, "CPU_FEATURES", features)
    with pytest.raises(RuntimeError, match=message):
        cache.check_target()


def test_pins_beyond_the_cpu_select_numpy_or_are_an_error(weights_folder: Path) -> None:
    code = f"""
import warnings
from minilm_np import SentenceTransformer
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = SentenceTransformer({str(weights_folder)!r})
assert model.backend == "numpy" and "NUMBA_CPU_NAME" in str(caught[-1].message), caught
try:
    SentenceTransformer({str(weights_folder)!r}, backend="numba")
except ImportError as error:
    assert "NUMBA_CPU_NAME: expected" in str(error)
    print("refused")
"""
    environment = {**os.environ, "NUMBA_CPU_NAME": "pentium9"}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.stdout == "refused\n", process.stderr


def test_compile_fills_the_cache_and_says_for_which_cpu(weights_folder: Path, tmp_path: Path) -> None:
    """Then a start compiles nothing and says nothing; so does one with other threads."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first = run("compile", environment=environment)
    assert first.returncode == 0, first.stderr
    assert re.search(rb"kernels     [1-9]\d* compiled, 0 already there\nCPU         \S+, vectors of \d+ ", first.stdout)
    assert first.stderr.decode() == (
        "minilm_np: compiling the Numba kernels, once on this machine (about 15 s); the code is kept in "
        f"{tmp_path / 'minilm_np'}\n"
    )
    second = run("compile", environment=environment)
    assert b" 0 compiled" in second.stdout and second.stderr == b""
    info = run("info", environment=environment)
    assert info.stderr == b"" and f"to clear: rm {tmp_path / 'minilm_np'}/*.kernel" in info.stdout.decode()
    code = "import sys; from minilm_np import SentenceTransformer as Model; "
    code += "Model(sys.argv[1], backend='numba').encode(['a'] * 999)"
    start = subprocess.run(
        [sys.executable, "-c", code, str(weights_folder)],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=HANG_SECONDS,
    )
    assert (start.returncode, start.stderr) == (0, b"")


def test_says_the_remedy_where_nothing_can_be_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(cache, "places", lambda: iter([tmp_path / "file"]))
    cache._say_what_takes_so_long()
    message = capsys.readouterr().err
    assert "at every start" in message and "set NUMBA_CACHE_DIR" in message and "once" not in message
