"""Finding the model's files in the documented order, and rejecting damaged ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_hub import FOREIGN
from support.paths import REPOSITORY

from minilm_np import SentenceTransformer, WeightsError, WeightsNotFoundError, weights

SNAPSHOTS = Path("hub") / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots"


def put(folder: Path, without: str = "") -> Path:
    """Create the model's files, empty, in `folder`, and return it."""
    for file in weights.SHA256:
        if file != without:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point every place that is searched to an empty folder under tmp_path."""
    for name in tuple(os.environ):
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "checkout_folder", lambda: None)
    return tmp_path


def test_searches_places_in_the_documented_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights.find() is None
    own = put(home / "cache" / "minilm_np" / "all-MiniLM-L6-v2")
    assert weights.find() == ("cache folder of minilm_np", own)
    snapshot = put(home / "hf" / SNAPSHOTS / "abc")
    assert weights.find() == ("Hugging Face cache", snapshot)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(home / "st"))
    assert weights.find() == ("Hugging Face cache", snapshot)
    own = put(home / "st" / "all-MiniLM-L6-v2")  # where `fetch` puts it
    assert weights.find() == ("$SENTENCE_TRANSFORMERS_HOME", own)
    snapshot = put(home / "st" / SNAPSHOTS.parent.name / "snapshots" / "abc")
    assert weights.find() == ("$SENTENCE_TRANSFORMERS_HOME", snapshot)
    checkout = put(home / "checkout")
    monkeypatch.setattr(weights, "checkout_folder", lambda: checkout)
    assert weights.find() == ("weights/ of the checkout", checkout)
    named = put(home / "named")
    monkeypatch.setenv("MINILM_NP_WEIGHTS", str(named))
    assert weights.find() == weights.find("all-MiniLM-L6-v2") == ("$MINILM_NP_WEIGHTS", named)
    assert weights.find(put(home / "explicit")) == ("explicit path", home / "explicit")


def test_skips_a_folder_that_lacks_a_file(home: Path) -> None:
    for file in weights.SHA256:
        shutil.rmtree(home / "hf", ignore_errors=True)
        put(home / "hf" / SNAPSHOTS / "abc", without=file)
        assert weights.find() is None, file


def test_prefers_the_snapshot_of_main(home: Path) -> None:
    for commit in ("aaa", "bbb", "ccc"):
        put(home / "hf" / SNAPSHOTS / commit)
    (home / "hf" / SNAPSHOTS.parent / "refs").mkdir()
    (home / "hf" / SNAPSHOTS.parent / "refs" / "main").write_text("bbb")
    place = weights.find()
    assert place and place.folder.name == "bbb"


def test_uses_another_snapshot_if_main_points_to_none(home: Path) -> None:
    snapshot = put(home / "hf" / SNAPSHOTS / "aaa")
    (home / "hf" / SNAPSHOTS.parent / "refs").mkdir()
    for content in (b"bbb", b"", b"\xff\xfe", b"../.."):
        (home / "hf" / SNAPSHOTS.parent / "refs" / "main").write_bytes(content)
        assert weights.find() == ("Hugging Face cache", snapshot)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"])
@pytest.mark.parametrize("start", ["~", "$SOMEWHERE"])
def test_expands_home_and_variables_in_hugging_face_variables(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, start: str
) -> None:
    for name in ("HOME", "USERPROFILE", "SOMEWHERE"):
        monkeypatch.setenv(name, str(home / "h"))
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(variable, f"{start}/hf" if variable == "HF_HOME" else f"{start}/hf/hub")
    snapshot = put(home / "h" / "hf" / SNAPSHOTS / "abc")
    assert weights.find() == ("Hugging Face cache", snapshot)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_hugging_face_cache_follows_its_variables(home: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("HF_HOME")
    cache = {"HF_HUB_CACHE": "y/hub", "HF_HOME": "y", "XDG_CACHE_HOME": "."}[variable]
    monkeypatch.setenv(variable, str(home / "x" / cache))
    folder = {"XDG_CACHE_HOME": "huggingface"}.get(variable, "y")
    snapshot = put(home / "x" / folder / SNAPSHOTS / "abc")
    assert weights.find() == ("Hugging Face cache", snapshot)


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_rejects_a_named_folder_that_lacks_a_file(home: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    put(home / "cache" / "minilm_np" / "all-MiniLM-L6-v2")  # must not be used instead
    incomplete = put(home / "incomplete", without="tokenizer.json")
    lacks = f"got {incomplete}: it lacks tokenizer.json"
    if how == "argument":  # any checkpoint
        lacks = f"{incomplete / 'tokenizer.json'}: no such file, and no vocab.txt"
    missing = home / "nothing"
    for folder, problem in ((incomplete, lacks), (missing, f"got {missing}: no such folder")):
        if how == "environment":
            monkeypatch.setenv("MINILM_NP_WEIGHTS", str(folder))
        with pytest.raises(WeightsNotFoundError, match=re.escape(problem)):
            weights.find(folder if how == "argument" else weights.DEFAULT_MODEL)


def test_does_not_fetch_an_unknown_model(home: Path) -> None:
    message = "expected a folder or a model in the Hugging Face cache, got 'someone/other-model'"
    with pytest.raises(WeightsNotFoundError, match=message):
        weights.find_or_fetch("someone/other-model")
    snapshot = put(home / "hf" / "hub" / "models--someone--other-model" / "snapshots" / "abc")
    assert weights.find_or_fetch("someone/other-model").folder == snapshot


def test_find_works_without_a_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without a home folder
    weights.find()
    assert weights.cache_folder().name == "minilm_np"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_unreadable_folder_is_skipped_or_named_in_one_error(home: Path) -> None:
    # in a separate process that gives up root's rights, because root may read everything
    base = home / "base"
    put(base / "hf" / SNAPSHOTS / "abc")
    put(base / "locked")
    put(base / "cache" / "minilm_np" / "all-MiniLM-L6-v2")
    put(base / "unreadable")
    (base / "unreadable" / "config.json").chmod(0)
    for folder in (base / "hf", base / "locked"):
        folder.chmod(0)
    base.chmod(0o755)
    code = """
