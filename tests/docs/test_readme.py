"""README.md and the pages of docs/: commands print what they show, links lead somewhere, tables match the code.

The Python blocks are run by conftest.py in the repository's root.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from generate.public_api import commands
from support.paths import REPOSITORY
from support.ports import port_with
from support.tolerances import FLOAT32_BY_KIND, FLOAT64

from minilm_np import SentenceTransformer
from minilm_np.crosscheck import crosscheck, probe_texts

PAGES = {path.name: path.read_text(encoding="utf-8") for path in REPOSITORY.glob("docs/*.md")}
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [code for kind, code in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S) if kind == language]


@pytest.mark.usefixtures("weights_folder")
def test_first_command_prints_exactly_what_it_shows() -> None:
    command = blocks("sh")[0].split(" && ")[1]
    arguments = shlex.split(command)
    assert arguments[0] == "minilm-np"
    run = subprocess.run(
        [sys.executable, "-m", "minilm_np", *arguments[1:]], capture_output=True, text=True, check=True
    )
    assert run.stdout == blocks("text")[0]


def test_digits_of_the_first_command_are_stable(float64_model: SentenceTransformer) -> None:
    """No similarity is so close to a rounding boundary that another BLAS could print another digit."""
    sentences = shlex.split(blocks("sh")[0].split("--digits 4 ")[1])
    embeddings = float64_model.encode(sentences)
    steps = (embeddings @ embeddings.T)[[0, 0, 1], [1, 2, 2]] * 10**4
    assert abs(steps - steps.round()).max() < 0.5 - 1e-6 * 10**4  # float32 similarities differ by less than 1e-6


def test_readme_fits_on_a_few_screens() -> None:
    assert len(README.splitlines()) <= 150
    use_it = README[README.index("## Use it") :]
    code = re.findall(r"^```python\n(.*?)^```$", use_it, re.M | re.S)[0]
    assert len([line for line in code.splitlines() if line]) <= 6


def test_readme_names_every_command() -> None:
    (listed,) = re.findall(r"^Commands: (.*?);", README, re.M)
    assert set(re.findall(r"`(?:minilm-np )?(\w+)`", listed)) == set(commands())


@pytest.mark.usefixtures("weights_folder")
def test_report_of_a_port_with_tanh_gelu_is_shown_as_it_is_printed() -> None:
    report = str(crosscheck(port_with("gelu-tanh")))
    for name, page in (("README.md", README), ("docs/crosscheck.md", PAGES["crosscheck.md"])):
        assert f"\n{report}\n```" in page, f"{name}: expected this report:\n{report}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{name}" for name in PAGES)])
def test_files_named_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    folder = (REPOSITORY / page).parent
    for name in re.findall(r"\]\((?!http|#)([^)#]+)(?:#[^)]*)?\)", text):
        assert (folder / name).exists(), name
    for name in re.findall(r"`(?:python )?((?:bench|tests|docs|minilm_np)/[\w./]+\.\w+)`", text):
        assert (REPOSITORY / name).exists(), name


def test_no_table_that_a_script_writes_is_empty() -> None:
    tables = [
        block
        for text in (README, *PAGES.values())
        for block in re.findall(r"<!-- ([\w-]+):begin -->\n(.*?)<!-- \1:end -->", text, re.S)
    ]
    names = [name for name, _ in tables]
    assert len(names) == len(set(names))
    assert {"fidelity", "card", "cold", "util", "confusion", "summary-speed", "summary-fidelity"} <= set(names)
    assert [name for name, table in tables if table.count("\n|") < 3] == []


def test_card_table_has_the_scores_and_verdicts_of_the_card() -> None:
    """The card column is that of card.json, and the verdict fits the figures next to it."""
    from minilm_np.evaluate import all_tasks

    page = PAGES["mteb.md"]
    rows = re.findall(r"^\| ([\w.-]+) \| (\w+) \| (-?[\d.]+) \|(.*)\| (exact|close|differs)(.*) \|$", page, re.M)
    assert len(rows) == 9
    for name, measure, card, figures, verdict, why in rows:
        task = all_tasks()[name]
        assert measure == task.main and card == f"{task.card[task.main]:.4f}"
        peer, *ours = (float(figure) for figure in figures.split("|") if figure != " - ")  # a dash: not measured
        assert len(ours) >= 2 and max(abs(x - peer) for x in ours) <= 0.001, "sentence-transformers, measured here"
        assert (verdict == "exact") == all(abs(x - task.card[task.main]) <= 0.00105 for x in ours)
        assert (verdict == "close") == bool(why)


def test_fidelity_table_is_within_the_tolerances() -> None:
    rows = re.findall(r"^\| ([\w.]+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", PAGES["fidelity.md"], re.M)
    table = {kind: [float(x) for x in figures] for kind, *figures in rows if kind in FLOAT32_BY_KIND}
    assert set(table) == set(FLOAT32_BY_KIND)
    for kind, (numpy32, numba32, pytorch32, pytorch64) in table.items():
        assert 0 < max(numpy32, numba32) <= FLOAT32_BY_KIND[kind] and 0 < pytorch64 <= FLOAT64 and pytorch32 > 0


def test_summaries_of_the_readme_are_those_of_the_full_tables() -> None:
    speed = re.findall(r"^\| (?:minilm_np \(Numba\)|sentence-t.*|ONNX.*|OpenVINO) \| [\d. |]+ \|$", README, re.M)
    assert len(speed) == 4 and all(row in PAGES["benchmarks.md"] for row in speed)
    columns = ("NumPy float32", "Numba float32", "PyTorch float32")
    table = [row.split(" | ") for row in re.findall(r"^\| ([\w.]+ \| [\de. |+-]+) \|$", PAGES["fidelity.md"], re.M)]
    for i, column in enumerate(columns, 1):
        final = next(row[i] for row in table if row[0] == "sentence_embedding")
        worst = max((row[i] for row in table), key=float)
        assert f"| {column} | {final} | {worst} |" in README


def test_numbers_in_sentences_of_the_readme_are_measured_ones(weights_folder: Path) -> None:
    """The figures that no script writes: size of the weights, float64 error, cosine similarity, rows of the card."""
    from minilm_np.crosscheck.truth import truth
    from minilm_np.evaluate import all_tasks

    megabytes = sum(
        path.stat().st_size for path in weights_folder.rglob("*") if path.suffix in (".safetensors", ".json")
    )
    assert f"({megabytes / 1e6:.0f} MB, sha256-checked)" in README
    rows = re.findall(r"^\| [\w.]+ \|.* \| ([\d.]+e-1\d) \|$", PAGES["fidelity.md"], re.M)
    assert f"agrees with PyTorch in float64 to {max(map(float, rows)):.0e}." in README
    vectors, right = port_with("gelu-tanh")(probe_texts()).astype("f8"), truth().embeddings
    cosines = (vectors * right).sum(axis=1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(right, axis=1)
    assert 0.999997 <= cosines.min() < 0.999998  # measured 0.9999976
    assert "it is 0.999997 or more" in README and "at least 0.999997 for every probe text" in PAGES["fidelity.md"]
    assert f"model card's {len(all_tasks())} MTEB rows" in README
