"""One line of training data, in any of its forms.

| one line of a file                                  | the example                                                |
|-----------------------------------------------------|------------------------------------------------------------|
| ["a", "b"], ["a", "b", "negative", ...]             | the texts                                                  |
| {"texts": ["a", "b", ...]}                          | the texts                                                  |
| {"set": ["a", "b", "c", ...]}                       | two different texts of the set                             |
| {"query": "a", "pos": ["b", ...], "neg": ["c", ...]}| query, one pos, one neg; neg may be missing or empty       |
| {"text": "a", "label": "x"}                         | the text and another one of its label                      |
| {"texts": ["a", "b"], "label": 0.8}                 | the texts, with a number for losses that need one          |
| {"sentence1": "a", "sentence2": "b", "score": 0.8}  | the same                                                   |

Other keys are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from minilm_np.layout import shown

FORMS = (  # the keys of each form; the first whose keys are all there is taken
    ("texts", "label"),
    ("texts",),
    ("set",),
    ("query", "pos"),
    ("sentence1", "sentence2", "score"),
    ("text", "label"),
)
LIST = "[text, text, ...]"


class DataError(ValueError):
    """Raised when training data is missing or not valid; the message names the file and the line."""


class Row(NamedTuple):
    """One line of a file."""

    form: str
    columns: list[list[str]]  # for each column the texts to choose from; of {"text", "label"} only the first column
    label: Any = None

    @property
    def width(self) -> int:
        return max(2, len(self.columns))


def parse(line: bytes) -> Row:
    """Return the row of a line, or raise DataError without its number."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"not valid UTF-8 at byte {error.start + 1}: {error.reason}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}") from None
    if isinstance(value, list):
        return Row(LIST, [[text] for text in _texts("", value, 2)])
    keys = next((keys for keys in FORMS if isinstance(value, Mapping) and all(key in value for key in keys)), ())
    form = "{" + ", ".join(f'"{key}": ...' for key in keys) + "}"
    if keys == ("set",):
        if len(set(_texts('"set": ', value["set"], 2))) == 1:
            raise DataError(f'"set": expected two different texts, got {shown(value["set"])}')
        return Row(form, [value["set"]] * 2)
    if keys == ("query", "pos"):
        columns = [[_text('"query": ', value["query"])], _texts('"pos": ', value["pos"], 1)]
        negatives = _texts('"neg": ', value.get("neg", []), 0)
        return Row(form, [*columns, negatives] if negatives else columns)
    if keys == ("text", "label"):
        if not isinstance(value["label"], (str, int)):
            raise DataError(f'"label": expected a string or a whole number, got {shown(value["label"])}')
        return Row(form, [[_text('"text": ', value["text"])]], value["label"])
    if not keys:
        known = ", ".join("{" + ", ".join(f'"{key}"' for key in keys) + "}" for keys in FORMS)
        raise DataError(f"expected {LIST} or an object with the keys {known}, got {shown(value)}")
    if keys[0] == "texts":
        texts = _texts('"texts": ', value["texts"], 2)
    else:
        texts = [_text(f'"{key}": ', value[key]) for key in keys[:2]]
    if keys == ("texts",):
        return Row(form, [[text] for text in texts])
    if not is_number(value[keys[-1]]):
        raise DataError(f'"{keys[-1]}": expected a finite number, got {shown(value[keys[-1]])}')
    return Row(form, [[text] for text in texts], float(value[keys[-1]]))


def _texts(name: str, value: Any, least: int) -> list[str]:
    if not isinstance(value, list) or len(value) < least:
        raise DataError(f"{name}expected a list of {least} texts or more, got {shown(value)}")
    return [_text(f"{name}text {i}: ", text) for i, text in enumerate(value, 1)]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name}expected a text, not empty, got {shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(value[error.start]):04x}"
        raise DataError(f"{name}expected Unicode text, got the lone surrogate {found}") from None
    return value


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number that float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300
