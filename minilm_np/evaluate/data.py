"""Read a task's rows from plain files or from the cache of the `datasets` library.

Every row comes with its location. Invalid data raise a ValueError that names the file and the line.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from minilm_np.evaluate.tasks import FORMATS, Task, task_named

Row = tuple[str, Mapping[str, Any]]  # its location, for error messages; its fields by name

MAX_LINE_BYTES = 2**28  # after gzip; in the card's data the longest line, a set of texts to cluster, is below 2**27
INTEGER_LIMIT = 2**31  # exclusive; pytrec_eval aborts the process at larger integers


class Id:
    """Marks a field that is a string without lone surrogates, at which pytrec_eval aborts the process."""


FIELDS: dict[str, dict[str, Any]] = {  # required fields of a row, by task type; by part for retrieval
    "STS": {"sentence1": str, "sentence2": str, "score": float},
    "PairClassification": {"sentence1": str, "sentence2": str, "label": int},
    "Classification": {"text": str, "label": object},
    "Clustering": {"sentences": [str], "labels": [object]},
    "Reranking": {"query": (str, [str]), "positive": [str], "negative": [str]},
    "Summarization": {"human_summaries": [str], "machine_summaries": [str], "relevance": [float]},
    "corpus": {"_id": Id, "text": str},
    "queries": {"_id": Id, "text": str},
    "qrels": {"query-id": Id, "corpus-id": Id, "score": int},
}
PARTS = {"Retrieval": ("corpus", "queries", "qrels"), "Classification": ("train", "test")}  # other types: ("test",)


class Source(Protocol):
    """A provider of task data."""

    def has(self, task: Task) -> bool:
        """Return whether the task's files exist; they are not read."""

    def rows(self, task: Task, part: str) -> Iterator[Row]:
        """Yield the rows of a part: "test"; for classification also "train"; for retrieval an entry of PARTS."""


class Files:
    """Plain files in a folder, in the formats of `tasks.FORMATS`."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not folder.is_dir():
            raise ValueError(f"--data: {folder} is not a folder")

    def has(self, task: Task) -> bool:
        if task.parts:
            return all(self.has(task_named(part)) for part in task.parts)
        return all(self._find(form.split(":")[0].split(",")[0], task) for form in FORMATS[task.type])

    def rows(self, task: Task, part: str) -> Iterator[Row]:
        forms = FORMATS[task.type]
        form = next((form for form in forms if part in form.split(":")[0]), forms[0])
        name = form.split(":")[0].split(",")[0]
        path = self._find(name, task)
        if path is None:
            expected = form.replace("NAME", task.name, 1)
            raise ValueError(f"{task.name}: no data in {self.folder}; expected {expected}; plain or with .gz appended")
        return _tsv(path) if name.endswith(".tsv") else _jsonl(path)

    def _find(self, name: str, task: Task) -> Path | None:
        plain = self.folder / name.replace("NAME", task.name)
        return next((path for path in (plain, plain.with_name(plain.name + ".gz")) if path.is_file()), None)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the location and the text of each line of a UTF-8 file. Gzip is recognized by the first bytes."""
    number = 0
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_gzip else path.open("rb") as lines:
            while line := lines.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise ValueError(f"{path}, line {number}: expected at most {MAX_LINE_BYTES} bytes, got more")
                if b"\0" in line:
                    raise ValueError(f"{path}, line {number}: expected UTF-8, got a NUL character, as in UTF-16")
                yield f"{path}, line {number}", line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number}: not UTF-8 at byte {error.start}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: damaged gzip file: {error}") from None


def _jsonl(path: Path) -> Iterator[Row]:
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
        yield where, row


def _tsv(path: Path) -> Iterator[Row]:
    r"""Yield the rows of a tab-separated file: its first line names the columns, \\ \t \n \r in a cell are escapes."""
    columns: list[str] | None = None
    for where, line in _lines(path):
        cells = line.split("\t")
        if columns is None:
            columns = cells
            continue
        if len(cells) != len(columns):
            expected = f"{len(columns)} columns ({_shortened(', '.join(columns))})"
            raise ValueError(f"{where}: expected {expected}, got {len(cells)}")
        yield where, {name: _unescape(cell) for name, cell in zip(columns, cells, strict=True)}


