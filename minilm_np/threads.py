"""Count the CPUs that this process may use, which can be fewer than the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cpus(cgroups: Path = CGROUPS) -> int:
    """Return the CPUs in the affinity mask, at most the cgroup's CPU quota (version 2 or 1), at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota_field, period_field in (
        (("cpu.max", 0), ("cpu.max", 1)),
        (("cpu/cpu.cfs_quota_us", 0), ("cpu/cpu.cfs_period_us", 0)),
    ):
        try:
            quota, period = (float((cgroups / f).read_text().split()[i]) for f, i in (quota_field, period_field))
        except (OSError, ValueError, IndexError):  # no such file, or "max": no quota
            continue
        if quota > 0 and period > 0:
            cpus = min(cpus, math.ceil(quota / period))
    return max(1, cpus)
