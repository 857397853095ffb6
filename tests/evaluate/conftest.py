"""Skips every test of this folder where the eval extra is not installed."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def eval_extra() -> None:
    for library in ("scipy", "sklearn", "pytrec_eval"):
        pytest.importorskip(library, reason="needs the eval extra")
