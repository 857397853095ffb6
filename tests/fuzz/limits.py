"""The limits that no case may pass, and how the child process measures them."""

from __future__ import annotations

import sys
from pathlib import Path

HANG_SECONDS = 20.0  # for a case; the slowest right one takes about 2 s on a busy machine
MEMORY = 256 * 2**20  # bytes by which the resident memory may grow during a case, whose input has 8 MB at most
ADDRESS_SPACE = 4 * 2**30  # bytes that the child may map beyond what it has mapped at its start

if sys.platform != "win32":
    import resource


def limit_address_space(more: int) -> None:
    """Let the process map no more than `more` bytes from now on, so that a wrong size cannot exhaust the machine."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, resource.RLIM_INFINITY))


def reset_peak() -> int:
    """Start to measure the peak of resident memory; return the memory now, or the peak where it cannot be reset."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    if sys.platform == "win32":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
