"""Tell the user what takes so long."""

from __future__ import annotations

import contextlib
import sys


def notice(message: str) -> None:
    """Print one line to stderr. If it is closed, or cannot be written, the message is lost and nothing else happens."""
    if sys.stderr is not None:  # print(file=None) would print to stdout
        with contextlib.suppress(OSError, ValueError):
            print(f"minilm_np: {message}", file=sys.stderr)
