"""A task's data: rows with where they stand, out of plain files or out of the `datasets` library's cache.

Whatever is wrong with them is one ValueError that names file and line.
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

Row = tuple[str, Mapping[str, Any]]  # where it stands, for messages; its fields by name

MOST = 2**31  # whole numbers are below: pytrec_eval ends the interpreter at larger ones


class Id:
    """A text that is UTF-8; pytrec_eval ends the interpreter at half of a surrogate pair."""


FIELDS: dict[str, dict[str, Any]] = {  # what a row must have, by type of task; of retrieval, by part
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


PARTS = {"Retrieval": ("corpus", "queries", "qrels"), "Classification": ("train", "test")}  # else "test"


class Source(Protocol):
    """Where data comes from."""

    def has(self, task: Task) -> bool:
        """Is there data for it, as far as one sees without reading it?"""

    def rows(self, task: Task, part: str) -> Iterator[Row]:
        """The rows of a part: "test", of classification "train" also, of retrieval "corpus", "queries", "qrels"."""


class Files:
    """Plain files of a folder, in the formats of `tasks.FORMATS`."""

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
            wanted = form.replace("NAME", task.name, 1)
            raise ValueError(f"{task.name}: no data in {self.folder}; wanted {wanted}; plain, or with .gz at the end")
        return _tsv(path) if name.endswith(".tsv") else _jsonl(path)

    def _find(self, name: str, task: Task) -> Path | None:
        plain = self.folder / name.replace("NAME", task.name)
        return next((path for path in (plain, plain.with_name(plain.name + ".gz")) if path.is_file()), None)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line of a UTF-8 file, by where it is; what is gzip is told by its first bytes."""
    number = 0
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield f"{path}, line {number}", line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number}: not UTF-8 at byte {error.start}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: broken gzip: {error}") from None


def _jsonl(path: Path) -> Iterator[Row]:
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: found {type(row).__name__}, wanted a JSON object")
        yield where, row


def _tsv(path: Path) -> Iterator[Row]:
    r"""Tab-separated, the first line names the columns; in a text \\ \t \n \r are what they are in Python."""
    columns: list[str] | None = None
    for where, line in _lines(path):
        cells = line.split("\t")
        if columns is None:
            columns = cells
            continue
        if len(cells) != len(columns):
            raise ValueError(f"{where}: found {len(cells)} columns, wanted {len(columns)}: {', '.join(columns)}")
        yield where, {name: _unescape(cell) for name, cell in zip(columns, cells, strict=True)}


def _unescape(cell: str) -> str:
    if "\\" not in cell:
        return cell
    parts = cell.split("\\\\")
    return "\\".join(part.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r") for part in parts)


class Datasets:
    """The data sets that the `datasets` library has in its cache, by their names on the Hugging Face hub.

    The files of the cache are read, and `load_dataset` is not called: it would ask the hub first.
    """

    def __init__(self) -> None:
        try:
            import datasets
        except ImportError:
            raise ImportError("--data: found none, and datasets is not installed; wanted one of them") from None
        self._library = datasets
        self.folder = Path(datasets.config.HF_DATASETS_CACHE)

    def has(self, task: Task) -> bool:
        if task.parts:
            return all(self.has(task_named(part)) for part in task.parts)
        return all(self._find(task, part) for part in PARTS.get(task.type, ("test",)))

    def rows(self, task: Task, part: str) -> Iterator[Row]:
        paths = self._find(task, part)
        if not paths:
            wanted = f"{task.dataset}, revision {task.revision}, {part}"
            raise ValueError(f"{task.name}: no data in the cache of datasets, {self.folder}; wanted {wanted}")
        number = 0
        for path in paths:
            for row in self._library.Dataset.from_file(str(path)):
                for record in _pairs(row) if task.type == "PairClassification" else (row,):
                    number += 1
                    yield f"{task.dataset}, {part}, row {number}", record

    def _find(self, task: Task, part: str) -> list[Path]:
        """The part's files, in order: NAMESPACE___NAME/CONFIG/VERSION/REVISION/NAME-SPLIT[-00000-of-00001].arrow"""
        if task.dataset is None:
            return []
        name = task.dataset.rpartition("/")[2]
        config, split = task.subset or "default", task.split if part == "test" else part
        if task.type == "Retrieval":
            config, split = ("default", task.split) if part == "qrels" else (part, part)
        folder = self.folder / task.dataset.replace("/", "___") / config
        found = folder.glob(f"*/{task.revision}/{name}-{split}*.arrow")
        return sorted(path for path in found if re.fullmatch(r"(-\d+-of-\d+)?", path.stem[len(f"{name}-{split}") :]))


def _pairs(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The pairs of MTEB's one row of three lists, sent1, sent2 and labels at the card's revisions; of a row that is
    one pair, itself.
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
    """Nothing if the source has data of the task, as far as `has` sees; else ValueError naming the part it lacks."""
    for part in task.parts:
        check(source, task_named(part))
    if not task.parts and not source.has(task):
        for part in PARTS.get(task.type, ("test",)):
            next(read(source, task, part), None)


def read(source: Source, task: Task, part: str = "test") -> Iterator[Mapping[str, Any]]:
    """The checked rows of a part. Raises ValueError naming file and line."""
    wanted = FIELDS[part if task.type == "Retrieval" else task.type]
    for where, row in source.rows(task, part):
        yield {**row, **{name: _checked(where, row, name, kind) for name, kind in wanted.items()}}


def _checked(where: str, row: Mapping[str, Any], name: str, kind: Any) -> Any:
    if name not in row:
        raise ValueError(f"{where}: found {', '.join(row) or 'nothing'}; wanted {name}")
    value = row[name]
    converted = _as(value, kind)
    if converted is None:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        raise ValueError(f"{where}: {name}: found {shown}, wanted {_KINDS[str(kind)]}")
    return converted


_KINDS = {
    str(str): "a text",
    str(Id): "a text without half surrogate pairs",
    str(int): "a whole number below 2**31",
    str(float): "a number",
    str(object): "a whole number or a text",
    str([str]): "a list of texts",
    str([float]): "a list of numbers",
    str([object]): "a list of whole numbers or texts",
    str((str, [str])): "a text or a list of texts",
}


def _as(value: Any, kind: Any) -> Any:
    """The value as this kind, or None. A number may be written as text, as in .tsv."""
    if isinstance(kind, tuple):
        return next((found for some in kind if (found := _as(value, some)) is not None), None)
    if isinstance(kind, list):
        if not isinstance(value, list):
            return None
        found = [_as(item, kind[0]) for item in value]
        return None if None in found else found
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
    if isinstance(value, str) and "_" in value:  # Python's 1_000
        return None
    if not math.isfinite(number) or (kind is int and (number != int(number) or abs(number) >= MOST)):
        return None
    return kind(number)
