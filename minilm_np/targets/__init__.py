"""Turn a TARGET of the command line into one type, `Target`.

    package.module:function              a Python function that takes a list of str
    http://host/embed                    an endpoint like that of text-embeddings-inference
    http://host/v1/embeddings            an endpoint like OpenAI's
    model.onnx                           an exported model, run by ONNX Runtime
    .npy .npz .safetensors .json .jsonl  a file of results

`open_target` opens all of them; each other public function opens one kind. A port may hang, return HTML or send a
gigabyte: every failure raises CannotCompareError with a one-line message.

files.py        reads files of results; json_arrays.py parses JSON in bounded memory
endpoint.py     HTTP endpoints
onnx.py         ONNX files
error.py        the exception
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minilm_np.checkpoint import WeightsError
from minilm_np.targets import files
from minilm_np.targets.endpoint import MAX_TIMEOUT, http_endpoint
from minilm_np.targets.error import CannotCompareError, one_line, without_credentials
from minilm_np.targets.files import SUFFIXES
from minilm_np.targets.onnx import onnx_file

__all__ = [
    "FINAL_STAGE",
    "MAX_FILE_BYTES",
    "MAX_TIMEOUT",
    "SUFFIXES",
    "CannotCompareError",
    "Target",
    "http_endpoint",
    "load_function",
    "number_of_rows",
    "onnx_file",
    "open_target",
    "read_dump",
]

MAX_FILE_BYTES = 2**30
FINAL_STAGE = "sentence_embedding"

Encode = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Target:
    """A port to check: either something that encodes texts, or results read from a file."""

    name: str  # the TARGET string; a URL without its query
    kind: Literal["function", "endpoint", "onnx", "file"]  # what the string names
    encode: Encode  # the function from texts to vectors; raises CannotCompareError if the kind is "file"
    stages: Mapping[str, Any] = field(default_factory=dict)  # a file's results by stage; empty for the other kinds
    named: bool = True  # whether the file names its results; those of .npy and .jsonl have no names

    @property
    def encodes(self) -> bool:
        """Whether `encode` works; if not, `stages` has the results."""
        return self.kind != "file"


def open_target(
    name: str,
    *,
    model: str = "all-MiniLM-L6-v2",
    key: str | None = None,
    timeout: float = 30.0,
    cases: Sequence[Sequence[int]] = (),
    texts: Sequence[str] = (),
) -> Target:
    """Return the Target that a TARGET string names.

    Parameters
    ----------
    name
        The TARGET string.
    model, key, timeout
        For HTTP endpoints, see `http_endpoint`.
    cases, texts
        For files, see `read_dump`.

    Raises
    ------
    CannotCompareError
        If the target cannot be opened.
    """
    if name.lower().startswith(("http://", "https://")):
        return Target(without_credentials(name), "endpoint", http_endpoint(name, model, key, timeout))
    path = Path(name)
    if path.suffix == ".onnx":
        return Target(name, "onnx", onnx_file(path))
    if path.suffix in SUFFIXES or path.is_file():

        def refuse(_: list[str]) -> Any:
            raise CannotCompareError(f"{name}: expected a port that encodes texts, got a file of results")

        results = _read(path, texts)
        return Target(name, "file", refuse, _by_stage(path, results, cases), isinstance(results, Mapping))
    return Target(name, "function", load_function(name))


def load_function(name: str) -> Encode:
    """Return the function that "package.module:function" names; the current folder is searched, too.

    Raises
    ------
    CannotCompareError
        If the name has another form, the import fails, or the object is not callable.
    """
    module, colon, path = name.partition(":")
    if not colon or not module or not path or "/" in name:
        expected = f"package.module:function, http://..., https://... or a file {', '.join(SUFFIXES)}, .onnx"
        raise CannotCompareError(f"{without_credentials(name)}: expected {expected}")
    current_folder = str(Path.cwd())
    if current_folder not in sys.path:
        sys.path.insert(0, current_folder)
    try:
        function: Any = importlib.import_module(module)
        for part in path.split("."):
            function = getattr(function, part)
    except Exception as error:  # importing a user's module can raise anything
        raise CannotCompareError(f"{name}: {type(error).__name__}: {one_line(error)}") from error
    if not callable(function):
        raise CannotCompareError(f"{name}: expected a function of a list of str, got {type(function).__name__}")
    encode: Encode = function
    return encode


# --- files -------------------------------------------------------------------------------------


def read_dump(path: Path, cases: Sequence[Sequence[int]] = (), texts: Sequence[str] = ()) -> dict[str, Any]:
    """Return a file's results by stage; the stage of an array without a name is "sentence_embedding".

    Lists of numbers in .json and .jsonl become NumPy arrays. Nothing in the file is ignored: what is no result, or is
    given twice, is an error.

    Parameters
    ----------
    path
        .npy: one array (n, H). .npz, .safetensors: arrays by stage, or by "{case}/{stage}" as in a golden bundle.
        .json: a list of vectors, or an object of such lists by stage. .jsonl: on each line a vector, or an object with
        the key "embedding"; the keys "index" and "text", if given, must be those of the row.
    cases
        The sets of case numbers that a stage with keys "{case}/{stage}" may have. The stage must have exactly the
        numbers of one set; its values become a list in the set's order. Without `cases`, a stage may have any case
        numbers.
    texts
        The texts that the rows of a .jsonl file belong to. Without `texts`, the key "text" is not checked.

    Raises
    ------
    CannotCompareError
        If the file cannot be read, is larger than MAX_FILE_BYTES (.json: 2**28), lacks a case or has another one.
    """
    return _by_stage(path, _read(path, texts), cases)


def _read(path: Path, texts: Sequence[str]) -> Any:
    try:
        results = files.read(path, MAX_FILE_BYTES, texts)
    except OSError as error:
        raise CannotCompareError(f"{path}: {error.strerror or error}") from None
    except CannotCompareError:
        raise
    except WeightsError as error:
        raise CannotCompareError(one_line(error)) from None
    except Exception as error:  # the parsers of headers and archives raise many types, tokenize.TokenError for one
        what = one_line(error) or type(error).__name__
        raise CannotCompareError(f"{path}: not a valid {path.suffix} file: {what}") from None
    if not isinstance(results, Mapping | list) and np.ndim(results) == 0:
        raise CannotCompareError(f"{path}: expected a vector for each text, got {one_line(results, 60)}")
    return results


def _by_stage(path: Path, results: Any, cases: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Join the keys "07/embeddings", one for each text, to a list of all texts under "embeddings"."""
    if not isinstance(results, Mapping):
        return {FINAL_STAGE: results}
    stages: dict[str, Any] = {}
    by_stage: dict[str, dict[int, Any]] = {}
    for name, value in results.items():
        match = re.fullmatch(r"([0-9]{1,9})/(.+)", name)
        if match is None:
            stages[name] = value
            continue
        case, stage = int(match[1]), match[2]
        by_case = by_stage.setdefault(stage, {})
        if case in by_case:
            raise CannotCompareError(f"{path}: {stage}: expected case {case} once, got it again as {name!r}")
        by_case[case] = value
    for stage, by_case in by_stage.items():
        if stage in stages:
            raise CannotCompareError(f"{path}: expected {stage!r} once, got it also as {stage!r} of single cases")
        stages[stage] = [by_case[case] for case in _expected_cases(f"{path}: {stage}", by_case, cases)]
    return stages


def _expected_cases(where: str, by_case: Mapping[int, Any], cases: Sequence[Sequence[int]]) -> Sequence[int]:
    """Return the set of `cases` that has the given numbers. Raises an error that names the first other number."""
    if not cases:
        return sorted(by_case)
    expected = min(cases, key=lambda numbers: len(by_case.keys() ^ set(numbers)))
    missing, unexpected = sorted(set(expected) - by_case.keys()), sorted(by_case.keys() - set(expected))
    if not missing and not unexpected:
        return expected
    wanted = str(list(expected)) if len(expected) <= 40 else f"{expected[0]} to {expected[-1]}"
    got = f"no case {missing[0]}" if missing else f"also case {unexpected[0]}"
    more = f" (and {len(missing) - 1} others)" if len(missing) > 1 else ""
    raise CannotCompareError(f"{where}: expected cases {wanted}, got {got}{more}")


def number_of_rows(results: Any) -> int | None:
    """Return the length of a stage's results, or None if they are neither a list nor an array of rows."""
    is_rows = isinstance(results, list) or (isinstance(results, np.ndarray) and results.ndim > 0)
    return len(results) if is_rows else None
