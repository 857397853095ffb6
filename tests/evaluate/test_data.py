"""Reading data files: formats, missing parts, and errors that name file and line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from support.evaluation import STS_TSV, RecordingEncoder, encode, jsonl, replace_files, write_tiny_data

from minilm_np.evaluate import all_tasks, data, evaluate
from minilm_np.evaluate.data import Files


def test_tsv_escapes_are_decoded(tmp_path: Path) -> None:
    encoder = RecordingEncoder()
    evaluate(encoder, "STS12", write_tiny_data(tmp_path))
    assert encoder.texts == ["a", "c", "e\tf", "b", "d", "g\\n"]


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
def test_refuses_a_line_that_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes]
) -> None:
    """A gzip file of a megabyte can unpack to a line of a gigabyte."""
    monkeypatch.setattr(data, "MAX_LINE_BYTES", 200)
    for length, fits in ((200, True), (201, False)):
        line = b"a\tb\t1".ljust(length - 1) + b"\n"
        replace_files(tmp_path, {"STS12.tsv": compress(STS_TSV + line)})
        if fits:
            assert evaluate(encode, "STS12", tmp_path).texts == 8 - 2  # equal texts are encoded once
        else:
            with pytest.raises(ValueError, match=r"STS12.tsv, line 5: expected at most 200 bytes, got more"):
                evaluate(encode, "STS12", tmp_path)


def test_has_needs_all_parts_of_a_mean(tmp_path: Path) -> None:
    """A row that is a mean has data if all of its parts have data."""
    whole = all_tasks()["CQADupstackRetrieval"]
    for part in whole.parts:
        assert not Files(tmp_path).has(whole)
        for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / name).touch()
    assert len(whole.parts) == 12 and Files(tmp_path).has(whole)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("STS12", {"STS12.tsv": STS_TSV + b"a\tb\n"}, r"STS12.tsv, line 5: expected 3 columns .*, got 2"),
        (
            "STS12",
            {"STS12.tsv": b"x" * 999 + b"\ty\nx\ty\n"},
            r"line 2: expected the field sentence1, got x{77}\.\.\.$",
        ),
        ("STS12", {"STS12.tsv": b"x" * 999 + b"\ty\nx\n"}, r"line 2: expected 2 columns \(x{77}\.\.\.\), got 1$"),
        ("STS12", {"STS12.tsv": STS_TSV + b"a\tb\tx\n"}, r"line 5: score: expected a number, got 'x'"),
        ("STS12", {"STS12.tsv": STS_TSV + b"a\tb\tnan\n"}, r"line 5: score: expected a number, got 'nan'"),
        ("STS12", {"STS12.tsv": STS_TSV.replace(b"2.5", b"2_5")}, r"line 3: score: expected a number, got '2_5'"),
        ("STS12", {"STS12.tsv": STS_TSV + b"\xff\tb\t1\n"}, r"line 5: not UTF-8 at byte 0"),
        ("STS12", {"STS12.tsv": b"a\tb\tscore\nx\ty\t1\n"}, r"line 2: expected the field sentence1, got a, b, score"),
        (
            "STS12",
            {"STS12.tsv.gz": gzip.compress(STS_TSV + b"a\tb\t1\n" * 99)[:-20]},
            r"after line \d+: damaged gzip file",
        ),
        (
            "TwitterURLCorpus",
            {"TwitterURLCorpus.tsv": b"sentence1\tsentence2\tlabel\na\tb\t0.5\n"},
            "label: expected an integer below .*, got '0.5'",
        ),
        (
            "ImdbClassification",
            {"ImdbClassification.train.jsonl": b"{}\n"},
            "train.jsonl, line 1: expected the field text, got no field",
        ),
        ("ImdbClassification", {"ImdbClassification.train.jsonl": b'{"text": \n'}, "train.jsonl, line 1: not JSON"),
        ("ImdbClassification", {"ImdbClassification.train.jsonl": b"[" * 99999}, "train.jsonl, line 1: not JSON"),
        (
            "ImdbClassification",
            {"ImdbClassification.train.jsonl": b"[1]\n"},
            "line 1: expected a JSON object, got list",
        ),
        (
            "ImdbClassification",
            {"ImdbClassification.test.jsonl": b'{"text": 5, "label": 1}\n'},
            "text: expected a string, got 5",
        ),
        (
            "SciDocsRR",
            {"SciDocsRR.jsonl": jsonl({"query": 3, "positive": [], "negative": []})},
            "query: expected a string or a list of strings, got 3",
        ),
        (  # pytrec_eval would abort the process
            "NFCorpus",
            {"NFCorpus/corpus.jsonl": jsonl({"_id": "\ud800", "text": "a"})},
            "corpus.jsonl, line 1: _id: expected a string without lone surrogates, got ",
        ),
        (  # pytrec_eval would abort the process
            "NFCorpus",
            {"NFCorpus/qrels.tsv": b"query-id\tcorpus-id\tscore\nq\t1\t4611686018427387904\n"},
            "qrels.tsv, line 2: score: expected an integer below .*, got '4611686018427387904'",
        ),
    ],
)
def test_rejects_invalid_files(tmp_path: Path, name: str, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(encode, name, replace_files(write_tiny_data(tmp_path), files))


def test_missing_file_raises_value_error_that_names_the_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"STS12: no data in .*; expected STS12.tsv: sentence1, sentence2, score"):
        evaluate(encode, "STS12", tmp_path)
