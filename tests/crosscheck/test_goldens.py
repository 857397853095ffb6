"""Golden bundles: contents, identical bytes, damaged files, and the readers shown in docs/goldens.md."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import HANG_SECONDS
from support.paths import REPOSITORY
from support.tolerances import assert_close

from minilm_np.crosscheck import probe_texts
from minilm_np.crosscheck.goldens import GoldensError, read_goldens, write_goldens
from minilm_np.crosscheck.mistakes import catalogue
from minilm_np.crosscheck.truth import STAGE_ROWS, tolerance, truth


def test_bundle_contains_the_float64_reference(bundle: Path) -> None:
    goldens = read_goldens(bundle)
    assert goldens.texts == probe_texts()
    assert_close(goldens.embeddings, truth().embeddings, 1e-14, "embeddings")  # measured 4e-16
    assert [case["token_ids"] for case in goldens.cases] == [ids.tolist() for ids in truth().token_ids]
    assert len(goldens.stages) == len(STAGE_ROWS) * len(goldens.tolerances)
    for name, value in goldens.stages.items():
        case, _, stage = name.partition("/")
        assert_close(value, truth().of(stage, [int(case)])[0], 1e-11, name, rtol=1e-7)  # float32 of float64
        assert goldens.tolerances[stage] == tolerance(stage)
    assert json.loads((bundle / "embeddings.json").read_text()) == goldens.embeddings.tolist()


def test_bundle_has_the_same_bytes_with_other_cpu_kernels(bundle: Path, tmp_path: Path) -> None:
    """Another process writes the bundle with another BLAS kernel and without NumPy's vector code."""
    code = (
        "import sys, pathlib; from minilm_np.crosscheck.goldens import write_goldens as w; w(pathlib.Path(sys.argv[1]))"
    )
    disabled = "AVX512F AVX512_SKX AVX2 FMA3" if "x86" in os.uname().machine else ""
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Sandybridge", "NPY_DISABLE_CPU_FEATURES": disabled}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "again")]
    subprocess.run(command, check=True, env=environment)
    for file in bundle.iterdir():
        assert _sha256(file) == _sha256(tmp_path / "again" / file.name), file.name


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_visible_mistake_shows_in_a_probe(bundle: Path) -> None:
    table = json.loads((bundle / "detection.json").read_text())
    assert [row["mistake"] for row in table] == [mistake.name for mistake in catalogue()]
    for row in table:
        if row["mistake"].startswith("bias-dropped-key-"):  # softmax ignores it, so no final vector changes
            assert row["tolerances"] < 1
        else:
            assert row["tolerances"] > 25 and row["probes_that_show_it"] >= 1, row


def test_rejects_a_changed_or_incomplete_bundle(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "copy" / "cases.json").write_text("[]")
    with pytest.raises(GoldensError, match=r"cases\.json: expected sha256 .*, got [0-9a-f]{64}"):
        read_goldens(tmp_path / "copy")
    (tmp_path / "copy" / "cases.json").unlink()
    with pytest.raises(GoldensError, match=r"cases\.json: no such file"):
        read_goldens(tmp_path / "copy")
    with pytest.raises(GoldensError, match=r"manifest\.json: no such file"):
        read_goldens(tmp_path)


def test_does_not_overwrite_files(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(GoldensError, match="expected a new or empty folder"):
        write_goldens(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_javascript_of_the_docs_page_reads_the_bundle(bundle: Path, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "goldens.md").read_text(encoding="utf-8")
    script = page.split("```js\n")[1].split("```")[0]
    (tmp_path / "read.mjs").write_text(script)
    run = subprocess.run(
        ["node", tmp_path / "read.mjs", bundle], check=True, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    expected = truth().of("encoder.layer.5.output", [0])[0]
    assert run.stdout.splitlines()[0] == f"40 cases; case 0: {probe_texts()[0]}"
    assert run.stdout.splitlines()[1].startswith("00/encoder.layer.5.output 11,384 ")
    assert_close(float(run.stdout.splitlines()[1].split()[-1]), expected[0, 0], 1e-6, "first number")


def test_python_of_the_docs_page_reads_the_bundle(bundle: Path, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "goldens.md").read_text(encoding="utf-8")
    script = page.split("```python\n")[1].split("```")[0]
    output = subprocess.run(
        [sys.executable, "-c", script, bundle], check=True, capture_output=True, text=True, timeout=HANG_SECONDS
    ).stdout
    assert output.splitlines()[0] == f"40 cases; case 0: {probe_texts()[0]}"