def _unescape(cell: str) -> str:
    if "\\" not in cell:
        return cell
    parts = cell.split("\\\\")
    return "\\".join(part.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r") for part in parts)


class Datasets:
    """The data sets in the cache of the `datasets` library, by their names on the Hugging Face hub.

    Reads the cache's files directly, because `load_dataset` sends a request to the hub first.
    """

    def __init__(self) -> None:
        try:
            import datasets
        except ImportError:
            raise ImportError("--data: expected a folder (or datasets installed), got neither") from None
        self._library = datasets
        self.folder = Path(datasets.config.HF_DATASETS_CACHE)

    def has(self, task: Task) -> bool:
        if task.parts:
            return all(self.has(task_named(part)) for part in task.parts)
        return all(self._find(task, part) for part in PARTS.get(task.type, ("test",)))

    def rows(self, task: Task, part: str) -> Iterator[Row]:
        paths = self._find(task, part)
        if not paths:
            expected = f"{task.dataset}, revision {task.revision}, {part}"
            raise ValueError(f"{task.name}: no data in the cache of datasets, {self.folder}; expected {expected}")
        number = 0
        for path in paths:
            for row in self._library.Dataset.from_file(str(path)):
                for record in _pairs(row) if task.type == "PairClassification" else (row,):
                    number += 1
                    yield f"{task.dataset}, {part}, row {number}", record

    def _find(self, task: Task, part: str) -> list[Path]:
        """Return a part's files in order: NAMESPACE___NAME/CONFIG/VERSION/REVISION/NAME-SPLIT[-00000-of-00001].arrow"""
        if task.dataset is None:
            return []
        name = task.dataset.rpartition("/")[2]
        config, split = task.subset or "default", task.split if part == "test" else part
        if task.type == "Retrieval":
            config, split = ("default", task.split) if part == "qrels" else (part, part)
        folder = self.folder / task.dataset.replace("/", "___") / config
        paths = folder.glob(f"*/{task.revision}/{name}-{split}*.arrow")
        return sorted(path for path in paths if re.fullmatch(r"(-\d+-of-\d+)?", path.stem[len(f"{name}-{split}") :]))


def _pairs(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the pairs of a row.

    At the card's revisions the data set is one row of three lists (sent1, sent2, labels). A row that holds one pair is
    yielded as it is.
    """
    names = {"sent1": "sentence1", "sent2": "sentence2", "labels": "label"}
    row = {names.get(name, name): value for name, value in row.items()}
    columns = [row.get(name) for name in names.values()]
    if not all(isinstance(column, list) for column in columns):
        yield row
        return
    for values in zip(*columns, strict=True):
        yield dict(zip(names.values(), values, strict=True))


def check(source: Source, task: Task) -> None:
    """Raise a ValueError that names the missing part if the source has no data for the task."""
    for part in task.parts:
        check(source, task_named(part))
    if not task.parts and not source.has(task):
        for part in PARTS.get(task.type, ("test",)):
            next(read(source, task, part), None)


def read(source: Source, task: Task, part: str = "test") -> Iterator[Mapping[str, Any]]:
    """Yield the checked rows of a part. Raises a ValueError that names the file and the line of an invalid row."""
    fields = FIELDS[part if task.type == "Retrieval" else task.type]
    for where, row in source.rows(task, part):
        yield {**row, **{name: _checked(where, row, name, kind) for name, kind in fields.items()}}


def _checked(where: str, row: Mapping[str, Any], name: str, kind: Any) -> Any:
    if name not in row:
        raise ValueError(f"{where}: expected the field {name}, got {_shortened(', '.join(row)) or 'no field'}")
    value = row[name]
    converted = _as(value, kind)
    if converted is None:
        raise ValueError(f"{where}: {name}: expected {_KINDS[str(kind)]}, got {_shortened(repr(value), 40)}")
    return converted


def _shortened(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


_KINDS = {
    str(str): "a string",
    str(Id): "a string without lone surrogates",
    str(int): "an integer below 2**31",
    str(float): "a number",
    str(object): "an integer or a string",
    str([str]): "a list of strings",
    str([float]): "a list of numbers",
    str([object]): "a list of integers or strings",
    str((str, [str])): "a string or a list of strings",
}


def _as(value: Any, kind: Any) -> Any:
    """Convert the value to a kind of FIELDS, or return None. A number may be a string, as in a .tsv file."""
    if isinstance(kind, tuple):
        return next((item for choice in kind if (item := _as(value, choice)) is not None), None)
    if isinstance(kind, list):
        if not isinstance(value, list):
            return None
        items = [_as(item, kind[0]) for item in value]
        return None if None in items else items
    if kind is Id:
        return value if isinstance(value, str) and not re.search("[\ud800-\udfff]", value) else None
    if kind is str:
        return value if isinstance(value, str) else None
    if kind is object:
        return value if isinstance(value, int | str) and not isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if isinstance(value, str) and "_" in value:  # float() takes 1_000
        return None
    if not math.isfinite(number) or (kind is int and (number != int(number) or abs(number) >= INTEGER_LIMIT)):
        return None
    return kind(number)
