"""`minilm-np search`."""

from __future__ import annotations

from pathlib import Path

from support.commands import run


def test_ranks_lines_and_prints_the_earlier_of_equal_ones_first(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("the stock market fell\na cat sat on a mat\nTHE STOCK MARKET FELL\nkittens\n")
    result = run("search", str(tmp_path / "corpus"), "stocks lost value", "-k", "3")
    assert result.returncode == 0
    rows = [line.split("\t") for line in result.stdout.decode().splitlines()]
    assert [row[1:] for row in rows[:2]] == [["1", "the stock market fell"], ["3", "THE STOCK MARKET FELL"]]
    scores = [float(row[0]) for row in rows]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True) and scores[0] == scores[1]


def test_keeps_the_order_of_many_equal_lines(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("the same line\n" * 45)
    rows = run("search", str(tmp_path / "corpus"), "hello", "-k", "5").stdout.decode().splitlines()
    assert [row.split("\t")[1] for row in rows] == ["1", "2", "3", "4", "5"]
