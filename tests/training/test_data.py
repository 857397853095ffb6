"""Training data: the forms of a line, batches as a function of seed and step, and errors that name file and line."""

from __future__ import annotations

import errno
import gzip
import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import SHARED

from minilm_np.training import DataError
from minilm_np.training.data import held_out, load


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(n: int, name: str = "") -> list[list[str]]:
    return [[f"{name}a{i}", f"{name}b{i}"] for i in range(n)]


# --- forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (["a", "b"], [["a"], ["b"]]),
        (["a", "b", "c", "d"], [["a"], ["b"], ["c"], ["d"]]),
        ({"texts": ["a", "b", "c"], "id": 7}, [["a"], ["b"], ["c"]]),
        ({"query": "a", "pos": ["b", "c"]}, [["a"], ["b", "c"]]),
        ({"query": "a", "pos": ["b"], "neg": ["c", "d"]}, [["a"], ["b"], ["c", "d"]]),
        ({"query": "a", "pos": ["b"], "neg": []}, [["a"], ["b"]]),
        ({"set": ["a", "b", "c"]}, [["a", "b", "c"]] * 2),
    ],
)
def test_each_form_gives_its_columns(row: Any, columns: list[list[str]]) -> None:
    with load([row], seed=1) as batches:
        for step in range(8):
            batch = batches.batch(step, 1)
            (example,) = batch.examples
            assert len(example) == len(columns) == len(set(example))
            assert all(text in choices for text, choices in zip(example, columns, strict=True))
            assert (batch.labels, batch.sources) == (None, ["examples:1"])


def test_all_choices_of_a_set_are_drawn() -> None:
    with load([{"set": ["a", "b", "c"]}], seed=1) as batches:
        assert len({tuple(batches.batch(step, 1).examples[0]) for step in range(60)}) == 6


@pytest.mark.parametrize("form", ["texts", "sentence1"])
def test_labels_stay_with_their_pairs(form: str) -> None:
    rows: list[Any] = [
        {"texts": [a, b], "label": i} if form == "texts" else {"sentence1": a, "sentence2": b, "score": i}
        for i, (a, b) in enumerate(pairs(9))
    ]
    with load(rows, seed=1) as batches:
        batch = batches.batch(0, 9)
    assert batch.labels is not None
    assert sorted(batch.labels) == list(range(9))
    assert all(
        example == [f"a{label:.0f}", f"b{label:.0f}"]
        for example, label in zip(batch.examples, batch.labels, strict=True)
    )


def test_the_positive_of_a_text_has_its_label_and_no_label_comes_twice() -> None:
    rows = [{"text": f"{label}{i}", "label": label} for label in "abcd" for i in range(4)] + [
        {"text": "alone", "label": "e"}
    ]
    with load(rows, seed=1) as batches:
        assert batches.rows == 16
        for step in range(30):
            examples = batches.batch(step, 4).examples
            assert sorted(a[0] for a, _ in examples) == ["a", "b", "c", "d"]
            assert all(a[0] == b[0] and a != b for a, b in examples)
        with pytest.raises(
            DataError, match="a batch of 5 needs 5 examples without a common text or label, only 4 found"
        ):
            batches.batch(0, 5)


# --- batches -----------------------------------------------------------------------------------


