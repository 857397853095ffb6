"""Parse JSON from strangers in bounded memory: a list of numbers becomes a NumPy array as soon as it is read.

Python's json makes 32 bytes of a number and 64 of the three characters "[],". Here a number takes 8 bytes, and a text
with more than MAX_STRUCTURE lists, objects and strings or more than MAX_NUMBERS numbers is refused before it is parsed.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from minilm_np.model import Array

MAX_STRUCTURE = 2**20  # opening brackets, opening braces and quotation marks; all stages have 20,000
MAX_NUMBERS = 2**25  # commas, in fact; all stages have 4.2 million, and 87,000 vectors have this many
MAX_NUMBERS_IN_LIST = 2**20
MAX_BYTES_BEYOND_ASCII = 2**24  # one character beyond U+FFFF makes Python store a str with 4 bytes per character

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBERS = re.compile(r"\[[-+0-9.eE, \t\n\rNaInfityul]*\]")  # with NaN, Infinity and null; json.loads checks the rest
_SCALARS = json.JSONDecoder()


def decode(data: bytes | bytearray) -> str:
    """Return the text of JSON in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises ValueError if the text is invalid, or is large and not ASCII.
    """
    if len(data) > MAX_BYTES_BEYOND_ASCII and not data.isascii():
        raise ValueError(f"expected at most {MAX_BYTES_BEYOND_ASCII} bytes if not all are ASCII, got {len(data)}")
    return data.decode(json.detect_encoding(data))


class JsonArrays:
    """A parser of JSON texts with one limit for all of them together."""

    def __init__(self) -> None:
        self._structure = self._numbers = self._values_in_lists = 0

    def parse(self, text: str) -> Any:
        """Return the value of a JSON text.

        A list of numbers becomes an array (n,): int64 if all numbers are integers, else float64; null is NaN.

        Raises
        ------
        ValueError
            If the text is not JSON, an object has a key twice, or a limit is exceeded.
        """
        self._structure += sum(map(text.count, '[{"'))
        self._numbers += text.count(",")
        _check_limit("lists, objects and quotation marks", self._structure, MAX_STRUCTURE)
        _check_limit("numbers", self._numbers, MAX_NUMBERS)
        try:
            value, end = self._value(text, 0)
        except RecursionError:
            raise ValueError("the lists are nested too deeply") from None
        if _skip_space(text, end) != len(text):
            raise ValueError(f"unexpected text after the value, at character {end}")
        return value

    def _value(self, text: str, at: int) -> tuple[Any, int]:
        """Return the value that starts at a character, after white space, and the index of the character after it."""
        at = _skip_space(text, at)
        numbers = _NUMBERS.match(text, at)
        if numbers:
            return _array(numbers.group()), numbers.end()
        if text.startswith("[", at):
            return self._list(text, at + 1)
        if text.startswith("{", at):
            return self._object(text, at + 1)
        return _SCALARS.raw_decode(text, at)

    def _list(self, text: str, at: int) -> tuple[list[Any], int]:
        items = []
        while True:  # an empty list is an array
            item, at = self._value(text, at)
            items.append(item)
            self._values_in_lists += 1
            _check_limit("values that are not in lists of numbers", self._values_in_lists, MAX_STRUCTURE)
            more, at = _separator(text, at, "]")
            if not more:
                return items, at

    def _object(self, text: str, at: int) -> tuple[dict[str, Any], int]:
        items: dict[str, Any] = {}
        at = _skip_space(text, at)
        if text.startswith("}", at):
            return items, at + 1
        while True:
            at = _skip_space(text, at)
            if not text.startswith('"', at):
                raise ValueError(f"expected a key, at character {at}")
            key, at = _SCALARS.raw_decode(text, at)
            if key in items:
                raise ValueError(f"the key {key[:60]!r} occurs twice")
            at = _skip_space(text, at)
            if not text.startswith(":", at):
                raise ValueError(f"expected a colon, at character {at}")
            items[key], at = self._value(text, at + 1)
            more, at = _separator(text, at, "}")
            if not more:
                return items, at


def _skip_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None  # it matches the empty string
    return space.end()


def _separator(text: str, at: int, end: str) -> tuple[bool, int]:
    """Return whether a comma follows, or else the end of the list or object, and the index of the character after."""
    at = _skip_space(text, at)
    if not text.startswith((",", end), at):
        raise ValueError(f"expected a comma or {end}, at character {at}")
    return text[at] == ",", at + 1


def _array(text: str) -> Array:
    _check_limit("numbers in a list", text.count(","), MAX_NUMBERS_IN_LIST)
    values = json.loads(text)
    array = np.array(values)
    if array.dtype.kind == "i":
        return array
    try:
        return np.array(values, np.float64)
    except OverflowError:
        raise ValueError("a number is too large for float64") from None


def _check_limit(what: str, count: int, most: int) -> None:
    if count > most:
        raise ValueError(f"expected at most {most} {what}, got {count} or more")
