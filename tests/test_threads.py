"""The number of threads that the process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from minilm_np.threads import available_cpus


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu.max": "nonsense"}, None),
    ],
)
def test_cgroup_quota_limits_the_cpus(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    without_quota = available_cpus(tmp_path / "nothing")
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert available_cpus(tmp_path) == (expected or without_quota)
    assert without_quota >= 1
