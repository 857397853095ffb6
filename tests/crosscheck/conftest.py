"""The default model's weights for every test of this folder, and one golden bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from minilm_np.crosscheck.goldens import write_goldens


@pytest.fixture(scope="module", autouse=True)
def _needs_weights(weights_folder: Path) -> Iterator[None]:
    """Point the default model at the weights that the other tests use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
        yield


@pytest.fixture(scope="session")
def bundle(weights_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a golden bundle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
        return write_goldens(tmp_path_factory.mktemp("goldens") / "bundle")
