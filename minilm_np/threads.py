"""How many threads may compute: what the scheduler and the container allow, not what the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cpus(cgroups: Path = CGROUPS) -> int:
    """CPUs of this process: the affinity mask, cut by the cgroup's CPU quota (version 2 or 1) if there is one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota, period in (
        (("cpu.max", 0), ("cpu.max", 1)),
        (("cpu/cpu.cfs_quota_us", 0), ("cpu/cpu.cfs_period_us", 0)),
    ):
        try:
            allowed, of = (float((cgroups / file).read_text().split()[field]) for file, field in (quota, period))
        except (OSError, ValueError, IndexError):  # no such file, or "max": no quota
            continue
        if allowed > 0 and of > 0:
            cpus = min(cpus, math.ceil(allowed / of))
    return max(1, cpus)
