"""`assert_matches_minilm` as a function and as a fixture of the pytest plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.ports import port_with

from minilm_np import SentenceTransformer
from minilm_np.crosscheck import assert_matches_minilm


def test_assertion_fails_with_the_cause(model: SentenceTransformer) -> None:
    assert_matches_minilm(lambda texts: model.encode(texts, truncation="ignore"))
    with pytest.raises(AssertionError, match="cause    pooling-cls"):
        assert_matches_minilm(port_with("pooling-cls"))


def test_pytest_plugin_provides_its_fixtures(tmp_path: Path, weights_folder: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_right(assert_matches_minilm, minilm_goldens):\n"
        "    assert_matches_minilm(minilm_goldens.embeddings)\n"
        "def test_wrong(assert_matches_minilm, minilm_goldens):\n"
        "    assert_matches_minilm(minilm_goldens.embeddings[::-1])\n"
    )
    environment = {**os.environ, "MINILM_NP_WEIGHTS": str(weights_folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert "cause    rows-out-of-order" in run.stdout
