"""The golden bundle: the truth about the probes in files that any language reads. docs/goldens.md is its format.

    manifest.json           what it is, of which model, the tolerance of each stage, the sha256 of each other file
    cases.json              the probes: text, word pieces, ids, character offsets, token types
    embeddings.json         the final vectors, in full float64 precision
    embeddings.safetensors  the same: "sentence_embedding" (40, 384) float64
    stages.safetensors      of the probes with stages, every stage as float32: "{case}/{stage}"
    detection.json          which probe shows which mistake, and by how many tolerances

Byte for byte the same on every machine and at every run: computed by reproducible.py, written in a fixed order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from minilm_np import __version__
from minilm_np.checkpoint import read_safetensors
from minilm_np.crosscheck.probes import PROBES, TEXTS
from minilm_np.crosscheck.truth import STAGE_ROWS, K, Truth, compute, float32_errors, tolerance
from minilm_np.model import Array, stage_names
from minilm_np.weights import DEFAULT_MODEL, SHA256

FORMAT = 1
FILES = ("cases.json", "embeddings.json", "embeddings.safetensors", "stages.safetensors", "detection.json")


class GoldensError(ValueError):
    """A file of a bundle is missing or not what manifest.json says."""


class Goldens(NamedTuple):
    """A bundle in memory."""

    cases: list[dict[str, Any]]  # as in cases.json
    embeddings: Array  # (40, 384) float64
    stages: dict[str, Array]  # "{case}/{stage}" float32
    tolerances: dict[str, float]  # by stage
    manifest: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        return [case["text"] for case in self.cases]


def write_goldens(folder: Path) -> Path:
    """Write the bundle to a new or empty folder, all of it or nothing; returns the folder. About ten seconds.

    Raises GoldensError if there is something in the folder already.
    """
    from minilm_np.crosscheck import reproducible

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GoldensError(f"{folder}: found something there already, wanted a new or empty folder")
    right = compute(reproducible)
    contents = {
        "cases.json": _json(_cases(right)),
        "embeddings.json": _json([[float(x) for x in row] for row in right.embeddings], compact=True),
        "embeddings.safetensors": _safetensors({"sentence_embedding": right.embeddings}),
        "stages.safetensors": _safetensors(_stages(right)),
        "detection.json": (Path(__file__).parent / "detection.json").read_bytes(),
    }
    contents["manifest.json"] = _json(_manifest(right, contents))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as part:
        new = Path(part) / folder.name
        new.mkdir()
        for name, content in contents.items():
            (new / name).write_bytes(content)
        if folder.exists():
            folder.rmdir()  # empty
        new.rename(folder)
    return folder


def read_goldens(folder: Path) -> Goldens:
    """A bundle that write_goldens wrote. Raises GoldensError if a file is missing or was changed."""
    manifest = _parse(folder / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise GoldensError(f"{folder / 'manifest.json'}: wanted format {FORMAT}")
    for name in FILES:
        wanted = manifest.get("files", {}).get(name)
        if not (folder / name).is_file():
            raise GoldensError(f"{folder / name}: no such file")
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != wanted:
            raise GoldensError(f"{folder / name}: found sha256 {found}, wanted {wanted}")
    return Goldens(
        cases=_parse(folder / "cases.json"),
        embeddings=read_safetensors(folder / "embeddings.safetensors")["sentence_embedding"].data,
        stages={name: tensor.data for name, tensor in read_safetensors(folder / "stages.safetensors").items()},
        tolerances={stage: entry["tolerance"] for stage, entry in manifest["stages"].items()},
        manifest=manifest,
    )


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GoldensError(f"{path}: no such file") from None
    except ValueError as error:
        raise GoldensError(f"{path}: not valid JSON: {error}") from None


def _cases(right: Truth) -> list[dict[str, Any]]:
    from minilm_np.tokenizer import Tokenizer

    tokenizer = Tokenizer(right.checkpoint.folder / "tokenizer.json", right.checkpoint.config.max_seq_length)
    return [
        {
            "case": row,
            "name": probe.name,
            "text": probe.text,
            "tokens": encoding.tokens,
            "token_ids": encoding.ids,
            "token_type_ids": encoding.type_ids,
            "offsets": [list(span) for span in encoding.offsets],
            "stages": probe.stages,
        }
        for row, (probe, encoding) in enumerate(zip(PROBES, tokenizer.encode(TEXTS), strict=True))
    ]


def _stages(right: Truth) -> dict[str, Array]:
    return {
        f"{row:02}/{stage}": right.of(stage, [row])[0].astype(np.float32)
        for row in STAGE_ROWS
        for stage in stage_names(right.checkpoint.config)
    }


def _manifest(right: Truth, contents: dict[str, bytes]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "made_by": f"minilm_np {__version__}",
        "model": DEFAULT_MODEL,
        "model_files": SHA256,
        "cases": len(TEXTS),
        "tolerance": f"absolute, of each element: {K} times the largest float32 error measured",
        "stages": {
            stage: {"tolerance": tolerance(stage), "float32_errors": float32_errors()[stage]}
            for stage in stage_names(right.checkpoint.config)
        },
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }


def _json(value: Any, compact: bool = False) -> bytes:
    indent = None if compact else 1
    return (json.dumps(value, indent=indent, ensure_ascii=True, allow_nan=False) + "\n").encode()


def _safetensors(arrays: dict[str, Array]) -> bytes:
    """The safetensors file of these arrays, in order of their names."""
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}))


def detection_power(tried: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """For each mistake of the catalogue, the probe that shows it most, by how many tolerances, and how many show it."""
    from minilm_np.crosscheck.mistakes import catalogue
    from minilm_np.crosscheck.truth import batches, truth
    from minilm_np.crosscheck.variant import Checkpoint, Simulator

    right, simulator, table = truth(), Simulator(Checkpoint.load()), []
    allowed = tolerance("sentence_embedding")
    for mistake in catalogue(right.checkpoint.config):
        made = simulator.run(mistake.apply(), TEXTS, batches()).embeddings
        errors = np.abs(made - right.embeddings).max(axis=1) / allowed
        errors[~np.isfinite(errors)] = 1e9  # not a number at all
        best = int(np.argmax(errors))
        table.append(
            {
                "mistake": mistake.name,
                "probe": PROBES[best].name,
                "tolerances": float(f"{errors[best]:.2g}"),
                "probes_that_show_it": int(np.sum(errors > 1)),
            }
        )
        if tried:
            tried(mistake.name)
    return table
