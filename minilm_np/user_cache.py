"""The folder of this package in the user's cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return this package's folder in the platform's cache directory, without creating it."""
    if os.name == "nt" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "minilm_np"
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "minilm_np"
    return Path(os.path.expanduser("~")) / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "minilm_np"
