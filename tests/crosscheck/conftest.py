"""The default model's weights for every test of this folder, and one golden bundle for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from minilm_np.crosscheck.goldens import write_goldens


@pytest.fixture(scope="module", autouse=True)
def _needs_weights(weights_folder: Path) -> Iterator[None]:
    """Use the weights of the other tests for the default model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
        yield


@pytest.fixture(scope="session")
def bundle(weights_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a golden bundle, written once per session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
        return write_goldens(tmp_path_factory.mktemp("goldens") / "bundle")
