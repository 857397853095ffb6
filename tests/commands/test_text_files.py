"""Files of texts and results as other programs write them: byte order marks, unusual line separators, UTF-16."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.commands import assert_fails, run

from minilm_np import SentenceTransformer
from minilm_np.checkpoint import read_json

SEPARATORS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r x"  # str.splitlines splits at each of them
BOM = b"\xef\xbb\xbf"


def test_crosscheck_reads_the_jsonl_that_encode_writes(weights_folder: Path, tmp_path: Path) -> None:
    texts = [f"a{SEPARATORS}b", "second", "third"]
    (tmp_path / "corpus.txt").write_bytes("\n".join(texts).encode())
    assert run("encode", "corpus.txt", "-o", "o.jsonl", cwd=tmp_path).returncode == 0
    lines = (tmp_path / "o.jsonl").read_bytes().decode().split("\n")[:-1]
    assert [json.loads(line)["text"] for line in lines] == texts
    for name, start in (("o.jsonl", b""), ("bom.jsonl", BOM)):
        (tmp_path / name).write_bytes(start + (tmp_path / "o.jsonl").read_bytes())
        result = run("crosscheck", name, "--corpus", "corpus.txt", cwd=tmp_path)
        assert result.returncode == 0, result.stdout.decode() + result.stderr.decode()


def test_search_and_encode_split_only_at_line_ends(
    weights_folder: Path, tmp_path: Path, model: SentenceTransformer
) -> None:
    texts = [f"a{SEPARATORS}b", "second"]
    (tmp_path / "corpus.txt").write_bytes(BOM + "\r\n".join(texts).encode())
    result = run("search", "corpus.txt", texts[0], cwd=tmp_path)
    assert result.returncode == 0 and texts[0].encode() in result.stdout.split(b"\n")[0]
    assert run("encode", "corpus.txt", "-o", "o.npy", cwd=tmp_path).returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), model.encode(texts))


@pytest.mark.parametrize(
    "content",
    [
        "hello\nworld\n".encode("utf-16-le"),
        "hello\nworld\n".encode("utf-16-be"),
        "hello\nworld\n".encode("utf-16"),
        "hello\nworld\n".encode("utf-32-le"),
        b"\0" * 100,
    ],
)
@pytest.mark.parametrize("command", ["encode", "search", "crosscheck"])
def test_refuses_utf_16(tmp_path: Path, content: bytes, command: str) -> None:
    (tmp_path / "texts.txt").write_bytes(content)
    arguments = {
        "encode": ["encode", "texts.txt"],
        "search": ["search", "texts.txt", "query"],
        "crosscheck": ["crosscheck", "x.npy", "--corpus", "texts.txt"],
    }[command]
    assert_fails(run(*arguments, cwd=tmp_path), "texts.txt: expected UTF-8, got UTF-16")


def test_standard_input_in_utf_16_is_refused() -> None:
    assert_fails(run("encode", stdin="hello".encode("utf-16-le")), "standard input: expected UTF-8, got UTF-16")


EMPTY_NAMES = [
    ("goldens", "DIR", ["goldens", ""]),
    ("encode", "FILE", ["encode", ""]),
    ("encode -o", "-o/--output", ["encode", "-o", ""]),
    ("search", "CORPUS", ["search", "", "query"]),
    ("crosscheck", "TARGET", ["crosscheck", ""]),
    ("crosscheck --json", "--json", ["crosscheck", "x.npy", "--json", ""]),
    ("crosscheck --corpus", "--corpus", ["crosscheck", "x.npy", "--corpus", ""]),
    ("fetch", "--to", ["fetch", "--to", ""]),
    ("evaluate --data", "--data", ["evaluate", "--data", ""]),
    ("evaluate --cache", "--cache", ["evaluate", "--cache", ""]),
    ("--model", "--model", ["encode", "--model", ""]),
]


@pytest.mark.parametrize(("argument", "arguments"), [case[1:] for case in EMPTY_NAMES], ids=[c[0] for c in EMPTY_NAMES])
def test_an_empty_name_is_not_the_current_folder(tmp_path: Path, argument: str, arguments: list[str]) -> None:
    result = run(*arguments, stdin=b"", cwd=tmp_path)
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    last_line = result.stderr.decode().strip().rpartition("\n")[2]
    assert last_line.endswith(f"error: argument {argument}: expected a name of a file or folder, got ''")


def test_saving_to_an_empty_name_is_refused(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="path: expected a folder, got ''"):
        model.save_pretrained("")


def test_json_files_of_a_checkpoint_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(BOM + b'{"hidden_size": 384}')
    assert read_json(tmp_path / "config.json") == {"hidden_size": 384}


def test_a_text_may_have_a_nul_character(tmp_path: Path, model: SentenceTransformer) -> None:
    texts = ["a text with one\0 character that is a NUL", "second"]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    assert run("encode", "texts.txt", "-o", "o.npy", cwd=tmp_path).returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), model.encode(texts))