import os, sys
from minilm_np import weights
weights.checkout_folder = lambda: None
os.chdir(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
print(weights.find().folder)
for call in (lambda: weights.find("./locked"), lambda: weights.verify(weights.find("./unreadable").folder)):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
"""
    environment = {**os.environ, "HF_HOME": "hf", "XDG_CACHE_HOME": "cache"}
    command = [sys.executable, "-c", code, str(base)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    for folder in (base / "hf", base / "locked"):
        folder.chmod(0o755)
    assert run.returncode == 0, run.stderr
    folder_found, locked, unreadable = run.stdout.splitlines()
    assert folder_found == str(Path("cache") / "minilm_np" / "all-MiniLM-L6-v2")
    assert locked.startswith("WeightsNotFoundError model_name_or_path: expected a folder with config.json")
    assert locked.endswith("got locked: not accessible")
    assert unreadable.startswith("PermissionError") and "config.json" in unreadable


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_rejects_a_file_with_one_flipped_bit(
    home: Path, weights_folder: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    folder = home / "flipped"
    shutil.copytree(weights_folder, folder, ignore=shutil.ignore_patterns(".*", "*.md"))
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    monkeypatch.setenv("MINILM_NP_WEIGHTS", str(folder))
    message = rf"{file}: .* expected sha256 {weights.SHA256[file]}, got {weights.sha256_of(folder / file)}"
    with pytest.raises(WeightsError, match=message) as caught:
        SentenceTransformer()
    assert "\n" not in str(caught.value)


def test_table_in_weights_readme_matches_the_code(weights_folder: Path) -> None:
    readme = REPOSITORY / "weights" / "README.md"
    rows = re.findall(r"^\| (\S+) \| (\d+) \| ([0-9a-f]{64}) \|$", readme.read_text(), re.M)
    assert {file: sha256 for file, _, sha256 in rows} == weights.SHA256
    assert all((weights_folder / file).stat().st_size == int(size) for file, size, _ in rows)


@pytest.mark.parametrize("revision", [None, "main"])
def test_fetches_into_an_empty_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    monkeypatch.setattr(weights, "checkout_folder", lambda: None)
    monkeypatch.delenv("MINILM_NP_WEIGHTS", raising=False)
    for name in ("HF_HUB_OFFLINE", "MINILM_NP_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    targets: list[Path | None] = []

    def fetch(to: Path | None = None, token: bool | str | None = None) -> Path:
        targets.append(to)
        return tmp_path

    monkeypatch.setattr(weights, "fetch", fetch)
    place = weights.find_or_fetch(cache_folder=tmp_path / "mine", revision=revision)
    assert (place.what, targets) == ("fetched", [tmp_path / "mine" / "all-MiniLM-L6-v2"])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"TRANSFORMERS_OFFLINE": "1"}, True),
        ({"TRANSFORMERS_OFFLINE": "yes", "HF_HUB_OFFLINE": ""}, True),
        ({"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "0"}, False),  # as in huggingface_hub
        ({"TRANSFORMERS_OFFLINE": "0", "MINILM_NP_OFFLINE": "TRUE"}, True),
        ({"TRANSFORMERS_OFFLINE": "0"}, False),
    ],
)
def test_offline_variables(
    home: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert weights.is_offline() is expected


def test_expands_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    folder = put(home / "models" / "mine")
    assert weights.find("~/models/mine") == ("explicit path", folder)
    assert weights.absolute("~/models/mine") == str(folder)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", "~/st")
    own = put(home / "st" / "all-MiniLM-L6-v2")
    assert weights.find() == ("$SENTENCE_TRANSFORMERS_HOME", own)


def test_absolute_keeps_names_and_links(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home / "a")
    (home / "link").symlink_to(home / "a")
    monkeypatch.chdir(home)
    assert weights.absolute("a") == str(home / "a")
    assert weights.absolute("./link") == weights.absolute(home / "link") == str(home / "link")
    assert weights.absolute("all-MiniLM-L6-v2") == "all-MiniLM-L6-v2"
