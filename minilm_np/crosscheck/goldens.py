"""Write and read golden bundles: the float64 reference for the probe texts, in files that any language can read.

docs/goldens.md describes the format:

    manifest.json           format, model, the tolerance of each stage, the sha256 of every other file
    cases.json              the probe texts: word pieces, ids, character offsets, token types
    embeddings.json         the final vectors with all digits of float64
    embeddings.safetensors  the same: "sentence_embedding" (40, 384) float64
    stages.safetensors      every stage of 12 of the texts as float32, keys "{case}/{stage}"
    detection.json          for each known mistake, the text that shows it best, and by how many tolerances

The bytes are the same on every machine and in every run: reproducible.py computes the values, and the files have a
fixed order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minilm_np import __version__
from minilm_np.checkpoint import WeightsError
from minilm_np.crosscheck.probes import PROBES, TEXTS
from minilm_np.crosscheck.truth import STAGE_ROWS, TOLERANCE_FACTOR, Truth, compute, float32_errors, tolerance
from minilm_np.files import named, remove_leftovers, staging_folder
from minilm_np.model import Array, stage_names
from minilm_np.targets import MAX_FILE_BYTES
from minilm_np.targets.files import read as read_file
from minilm_np.weights import DEFAULT_MODEL, SHA256, sha256_of

FORMAT = 1
MAX_JSON_BYTES = 2**22  # of manifest.json and cases.json, which have 100,000
FILES = ("cases.json", "embeddings.json", "embeddings.safetensors", "stages.safetensors", "detection.json")


class GoldensError(ValueError):
    """Raised when a bundle cannot be written, or when a file is missing or differs from manifest.json."""


class Goldens(NamedTuple):
    """A golden bundle in memory."""

    cases: list[dict[str, Any]]  # the probe texts and their word pieces, as in cases.json
    embeddings: Array  # the final vectors, (40, 384) float64
    stages: dict[str, Array]  # float32 arrays by name, "{case}/{stage}"
    tolerances: dict[str, float]  # the tolerance of each stage
    manifest: dict[str, Any]  # the contents of manifest.json

    @property
    def texts(self) -> list[str]:
        """The 40 probe texts, in order."""
        return [case["text"] for case in self.cases]


def write_goldens(folder: Path) -> Path:
    """Write a golden bundle to a new or empty folder and return the folder. This takes about ten seconds.

    A new folder appears only when it is complete; an empty folder gets manifest.json last. Before the work, raises
    GoldensError if the path is a file, a link, the current folder or a folder that is not empty, and OSError if it
    cannot be written.
    """
    from minilm_np.crosscheck import reproducible

    _check_target(folder)
    reference = compute(reproducible)
    contents = {
        "cases.json": _json(_cases(reference)),
        "embeddings.json": _json([[float(x) for x in row] for row in reference.embeddings], compact=True),
        "embeddings.safetensors": _safetensors({"sentence_embedding": reference.embeddings}),
        "stages.safetensors": _safetensors(_stages(reference)),
        "detection.json": (Path(__file__).parent / "detection.json").read_bytes(),
    }
    contents["manifest.json"] = _json(_manifest(reference, contents))
    _check_target(folder)  # again: another process may have written there meanwhile
    try:
        with staging_folder(_place(folder)) as temporary:
            new = temporary / folder.name
            new.mkdir()
            for name, content in contents.items():
                (new / name).write_bytes(content)
            if folder.exists():  # it may be a mount point, which cannot be replaced
                for name in contents:  # manifest.json last: without it, this is no bundle
                    (new / name).replace(folder / name)
            else:
                new.rename(folder)
    except OSError as error:
        raise named(error, folder) from None
    return folder


def _place(folder: Path) -> Path:
    """Return where the files of a bundle are written before they are moved, which is in the same file system."""
    return folder if folder.exists() else folder.parent


def _check_target(folder: Path) -> None:
    """Raise GoldensError or OSError if a bundle cannot be written to the folder; a temporary folder there is a test."""
    try:
        if folder.is_dir():
            remove_leftovers(folder)
        if folder.is_symlink():
            got = "a symbolic link"
        elif folder.name in ("", ".."):
            got = "the current folder"
        elif folder.exists() and not folder.is_dir():
            got = "a file"
        elif folder.exists() and any(folder.iterdir()):
            got = "a folder with files"
        else:
            got = ""
    except OSError as error:
        raise named(error, folder) from None
    if got:
        raise GoldensError(f"{folder}: expected a new or empty folder, got {got}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with staging_folder(_place(folder)) as temporary:
            (temporary / folder.name).mkdir()
    except OSError as error:
        raise named(error, folder) from None


def read_goldens(folder: Path) -> Goldens:
    """Read a golden bundle. Raises GoldensError if a file is missing, damaged, or differs from manifest.json."""
    manifest = _parse(folder / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise GoldensError(f"{folder / 'manifest.json'}: expected an object with format {FORMAT}")
    try:
        for name in FILES:
            if not (folder / name).is_file():
                raise GoldensError(f"{folder / name}: no such file")
            expected, actual = manifest["files"].get(name), sha256_of(folder / name)
            if actual != expected:
                raise GoldensError(f"{folder / name}: expected sha256 {expected}, got {actual}")
        goldens = Goldens(
            cases=_parse(folder / "cases.json"),
            embeddings=read_file(folder / "embeddings.safetensors", MAX_FILE_BYTES)["sentence_embedding"],
            stages=read_file(folder / "stages.safetensors", MAX_FILE_BYTES),
            tolerances={stage: float(entry["tolerance"]) for stage, entry in manifest["stages"].items()},
            manifest=manifest,
        )
        _check_complete(folder, goldens)
    except GoldensError:
        raise
    except OSError as error:
        raise GoldensError(f"{error.filename or folder}: {error.strerror or error}") from None
    except WeightsError as error:
        raise GoldensError(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GoldensError(f"{folder}: not a golden bundle: {type(error).__name__}: {error}") from None
    return goldens


def _check_complete(folder: Path, goldens: Goldens) -> None:
    """Raise GoldensError if a case or a stage is missing or there is one more than the manifest names."""
    numbers, n = [case["case"] for case in goldens.cases], goldens.manifest["cases"]
    if numbers != list(range(len(numbers))) or not n == len(numbers) == len(goldens.embeddings):
        got = f"{len(numbers)} cases and {len(goldens.embeddings)} embeddings"
        raise GoldensError(f"{folder}: expected {n} numbered cases and an embedding of each, got {got}")
    cases = [case["case"] for case in goldens.cases if case["stages"]]
    expected = {f"{case:02}/{stage}" for case in cases for stage in goldens.tolerances}
    for got, names in (("no", expected - goldens.stages.keys()), ("also", goldens.stages.keys() - expected)):
        if names:
            path = folder / "stages.safetensors"
            raise GoldensError(f"{path}: expected {len(expected)} arrays, got {got} {min(names)}")


def _parse(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise GoldensError(f"{path}: expected at most {MAX_JSON_BYTES} bytes, got {path.stat().st_size}")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise GoldensError(f"{path}: no such file") from None
    except OSError as error:
        raise GoldensError(f"{path}: {error.strerror or error}") from None
    except GoldensError:
        raise
    except (ValueError, RecursionError) as error:
        raise GoldensError(f"{path}: not valid JSON: {error}") from None


def _cases(reference: Truth) -> list[dict[str, Any]]:
    from minilm_np.tokenizer import Tokenizer

    tokenizer = Tokenizer(reference.checkpoint.folder / "tokenizer.json", reference.checkpoint.config.max_seq_length)
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


def _stages(reference: Truth) -> dict[str, Array]:
    return {
        f"{row:02}/{stage}": reference.of(stage, [row])[0].astype(np.float32)
        for row in STAGE_ROWS
        for stage in stage_names(reference.checkpoint.config)
    }


def _manifest(reference: Truth, contents: dict[str, bytes]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "made_by": f"minilm_np {__version__}",
        "model": DEFAULT_MODEL,
        "model_files": SHA256,
        "cases": len(TEXTS),
        "tolerance": f"absolute, of each element: {TOLERANCE_FACTOR} times the largest float32 error measured",
        "stages": {
            stage: {"tolerance": tolerance(stage), "float32_errors": float32_errors()[stage]}
            for stage in stage_names(reference.checkpoint.config)
        },
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }


def _json(value: Any, compact: bool = False) -> bytes:
    indent = None if compact else 1
    return (json.dumps(value, indent=indent, ensure_ascii=True, allow_nan=False) + "\n").encode()


def _safetensors(arrays: dict[str, Array]) -> bytes:
    """Return a safetensors file of the arrays, sorted by name."""
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}))


def detection_power(tried: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Return for each mistake the probe that shows it best, its error in tolerances, and how many probes show it.

    Errors are those of the final vectors; a vector that is not finite counts as 1e9 tolerances. `tried` is called with
    the name of each mistake after it was simulated.
    """
    from minilm_np.crosscheck.mistakes import catalogue
    from minilm_np.crosscheck.truth import batches, truth
    from minilm_np.crosscheck.variant import Checkpoint, Simulator

    reference, simulator, table = truth(), Simulator(Checkpoint.load()), []
    for mistake in catalogue(reference.checkpoint.config):
        vectors = simulator.run(mistake.apply(), TEXTS, batches()).embeddings
        errors = np.abs(vectors - reference.embeddings).max(axis=1) / tolerance("sentence_embedding")
        errors[~np.isfinite(errors)] = 1e9
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
