"""The import of an optional framework in a test."""

from __future__ import annotations

import warnings
from typing import Any

import pytest


def framework(name: str, extra: str = "the integrations extra") -> Any:
    """Import a framework without its warnings, or skip the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"needs {extra}", exc_type=ImportError)
