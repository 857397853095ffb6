"""No wrong value passes: right results in every form, with any one thing changed, differ or are refused."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dumps import WRITERS, npy_bytes, right_cases, right_stages, right_vectors, write_jsonl

from minilm_np.cli import main
from minilm_np.crosscheck import CannotCompareError, crosscheck, probe_texts

EXAMPLES = settings(max_examples=40)
Draw = Callable[[Any], Any]
Array = np.ndarray[Any, Any]


def exit_code(path: Path) -> int:
    """Return the exit code of `minilm-np crosscheck PATH`, after checking that it prints what belongs to the code."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(["crosscheck", "--no-causes", str(path)])
    if code == 2:
        assert out.getvalue() == "" and err.getvalue().count("\n") == 1
    else:
        assert out.getvalue().startswith("PASS" if code == 0 else "DIFFERS") and err.getvalue() == ""
    return code


# --- one change of a value: each function returns another value than the one it gets


def one_element(draw: Draw, value: Array) -> Array:
    changed = value.astype(np.float64)
    place = tuple(draw(st.integers(0, length - 1)) for length in value.shape)
    new = draw(st.sampled_from([changed[place] + 0.01, -changed[place] - 0.01, np.nan, np.inf, 1e300, 2.0**63]))
    changed[place] = new
    return changed


def two_rows_swapped(draw: Draw, value: Array) -> Array:
    i = draw(st.integers(0, len(value) - 1))
    j = next((j for j in range(len(value)) if np.abs(value[i] - value[j]).max() > 0.01), None)
    changed = value.copy()
    if j is None:
        return changed + 1
    changed[[i, j]] = value[[j, i]]
    return changed


VALUE_CHANGES: dict[str, Callable[[Draw, Array], Any]] = {
    "element": one_element,
    "swap": two_rows_swapped,
    "row dropped": lambda draw, value: np.delete(value, draw(st.integers(0, len(value) - 1)), axis=0),
    "row added": lambda draw, value: np.concatenate([value, value[:1]]),
    "row repeated": lambda draw, value: np.concatenate([value[:1] + 1, value[1:]]),
    "column dropped": lambda draw, value: value[..., :-1],
    "column added": lambda draw, value: np.concatenate([value, value[..., :1]], axis=-1),
    "doubled": lambda draw, value: value * 2,
    "another axis": lambda draw, value: np.stack([value, value]),
    "flat": lambda draw, value: value.ravel()[:-1],
    "scalar": lambda draw, value: value.ravel()[0],
    "empty": lambda draw, value: value[:0],
    "float16": lambda draw, value: (value * 1.003).astype(np.float16),
    "int8": lambda draw, value: value.astype(np.int8),
    "uint8": lambda draw, value: np.zeros(value.shape, np.uint8),
    "bool": lambda draw, value: value.astype(bool),
    "complex": lambda draw, value: value.astype(np.complex64) + 1j,
    "strings": lambda draw, value: value.astype(str),
    "objects": lambda draw, value: value.astype(object) * np.array(1 + 1e-2),
    "bits": lambda draw, value: value.view(np.int32),
    "bytes swapped": lambda draw, value: value.byteswap(),
    "null": lambda draw, value: None,
    "text": lambda draw, value: "0.1",
    "object": lambda draw, value: {"0": value},
}

# --- one change of a dump


