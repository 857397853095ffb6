"""One matrix product in seven steps, from three loops to 8-bit integers: `python bench/ladder.py`.

y = x W^T with x (256, 384) and W (1536, 384) in float32: the layer "intermediate.dense" for 256 tokens, on one thread.
Every step is a few lines long and is checked against NumPy in float64 before it is timed. Steps 4 to 7 use vectors and
tiles, which the docstring of minilm_np/kernels/simd.py explains. Steps 6 and 7 are faster than 5 only on a CPU with
instructions for their numbers (AVX512-BF16, VNNI).
`python bench/generate/pictures.py` draws docs/images/ladder.svg.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from timing import fma_peak, interleaved

from minilm_np import kernels
from minilm_np.kernels import Dense
from minilm_np.kernels.simd import WIDTH, empty, fma, load, splat, store

Array = npt.NDArray[np.float32]
jit: Any = numba.njit(error_model="numpy")


# 1. The definition. Each element of y is a sum over k. The compiler may not reorder it, so it adds term by term.
@jit
def three_loops(x, w, y):  # type: ignore[no-untyped-def]
    for t in range(x.shape[0]):
        for n in range(w.shape[0]):
            total = np.float32(0)
            for k in range(x.shape[1]):
                total += x[t, k] * w[n, k]
            y[t, n] = total


# 2. Another loop order. The innermost loop runs along a row of y and a row of W^T: these sums are independent, so the
# compiler can use vector instructions.
@jit
def rows(x, wt, y):  # type: ignore[no-untyped-def]
    y[:] = 0
    for t in range(x.shape[0]):
        for k in range(x.shape[1]):
            for n in range(wt.shape[1]):
                y[t, n] += x[t, k] * wt[k, n]


# 3. Blocked. 64 rows of W^T (393 KB) stay in the second-level cache while all rows of x use them.
@jit
def blocked(x, wt, y):  # type: ignore[no-untyped-def]
    y[:] = 0
    for k0 in range(0, x.shape[1], 64):
        x_part, wt_part = x[:, k0 : k0 + 64], wt[k0 : k0 + 64]
        for t in range(x.shape[0]):
            for k in range(x_part.shape[1]):
                for n in range(wt.shape[1]):
                    y[t, n] += x_part[t, k] * wt_part[k, n]


# 4. Packed. The columns of W^T are copied once, in panels of three vectors, into the order in which they are read. The
# sums stay in registers for all k; steps 2 and 3 load and store y for every term.
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


# 5. The register tile of minilm_np/kernels/linear.py. Each vector of W that is loaded is used for eight rows of x (four
# without AVX-512), and each element of x for three vectors. 6. and 7. The same with two bfloat16 numbers, or four
# integers of 8 bits, in each lane (bfloat16.py, int8.py); converting x is included.
def register_tile(x: Array, dense: Dense, y: Array) -> None:
    dense.run(dense.operands(x.reshape(-1)), len(x), False, y.reshape(-1))


def steps(x: Array, w: Array) -> dict[str, Callable[[Array], Any]]:
    """Return each step as a function that writes y. W is prepared once, here, as a model would do at load."""
    wt = np.ascontiguousarray(w.T)
    panels = empty(w.size)
    panels[:] = w.reshape(-1, 3 * WIDTH, w.shape[1]).transpose(0, 2, 1).reshape(-1)
    dense, in_bfloat16, in_int8 = (
        kernels.op_set(dtype).prepare_dense(w, np.zeros(len(w), np.float32))
        for dtype in ("float32", "bfloat16", "int8")
    )
    return {
        "three loops": lambda y: three_loops(x, w, y),
        "rows": lambda y: rows(x, wt, y),
        "blocked": lambda y: blocked(x, wt, y),
        "packed": lambda y: packed(x, panels, y),
        "register tile": lambda y: register_tile(x, dense, y),
        "bfloat16": lambda y: register_tile(x, in_bfloat16, y),
        "int8": lambda y: register_tile(x, in_int8, y),
        "BLAS": lambda y: np.matmul(x, wt, out=y),
    }


def check(name: str, y: Array, x: Array, w: Array) -> None:
    """Raise SystemExit if the error of an element exceeds K roundings of the sum of its terms' magnitudes.

    This bound holds for every order of summation. In bfloat16, both factors of a term are rounded to 8 bits. In int8,
    they are off by up to half a step: 1/255 of a row's range, and 1/127 of a channel's maximum.
    """
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    magnitudes = np.abs(x64) @ np.abs(w64).T
    bound = x.shape[1] * 2.0**-24 * magnitudes
    if name == "bfloat16":
        bound += 2.01 * 2.0**-9 * magnitudes
    if name == "int8":
        half_x, half_w = 0.502 * np.ptp(x64, axis=1) / 255, 0.502 * np.abs(w64).max(axis=1) / 127
        of_x, of_w = np.outer(half_x, np.abs(w64).sum(axis=1)), np.outer(np.abs(x64).sum(axis=1), half_w)
        bound += of_x + of_w + x.shape[1] * np.outer(half_x, half_w)
    error = np.abs(y - x64 @ w64.T)
    if not (error <= bound).all():
        raise SystemExit(
            f"{name}: expected an error of at most {np.max(bound):.1e}, got {np.max(error):.1e}; not timed"
        )


def one_blas_thread() -> tuple[AbstractContextManager[Any], str]:
    """Return a context that limits BLAS to one thread, and a label for BLAS that reports if this is not possible."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext(), "BLAS (all threads: threadpoolctl is not installed)"
    return threadpool_limits(1), "BLAS"


def measure(T: int = 256, K: int = 384, N: int = 1536, rounds: int = 9) -> dict[str, float]:
    """Return the GFLOP/s of each step: medians over interleaved rounds."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((T, K), (N, K)))
    calls = {}
    for name, step in steps(x, w).items():
        y = empty(T * N).reshape(T, N)
        y[:] = np.nan  # so that a missing element is noticed
        step(y)
        check(name, y, x, w)
        calls[name] = partial(step, y)
    seconds = interleaved(calls, rounds)
    return {name: 2 * T * K * N / statistics.median(times) / 1e9 for name, times in seconds.items()}


def main() -> tuple[dict[str, float], float]:
    """Measure and print; return the GFLOP/s of each step and of the FMA peak."""
    limit, blas = one_blas_thread()
    with limit:
        speeds = measure()
    peak = fma_peak()
    speeds[blas] = speeds.pop("BLAS")
    print(f"{'':36}GFLOP/s  % of BLAS  % of FMA peak ({peak:.0f})")
    for name, speed in speeds.items():
        print(f"{name:36}{speed:7.1f}  {100 * speed / speeds[blas]:9.0f}  {100 * speed / peak:13.0f}")
    return speeds, peak


if __name__ == "__main__":
    main()
