"""Run the command line: `python -m minilm_np`, or the program `minilm-np`."""

from __future__ import annotations

import signal
import sys

INTERRUPTED = 128 + 2  # as in cli.py, whose import can be interrupted


def run() -> int:
    """Run `cli.main` and return its exit code, which is 130 for Ctrl-C also while modules are imported."""
    try:
        from minilm_np.cli import main

        code = main()
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not print a traceback at exit
    return code


if __name__ == "__main__":
    sys.exit(run())
