"""Fixtures: the real weights, and the model on each op set."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from minilm_np import SentenceTransformer, WeightsNotFoundError, weights

# A shell starts what runs in the background with Ctrl-C ignored, and children inherit that; some tests send it.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, and no clock: a slow machine is not a wrong one.
settings.register_profile("seeded", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seeded")


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """The default model's files: found, or fetched once; skips only where the user forbids the network."""
    try:
        return weights.find_or_fetch().folder
    except WeightsNotFoundError as error:
        if weights.is_offline():
            pytest.skip(f"needs the model's files, and the network is forbidden: {str(error).splitlines()[0]}")
        raise


@pytest.fixture(scope="session")
def model(weights_folder: Path) -> SentenceTransformer:
    """float32, NumPy."""
    return SentenceTransformer(weights_folder, backend="numpy")


@pytest.fixture(scope="session")
def oracle(weights_folder: Path) -> SentenceTransformer:
    """float64, NumPy: the truth that everything is measured against."""
    return SentenceTransformer(weights_folder, backend="numpy", dtype="float64")


@pytest.fixture(scope="session")
def numba_model(weights_folder: Path) -> SentenceTransformer:
    """float32, Numba, two threads."""
    return SentenceTransformer(weights_folder, backend="numba", threads=2)
