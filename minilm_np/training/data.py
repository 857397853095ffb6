"""Training data: files of examples, and the batch of every step as a pure function of seed, step and batch size.

lines.py has the forms of a line. The first line of a file decides its form and number of columns.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import operator
import os
import tempfile
import zlib
from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path, PureWindowsPath
from typing import IO, Any, NamedTuple

import numpy as np

from minilm_np.layout import WeightsError, read_json, shown
from minilm_np.model import Array
from minilm_np.training.lines import DataError as DataError
from minilm_np.training.lines import Row, is_number, parse

SUFFIXES = (".jsonl", ".jsonl.gz")
MAX_LINE = 2**24  # bytes
BLOCK = 1024  # steps whose data sets are drawn together
TRIES = 20  # rows drawn at random for each example of a batch, before all rows are tried in order
SETS, ORDER, FILL = range(3)  # what random numbers are for; each has its own key (seed, purpose)


class Batch(NamedTuple):
    """The examples of one step."""

    examples: list[list[str]]  # batch_size rows of one length: anchor, positive, negatives
    labels: list[float] | None  # one for each example, if the data has them
    sources: list[str]  # "FILE:LINE" of each example


class _DataSet:
    """A file of examples: where its rows start, and the order in which they come."""

    def __init__(self, name: str, place: str, unit: str, file: IO[bytes], weight: float | None) -> None:
        """Read the whole file once. name: for sources; place: for errors; unit: "line" or "row"."""
        self.name, self.place, self.unit, self.file = name, place, unit, file
        digest, starts, offset, blank = hashlib.sha256(), array("q"), 0, 0
        first: Row | None = None
        by_label: dict[Hashable, array[int]] = {}
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            digest.update(line)
            if not _content(line, offset).strip():
                blank = blank or number
            elif blank:
                raise DataError(f"{place}: {unit} {blank}: expected an example, got a blank line")
            else:
                row = self._parse(_content(line, offset), number)
                first = first or row
                if row.form != first.form:
                    raise DataError(f"{place}: {unit} {number}: expected {first.form} as in {unit} 1, got {row.form}")
                if row.width != first.width:
                    raise DataError(
                        f"{place}: {unit} {number}: expected {first.width} columns as in {unit} 1, got {row.width}"
                    )
                if len(row.columns) == 1:
                    by_label.setdefault(row.label, array("q")).append(len(starts))
                starts.append(offset)
            offset += len(line)
        if first is None:
            raise DataError(f"{place}: expected examples, got none")
        self.lines: Array | None = None  # of each row, counted from 0; None: row i is line i
        self.by_label = {label: np.array(lines) for label, lines in by_label.items() if len(lines) > 1}
        if len(first.columns) == 1:
            if not self.by_label:
                raise DataError(f"{place}: expected two texts of one label, got a single text of each")
            self.lines = np.sort(np.concatenate(list(self.by_label.values())))
        self.starts, self.sha256 = np.array(starts), digest.hexdigest()
        self.columns, self.has_scores = first.width, len(first.columns) > 1 and first.label is not None
        self.rows = len(self.starts if self.lines is None else self.lines)
        self.weight = self.rows if weight is None else weight
        self.orders: dict[int, Array] = {}  # of the last two epochs

    def _parse(self, line: bytes, number: int) -> Row:
        """Return a line's row, or raise DataError with its number."""
        try:
            if len(line) > MAX_LINE:
                raise DataError(f"expected at most {MAX_LINE} bytes, got more")
            return parse(line)
        except DataError as error:
            raise DataError(f"{self.place}: {self.unit} {number}: {error}") from None

    def line(self, row: int) -> int:
        """Return the line of a row, both counted from 0."""
        return row if self.lines is None else int(self.lines[row])

    def read(self, line: int) -> Row:
        """Return the content of a line, counted from 0."""
        offset = int(self.starts[line])
        self.file.seek(offset)
        return self._parse(_content(self.file.readline(), offset), line + 1)

    def order(self, seed: int, index: int, start: int, count: int) -> Iterator[int]:
        """Yield the rows from a position on: all rows in a new order, then all rows in another one, ..."""
        for position in range(start, start + count):
            epoch, place = divmod(position, self.rows)
            if epoch not in self.orders:
                while len(self.orders) > 1:
                    del self.orders[next(iter(self.orders))]
                self.orders[epoch] = _generator(seed, ORDER, epoch, index).permutation(self.rows)
            yield int(self.orders[epoch][place])

    def example(self, row: int, random: np.random.Generator, used: set[Hashable]) -> tuple[list[str], Any] | None:
        """Return a row's texts and label, without those in `used`; None if there are not enough.

        Texts with a score are compared with each other only, so they may be in `used`, and equal.
        """
        found = self.read(self.line(row))
        if self.has_scores:
            return [text for (text,) in found.columns], found.label
        texts: list[str] = []
        for choices in found.columns:
            free = [text for text in choices if text not in used and text not in texts]
            if not free:
                return None
            texts.append(free[int(random.integers(len(free)))])
        if len(texts) == 1:
            if ("label", found.label) in used:
                return None
            lines = self.by_label[found.label]
            others = np.roll(lines, -int(random.integers(len(lines))))
            of_label = (self.read(int(line)).columns[0][0] for line in others)
            positive = next((text for text in of_label if text not in used and text not in texts), None)
            if positive is None:
                return None
            texts.append(positive)
        return texts, found.label


