"""Fixtures that many tests share: the real weights, the model on each op set, and a golden bundle."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from minilm_np import SentenceTransformer, WeightsNotFoundError, weights

# A shell starts background jobs with Ctrl-C ignored, and children inherit that; some tests send Ctrl-C to a child.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis tries the same examples in every run and has no time limit: a slow machine must not fail a test.
settings.register_profile("seeded", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seeded")


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """The folder with the default model's files, which are fetched if necessary.

    Tests that use the default model without naming its folder also request this fixture, so that the files are there.
    Skips only if the files are missing and the user has forbidden network access.
    """
    try:
        return weights.find_or_fetch().folder
    except WeightsNotFoundError as error:
        if weights.is_offline():
            pytest.skip(f"needs the model's files, and network access is forbidden: {str(error).splitlines()[0]}")
        raise


@pytest.fixture(scope="session")
def model(weights_folder: Path) -> SentenceTransformer:
    """The model in float32 on the NumPy op set."""
    return SentenceTransformer(weights_folder, backend="numpy")


@pytest.fixture(scope="session")
def float64_model(weights_folder: Path) -> SentenceTransformer:
    """The model in float64 on the NumPy op set: the reference for the errors of the others."""
    return SentenceTransformer(weights_folder, backend="numpy", dtype="float64")


@pytest.fixture(scope="session")
def numba_model(weights_folder: Path) -> SentenceTransformer:
    """The model in float32 on the Numba op set, with two threads."""
    return SentenceTransformer(weights_folder, backend="numba", threads=2)


@pytest.fixture(scope="session")
def bundle(weights_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a golden bundle, which takes ten seconds to write."""
    from minilm_np.crosscheck.goldens import write_goldens

    return write_goldens(tmp_path_factory.mktemp("goldens") / "bundle")
