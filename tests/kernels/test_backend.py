"""The choice of the op set: what happens where Numba, or its cache, does not work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.commands import HANG_SECONDS
from support.kernels import needs_jit

import minilm_np
from minilm_np import SentenceTransformer


@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_falls_back_to_numpy_with_one_warning_without_numba(weights_folder: Path, fault: str) -> None:
    code = f"""
import sys, warnings
if {fault!r} == "missing":
    sys.modules["numba"] = None
else:
    import types
    sys.modules["numba"] = types.ModuleType("numba")
from minilm_np import SentenceTransformer
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = SentenceTransformer({str(weights_folder)!r})
assert model.backend == "numpy", model.backend
assert "Numba does not work" in model.backend_reason
assert [w.category for w in caught] == [RuntimeWarning], caught
model.encode("works")
try:
    SentenceTransformer({str(weights_folder)!r}, backend="numba")
except ImportError as error:
    assert "Numba does not work here" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_SECONDS)


def test_falls_back_to_numpy_if_kernels_do_not_compile(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("LLVM ERROR:\n  no such instruction")

    monkeypatch.setattr("minilm_np.kernels.warm_up.warm_up", broken)
    with pytest.warns(RuntimeWarning, match=r"using NumPy: LLVM ERROR: no such instruction$") as caught:
        model = SentenceTransformer(weights_folder)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert (model.backend, model.backend_reason) == ("numpy", "Numba does not work: LLVM ERROR: no such instruction")
    assert model.encode("works").shape == (384,)
    with pytest.raises(ImportError, match=r"backend: expected .*got 'numba': Numba does not work here: LLVM ERROR"):
        SentenceTransformer(weights_folder, backend="numba")


@needs_jit
def test_works_without_any_writable_folder(weights_folder: Path, tmp_path: Path) -> None:
    """Numba can keep compiled code nowhere: a read-only installation, and no home folder."""
    package = tmp_path / "minilm_np"
    shutil.copytree(Path(minilm_np.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import os, sys
sys.path.insert(0, {str(tmp_path)!r})
import minilm_np
from minilm_np.kernels import cache
cache.writable = lambda: None
assert minilm_np.__file__.startswith({str(tmp_path)!r})
model = minilm_np.SentenceTransformer({str(weights_folder)!r}, backend="numba")
assert model.encode("works").shape == (384,)
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    run = subprocess.run(
        [sys.executable, "-B", "-c", code], env=environment, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert run.returncode == 0, run.stderr
    assert not list(tmp_path.rglob("__pycache__"))
    assert "at every start" in run.stderr and "set NUMBA_CACHE_DIR" in run.stderr


def test_rejects_arguments_that_do_not_fit_the_backend(weights_folder: Path) -> None:
    model = SentenceTransformer(weights_folder, dtype="float64")
    assert (model.backend, model.backend_reason) == ("numpy", "dtype float64: the Numba kernels compute in float32")
    with pytest.raises(ValueError, match="backend: expected 'auto' or 'numpy', got 'numba': dtype float64"):
        SentenceTransformer(weights_folder, backend="numba", dtype="float64")
    for threads in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="threads: expected"):
            SentenceTransformer(weights_folder, threads=threads)  # type: ignore[arg-type]
