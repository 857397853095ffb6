"""What the benchmarks share: interleaved timing, the machine's description and its peak speed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minilm_np.kernels import simd


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, *, warm_ups: int = 0, repeats: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of each call, in the order of the rounds.

    Every round times every call (A B C, A B C, ...), so that a machine that slows down slows all of them down. A turn
    is `repeats` timed calls after `warm_ups` untimed ones, which give the threads of the previous call time to stop
    spinning.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(warm_ups):
                call()
            for _ in range(repeats):
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def fma_peak() -> float:
    """Return the GFLOP/s of one thread on a register tile whose operands never leave the first-level cache."""
    from minilm_np.kernels.linear import ROWS, VECTORS
    from minilm_np.kernels.simd import WIDTH, accumulate, jit, store_tile, zero_tile

    @jit
    def spin(x: Any, y: Any, times: int) -> None:
        tile = zero_tile(ROWS, VECTORS)
        for _ in range(times):
            tile = accumulate(tile, x, 0, 0, 0, x, 0, 0, 1000)
        store_tile(tile, y, 0, VECTORS * WIDTH)

    x, y = np.zeros(VECTORS * WIDTH, np.float32), np.zeros(ROWS * VECTORS * WIDTH, np.float32)
    spin(x, y, 1)
    seconds = interleaved({"spin": lambda: spin(x, y, 200)}, rounds=9)["spin"]
    return 2 * 200_000 * ROWS * VECTORS * WIDTH / min(seconds) / 1e9


def cpu_model() -> str:
    """Return the CPU's name, as the operating system reports it."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = (line.split(": ")[1] for line in lines if "model name" in line)
    return next(names, platform.processor() or platform.machine())


def machine() -> str:
    """Return the CPU, its vector width and the versions of the installed runtimes."""
    packages = []
    for name in ("numpy", "numba", "torch", "sentence-transformers", "onnxruntime", "openvino"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages.append(f"{name} {importlib.metadata.version(name)}")
    return f"{cpu_model()}, {simd.WIDTH} float32 per vector; Python {platform.python_version()}, {', '.join(packages)}"