class Batches:
    """Data sets, and the batch of every step. Use as a context manager, or call `close`; not for several threads."""

    def __init__(self, sets: Sequence[_DataSet], seed: int, datasets_per_batch: int) -> None:
        """See `load`."""
        self._sets, self._seed, self._slots = sets, seed, datasets_per_batch
        self._weights = np.array([data.weight for data in sets], np.float64)
        kinds = [(data.columns, data.has_scores) for data in sets]
        self._groups = [np.flatnonzero([kind == other for other in kinds]) for kind in dict.fromkeys(kinds)]
        # How often each set has been drawn as the first, second, ... of a batch, before each block of steps.
        self._drawn = [np.zeros((datasets_per_batch, len(sets)), np.int64)]

    @property
    def rows(self) -> int:
        """The number of rows of all data sets; a text whose label has no other text does not count."""
        return sum(data.rows for data in self._sets)

    def describe(self) -> list[dict[str, Any]]:
        """Return of each file its name, rows, columns, whether they have scores, weight, and the SHA-256 of its bytes.

        Of a .gz it is that of the uncompressed bytes.
        """
        return [
            {
                "file": data.name,
                "rows": data.rows,
                "columns": data.columns,
                "has_scores": data.has_scores,
                "weight": data.weight,
                "sha256": data.sha256,
            }
            for data in self._sets
        ]

    def batch(self, step: int, batch_size: int) -> Batch:
        """Return the batch of a step, counted from 0: the same whatever was asked for before.

        A batch has no text twice, and no label of {"text", "label"} twice: rows that would bring one are replaced by
        random rows of the same file. Rows with scores are exempt, because their texts are no one's negatives.

        Raises
        ------
        DataError
            If the batch cannot be filled, or if a file has changed since it was loaded and a line is not valid.
        ValueError
            If an argument is out of range.
        """
        step, batch_size = whole("step", step, 0), whole("batch_size", batch_size, 1)
        shares = np.full(self._slots, batch_size // self._slots)
        shares[: batch_size % self._slots] += 1
        drawn, chosen = self._draws(step)
        starts = [int(start) for start in shares @ drawn] if len(self._sets) > 1 else [step * batch_size]
        random, used = _generator(self._seed, FILL, step), set[Hashable]()
        batch = Batch([], [], [])
        for index, share in zip(chosen, shares.tolist(), strict=True):
            self._fill(batch, index, starts[index], share, batch_size, random, used)
            starts[index] += share
        return batch if self._sets[chosen[0]].has_scores else batch._replace(labels=None)

    def _fill(
        self,
        batch: Batch,
        index: int,
        start: int,
        share: int,
        batch_size: int,
        random: np.random.Generator,
        used: set[Hashable],
    ) -> None:
        """Append `share` examples of one data set; `used` are the texts, labels and rows that the batch has."""
        data, full = self._sets[index], len(batch.examples) + share
        at_random = (int(random.integers(data.rows)) for _ in range(TRIES * share))
        for row in chain(data.order(self._seed, index, start, share), at_random, range(data.rows)):
            if len(batch.examples) == full:
                return
            if (index, row) in used or (found := data.example(row, random, used)) is None:
                continue
            texts, label = found
            used |= {*texts, (index, row), ("label", label if data.by_label else None)}
            batch.examples.append(texts)
            batch.sources.append(f"{data.name}:{data.line(row) + 1}")
            if batch.labels is not None and data.has_scores:
                batch.labels.append(label)
        if len(batch.examples) < full:
            common = "text or label" if data.by_label else "text"
            distinct = "" if data.has_scores else f" without a common {common}"
            raise DataError(
                f"batch_size: a batch of {batch_size} needs {share} examples{distinct}, "
                f"only {len(batch.examples) - full + share} found in {data.place}"
            )

    def _draws(self, step: int) -> tuple[Array, list[int]]:
        """Return how often each set was drawn for each slot before a step (slots, sets), and the sets of the step."""
        if len(self._sets) == 1:
            return self._drawn[0], [0] * self._slots
        block, rest = divmod(step, BLOCK)
        while len(self._drawn) <= block:
            self._drawn.append(self._drawn[-1] + self._count(self._block(len(self._drawn) - 1)))
        chosen = self._block(block)
        return self._drawn[block] + self._count(chosen[:rest]), [int(index) for index in chosen[rest]]

    def _block(self, block: int) -> Array:
        """Return the sets of a block of steps (BLOCK, slots). All sets of a step have the first one's columns."""
        random = _generator(self._seed, SETS, block).random((BLOCK, self._slots))
        chosen = np.empty(random.shape, np.int64)
        chosen[:, 0] = _pick(self._weights, random[:, 0])
        for group in self._groups:
            steps = np.isin(chosen[:, 0], group)
            chosen[steps, 1:] = group[_pick(self._weights[group], random[steps, 1:])]
        return chosen

    def _count(self, chosen: Array) -> Array:
        return np.stack([np.bincount(slot, minlength=len(self._sets)) for slot in chosen.T])

    def close(self) -> None:
        """Close the files."""
        for data in self._sets:
            data.file.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def load(data: Any, *, seed: int, datasets_per_batch: int = 1, name: str = "data") -> Batches:
    """Read training data once, check every line, and return its batches.

    Parameters
    ----------
    data
        A file .jsonl or .jsonl.gz; a folder of such files; a list of files; a data_config.json, which is a list of
        {"name": FILE, "weight": NUMBER} with the files next to it; or a sequence of examples. The forms of a line are
        those of minilm_np.training.lines. A .jsonl.gz is unpacked into a temporary file without a name.
    seed
        From 0 to 2**63 - 1; decides the order of the rows and all that is drawn.
    datasets_per_batch
        How many data sets a batch is from, in equal shares. They are drawn by weight, with replacement; those after
        the first from those that have as many columns and, like it, labels or none. Without a data_config.json the
        weight is the number of rows.
    name
        What errors call the first argument.

    Raises
    ------
    DataError
        If a file is missing or not valid; the message names the file and the line, counted from 1.
    ValueError
        If an argument is out of range.
    """
    seed, slots = whole("seed", seed, 0), whole("datasets_per_batch", datasets_per_batch, 1)
    sets: list[_DataSet] = []
    with ExitStack() as opened:
        try:
            if (
                isinstance(data, Sequence)
                and len(data)
                and not isinstance(data, (str, bytes))
                and not _is_path(data[0])
            ):
                place = "examples" if name == "data" else name
                file = opened.enter_context(_temporary(_lines(data, place), place))
                sets.append(_DataSet("examples", place, "row", file, None))
            else:
                for file_name, path, weight in _files(data, name):
                    file = opened.enter_context(_open(path))
                    sets.append(_DataSet(file_name, str(path), "line", file, weight))
        except OSError as error:
            raise DataError(f"{error.filename or data}: {error.strerror or error}") from None
        opened.pop_all()
    return Batches(sets, seed, slots)


class HeldOut(NamedTuple):
    """All examples of an evaluation file."""

    rows: list[list[str]]  # the texts of each example, in the order of the file
    scores: list[float] | None  # one for each example, if the file has them; they are not all equal
    description: str  # the files' names, numbers of rows, and SHA-256, so that a change is noticed


def held_out(data: Any) -> HeldOut:
    """Return all examples of small evaluation data, in any form that `load` takes.

    Where one of several texts is drawn, it is always the same. Rows without scores and without two different texts are
    left out.

    Raises
    ------
    DataError
        As `load` does; if some files have scores and others do not; if all scores are equal; if no row has two
        different texts.
    """
    with load(data, seed=0, name="evaluate") as batches:
        if len({data.has_scores for data in batches._sets}) > 1:
            names = {data.has_scores: data.name for data in batches._sets}
            raise DataError(f"evaluate: expected scores in all files or in none, got {names[True]} and {names[False]}")
        random = _generator(0, FILL, 0)
        found = [data.example(row, random, set()) for data in batches._sets for row in range(data.rows)]
        examples = [example for example in found if example]
        if not examples:
            raise DataError(f"evaluate: expected two different texts in a row, got none in {batches._sets[0].name}")
        scores = [score for _, score in examples] if batches._sets[0].has_scores else None
        files = batches.describe()
    rows = [texts for texts, _ in examples]
    if scores and len(set(scores)) == 1:
        raise DataError(f"evaluate: expected scores that differ, got {scores[0]:g} in all rows")
    if scores and max(map(len, rows)) > 2:
        raise DataError(f"evaluate: expected two texts for each score, got {max(map(len, rows))}")
    description = ", ".join(f"{file['file']} ({file['rows']} rows, sha256 {file['sha256'][:16]})" for file in files)
    return HeldOut(rows, scores, description)


def _files(data: Any, argument: str) -> list[tuple[str, Path, float | None]]:
    """Return the name, path and weight of each file."""
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        if not data:
            raise DataError(f"{argument}: expected at least one example or file, got none")
        for item in data:
            if not _is_path(item):
                raise DataError(f"{argument}: expected a path after the path {shown(data[0])}, got {shown(item)}")
        return [(Path(item).name, Path(item), None) for item in data]
    if not _is_path(data):
        raise DataError(f"{argument}: expected a path, a list of paths or examples, got {type(data).__name__}")
    path = Path(data)
    if path.is_dir():
        paths = sorted(item for item in path.iterdir() if item.name.endswith(SUFFIXES))
        if not paths:
            raise DataError(f"{path}: expected .jsonl or .jsonl.gz files in the folder, got none")
        return [(item.name, item, None) for item in paths]
    if path.suffix != ".json":
        return [(path.name, path, None)]
    try:
        config = read_json(path)
    except WeightsError as error:
        raise DataError(str(error)) from None
    if not isinstance(config, list) or not config:
        raise DataError(f'{path}: expected a list of {{"name": ..., "weight": ...}}, got {shown(config)}')
    for i, item in enumerate(config):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str) or "weight" not in item:
            raise DataError(f'{path}: [{i}]: expected {{"name": ..., "weight": ...}}, got {shown(item)}')
        name, weight = PureWindowsPath(item["name"]), item["weight"]  # which knows the separators of all systems
        if name.anchor or ".." in name.parts:
            raise DataError(f"{path}: [{i}].name: expected a file in the folder, got {shown(item['name'])}")
        if not is_number(weight) or weight <= 0:
            raise DataError(f"{path}: [{i}].weight: expected a number above 0, got {shown(weight)}")
    return [(item["name"], path.parent / item["name"], item["weight"]) for item in config]


