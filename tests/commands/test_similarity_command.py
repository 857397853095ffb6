"""`minilm-np similarity`."""

from __future__ import annotations

import numpy as np
import pytest
from support.commands import assert_fails, run

from minilm_np import SentenceTransformer, cli
from minilm_np.commands import similarity
from minilm_np.study import token_pairs

TEXTS = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]


def test_prints_one_number_for_two_texts() -> None:
    result = run("similarity", *TEXTS[:2])
    assert (result.returncode, result.stderr) == (0, b"")
    assert abs(float(result.stdout) - 0.755337) < 2e-6  # sentence-transformers: 0.7553


def test_prints_a_matrix_for_three_texts() -> None:
    result = run("similarity", *TEXTS)
    lines = result.stdout.decode().splitlines()
    assert lines[0].split() == ["1", "2", "3"]
    scores = np.array([[float(x) for x in line.split()[:3]] for line in lines[1:]])
    assert np.array_equal(scores, scores.T) and scores.diagonal().tolist() == [1, 1, 1]
    assert [line.split("   ")[-1].strip() for line in lines[1:]] == [f"{i + 1} {t}" for i, t in enumerate(TEXTS)]


def test_digits_sets_the_decimals_and_the_column_width() -> None:
    assert run("similarity", "--digits", "4", *TEXTS[:2]).stdout == b"0.7553\n"
    assert run("similarity", "--digits", "4", *TEXTS).stdout.decode().splitlines() == [
        "       1       2       3",
        "  1.0000  0.7553 -0.1050   1 A man is eating food.",
        "  0.7553  1.0000 -0.0610   2 A man is eating a piece of bread.",
        " -0.1050 -0.0610  1.0000   3 The girl is carrying a baby.",
    ]
    longest = run("similarity", "--digits", "17", *TEXTS[:2]).stdout.decode().strip()
    assert len(longest) == len("0.") + 17 and longest.startswith("0.7553")
    assert run("similarity", "--digits", "6", *TEXTS).stdout == run("similarity", *TEXTS).stdout


def test_rejects_digits_out_of_range() -> None:
    for digits in ("0", "18", "-1"):
        assert_fails(run("similarity", "--digits", digits, "a", "b"), f"--digits: expected 1 to 17, got {digits}")


def test_shortens_the_printed_text_only(model: SentenceTransformer) -> None:
    long = "word\n" * 100
    lines = run("similarity", long, "word", "other").stdout.decode().splitlines()
    assert len(lines) == 4 and lines[1].endswith("...")
    expected = float(model.encode(long) @ model.encode("word"))
    assert abs(float(lines[1].split()[1]) - expected) < 2e-6


def test_explain_shows_the_shares_of_all_pairs_of_words(
    model: SentenceTransformer, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = "unbelievable food", "bread"
    assert cli.main(["similarity", "--explain", *texts]) == 0
    first, _, header, *rows = capsys.readouterr().out.splitlines()
    pairs = token_pairs(model, *texts).words()
    assert float(first) == pytest.approx(pairs.cosine, abs=1e-6)
    assert header.split() == ["[CLS]", "bread", "[SEP]", "sum"]
    for row, name, values, total in zip(rows, pairs.rows, pairs.values, pairs.row_sums, strict=False):
        assert row.split() == [name, *(f"{value:.4f}" for value in (*values, total))]
    assert rows[4].split() == ["sum", *(f"{value:.4f}" for value in (*pairs.column_sums, pairs.cosine))]
    a, b, value = pairs.largest(1)[0]
    assert rows[6].startswith(f'The largest shares: "{a}" with "{b}" ({value:.4f}), ')
    assert "not how much a word causes" in rows[7]


def test_explain_needs_two_texts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["similarity", "--explain", "a", "b", "c"]) == 2
    assert capsys.readouterr().err == "minilm-np: error: --explain: expected two texts, got 3\n"


def test_a_terminal_gets_colors_or_only_the_largest_shares_if_it_is_narrow(
    model: SentenceTransformer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = token_pairs(model, "food", "bread").words()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    similarity.explain(pairs)
    assert similarity.SHADES[-1] in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    similarity.explain(pairs)
    assert "\033" not in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "20")
    similarity.explain(pairs)
    assert capsys.readouterr().out.startswith("\nThe table of all pairs needs 37 columns.\n\nThe largest shares: ")
