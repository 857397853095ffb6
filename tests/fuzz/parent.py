"""The side of the test: a child process that is kept alive, gets cases, and is replaced when it crashes or hangs."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from fuzz.case import Case
from fuzz.limits import HANG_SECONDS

import minilm_np
from minilm_np import weights

HERE = Path(__file__).parent
STARTING_SECONDS = 600.0  # the first case may compile the kernels


class FuzzError(AssertionError):
    """Raised when a case fails; the message has the fault and, if it was saved, the command that replays it."""

    def __init__(self, fault: str, where: str, message: str):
        super().__init__(f"{fault} in {where or 'an unknown function'}: {message}")
        self.signature = f"{fault} @ {where}"  # the same for all cases that show the same fault, as far as one can tell


class Child:
    """A process that runs cases. Use it as a context manager.

    hang_seconds: how long a case may take.
    """

    def __init__(self, hang_seconds: float = HANG_SECONDS) -> None:
        self._hang_seconds = hang_seconds
        self._folder = Path(tempfile.mkdtemp(prefix="minilm-fuzz-"))
        self._log = self._folder / "log"
        self._process: Any = None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, case: Case) -> str:
        """Run a case and return its outcome; raise FuzzError if it fails."""
        folder = self._folder / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        case.write(folder)
        return self.run_folder(folder)

    def run_folder(self, folder: Path) -> str:
        """Run the case in a folder."""
        if self._process is None:
            self._start()
        self._log.write_bytes(b"")
        answer = self._ask(folder.absolute(), self._hang_seconds)
        if answer["fault"]:
            raise FuzzError(answer["fault"], answer["where"], answer["message"])
        return str(answer["outcome"])

    def _start(self) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MINILM_NP_"))},
            "MINILM_NP_WEIGHTS": str(weights.find_or_fetch().folder),
            "MINILM_NP_OFFLINE": "1",  # no case may reach the network
            "MINILM_NP_API_KEY": "fuzz-secret",
            "PYTHONPATH": str(Path(minilm_np.__file__).parents[1]),
            "FUZZ_LOG": str(self._log),
            "FUZZ_HANG_SECONDS": str(self._hang_seconds),
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "child.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        warm_up = self._folder / "warm-up"
        if not warm_up.exists():
            Case("warm_up").write(warm_up)
        self._ask(warm_up, STARTING_SECONDS)

    def _ask(self, folder: Path, seconds: float) -> dict[str, Any]:
        process = self._process
        try:
            process.stdin.write(json.dumps(str(folder)).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass
        if not select.select([process.stdout], [], [], seconds)[0]:
            self._stop()
            raise FuzzError("hang", self._last_function(), f"no answer within {seconds:g} s\n{self._last_words()}")
        line = process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = process.wait()
        self._stop()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise FuzzError(f"crash {name}", self._last_function(), f"the process died\n{self._last_words()}")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-1500:] if self._log.exists() else ""

    def _last_function(self) -> str:
        """Return the package's innermost function in faulthandler's traceback, whose last call comes first."""
        match = re.search(r'File "[^"]*minilm_np/([^"]*)", line \d+ in (\S+)', self._last_words())
        return f"{match[1]}:{match[2]}" if match else ""
