"""Find the parts of a checkpoint folder, in each of the layouts that sentence-transformers loads.

| written by                                  | config.json, weights, tokenizer | modules.json, 1_Pooling |
|---------------------------------------------|---------------------------------|-------------------------|
| sentence-transformers 1 and later           | in the folder                   | yes                     |
| older versions, before 2021                 | in 0_Transformer/               | yes                     |
| transformers (BertModel, BertForMaskedLM)   | in the folder                   | no: mean pooling        |

The weights are model.safetensors or its shards, and the tokenizer is tokenizer.json or vocab.txt.
"""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any, NamedTuple


class WeightsError(ValueError):
    """Raised when a checkpoint file is damaged or not supported; the message names the file and the key."""


class WeightsNotFoundError(FileNotFoundError):
    """Raised when no folder has the model's files; the message lists the files and the places searched."""


class Layout(NamedTuple):
    """Where the parts of a checkpoint are."""

    transformer: Path  # the folder of config.json, the weights and the tokenizer
    sentence_config: Path | None = None  # sentence_bert_config.json; None if there is none
    pooling: Path | None = None  # the config.json of Pooling; None without modules.json: the mean is taken
    normalize: bool = False  # whether modules.json ends with Normalize

    @property
    def weights(self) -> Path:
        """model.safetensors, or model.safetensors.index.json, which names several files.

        Raises
        ------
        WeightsNotFoundError
            If there is neither; the message says what is there and what to do.
        """
        for name in WEIGHTS:
            if (self.transformer / name).is_file():
                return self.transformer / name
        raise WeightsNotFoundError(f"{self.transformer / WEIGHTS[0]}: no such file{_what_is_in(self.transformer)}")

    @property
    def tokenizer(self) -> Path:
        """tokenizer.json, or vocab.txt.

        Raises
        ------
        WeightsNotFoundError
            If there is neither.
        """
        for name in TOKENIZERS:
            if (self.transformer / name).is_file():
                return self.transformer / name
        raise WeightsNotFoundError(f"{self.transformer / TOKENIZERS[0]}: no such file, and no vocab.txt")


WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt")
OPTIONS = "config_sentence_transformers.json"
MAX_JSON_BYTES = 4 * 2**20  # of a settings file; an index of shards has about 100 bytes per parameter
MAX_NAME = 255  # bytes of a file name, on all common file systems
# sentence-transformers reads the first of these that exists, whatever the architecture is.
SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Weights that other libraries read, in the order in which they are named: patterns, what they are, and what helps.
OTHER_WEIGHTS = (
    (("adapter_model.*",), "an adapter", "merge it into its base model with peft's merge_and_unload, and save that"),
    (
        ("pytorch_model*.bin", "*.bin", "*.pt", "*.ckpt"),
        "PyTorch weights",
        "they can run code when they are read; convert them with "
        "`sentence_transformers.SentenceTransformer(FOLDER).save_pretrained(OTHER_FOLDER)`, which writes safetensors",
    ),
    (("tf_model.h5", "*.msgpack"), "TensorFlow or Flax weights", "convert them with transformers below version 5"),
    (
        ("*.onnx", "onnx/*.onnx", "openvino/*.xml", "*.xml"),
        "an exported graph",
        "download model.safetensors of the same model; `minilm-np crosscheck FILE.onnx` checks a graph",
    ),
    (("*.gguf",), "GGUF weights", "download model.safetensors of the same model"),
    (("*.safetensors",), "safetensors of another name", "rename the file to model.safetensors"),
)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def shown(value: Any) -> str:
    """Return repr(value) for an error message: on one line, with "..." in the middle of what is long."""
    return _SHORT.repr(value)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    WeightsError
        If the file is missing, not valid JSON, or too large: Python's objects can take 36 times the size of the file.
    """
    if path.name != "tokenizer.json" and path.is_file() and (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise WeightsError(f"{path}: expected at most {MAX_JSON_BYTES} bytes, got {size}")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        check_is_not_lfs_pointer(path)
        raise WeightsError(f"{path}: not valid JSON: {error}") from None


def check_is_not_lfs_pointer(path: Path) -> None:
    """Raise WeightsError if a file is a pointer of Git LFS, which stands for a large file that is not there."""
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs.github.com/"):
            raise WeightsError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")


def find_layout(folder: Path) -> Layout:
    """Return where the parts of a checkpoint are.

    Without modules.json, a folder that transformers has saved is read as sentence-transformers does: the mean of the
    token embeddings, not normalized.

    Raises
    ------
    WeightsError
        If there is no config.json, if modules.json has other modules, or if the folder holds another kind of model.
    """
    _check_kind(folder)
    path = folder / "modules.json"
    if path.is_file():
        transformer, pooling, normalize = _read_modules(path)
        sentence_configs = [transformer / name for name in SENTENCE_CONFIGS]
        sentence_config = next((path for path in sentence_configs if path.is_file()), None)
    else:
        transformer, pooling, normalize, sentence_config = folder, None, False, None
    path = transformer / "config.json"
    if not path.is_file():
        raise WeightsError(f"{path}: no such file{_what_is_in(transformer)}")
    if pooling is None:
        _check_architecture(path)
    return Layout(transformer, sentence_config, pooling, normalize)


def _read_modules(path: Path) -> tuple[Path, Path, bool]:
    """Return (folder of the Transformer, config.json of Pooling, whether Normalize follows), from modules.json."""
    modules = read_json(path)
    if not (isinstance(modules, list) and all(isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules)):
        raise WeightsError(f"{path}: expected a list of objects with a type")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        got = ", ".join(shown(kind)[1:-1] for kind in kinds)
        raise WeightsError(f"{path}: expected modules Transformer, Pooling[, Normalize] by type, got {got}")
    folders = []
    for kind, module in zip(kinds[:2], modules, strict=False):
        name = module.get("path", "" if kind == "Transformer" else None)
        if not (_is_file_name(name) or (name == "" and kind == "Transformer")):
            expected = f"expected the name of a folder in {path.parent}"
            raise WeightsError(f"{path}: path of {kind}: {expected}, got {shown(name)}")
        if name and not (path.parent / name).is_dir():
            raise WeightsError(f"{path}: path of {kind}: no such folder: {path.parent / name}")
        folders.append(path.parent / name)
    return folders[0], folders[1] / "config.json", kinds[-1] == "Normalize"


def _is_file_name(name: Any) -> bool:
    """Return whether a value is the name of one file or folder, which cannot lead out of the folder it is in."""
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & {"/", "\\", ":"}:
        return False
    return name.isprintable() and len(name.encode()) <= MAX_NAME


def _check_kind(folder: Path) -> None:
    """Raise WeightsError for the other kinds of model that sentence-transformers saves, such as CrossEncoder."""
    path = folder / OPTIONS
    saved = read_json(path) if path.is_file() else None
    kind = saved.get("model_type", "SentenceTransformer") if isinstance(saved, dict) else "SentenceTransformer"
    if kind != "SentenceTransformer":
        raise WeightsError(f"{path}: model_type: expected 'SentenceTransformer', got {shown(kind)}")


def _check_architecture(path: Path) -> None:
    """Raise WeightsError if a config.json of transformers is that of a cross-encoder or a classifier."""
    config = read_json(path)
    architectures = config.get("architectures") if isinstance(config, dict) else None
    for name in architectures if isinstance(architectures, list) else ():
        if isinstance(name, str) and name.endswith("Classification"):
            raise WeightsError(
                f"{path}: architectures: expected BertModel or BertForMaskedLM, got {shown(name)[1:-1]}, "
                "a cross-encoder or a classifier: it computes scores, not sentence embeddings"
            )


def _what_is_in(folder: Path) -> str:
    """Return "; FOLDER has X: what to do" for the weights that a folder has instead, or an empty string."""
    for patterns, what, remedy in OTHER_WEIGHTS:
        for pattern in patterns:
            found = sorted(path for path in folder.glob(pattern) if path.name != "training_args.bin")
            if found:
                return f"; there is {found[0].relative_to(folder).as_posix()} ({what}): {remedy}"
    return ""


def shards(index: Path) -> list[Path]:
    """Return the files that a model.safetensors.index.json names, in the order of their names.

    Raises
    ------
    WeightsError
        If the index is not valid, or names a file that is not in its folder.
    """
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index}: weight_map: expected an object with a file name for each key")
    for key, name in weight_map.items():
        if not _is_file_name(name) or not (index.parent / name).is_file():
            raise WeightsError(f"{index}: weight_map: {key}: expected a file in {index.parent}, got {shown(name)}")
    return [index.parent / name for name in sorted(set(weight_map.values()))]


def checkpoint_files(folder: Path) -> list[Path]:
    """Return every file of a checkpoint that is read, the weights last."""
    layout = find_layout(folder)
    settings = ("added_tokens.json", "tokenizer_config.json")
    files = [
        layout.transformer / "config.json",
        folder / "modules.json",
        folder / OPTIONS,
        layout.sentence_config,
        layout.pooling,
        *(layout.transformer / name for name in settings),
        layout.tokenizer,
        layout.weights,
        *(shards(layout.weights) if layout.weights.suffix == ".json" else ()),
    ]
    return [file for file in files if file is not None and file.is_file()]


def files_to_save(folder: Path, hidden_size: int) -> dict[str, Path | str]:
    """Return {name: a file to copy, or a text} for a folder that has the same model in today's layout."""
    layout = find_layout(folder)
    module = {"": "Transformer", "1_Pooling": "Pooling"} | ({"2_Normalize": "Normalize"} if layout.normalize else {})
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(module.items())
    ]
    pooling = {"word_embedding_dimension": hidden_size, "pooling_mode_mean_tokens": True}
    is_today = (layout.transformer, layout.pooling) == (folder, folder / "1_Pooling" / "config.json")
    is_tokenizer_json = layout.tokenizer.name == "tokenizer.json"
    weights = shards(layout.weights) if layout.weights.suffix == ".json" else []
    return {
        "config.json": layout.transformer / "config.json",
        "modules.json": folder / "modules.json" if is_today else json.dumps(modules, indent=2) + "\n",
        "1_Pooling/config.json": layout.pooling or json.dumps(pooling, indent=2) + "\n",
        **({"tokenizer.json": layout.tokenizer} if is_tokenizer_json else {"vocab.txt": layout.tokenizer}),
        **{path.name: path for path in (*weights, layout.weights)},
    }
