"""bench/generate/tables.py: where it writes, and what the tables contain."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import fidelity
import pytest
import race
import timing
from generate import tables


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A README and a page with one block each."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- short:begin -->\nold\n<!-- short:end -->\nafter\n")
    (tmp_path / "docs" / "page.md").write_text("# Page\n<!-- long:begin -->\n<!-- long:end -->\n")
    monkeypatch.setattr(tables, "REPOSITORY", tmp_path)
    return tmp_path


def test_replaces_only_the_block(repository: Path) -> None:
    for _ in range(2):  # writing twice changes nothing
        tables.write_block("short", "| new |\n")
        tables.write_block("long", "| table |\n")
    expected = "before\n<!-- short:begin -->\n| new |\n<!-- short:end -->\nafter\n"
    assert (repository / "README.md").read_text() == expected
    expected = "# Page\n<!-- long:begin -->\n| table |\n<!-- long:end -->\n"
    assert (repository / "docs" / "page.md").read_text() == expected


def test_rejects_a_block_that_no_page_has(repository: Path) -> None:
    with pytest.raises(SystemExit, match=r"^other: expected one page .* got none$"):
        tables.write_block("other", "")
    (repository / "docs" / "page.md").write_text("<!-- long:begin -->\nnever ends\n")
    with pytest.raises(SystemExit, match=r"long: .* got none"):
        tables.write_block("long", "")


def test_rejects_a_block_that_two_pages_have(repository: Path) -> None:
    (repository / "docs" / "copy.md").write_text((repository / "docs" / "page.md").read_text())
    with pytest.raises(SystemExit, match=r"long: .* got copy\.md, page\.md"):
        tables.write_block("long", "")


def test_passes_options_to_the_benchmark_and_writes_every_block(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = SimpleNamespace(main=lambda options: tuple(f"{option}\n" for option in options))
    monkeypatch.setitem(sys.modules, "fake_benchmark", benchmark)
    monkeypatch.setitem(tables.BLOCKS, "fake", ("fake_benchmark", ("long", "short")))
    monkeypatch.setattr(sys, "argv", ["tables.py", "fake", "first", "second"])
    tables.main()
    assert "first\n<!-- long:end -->" in (repository / "docs" / "page.md").read_text()
    assert "second\n<!-- short:end -->" in (repository / "README.md").read_text()


def test_does_not_measure_what_it_cannot_write(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tables.BLOCKS, "fake", ("no_such_module", ("long", "missing")))
    monkeypatch.setattr(sys, "argv", ["tables.py", "fake"])
    with pytest.raises(SystemExit, match="missing: expected one page"):
        tables.main()


def test_race_adds_a_section_for_a_new_cpu_and_keeps_the_others(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = repository / "docs" / "benchmarks.md"
    page.write_text("### First\n\n<!-- race-zen:begin -->\nold\n<!-- race-zen:end -->\n\n## Next\n")
    benchmark = SimpleNamespace(main=lambda options: (f"{options[0]}\n", "summary\n"))
    monkeypatch.setitem(sys.modules, "fake_benchmark", benchmark)
    monkeypatch.setattr(timing, "cpu_model", lambda: "Fast CPU")
    monkeypatch.setitem(tables.BLOCKS, "race", ("fake_benchmark", ("race-new.er", "short")))
    for measured in ("first", "second"):  # the second run finds the block of the first
        monkeypatch.setattr(sys, "argv", ["tables.py", "race", measured])
        tables.main()
        assert page.read_text() == (
            "### First\n\n<!-- race-zen:begin -->\nold\n<!-- race-zen:end -->\n\n### Fast CPU (new.er)\n\n"
            f"<!-- race-new.er:begin -->\n{measured}\n<!-- race-new.er:end -->\n\n## Next\n"
        )


def test_race_does_not_measure_without_a_page_for_its_table(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "docs" / "benchmarks.md").write_text("no block\n")
    monkeypatch.setitem(tables.BLOCKS, "race", ("no_such_module", ("race-new", "short")))
    monkeypatch.setattr(sys, "argv", ["tables.py", "race"])
    with pytest.raises(SystemExit, match="expected a block <!-- race-CPU:begin -->"):
        tables.main()


def test_race_summary_has_rows_of_the_same_measurement() -> None:
    ratios = {name: {"short": 1 + i, "query": 2.345, race.ERROR: 1.6e-7} for i, name in enumerate(race.RUNTIMES)}
    rows = race.markdown(ratios, race.RUNTIMES).splitlines()
    assert rows[0] == "| time relative to minilm_np | short | query | largest error |"
    assert rows[3] == "| minilm_np (NumPy) | 2.00 | 2.35 | 2e-07 |"
    assert race.markdown(ratios, race.SUMMARY).splitlines() == rows[:3] + rows[4:7]


def test_race_table_leaves_out_what_is_not_installed() -> None:
    table = race.markdown({"minilm_np (Numba)": {"short": 1.0, race.ERROR: 1.6e-7}}, race.SUMMARY)
    assert table.splitlines()[2:] == ["| minilm_np (Numba) | 1.00 | 2e-07 |"]


def test_fidelity_summary_has_the_largest_errors_of_the_float32_runs() -> None:
    runs = ("NumPy float32", "Numba float32", "PyTorch float64")
    table = {
        "embeddings": dict(zip(runs, (1e-6, 4e-6, 3e-15), strict=True)),
        "intermediate": dict(zip(runs, (2e-5, 2e-6, 3e-15), strict=True)),
        "sentence_embedding": dict(zip(runs, (2e-7, 1e-7, 5e-16), strict=True)),
    }
    assert fidelity.summary(table).splitlines()[2:] == [
        "| NumPy float32 | 2.0e-07 | 2.0e-05 |",
        "| Numba float32 | 1.0e-07 | 4.0e-06 |",
    ]
