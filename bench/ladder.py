"""A ladder for students: one matrix product, from three loops to the register tile: `python bench/ladder.py`.

y = x W^T, x (256, 384), W (1536, 384), float32: the layer "intermediate.dense" for 256 word pieces, on one thread.
Every step is a few lines, is checked against NumPy in float64 before it is timed, and is as fast as its figure says.
With matplotlib (the bench extra) the figures become a picture, bench/ladder.svg.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from race import fma_peak

from minilm_np.kernels.linear import Packed, linear, panels_of, prepare_dense
from minilm_np.kernels.simd import WIDTH, empty, fma, load, splat, store

Array = npt.NDArray[np.float32]
jit: Any = numba.njit(error_model="numpy")


# 1. The definition. Each number of y is a sum over k; a compiler may not reorder it, so it adds one by one.
@jit
def three_loops(x, w, y):  # type: ignore[no-untyped-def]
    for t in range(x.shape[0]):
        for n in range(w.shape[0]):
            total = np.float32(0)
            for k in range(x.shape[1]):
                total += x[t, k] * w[n, k]
            y[t, n] = total


# 2. Another order. The innermost loop runs along a row of y and a row of W^T: independent sums, which fit in vectors.
@jit
def rows(x, wt, y):  # type: ignore[no-untyped-def]
    y[:] = 0
    for t in range(x.shape[0]):
        for k in range(x.shape[1]):
            for n in range(wt.shape[1]):
                y[t, n] += x[t, k] * wt[k, n]


# 3. Blocked. 64 rows of W^T (393 KB) stay in the second-level cache while all rows of x pass by.
@jit
def blocked(x, wt, y):  # type: ignore[no-untyped-def]
    y[:] = 0
    for k0 in range(0, x.shape[1], 64):
        x_part, wt_part = x[:, k0 : k0 + 64], wt[k0 : k0 + 64]
        for t in range(x.shape[0]):
            for k in range(x_part.shape[1]):
                for n in range(wt.shape[1]):
                    y[t, n] += x_part[t, k] * wt_part[k, n]


# 4. Packed. Three vectors of columns, copied once to where they are read one after another; their sums stay in
# registers over the whole of k, where the steps above load and store y for every term.
@jit
def packed(x, panels, y):  # type: ignore[no-untyped-def]
    (T, K), flat_y, N = x.shape, y.reshape(-1), y.shape[1]
    for panel in range(N // (3 * WIDTH)):
        for t in range(T):
            a = b = c = splat(np.float32(0))
            for k in range(K):
                at = (panel * K + k) * 3 * WIDTH
                a = fma(splat(x[t, k]), load(panels, at), a)
                b = fma(splat(x[t, k]), load(panels, at + WIDTH), b)
                c = fma(splat(x[t, k]), load(panels, at + 2 * WIDTH), c)
            at = t * N + panel * 3 * WIDTH
            store(a, flat_y, at)
            store(b, flat_y, at + WIDTH)
            store(c, flat_y, at + 2 * WIDTH)


# 5. The register tile of minilm_np/kernels: every vector of W serves eight rows, every number of x three vectors.
def register_tile(x: Array, dense: Packed, y: Array) -> None:
    N, K = dense.shape
    linear(x.reshape(-1), len(x), K, dense.panels, dense.bias, N, False, y.reshape(-1), 0, panels_of(N), 1)


def steps(x: Array, w: Array) -> dict[str, Callable[[Array], Any]]:
    """Each step as a function that writes y; what it needs of W is prepared here, once, as a model would."""
    wt = np.ascontiguousarray(w.T)
    panels = empty(w.size)
    panels[:] = w.reshape(-1, 3 * WIDTH, w.shape[1]).transpose(0, 2, 1).reshape(-1)
    dense = prepare_dense(w, np.zeros(len(w), np.float32))
    return {
        "three loops": lambda y: three_loops(x, w, y),
        "rows": lambda y: rows(x, wt, y),
        "blocked": lambda y: blocked(x, wt, y),
        "packed": lambda y: packed(x, panels, y),
        "register tile": lambda y: register_tile(x, dense, y),
        "BLAS": lambda y: np.matmul(x, wt, out=y),
    }


def check(name: str, y: Array, x: Array, w: Array) -> None:
    """Every number within K roundings of the sum of its terms' magnitudes: the bound of any order of summation."""
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    bound = x.shape[1] * 2.0**-24 * (np.abs(x64) @ np.abs(w64).T)
    error = np.abs(y - x64 @ w64.T)
    if not (error <= bound).all():
        raise SystemExit(f"{name}: {np.max(error):.1e} off, at most {np.max(bound):.1e} is rounding: not timed")


def one_blas_thread() -> tuple[AbstractContextManager[Any], str]:
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext(), "BLAS (all threads: threadpoolctl is not installed)"
    return threadpool_limits(1), "BLAS"


def measure(T: int = 256, K: int = 384, N: int = 1536, rounds: int = 9) -> dict[str, float]:
    """GFLOP/s of each step: medians over interleaved rounds."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((T, K), (N, K)))
    ways, seconds = steps(x, w), {}
    for name, way in ways.items():
        y = empty(T * N).reshape(T, N)
        y[:] = np.nan  # a number that is left out shows
        way(y)
        check(name, y, x, w)
        seconds[name] = list[float]()
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way(y)
            seconds[name].append(time.perf_counter() - start)
    return {name: 2 * T * K * N / statistics.median(times) / 1e9 for name, times in seconds.items()}


def draw(speeds: dict[str, float], peak: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "minilm_np"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3))
    bars = axes.barh(list(speeds), list(speeds.values()), color=["#4c72b0"] * (len(speeds) - 1) + ["#999999"])
    axes.bar_label(bars, [f"{speed:.0f}" for speed in speeds.values()], padding=3)
    axes.axvline(peak, color="#c44e52", linestyle="--")
    axes.text(peak, -0.7, f"FMA peak {peak:.0f}", color="#c44e52", ha="right", va="bottom")
    axes.set(xlabel="GFLOP/s, one thread", xlim=(0, 1.1 * max(peak, *speeds.values())))
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    limit, blas = one_blas_thread()
    with limit:
        speeds = measure()
    peak = fma_peak()
    speeds[blas] = speeds.pop("BLAS")
    print(f"{'':36}GFLOP/s  % of BLAS  % of FMA peak ({peak:.0f})")
    for name, speed in speeds.items():
        print(f"{name:36}{speed:7.1f}  {100 * speed / speeds[blas]:9.0f}  {100 * speed / peak:13.0f}")
    try:
        draw(speeds, peak, Path(__file__).parent / "ladder.svg")
    except ImportError:
        print("matplotlib is not installed: no picture")


if __name__ == "__main__":
    main()