def test_every_row_comes_once_in_each_epoch_in_a_new_order(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", pairs(24))
    with load(path, seed=1) as batches:
        epochs = [[row for step in range(4) for row in batches.batch(4 * e + step, 6).sources] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(f"pairs.jsonl:{i + 1}" for i in range(24))
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_depends_only_on_seed_and_step(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", pairs(30, "x"))
    write(tmp_path / "y.jsonl", pairs(50, "y"))
    options: dict[str, Any] = {"seed": 3, "datasets_per_batch": 2}
    with load(tmp_path, **options) as batches:
        expected = {step: batches.batch(step, 8) for step in (*range(12), 2000)}
    with load(tmp_path, **options) as batches:
        for step in (2000, 7, 11, 0, 3):
            assert batches.batch(step, 8) == expected[step]
    code = (
        "import sys; from minilm_np.training.data import load\n"
        "with load(sys.argv[1], seed=3, datasets_per_batch=2) as b: print(b.batch(7, 8).sources)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(expected[7].sources)
    with load(tmp_path, seed=4, datasets_per_batch=2) as batches:
        assert batches.batch(7, 8) != expected[7]


@given(st.lists(st.lists(st.sampled_from("abcdefghijkl"), min_size=2, max_size=2), min_size=1, max_size=30), st.data())
def test_no_text_comes_twice_in_a_batch(rows: list[list[str]], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 4))
    with load(rows, seed=data.draw(st.integers(0, 2**63 - 1))) as batches:
        for step in range(3):
            try:
                batch = batches.batch(step, size)
            except DataError as error:
                assert "without a common text" in str(error)  # greedy: there may be a larger set of rows
                assert size > 1 or all(a == b for a, b in rows)
                continue
            texts = [text for example in batch.examples for text in example]
            assert len(texts) == len(set(texts)) == 2 * size
            for example, source in zip(batch.examples, batch.sources, strict=True):
                assert rows[int(source.rpartition(":")[2]) - 1] == example


def test_data_sets_are_drawn_by_weight_and_share_a_batch(tmp_path: Path) -> None:
    for name in "xyz":
        write(
            tmp_path / f"{name}.jsonl", pairs(20, name) if name != "z" else [[*row, "n" + row[0]] for row in pairs(20)]
        )
    config = [{"name": "x.jsonl", "weight": 6}, {"name": "y.jsonl", "weight": 2}, {"name": "z.jsonl", "weight": 2}]
    (tmp_path / "data_config.json").write_text(json.dumps(config))
    with load(tmp_path / "data_config.json", seed=1, datasets_per_batch=2) as batches:
        counts: Counter[str] = Counter()
        for step in range(2000):
            sources = [source[0] for source in batches.batch(step, 3).sources]
            counts["".join(sources)] += 1
            assert ("z" in sources) == (set(sources) == {"z"})  # three columns do not mix with two
    assert sum(counts[key] for key in ("xxx", "xxy")) == pytest.approx(0.6 * 2000, abs=100)  # the first draw
    assert counts["zzz"] == pytest.approx(0.2 * 2000, abs=80)
    assert counts["xxx"] == pytest.approx(0.6 * 0.75 * 2000, abs=100)


def test_a_gz_file_gives_the_batches_of_the_plain_file(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", pairs(40))
    packed = tmp_path / "packed" / "pairs.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with load(path, seed=1) as plain, load(packed, seed=1) as other:
        assert plain.batch(3, 8).examples == other.batch(3, 8).examples
        assert plain.describe()[0]["sha256"] == other.describe()[0]["sha256"]


def test_a_large_file_is_not_kept_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for i in range(100_000):
            file.write(json.dumps([f"{i} " + "x" * 150, f"y{i}"]) + "\n")
    tracemalloc.start()
    try:
        with load(path, seed=1) as batches:
            batches.batch(5, 64)
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6  # the file has 17 MB; measured: 2.3 MB


def test_byte_order_mark_crlf_and_blank_lines_at_the_end_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf["a", "b"]\r\n["c", "d"]\r\n\r\n\n')
    with load(path, seed=1) as batches:
        assert sorted(batches.batch(0, 2).examples) == [["a", "b"], ["c", "d"]]


def test_held_out_rows_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [[*row, "n"] for row in pairs(3)]
    assert held_out(write(tmp_path / "triplets.jsonl", rows))[:2] == (rows, None)
    assert held_out(pairs(4))[:2] == (pairs(4), None)
    scored = [{"sentence1": a, "sentence2": b, "score": i / 2} for i, (a, b) in enumerate(pairs(3))]
    write(tmp_path / "scored.jsonl", scored)
    assert held_out(tmp_path / "scored.jsonl")[:2] == (pairs(3), [0, 0.5, 1])
    with pytest.raises(DataError) as error:
        held_out(tmp_path)
    expected = "evaluate: expected scores in all files or in none, got scored.jsonl and triplets.jsonl"
    assert str(error.value) == expected
    with pytest.raises(DataError) as error:
        held_out([["a", "a"]])
    assert str(error.value).startswith("evaluate: expected two different texts in a row, got none in ")
    with pytest.raises(DataError) as error:
        held_out(write(tmp_path / "equal.jsonl", [{**line, "score": 0.5} for line in scored]))
    assert str(error.value) == "evaluate: expected scores that differ, got 0.5 in all rows"
    labelled = [{"text": text, "label": i // 2} for i, text in enumerate("abcd")]
    assert held_out(write(tmp_path / "labels.jsonl", labelled))[1] is None


def test_texts_with_scores_may_come_twice_in_a_batch_and_be_equal(tmp_path: Path) -> None:
    rows = [["q", "a", 1.0], ["q", "b", 0.0], ["q", "q", 5.0]]
    scored = [{"sentence1": a, "sentence2": b, "score": score} for a, b, score in rows]
    with load(scored, seed=1) as batches:
        batch = batches.batch(0, 3)
        assert sorted(zip(batch.examples, batch.labels or [], strict=True)) == [
            (["q", "a"], 1.0),
            (["q", "b"], 0.0),
            (["q", "q"], 5.0),
        ]
        with pytest.raises(DataError) as error:
            batches.batch(0, 4)
    assert str(error.value) == "batch_size: a batch of 4 needs 4 examples, only 3 found in examples"
    assert held_out(scored)[:2] == ([["q", "a"], ["q", "b"], ["q", "q"]], [1.0, 0.0, 5.0])
    with pytest.raises(DataError, match="evaluate: expected two texts for each score, got 3"):
        held_out([{"texts": ["a", "b", "c"], "label": label} for label in (1, 2)])


def test_a_temporary_file_that_cannot_be_opened_and_a_file_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(b'["a", "b"]\n'))

    def denied(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("gzip.open", denied)
        with pytest.raises(DataError) as error:
            load(path, seed=1)
        assert str(error.value) == f"{path}: Permission denied"
    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(DataError) as error:
        load([["a", "b"]], seed=1)
    assert str(error.value) == "examples: cannot open a temporary file: Permission denied"


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'["a", "b"]\n["a"]\n', "line 2: expected a list of 2 texts or more, got ['a']"),
        (b'["a", "b"]\n["a", "b", "c"]\n', "line 2: expected 2 columns as in line 1, got 3"),
        (b'["a", "b"]\n{"texts": ["a", "b"]}\n', 'line 2: expected [text, text, ...] as in line 1, got {"texts": ...}'),
        (b'["a", "b"]\n["a", 7]\n', "line 2: text 2: expected a text, not empty, got 7"),
        (b'["a", " "]\n', "line 1: text 2: expected a text, not empty, got ' '"),
        (b'["a", "\\ud800"]\n', "line 1: text 2: expected Unicode text, got the lone surrogate \\ud800"),
        (b'["a", "b"]\n["\xff", "b"]\n', "line 2: not valid UTF-8 at byte 3: invalid start byte"),
        (b'["a", "b"]\n["a", \n', "line 2: not valid JSON: Expecting value: line 2 column 1 (char 7)"),
        (b'["a", "b"]\n\n["c", "d"]\n', "line 2: expected an example, got a blank line"),
        (b"7\n", 'line 1: expected [text, text, ...] or an object with the keys {"texts", "label"}, '),
        (b'{"query": "a", "pos": []}\n', 'line 1: "pos": expected a list of 1 texts or more, got []'),
        (b'{"texts": ["a", "b"], "label": NaN}\n', 'line 1: "label": expected a finite number, got nan'),
        (b'{"text": "a", "label": null}\n', 'line 1: "label": expected a string or a whole number, got None'),
        (b'{"set": ["a", "a"]}\n', "line 1: \"set\": expected two different texts, got ['a', 'a']"),
        (b'{"text": "a", "label": 1}\n', "expected two texts of one label, got a single text of each"),
        (b"", "expected examples, got none"),
    ],
)
def test_an_error_names_the_file_and_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load(path, seed=1)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_a_damaged_gz_names_the_line(tmp_path: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in pairs(20000)).encode()
    whole = gzip.compress(rows)
    path = tmp_path / "pairs.jsonl.gz"
    for content, message in (
        (whole[: len(whole) // 2], "the gzip file is cut off here"),
        (rows, "line 1: not valid gzip"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            load(path, seed=1)
        assert str(error.value).startswith(f"{path}: line ")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], r'expected a list of {"name": ..., "weight": ...}, got \[\]'),
        ([{"name": "x.jsonl"}], r'\[0\]: expected {"name": ..., "weight": ...}, got'),
        ([{"name": "x.jsonl", "weight": 0}], r"\[0\].weight: expected a number above 0, got 0"),
        ([{"name": "../x.jsonl", "weight": 1}], r"\[0\].name: expected a file in the folder, got '../x.jsonl'"),
        ([{"name": "x.jsonl", "weight": 1}], r"x.jsonl: no such file"),
    ],
)
def test_a_bad_data_config_is_named(tmp_path: Path, config: Any, message: str) -> None:
    path = tmp_path / "data_config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(DataError, match=message):
        load(path, seed=1)


def test_what_is_no_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.csv").write_text("a,b\n")
    for data, message in (
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path / "empty", "expected .jsonl or .jsonl.gz files in the folder, got none"),
        (tmp_path / "data.csv", "expected a file .jsonl or .jsonl.gz, or a data_config.json"),
        ([], "data: expected at least one example or file, got none"),
        (7, "data: expected a path, a list of paths or examples, got int"),
        ([["a", "b"], ["c", None]], "examples: row 2: text 2: expected a text, not empty, got None"),
    ):
        with pytest.raises(DataError) as error:
            load(data, seed=1)
        assert message in str(error.value)


def test_a_batch_that_cannot_be_filled_says_how_many_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [["a", f"b{i}"] for i in range(5)])
    with load(path, seed=1) as batches, pytest.raises(DataError) as error:
        batches.batch(0, 3)
    assert str(error.value) == (
        f"batch_size: a batch of 3 needs 3 examples without a common text, only 1 found in {path}"
    )


# --- real files --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "columns", "size"), [("altlex.train", 2, 64), ("clinc150.train", 2, 150)])
def test_real_files(name: str, columns: int, size: int) -> None:
    path = SHARED / "train" / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip("needs the shared training data")
    with load(path, seed=1) as batches:
        for step in range(3):
            texts = [text for row in batches.batch(step, size).examples for text in row]
            assert len(set(texts)) == len(texts) == columns * size