def _open(path: Path) -> IO[bytes]:
    """Return a file that can be read in any order; a .gz is unpacked."""
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: expected a file .jsonl or .jsonl.gz, or a data_config.json")
    if not path.is_file():  # a pipe would wait for its writer
        raise DataError(f"{path}: expected a file, got something else" if path.exists() else f"{path}: no such file")
    return _temporary(_unpacked(path), str(path)) if path.suffix == ".gz" else path.open("rb")


def _unpacked(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a .gz file."""
    number = 1
    with gzip.open(path, "rb") as file:
        while True:
            try:
                chunk = file.read1(2**16)  # unlike read, it returns what there is before a damaged place
            except EOFError:
                raise DataError(f"{path}: line {number}: the gzip file is cut off here") from None
            except (gzip.BadGzipFile, zlib.error) as error:
                raise DataError(f"{path}: line {number}: not valid gzip: {error}") from None
            if not chunk:
                return
            number += chunk.count(b"\n")
            yield chunk


def _lines(examples: Sequence[Any], place: str) -> Iterator[bytes]:
    """Yield examples as lines of JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError

    for number, example in enumerate(examples, 1):
        try:
            yield json.dumps(example, default=plain).encode() + b"\n"
        except (TypeError, ValueError, RecursionError):
            raise DataError(f"{place}: row {number}: expected texts, got {shown(example)}") from None


def _temporary(chunks: Iterable[bytes], place: str) -> IO[bytes]:
    """Return a temporary file without a name, with the bytes given."""
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115, the caller closes it
    except OSError as error:
        raise DataError(f"{place}: cannot open a temporary file: {error.strerror or error}") from None
    try:
        for chunk in chunks:
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                folder = tempfile.gettempdir()
                raise DataError(f"{place}: cannot write a temporary file in {folder}: {error.strerror}") from None
        file.seek(0)
    except BaseException:
        with suppress(OSError):  # closing a file on a full disk fails again
            file.close()
        raise
    return file


def _content(line: bytes, offset: int) -> bytes:
    """Return a line without the mark that some programs write at the start of a file."""
    return line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def whole(name: str, value: Any, least: int) -> int:
    """Return an argument as an int."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not least <= number < 2**63:
        raise ValueError(f"{name}: expected a whole number from {least} to 2**63 - 1, got {shown(value)}")
    return number


def _generator(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """Return random numbers that depend only on the arguments; those of different arguments are independent.

    Philox turns a counter of four words into four random words; the first counts, the others are `place`. (Salmon et
    al. 2011.)
    """
    counter = np.array([0, *place, 0, 0][:4], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=np.array([seed, purpose], np.uint64)))


def _pick(weights: Array, random: Array) -> Array:
    """Return an index for each random number in [0, 1), by weight. weights: (sets,); random: any shape."""
    total = np.cumsum(weights / weights.max())
    return np.searchsorted(total / total[-1], random, side="right")
