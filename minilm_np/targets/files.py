"""Read files of results from strangers: what is damaged, ambiguous or too large for memory is refused.

A function raises CannotCompareError, ValueError, or whatever the library that it calls raises; `read_dump` makes one
error of them.
"""

from __future__ import annotations

import json
import math
import mmap
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from minilm_np.checkpoint import Tensor, read_safetensors
from minilm_np.formats import bf16_to_float32
from minilm_np.model import Array
from minilm_np.targets.error import CannotCompareError
from minilm_np.targets.json_arrays import JsonArrays, decode

SUFFIXES = (".npy", ".npz", ".safetensors", ".json", ".jsonl")
MAX_JSON_BYTES = 2**28  # all stages have 88 MB
MAX_LINE_BYTES = 2**24
MAX_ARRAYS = 2**16  # in an .npz file; all stages have 624
MAX_HEADER_BYTES = 2**22  # of a .safetensors file; that of all stages has 80,000


def read(path: Path, max_bytes: int, texts: Sequence[str] = ()) -> Any:
    """Return an array, a list of arrays, or a mapping from names to them."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CannotCompareError(f"{path}: expected a file, got a folder, a device or a pipe")
    if path.suffix == ".json":
        max_bytes = min(max_bytes, MAX_JSON_BYTES)
    if status.st_size > max_bytes:
        raise CannotCompareError(f"{path}: expected at most {max_bytes} bytes, got {status.st_size}")
    if path.suffix == ".npy":
        with path.open("rb") as file:
            return _read_npy(file, status.st_size)
    if path.suffix == ".npz":
        return _read_npz(path, max_bytes)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".json":
        return JsonArrays().parse(decode(path.read_bytes()))
    if path.suffix == ".jsonl":
        return list(_read_jsonl(path, texts))
    raise CannotCompareError(f"{path}: expected a file {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}")


def _read_npy(file: IO[bytes], size: int) -> Array:
    """Return the array of an .npy file of this size in bytes.

    np.load would allocate what the header claims, ignore what follows the array, and accept a negative shape.
    """
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:  # 3.0 is for names of fields beyond Latin-1
        raise ValueError(f"expected version 1.0 or 2.0, got {version[0]}.{version[1]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of headers written on Python 2, and of some damaged ones
        shape, fortran_order, dtype = readers[version](file)
    if dtype.hasobject or dtype.itemsize == 0 or any(length < 0 for length in shape):
        raise ValueError(f"expected an array of numbers, got dtype {dtype} of shape {shape}")
    expected, got = math.prod(shape) * dtype.itemsize, size - file.tell()
    if got != expected:
        raise ValueError(f"expected {expected} bytes for shape {shape} of {dtype}, got {got}")
    data = file.read(expected)
    if len(data) != expected or file.read(1):
        raise ValueError(f"expected {expected} bytes for shape {shape} of {dtype}, got {len(data)}")
    return np.ndarray(shape, dtype, buffer=data, order="F" if fortran_order else "C")


def _read_npz(path: Path, max_bytes: int) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    with path.open("rb") as file:
        _check_number_of_entries(file)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > max_bytes:
                raise CannotCompareError(f"{path}: expected at most {max_bytes} bytes unpacked, got {size}")
            if min((entry.header_offset for entry in entries), default=0) > 0:
                raise ValueError("expected one archive, got another file before it")
            for entry in entries:
                if entry.is_dir():
                    continue
                name = entry.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"{name} occurs twice")
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{name}: expected no compression or deflate")  # others unpack without a limit
                with archive.open(entry) as member:
                    arrays[name] = _read_npy(member, entry.file_size)
    return arrays


def _check_number_of_entries(file: IO[bytes]) -> None:
    """Raise ValueError if the archive has more than MAX_ARRAYS entries; ZipFile makes 600 bytes of an entry's 47."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        count = sum(1 for _ in islice(re.finditer(rb"PK\x01\x02", mapped), MAX_ARRAYS + 1))
    if count > MAX_ARRAYS:
        raise ValueError(f"expected at most {MAX_ARRAYS} arrays")


def _read_safetensors(path: Path) -> dict[str, Array]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if MAX_HEADER_BYTES < length < path.stat().st_size:
        raise ValueError(f"expected a header of at most {MAX_HEADER_BYTES} bytes, got {length}")
    return {name: _numbers(tensor) for name, tensor in read_safetensors(path).items()}


def _numbers(tensor: Tensor) -> Array:
    return bf16_to_float32(tensor.data) if tensor.dtype == "BF16" else tensor.data


def _read_jsonl(path: Path, texts: Sequence[str]) -> Iterator[Array]:
    """Yield the vector of each line that is not blank."""
    parser, row, size = JsonArrays(), 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"line {number}: expected at most {MAX_LINE_BYTES} bytes")
            if not line.strip():
                continue
            try:
                vector = _vector(parser.parse(decode(line)), row, texts)
                size = size or len(vector)
                if len(vector) != size:
                    raise ValueError(f"expected {size} numbers as in the lines before, got {len(vector)}")
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            yield vector
            row += 1


def _vector(value: Any, row: int, texts: Sequence[str]) -> Array:
    """Return the vector of a line: a list of numbers, or the key "embedding" of an object.

    The other keys of the object must not hold results, which would not be compared, and must not contradict the row.
    """
    if isinstance(value, Mapping) and "embedding" in value:
        for key, other in value.items():
            if key == "embedding":
                continue
            if key in ("index", "case") and (type(other) is not int or other != row):
                raise ValueError(f"{key}: expected {row}, the number of the vector, got {_shown(other)}")
            if key == "text" and row < len(texts) and other != texts[row]:
                raise ValueError(f"text: expected {_shown(texts[row])}, got {_shown(other)}")
            if isinstance(other, Mapping | list | np.ndarray):
                raise ValueError(f"{key[:60]}: expected no result but 'embedding' (.json may hold other stages)")
        value = value["embedding"]
    if not isinstance(value, np.ndarray) or not value.size:
        raise ValueError(f"expected a vector or an object with the key 'embedding', got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    shown = json.dumps(value, default=lambda array: array[:10].tolist())
    return shown if len(shown) <= 60 else shown[:57] + "..."