def change_value(draw: Draw, pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    i = draw(st.integers(0, len(pairs) - 1))
    name, value = pairs[i]
    if not isinstance(value, np.ndarray):
        value = [*value[:-1], [*value[-1][:-1], 7]]  # token_ids
    else:
        value = VALUE_CHANGES[draw(st.sampled_from(sorted(VALUE_CHANGES)))](draw, value)
    return [*pairs[:i], (name, value), *pairs[i + 1 :]]


def drop_a_case(draw: Draw, pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    i = draw(st.integers(0, len(pairs) - 1))
    return [*pairs[:i], *pairs[i + 1 :]]


def rename(draw: Draw, pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    i = draw(st.integers(0, len(pairs) - 1))
    name, value = pairs[i]
    stage = name.rpartition("/")[2]
    new = [name + "s", name.upper(), name + "/", "x/" + name, "", "-" + name, "40/" + stage, "2/" + stage, "a/" + stage]
    return [*pairs[:i], (draw(st.sampled_from([n for n in new if n != name])), value), *pairs[i + 1 :]]


def add(draw: Draw, pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Add a wrong value under another spelling of a name, or under a name of nothing."""
    name, value = draw(st.sampled_from(pairs))
    case, slash, stage = name.rpartition("/")
    spellings = [name, "logits", f"40/{stage}", f"2/{stage}", f"3/{stage}", f"003/{stage}", f"0/{stage}"]
    pair = (draw(st.sampled_from([*spellings, *([f"0{name}", f"{int(case)}/{stage}", stage] if slash else [])])), value)
    return [*pairs, pair] if draw(st.booleans()) else [pair, *pairs]


def exchange(draw: Draw, pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Exchange the names of two values that differ."""
    (first, a), (second, b) = draw(st.lists(st.sampled_from(pairs), min_size=2, max_size=2, unique_by=lambda p: p[0]))
    return [(first, b) if name == first else (second, a) if name == second else (name, v) for name, v in pairs]


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "json"])
@pytest.mark.parametrize("form", ["cases", "stages", "all cases"])
def test_changed_dump_never_passes(suffix: str, form: str) -> None:
    if form == "all cases":
        pairs = [(f"{i:02}/sentence_embedding", vector) for i, vector in enumerate(right_vectors())]
    else:
        pairs = right_cases() if form == "cases" else right_stages()
    if suffix != "json":
        pairs = [(name, value) for name, value in pairs if isinstance(value, np.ndarray)]
    # a file without its last stage is a right file of fewer stages
    changes = [change_value, rename, add, exchange, *([drop_a_case] if "cases" in form else [])]

    def code(folder: Path, changed: list[tuple[str, Any]]) -> int:
        WRITERS[suffix](folder / f"a.{suffix}", changed)
        return exit_code(folder / f"a.{suffix}")

    @EXAMPLES
    @given(st.data())
    def check(data: Any) -> None:
        change = data.draw(st.sampled_from(changes))
        with tempfile.TemporaryDirectory() as folder:
            assert code(Path(folder), change(data.draw, pairs)) in (1, 2)

    with tempfile.TemporaryDirectory() as folder:
        assert code(Path(folder), pairs) == 0
        assert code(Path(folder), pairs[::-1]) == 0  # the order of names means nothing
    check()


# --- vectors without a name


def as_npy(value: Any, draw: Draw) -> bytes:
    return npy_bytes(value if isinstance(value, np.ndarray | np.generic) else str(value))


def as_json(value: Any, draw: Draw) -> bytes:
    from support.dumps import as_list

    return json.dumps(as_list(value)).encode()


@pytest.mark.parametrize(("suffix", "encoded"), [("npy", as_npy), ("json", as_json)])
def test_changed_vectors_never_pass(suffix: str, encoded: Any) -> None:
    vectors = right_vectors()

    @EXAMPLES
    @given(st.data())
    def check(data: Any) -> None:
        change = VALUE_CHANGES[data.draw(st.sampled_from(sorted(VALUE_CHANGES)))]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a.{suffix}"
            path.write_bytes(encoded(change(data.draw, vectors), data.draw))
            assert exit_code(path) in (1, 2)

    check()


LINE_CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "index": lambda line: {**line, "index": line["index"] + 1},
    "index as text": lambda line: {**line, "index": str(line["index"])},
    "index as a number": lambda line: {**line, "index": float(line["index"])},
    "text": lambda line: {**line, "text": line["text"] + "."},
    "no text": lambda line: {**line, "text": None},
    "another result": lambda line: {**line, "pooled": line["embedding"]},
    "nested": lambda line: {**line, "embedding": {"values": line["embedding"]}},
    "lists": lambda line: {**line, "embedding": [line["embedding"]]},
    "strings": lambda line: {**line, "embedding": list(map(str, line["embedding"]))},
    "one string": lambda line: {**line, "embedding": [*line["embedding"][:-1], str(line["embedding"][-1])]},
    "true": lambda line: {**line, "embedding": [*line["embedding"][:-1], True]},
    "null": lambda line: {**line, "embedding": [*line["embedding"][:-1], None]},
    "NaN": lambda line: {**line, "embedding": [*line["embedding"][:-1], float("nan")]},
    "a huge integer": lambda line: {**line, "embedding": [*line["embedding"][:-1], 10**400]},
    "a number": lambda line: {**line, "embedding": [*line["embedding"][:-1], 0.5]},
    "shorter": lambda line: {**line, "embedding": line["embedding"][:-1]},
    "empty": lambda line: {**line, "embedding": []},
    "no vector": lambda line: {"text": line["text"]},
}


@pytest.mark.parametrize("change", LINE_CHANGES)
def test_changed_line_never_passes(tmp_path: Path, change: str) -> None:
    lines = [
        {"index": i, "text": text, "embedding": vector, "model": "mine"}
        for i, (text, vector) in enumerate(zip(probe_texts(), right_vectors().tolist(), strict=True))
    ]
    write_jsonl(tmp_path / "right.jsonl", lines)
    assert exit_code(tmp_path / "right.jsonl") == 0
    wrong: list[Any] = list(lines)
    wrong[17] = LINE_CHANGES[change](lines[17])
    write_jsonl(tmp_path / "wrong.jsonl", wrong)
    assert exit_code(tmp_path / "wrong.jsonl") in (1, 2)


@pytest.mark.parametrize(
    "rows", [slice(39), slice(1, 40), [*range(40), 39], [1, 0, *range(2, 40)], slice(12), slice(0)]
)
def test_other_lines_never_pass(tmp_path: Path, rows: Any) -> None:
    write_jsonl(tmp_path / "a.jsonl", list(right_vectors()[rows]))
    assert exit_code(tmp_path / "a.jsonl") in (1, 2)


# --- bytes


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "json"])
def test_changed_byte_never_passes_a_wrong_value(suffix: str) -> None:
    """What passes is right by the word of another reader: every value, and all of them."""
    from safetensors.numpy import load

    vectors = right_vectors()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        if suffix == "npy":
            path.write_bytes(npy_bytes(vectors))
        else:
            WRITERS[suffix](path, [("sentence_embedding", vectors)])
        right = path.read_bytes()
        assert exit_code(path) == 0

        def read_again() -> Any:
            if suffix == "npy":
                return np.load(path)
            if suffix == "npz":
                return np.load(path)["sentence_embedding"]
            if suffix == "json":
                return json.loads(path.read_text())["sentence_embedding"]
            return load(path.read_bytes())["sentence_embedding"]

        @settings(max_examples=150)
        @given(st.integers(0, 400) | st.integers(-400, -1) | st.integers(0, len(right) - 1), st.binary(max_size=2))
        def check(place: int, new: bytes) -> None:
            place %= len(right)
            path.write_bytes(right[:place] + new + right[place + 1 :])
            if exit_code(path) == 0:
                np.testing.assert_allclose(np.asarray(read_again(), np.float64), vectors, rtol=0, atol=2e-6)

        check()


