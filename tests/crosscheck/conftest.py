"""The tests of this folder compare with the default model."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _needs_weights(weights_folder: Path) -> None:
    """Fetch the default model's files, if necessary, before the first test."""
