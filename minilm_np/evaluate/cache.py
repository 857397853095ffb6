"""Store embeddings on disk, in one SQLite file per model.

The file is named after the model's fingerprint, so a model that changes in any way gets a new file.
"""

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

MAX_SQL_PARAMETERS = 500  # per statement; older versions of SQLite allow 999


def fingerprint(model: SentenceTransformer) -> str:
    """Return 64 hexadecimal digits: a hash of everything except the text that an embedding depends on.

    The hash covers the weights in memory; the bytes of the checkpoint's other files; the code that computes; the op set
    with its compute dtype and SIMD width; the versions of NumPy, Numba and tokenizers; and the settings max_seq_length,
    truncate_dim and the default prompt.
    """
    folder, package = model.place.folder, Path(__file__).parents[1]
    checkpoint = (path for path in folder.rglob("*") if path.suffix in (".json", ".txt"))
    code = (*package.glob("*.py"), *package.glob("kernels/*.py"))
    digest = hashlib.sha256()
    for path in (*sorted(checkpoint), *sorted(code)):
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    width = import_module("minilm_np.kernels.simd").WIDTH if model.backend == "numba" else None
    prompt = model.prompts.get(model.default_prompt_name or "", "")
    settings = (model.backend, width, model.compute_dtype, model.max_seq_length, model.truncate_dim, prompt)
    digest.update(repr(settings).encode())
    libraries = ("numpy", "tokenizers", *(("numba",) if model.backend == "numba" else ()))
    digest.update(repr([version(library) for library in libraries]).encode())
    for name, weights in sorted(model._bert.weights.items()):
        digest.update(name.encode())
        _add(digest, weights)
    return digest.hexdigest()


def _add(digest: Any, weights: Any) -> None:
    """Add all numbers of a module's weights to the hash, in any layout that an op set uses."""
    if isinstance(weights, np.ndarray):
        digest.update(f"{weights.dtype.str} {weights.shape} ".encode())
        digest.update(np.ascontiguousarray(weights).data)
    elif isinstance(weights, tuple):
        for part in weights:
            _add(digest, part)
    else:
        digest.update(repr(weights).encode())


def cached(encode: Encode, folder: str | os.PathLike[str], model: str) -> Encode:
    """Return a function that encodes only the texts missing from folder/MODEL.sqlite, and stores the new vectors there.

    encode takes n texts and returns float32 or float64 vectors (n, D). model is a fingerprint. Several processes may
    use one folder. Raises a ValueError that names the file if the file or a vector in it is damaged.
    """
    path = Path(folder) / f"{model}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open(path) as database:
        database.execute("CREATE TABLE IF NOT EXISTS embeddings (text BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")

    def encode_or_read(texts: list[str]) -> Array:
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        known: dict[bytes, Any] = {}
        with _open(path) as database:
            for start in range(0, len(keys), MAX_SQL_PARAMETERS):
                chunk = keys[start : start + MAX_SQL_PARAMETERS]
                marks = ",".join("?" * len(chunk))
                known.update(database.execute(f"SELECT text, vector FROM embeddings WHERE text IN ({marks})", chunk))
        missing = [row for row, key in enumerate(keys) if key not in known]
        if missing:
            fresh = np.asarray(encode([texts[row] for row in missing]))
            if fresh.ndim != 2 or len(fresh) != len(missing) or fresh.dtype.str not in ("<f4", "<f8"):
                got = f"{fresh.dtype} of shape {fresh.shape}"
                raise ValueError(f"encode: expected float32 or float64 vectors ({len(missing)}, D), got {got}")
            entries = {keys[row]: _pack(vector) for row, vector in zip(missing, fresh, strict=True)}
            with _open(path) as database:
                database.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", entries.items())
            known.update(entries)
        try:
            return np.stack([_unpack(known[key]) for key in keys])
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"{path}: a vector is damaged; the file is a cache and can be deleted") from None

    return encode_or_read


def _pack(vector: Array) -> bytes:
    return vector.dtype.str.encode() + vector.tobytes()  # "<f4" or "<f8", then the elements


def _unpack(stored: bytes) -> Array:
    return np.frombuffer(stored, stored[:3].decode(), offset=3)


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection; commit at the end or roll back after an error, then close it."""
    try:
        connection = sqlite3.connect(path, timeout=60)
        try:
            with connection:
                yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ValueError(f"{path}: {error}; the file is a cache and can be deleted") from None
