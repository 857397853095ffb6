"""Right results of the probe texts, and writers of files of results that also write what no library would.

A dump is a list of pairs (name, value), so that a name can occur twice. A value is an array, or a list that JSON can
represent.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minilm_np.crosscheck.truth import STAGE_ROWS, truth

Pairs = Sequence[tuple[str, Any]]

STAGES = ("embeddings", "encoder.layer.1.attention.self.attention_probs", "pooled", "sentence_embedding")
SAFETENSORS_DTYPES = {
    "f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i1": "I8", "b1": "BOOL", "c8": "C64"
}  # fmt: skip


def right_vectors() -> np.ndarray[Any, Any]:
    """Return the final vectors of all probe texts as a port in float32 computes them."""
    return truth().embeddings.astype(np.float32)


def right_cases(stages: Sequence[str] = STAGES) -> list[tuple[str, Any]]:
    """Return right stages of single texts, as in a golden bundle."""
    return [
        (f"{row:02}/{stage}", truth().of(stage, [row])[0].astype(np.float32)) for row in STAGE_ROWS for stage in stages
    ]


def right_stages() -> list[tuple[str, Any]]:
    """Return right stages as packed or stacked arrays, and the vectors of all texts."""
    return [
        ("token_ids", [truth().token_ids[row].tolist() for row in STAGE_ROWS]),
        ("embeddings", np.concatenate(truth().of("embeddings", STAGE_ROWS)).astype(np.float32)),
        ("pooled", np.stack(truth().of("pooled", STAGE_ROWS)).astype(np.float32)),
        ("sentence_embedding", right_vectors()),
    ]


def npy_bytes(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(value), allow_pickle=True)
    return file.getvalue()


def write_npz(path: Path, pairs: Pairs) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # about names that occur twice
        for name, value in pairs:
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w") as member:
                member.write(npy_bytes(value))


def write_safetensors(path: Path, pairs: Pairs) -> None:
    header, data = [], b""
    for name, value in pairs:
        array = np.ascontiguousarray(value)
        dtype = SAFETENSORS_DTYPES.get(array.dtype.str[1:], "U8")
        end = len(data) + array.nbytes
        entry = {"dtype": dtype, "shape": np.shape(value), "data_offsets": [len(data), end]}
        header.append(f"{json.dumps(name)}: {json.dumps(entry)}")
        data += array.tobytes()
    text = ("{" + ", ".join(header) + "}").encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_json(path: Path, pairs: Pairs) -> None:
    entries = (f"{json.dumps(name)}: {json.dumps(as_list(value))}" for name, value in pairs)
    path.write_text("{" + ", ".join(entries) + "}")


def write_jsonl(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(as_list(row)) + "\n" for row in rows))


def as_list(value: Any) -> Any:
    """Return what json.dumps accepts for a value: lists for arrays, text for other objects."""
    if isinstance(value, dict):
        return {key: as_list(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_list(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return as_list(value.tolist())
    return value if isinstance(value, bool | int | float | str | None) else str(value)


WRITERS: dict[str, Callable[[Path, Pairs], None]] = {
    "npz": write_npz,
    "safetensors": write_safetensors,
    "json": write_json,
}
