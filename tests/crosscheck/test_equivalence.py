"""Whether two ports give the same search results on a user's texts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support.tolerances import assert_close

from minilm_np import SentenceTransformer
from minilm_np.cli import main
from minilm_np.crosscheck import CannotCompareError, equivalence, probe_texts


def test_counts_changed_neighbours_and_crossing_pairs() -> None:
    rng = np.random.default_rng(5)
    first = rng.standard_normal((30, 8))
    same = equivalence(first, first * 3)
    assert same.go and (same.flipped, same.crossing_pairs) == (0, 0) and "GO" in str(same)
    second = first + 0.2 * rng.standard_normal(first.shape)
    result = equivalence(first, second, k=5, threshold=0.5)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    pairs = [(i, j) for i in range(30) for j in range(i + 1, 30) if (a[i] @ a[j] >= 0.5) != (b[i] @ b[j] >= 0.5)]
    flipped, margin = 0, 0.0
    for i in range(30):
        near = [sorted(set(range(30)) - {i}, key=lambda j: -(x[i] @ x[j]))[:5] for x in (a, b)]
        lost, gained = set(near[0]) - set(near[1]), set(near[1]) - set(near[0])
        flipped += len(lost)
        if lost:
            margin = max(margin, max(a[i] @ a[j] for j in lost) - min(a[i] @ a[j] for j in gained))
    assert [(i, j) for i, j, *_ in result.crossings] == pairs and result.crossing_pairs == len(pairs) > 0
    assert result.flipped == flipped > 0 and result.neighbours == 150 and not result.go
    assert_close(result.worst_margin, margin, 1e-12, "margin")
    lines = np.ones((3, 8))  # three equal texts: all cosines are 1, except for rounding
    assert equivalence(lines, lines + 1e-9 * rng.standard_normal(lines.shape), threshold=1.0).go
    with pytest.raises(CannotCompareError, match="as many of each, got 30 and 29"):
        equivalence(first, second[1:])
    with pytest.raises(CannotCompareError, match="second: expected non-zero vectors, got zeros in vector 0"):
        equivalence(first, first * 0)
    with pytest.raises(CannotCompareError, match="second: expected finite vectors, got NaN or infinity in vector 1"):
        equivalence(first, np.where(np.arange(30)[:, None] == 1, np.nan, first))
    with pytest.raises(CannotCompareError, match=r"first: expected vectors \(n, D\), got shape \(30,\)"):
        equivalence(first[:, 0], first)


def test_crosscheck_command_with_a_corpus_prints_go_or_no_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: SentenceTransformer
) -> None:
    lines = [text for text in probe_texts() if "\n" not in text]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    np.save(tmp_path / "right.npy", model.encode(lines, truncation="ignore"))
    np.save(tmp_path / "wrong.npy", np.random.default_rng(6).standard_normal((len(lines), 384)))
    corpus = ["--corpus", str(tmp_path / "lines.txt")]
    assert main(["crosscheck", str(tmp_path / "right.npy"), *corpus]) == 0
    assert main(["crosscheck", str(tmp_path / "wrong.npy"), *corpus, "--json", "-"]) == 1
    output = capsys.readouterr().out
    assert output.startswith("GO") and json.loads(output[output.index("{") :])["go"] is False
    assert main(["crosscheck", str(tmp_path / "right.npy"), *corpus, "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["go"] is True
    np.savez(tmp_path / "other.npz", np.zeros((len(lines), 384)))
    (tmp_path / "port_that_raises.py").write_text("def encode(texts): raise KeyError('x')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    capsys.readouterr()
    for arguments, message in (
        ([str(tmp_path / "other.npz"), *corpus], "expected sentence_embedding, got arr_0"),
        (["port_that_raises:encode", *corpus], "batch 0: raised KeyError"),
        ([str(tmp_path / "right.npy"), *corpus, "--junit", "x.xml"], "--junit: not allowed with --corpus"),
        ([str(tmp_path / "right.npy"), "--against", "x"], "--against: only allowed with --corpus"),
    ):
        assert main(["crosscheck", *arguments]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
