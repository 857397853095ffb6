"""Change valid files a little, so that a reader gets past its first check and meets the fault further on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Draw = st.DrawFn
Path = tuple[Any, ...]  # of a value in JSON: keys and indices
MAX_BYTES = 8 * 2**20  # of a file: small enough to be quick, large enough for the bound on memory

INTEGERS = [0, 1, -1, 2, 3, 7, 100, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 99_999_999, 10**12, 2**63, 2**64, 10**40]
FLOATS = [0.5, -0.5, 1.0, 1e-12, 1e-320, 1e10, 1e38, 1e39, 1e308, float("inf"), float("-inf"), float("nan")]
STRINGS = ["", "x", "\0", "\ud800", "[UNK]", "nan", "..", "../..", "/", "a" * 300, "\u202e", "\U0001f9ff", "01", "None"]
CONTAINERS: list[Any] = [[], {}, [[]], [None], {"": None}, [0, 0], ["x"], {"type": "x"}]
EXTREMES: list[Any] = [None, True, False, *INTEGERS, *FLOATS, *STRINGS, *CONTAINERS]
# JSON that json.dumps does not write.
RAW = [b"1e999", b"-0", b"01", b"9" * 5000, b"'x'", b'"\\ud800"', b"undefined", b"", b'"' + b"x" * 70000 + b'"']


def seldom(draw: Draw, one_in: int) -> bool:
    """Draw True once in so many times. (st.integers prefers the ends of its range.)"""
    return draw(st.sampled_from(range(one_in))) == one_in - 1


def extremes() -> st.SearchStrategy[Any]:
    return st.sampled_from(EXTREMES)


def paths(value: Any, start: Path = ()) -> Iterator[Path]:
    """Yield the path of every value inside a JSON value, its own first."""
    yield start
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*start, key))


def at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def replaced(value: Any, path: Path, new: Any) -> Any:
    """Return a copy of a JSON value with a new value at a path."""
    if not path:
        return new
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = replaced(value[key], tuple(rest), new)
    return copy


@st.composite
def json_mutations(draw: Draw, value: Any, most: int = 3) -> Any:
    """Draw a JSON value with up to `most` changes: values to extremes, types, deletions, repetitions, nesting."""
    for _ in range(draw(st.integers(0, most))):
        path = draw(st.sampled_from(list(paths(value))))
        old = at(value, path)
        kind = draw(st.sampled_from(["replace", "delete", "repeat", "wrap", "nudge", "copy", "grow"]))
        if kind == "delete" and path:
            parent = at(value, path[:-1])
            rest = (
                {k: v for k, v in parent.items() if k != path[-1]}
                if isinstance(parent, dict)
                else [v for i, v in enumerate(parent) if i != path[-1]]
            )
            value = replaced(value, path[:-1], rest)
        elif kind == "repeat" and isinstance(old, list) and old:
            i = draw(st.integers(0, len(old) - 1))
            value = replaced(value, path, [*old, *[old[i]] * draw(st.sampled_from([1, 2, 100]))])
        elif kind == "wrap":
            value = replaced(value, path, draw(st.sampled_from([[old], {"x": old}, [old, old]])))
        elif kind == "nudge" and isinstance(old, int | float) and not isinstance(old, bool):
            value = replaced(
                value, path, draw(st.sampled_from([old + 1, old - 1, 2 * old, -old, float(old), str(old)]))
            )
        elif kind == "copy":
            value = replaced(value, path, at(value, draw(st.sampled_from(list(paths(value))))))
        elif kind == "grow" and isinstance(old, str):
            value = replaced(value, path, old * draw(st.sampled_from([2, 1000])))
        else:
            value = replaced(value, path, draw(extremes()))
    return value


@st.composite
def texts_of(draw: Draw, value: Any) -> bytes:
    """Draw a JSON file: that value, seldom with a fault that json.dumps does not write."""
    data = json.dumps(value).encode()
    kind = draw(st.sampled_from(["none"] * 20 + ["raw", "deep", "duplicate", "bytes", "bom", "utf-16"]))
    tokens = list(re.finditer(rb'"[^"\\]*"|-?[0-9][0-9.eE+-]*|true|false|null', data))
    if kind in ("raw", "deep") and tokens:
        match = draw(st.sampled_from(tokens))
        depth = draw(st.sampled_from([100, 1000, 100_000]))
        raw = b"[" * depth + b"]" * depth if kind == "deep" else draw(st.sampled_from(RAW))
        return data[: match.start()] + raw + data[match.end() :]
    if kind == "duplicate" and (braces := [m.end() for m in re.finditer(rb'\{(?=")', data)]):
        brace = draw(st.sampled_from(braces))
        key = data[brace : data.index(b":", brace)]
        return data[:brace] + key + b":" + json.dumps(draw(extremes())).encode() + b"," + data[brace:]
    if kind == "bytes":
        return draw(byte_mutations(data))
    if kind == "bom":
        return b"\xef\xbb\xbf" + data
    if kind == "utf-16":
        return data.decode().encode("utf-16")
    return data


@st.composite
def byte_mutations(draw: Draw, data: bytes, most: int = 2) -> bytes:
    """Draw a file with up to `most` changes of its bytes: truncation, flipped bits, cuts, insertions, repetitions."""
    for _ in range(draw(st.integers(0, most))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        stop = start + draw(st.sampled_from([1, 2, 8, 100]))
        kind = draw(st.sampled_from(["truncate", "flip", "cut", "insert", "repeat", "append"]))
        if kind == "truncate":
            data = data[:start]
        elif kind == "flip" and data:
            flipped = data[start] ^ (1 << draw(st.integers(0, 7)))
            data = data[:start] + bytes([flipped]) + data[start + 1 :]
        elif kind == "cut":
            data = data[:start] + data[stop:]
        elif kind == "insert":
            data = (
                data[:start]
                + draw(st.sampled_from([b"\0", b"\xff", b"\n", b"\r", b"\t", b'"', b"\0" * 64]))
                + data[start:]
            )
        elif kind == "repeat":
            data = data[:stop] + data[start:]
        else:
            data += draw(st.sampled_from([b"\0", b"\n", b"x", b"\0" * 64]))
    return data


@st.composite
def bombs(draw: Draw, units: list[bytes], most: int = MAX_BYTES) -> bytes:
    """Draw up to `most` bytes of one unit, repeated."""
    unit = draw(st.sampled_from(units))
    return unit * (draw(st.sampled_from([most, most // 2, most // 64])) // len(unit))


@st.composite
def json_bombs(draw: Draw) -> bytes:
    """Draw a JSON list of up to MAX_BYTES that needs much more memory than its bytes."""
    units = [
        b"[],",
        b"{},",
        b"[[]],",
        b"0,",
        b"null,",
        b"1.5,",
        b'"",',
        b'"abcd",',
        b"[0],",
        b'{"a":{}},',
        b"[[],[[]]],",
    ]
    return b"[" + draw(bombs(units)) + b"[]]"
