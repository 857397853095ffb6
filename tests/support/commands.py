"""Run `minilm-np` as a user does: a process, its output, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Seconds after which a process counts as hanging. No test measures time: a process may first have to compile the
# kernels, which takes half a minute, and minutes on a busy machine.
HANG_SECONDS = 600.0


def run(
    *arguments: str, stdin: bytes | None = None, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with every warning as an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "minilm_np", *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        timeout=HANG_SECONDS,
    )


def assert_fails(result: subprocess.CompletedProcess[bytes], message: str) -> None:
    """Assert exit code 2, an empty stdout, and one line on stderr that contains the message."""
    assert result.returncode == 2
    assert result.stdout == b""
    assert message in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1 and result.stderr.startswith(b"minilm-np: error: ")