# --- values in memory


class Hostile:
    def __array__(self, *_: Any, **__: Any) -> Array:
        raise LookupError("no array")


@pytest.mark.parametrize(
    "change",
    [
        lambda value: np.ma.masked_array(value, np.arange(value.size).reshape(value.shape) == 5),
        lambda value: [np.ma.masked_array(row, np.arange(row.size).reshape(row.shape) == 5) for row in value],
        lambda value: value.astype(str).tolist(),
        lambda value: value.astype(np.complex128),
        lambda value: value.astype(object),
        lambda value: dict(enumerate(value)),
        lambda value: iter(value),
        lambda value: [*value[:-1], Hostile()],
        lambda value: [*value[:-1], None],
        lambda value: [[10**400, *row[1:].tolist()] for row in value],
        lambda value: np.zeros(value.shape, "M8[s]"),
        lambda value: value[0],
        lambda value: (value * 1.01).astype(np.longdouble) * np.longdouble("1e4000"),
    ],
)
def test_changed_argument_never_passes(change: Callable[[Array], Any]) -> None:
    vectors = right_vectors().astype(np.float64)
    stages = dict(right_stages())
    del stages["sentence_embedding"]  # of all texts; a stage has those of the texts with stages

    def passes(*arguments: Any) -> bool:
        try:
            return crosscheck(*arguments, causes=False).ok
        except CannotCompareError as error:
            assert "\n" not in str(error)
            return False

    assert passes(vectors, stages)
    assert not passes(change(vectors), None)
    assert not passes(lambda texts: change(vectors)[: len(texts)], None)
    assert not passes(None, {"pooled": change(stages["pooled"].astype(np.float64))})


@pytest.mark.parametrize(
    "stages",
    [
        {"sentence_embeddings": 0},
        {"pooled": 0, "Pooled": 0},
        {"encoder.layer.6.output": 0},
        {"last_hidden_state": 0, "token_embeddings": 0},
        {("pooled",): 0},
        {1: 0},
    ],
)
def test_unknown_stage_is_never_ignored(stages: dict[Any, Any]) -> None:
    right = dict(right_stages())
    with pytest.raises(CannotCompareError, match="stages: expected"):
        crosscheck(right_vectors(), {**right, **dict.fromkeys(stages, right["pooled"])})
