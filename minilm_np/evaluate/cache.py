"""Embeddings on disk, one SQLite file for each model; a model that changes in anything gets another file."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from minilm_np.evaluate.protocols import Array, Encode
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.weights import sha256_of

AT_ONCE = 500  # parameters of one SQL statement; SQLite allows 999 in its older versions


def fingerprint(model: SentenceTransformer) -> str:
    """64 hexadecimal digits of all that an embedding depends on but its text.

    They are the weights as they are in memory; the checkpoint's other files, byte for byte; the code that computes;
    the op set, its type and its vectors' width; the versions of NumPy, Numba and tokenizers; and the model's settings:
    max_seq_length, truncate_dim, the default prompt.
    """
    folder, package = model.place.folder, Path(__file__).parents[1]
    checkpoint = (path for path in folder.rglob("*") if path.suffix in (".json", ".txt"))
    code = (*package.glob("*.py"), *package.glob("kernels/*.py"))
    digest = hashlib.sha256()
    for path in (*sorted(checkpoint), *sorted(code)):
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    width = import_module("minilm_np.kernels.simd").WIDTH if model.backend == "numba" else None
    prompt = model.prompts.get(model.default_prompt_name or "", "")
    settings = (model.backend, width, str(model.dtype), model.max_seq_length, model.truncate_dim, prompt)
    digest.update(repr(settings).encode())
    libraries = ("numpy", "tokenizers", *(("numba",) if model.backend == "numba" else ()))
    digest.update(repr([version(library) for library in libraries]).encode())
    for name, weights in sorted(model._bert.weights.items()):
        digest.update(name.encode())
        _add(digest, weights)
    return digest.hexdigest()


def _add(digest: Any, weights: Any) -> None:
    """All numbers of a module's weights, whatever layout the op set has given them."""
    if isinstance(weights, np.ndarray):
        digest.update(f"{weights.dtype.str} {weights.shape} ".encode())
        digest.update(np.ascontiguousarray(weights).data)
    elif isinstance(weights, tuple):
        for part in weights:
            _add(digest, part)
    else:
        digest.update(repr(weights).encode())


def cached(encode: Encode, folder: str | os.PathLike[str], model: str) -> Encode:
    """`encode`, but for texts that the file of the model with this fingerprint has.

    Several processes may use one folder. Raises ValueError naming the file if it is no such file.
    """
    path = Path(folder) / f"{model}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open(path) as database:
        database.execute("CREATE TABLE IF NOT EXISTS embeddings (text BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")

    def encode_or_read(texts: list[str]) -> Array:
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        known: dict[bytes, Any] = {}
        with _open(path) as database:
            for start in range(0, len(keys), AT_ONCE):
                some = keys[start : start + AT_ONCE]
                marks = ",".join("?" * len(some))
                known.update(database.execute(f"SELECT text, vector FROM embeddings WHERE text IN ({marks})", some))
        missing = [row for row, key in enumerate(keys) if key not in known]
        if missing:
            fresh = np.asarray(encode([texts[row] for row in missing]))
            if fresh.ndim != 2 or len(fresh) != len(missing) or fresh.dtype.str not in ("<f4", "<f8"):
                found = f"{fresh.dtype} of shape {fresh.shape}"
                raise ValueError(f"encode: found {found}, wanted float32 or float64 vectors ({len(missing)}, D)")
            entries = {keys[row]: _pack(vector) for row, vector in zip(missing, fresh, strict=True)}
            with _open(path) as database:
                database.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", entries.items())
            known.update(entries)
        try:
            return np.stack([_unpack(known[key]) for key in keys])
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"{path}: a vector is damaged; the embeddings there can be deleted") from None

    return encode_or_read


def _pack(vector: Array) -> bytes:
    return vector.dtype.str.encode() + vector.tobytes()  # "<f4" or "<f8", then the numbers


def _unpack(stored: bytes) -> Array:
    return np.frombuffer(stored, stored[:3].decode(), offset=3)


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that commits, or rolls back after an error, and is closed."""
    try:
        connection = sqlite3.connect(path, timeout=60)
        try:
            with connection:
                yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ValueError(f"{path}: {error}; the embeddings there can be deleted") from None
