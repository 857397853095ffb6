"""Threads that share the work of a step in a fixed way, so that sums do not depend on which thread was faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from minilm_np.threads import available_cpus

Item = TypeVar("Item")


class Workers:
    """`count` threads, each of which computes with one thread of NumPy's BLAS.

    NumPy computes products on all of BLAS's threads, but everything else on one, so it is faster to give each thread
    its own texts. Only threadpoolctl can set BLAS's number of threads; without it, `count` is 1 and BLAS shares each
    product among its threads.

    Parameters
    ----------
    count
        The number of threads. Default: the number of CPUs that the process may use.
    """

    def __init__(self, count: int | None = None):
        self._at_end = ExitStack()
        self.count = count or available_cpus()
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            self.count = 1
        else:
            self._at_end.enter_context(threadpool_limits(1, user_api="blas"))
        self._pool = self._at_end.enter_context(ThreadPoolExecutor(self.count, "minilm_np"))

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._at_end.close()

    def each(self, function: Callable[[int, Item], Any], items: Sequence[Item]) -> None:
        """Call function(worker, item) for every item: worker w gets the items w, w + count, w + 2 count, ..."""
        errors = np.geterr()  # of this thread; others begin with NumPy's own

        def work(worker: int) -> None:
            with np.errstate(**errors):
                for item in items[worker :: self.count]:
                    function(worker, item)

        if self.count == 1:
            work(0)
            return
        for future in [self._pool.submit(work, worker) for worker in range(self.count)]:
            future.result()


def blas() -> dict[str, Any]:
    """Return what computes NumPy's products: the library, its version, its kernel and its threads if it is known."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return {"blas": "unknown: threadpoolctl is not installed"}
    for library in threadpool_info():
        if library["user_api"] == "blas" and "numpy" in library["filepath"]:
            return {
                "blas": f"{library['internal_api']} {library['version']}",
                "blas_kernel": library.get("architecture", "unknown"),
            }
    return {"blas": "unknown"}
