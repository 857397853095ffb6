"""Read a checkpoint folder: hyperparameters from its JSON files, parameters from model.safetensors.

Settings that this package does not support raise a WeightsError that names the file and the key.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from minilm_np.formats import bf16_to_float32, quantize_weight
from minilm_np.layout import OPTIONS, Layout, check_is_not_lfs_pointer, find_layout, shards, shown
from minilm_np.layout import WeightsError as WeightsError
from minilm_np.layout import read_json as read_json
from minilm_np.model import Array, BertConfig
from minilm_np.wordpiece import read_vocabulary_settings

# --- hyperparameters ---------------------------------------------------------------------------


# Keys of config.json for which only some values are supported. The first value is the default.
ACCEPTED_CONFIG = {
    "model_type": ("bert",),
    "hidden_act": ("gelu", "gelu_new", "relu"),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "embedding_size": (None,),  # ELECTRA-like factorised embeddings
}
ACCEPTED_SENTENCE_CONFIG: dict[str, tuple[Any, ...]] = {  # the same for sentence_bert_config.json
    "do_lower_case": (False, True),
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "tokenizer_args": ({}, None),  # these three can change the length or the special tokens
    "processor_kwargs": ({}, None),
    "processing_kwargs": ({}, None),
    "query_length": (None,),  # these two change the length in encode_query and encode_document
    "document_length": (None,),
}
ACCEPTED_TEXT: dict[str, tuple[Any, ...]] = {  # the same for its modality_config, text
    "method": ("forward",),
    "method_output_name": ("last_hidden_state", ["last_hidden_state"]),
}
POOLING_MODES = {  # keys of older checkpoints -> names in newer ones
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}


def read_config(folder: Path) -> BertConfig:
    """Return the hyperparameters of a checkpoint.

    They are read from config.json, modules.json, 1_Pooling/config.json and sentence_bert_config.json. If the last one
    has no max_seq_length, the maximum length is read from tokenizer_config.json. `layout.find_layout` says where these
    files are, and what holds without some of them.

    Parameters
    ----------
    folder
        The folder of the checkpoint.

    Raises
    ------
    WeightsError
        If a file is missing or has a setting that this package does not support; the message names file and key.
    """
    layout = find_layout(folder)
    path = layout.transformer / "config.json"
    config = _object(read_json(path), path)
    _check_accepted(config, ACCEPTED_CONFIG, path)
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    values = {key: _positive_integer(config, key, path) for key in (*sizes, "max_position_embeddings")}
    values["type_vocab_size"] = _positive_integer({"type_vocab_size": 2} | config, "type_vocab_size", path)
    if values["hidden_size"] % values["num_attention_heads"]:
        raise WeightsError(
            f"{path}: hidden_size: expected a multiple of num_attention_heads {values['num_attention_heads']}, "
            f"got {values['hidden_size']}"
        )
    eps = config.get("layer_norm_eps", 1e-12)
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not (0 <= eps < 1):
        raise WeightsError(f"{path}: layer_norm_eps: expected a number in [0, 1), got {shown(eps)}")

    mode, length = _read_pooling_mode(layout.pooling), _read_max_seq_length(layout, values["max_position_embeddings"])
    _check_tokenizer_settings(layout)
    return BertConfig(
        **values,
        layer_norm_eps=float(eps),
        hidden_act=config.get("hidden_act", "gelu"),
        pooling_mode=mode,
        normalize=layout.normalize,
        max_seq_length=length,
    )


def _read_pooling_mode(path: Path | None) -> str:
    if path is None:
        return "mean"
    pooling = _object(read_json(path), path)
    flags = {key: value for key, value in pooling.items() if key.startswith("pooling_mode_")} or {
        "pooling_mode_mean_tokens": True  # sentence-transformers' default
    }
    _check_accepted(pooling, {"include_prompt": (True,)}, path)
    if "pooling_mode" not in pooling:
        _check_accepted(flags, dict.fromkeys(flags, (False, True)), path)
    mode = pooling.get("pooling_mode", [POOLING_MODES.get(key, key) for key, value in flags.items() if value])
    if isinstance(mode, list) and len(mode) == 1:
        mode = mode[0]
    _check_one_of(path, "pooling_mode", mode, tuple(POOLING_MODES.values()))
    return str(mode)


def _read_max_seq_length(layout: Layout, positions: int) -> int:
    path, key, length = layout.sentence_config, "max_seq_length", None
    if path:
        sentence = _object(read_json(path), path)
        _check_accepted(sentence, ACCEPTED_SENTENCE_CONFIG, path)
        if sentence.get("do_lower_case") and not _lowercases(layout):
            expected = "expected false, or a tokenizer.json whose normalizer lowercases"
            raise WeightsError(f"{path}: do_lower_case: {expected}, got true")
        modalities = _object(sentence.get("modality_config", {}), path, "modality_config")
        text = _object(modalities.get("text", {}), path, "modality_config: text")
        _check_accepted(text, ACCEPTED_TEXT, path, "modality_config: text: ")
        length = sentence.get(key)
    if path is None or length is None:  # sentence-transformers 6, and transformers, save it with the tokenizer
        path, key = layout.transformer / "tokenizer_config.json", "model_max_length"
        length = _object(read_json(path), path).get(key) if path.is_file() else None
        length = positions if length is None else min(length, positions) if _is_integer(length) else length
    if not _is_integer(length) or not 3 <= length <= positions:
        raise WeightsError(f"{path}: {key}: expected 3 to {positions} (max_position_embeddings), got {shown(length)}")
    return length


def _normalizer(layout: Layout) -> dict[str, Any]:
    """Return the normalizer of tokenizer.json, or an empty dict if it has none or if there is only a vocab.txt."""
    path = layout.transformer / "tokenizer.json"
    normalizer = _object(read_json(path), path).get("normalizer") if path.is_file() else None
    return normalizer if isinstance(normalizer, dict) else {}


def _lowercases(layout: Layout) -> bool:
    """Return whether the tokenizer lowercases texts, so that do_lower_case, which does it before, changes nothing."""
    vocabulary = layout.transformer / "vocab.txt"
    if vocabulary.is_file() and not (layout.transformer / "tokenizer.json").is_file():
        return read_vocabulary_settings(vocabulary).lowercase
    normalizer = _normalizer(layout)
    parts = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
    return any(
        isinstance(part, dict)
        and (
            part.get("type") == "Lowercase" or (part.get("type") == "BertNormalizer" and part.get("lowercase") is True)
        )
        for part in (parts if isinstance(parts, list) else [])
    )


def _check_tokenizer_settings(layout: Layout) -> None:
    """Check that tokenizer_config.json agrees with tokenizer.json, which it overrides in transformers but not here."""
    path = layout.transformer / "tokenizer_config.json"
    if not path.is_file():
        return
    settings = _object(read_json(path), path)
    _check_accepted(settings, {"truncation_side": ("right",)}, path)
    normalizer = _normalizer(layout)
    if normalizer.get("type") == "BertNormalizer":
        for key, option in (
            ("do_lower_case", "lowercase"),
            ("strip_accents", "strip_accents"),
            ("tokenize_chinese_chars", "handle_chinese_chars"),
        ):
            _check_one_of(path, key, settings.get(key, normalizer.get(option)), (normalizer.get(option),))


class SavedOptions(NamedTuple):
    """What config_sentence_transformers.json sets; without the file, nothing."""

    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: str | None
    truncate_dim: int | None


def read_options(folder: Path, names_of_prompts: Iterable[str] = ()) -> SavedOptions:
    """Return the options in a checkpoint's config_sentence_transformers.json.

    Parameters
    ----------
    folder
        The folder of the checkpoint.
    names_of_prompts
        Names that default_prompt_name may have besides those of the saved prompts.

    Raises
    ------
    WeightsError
        If the file is not valid JSON or an option has a wrong value; the message names file and key.
    """
    path = folder / OPTIONS
    saved = _object(read_json(path), path) if path.is_file() else {}
    prompts = {} if saved.get("prompts") is None else saved["prompts"]
    if not (isinstance(prompts, dict) and all(isinstance(prompt, str | None) for prompt in prompts.values())):
        raise WeightsError(f"{path}: prompts: expected an object with a string or null per name, got {shown(prompts)}")
    _check_one_of(path, "default_prompt_name", saved.get("default_prompt_name"), (None, *names_of_prompts, *prompts))
    _check_accepted(saved, {"similarity_fn_name": (None, "cosine", "dot", "euclidean", "manhattan")}, path)
    if saved.get("truncate_dim") is not None:
        _positive_integer(saved, "truncate_dim", path)
    return SavedOptions(
        {name: prompt or "" for name, prompt in prompts.items()},
        saved.get("default_prompt_name"),
        saved.get("similarity_fn_name"),
        saved.get("truncate_dim"),
    )


def _object(value: Any, path: Path, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        name = f"{path}: {key}" if key else f"{path}"
        raise WeightsError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive_integer(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if not _is_integer(value) or value <= 0:
        raise WeightsError(f"{path}: {key}: expected a positive integer, got {shown(value)}")
    return value


def _check_accepted(
    config: Mapping[str, Any], accepted: Mapping[str, tuple[Any, ...]], path: Path, prefix: str = ""
) -> None:
    for key, values in accepted.items():
        _check_one_of(path, prefix + key, config.get(key, values[0]), values)


def _check_one_of(path: Path, key: str, value: Any, accepted: tuple[Any, ...]) -> None:
    if value not in accepted:
        raise WeightsError(f"{path}: {key}: expected {' or '.join(map(repr, accepted))}, got {shown(value)}")


# --- parameters --------------------------------------------------------------------------------


def _parameter_axes(num_hidden_layers: int) -> dict[str, tuple[str, ...]]:
    """Return for every parameter that the model reads, by checkpoint key, the hyperparameters that are its shape."""
    H, intermediate = "hidden_size", "intermediate_size"
    axes: dict[str, tuple[str, ...]] = {
        "embeddings.word_embeddings.weight": ("vocab_size", H),
        "embeddings.token_type_embeddings.weight": ("type_vocab_size", H),
        "embeddings.position_embeddings.weight": ("max_position_embeddings", H),
        "embeddings.LayerNorm.weight": (H,),
        "embeddings.LayerNorm.bias": (H,),
    }
    modules: dict[str, tuple[str, ...]] = {
        "attention.self.query": (H, H),
        "attention.self.key": (H, H),
        "attention.self.value": (H, H),
        "attention.output.dense": (H, H),
        "attention.output.LayerNorm": (H,),
        "intermediate.dense": (intermediate, H),
        "output.dense": (H, intermediate),
        "output.LayerNorm": (H,),
    }
    for i in range(num_hidden_layers):
        for name, shape in modules.items():
            axes[f"encoder.layer.{i}.{name}.weight"] = shape
            axes[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
    return axes


def parameter_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter that the model reads, by checkpoint key.

    Weights of dense layers have shape (outputs, inputs).
    """
    axes = _parameter_axes(config.num_hidden_layers)
    return {key: tuple(getattr(config, name) for name in names) for key, names in axes.items()}


DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I8": "<i1"}
FLOATS = ("F32", "F64", "F16", "BF16")
# A dense weight in int8 is stored as two tensors, with these endings of the key instead of ".weight".
CODES, SCALE = ".weight_int8", ".weight_scale"
QUANTIZATION = {"quant_method": "minilm_np_int8"}  # in config.json, so that other libraries refuse the weights


class Tensor(NamedTuple):
    """A tensor of a safetensors file."""

    dtype: str  # the name in the file, such as "F32" or "BF16"
    data: Array  # a read-only view of the memory-mapped file; bfloat16 is viewed as uint16


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a safetensors file by key, memory-mapped: data is read from disk when it is first used.

    The file holds 8 bytes with the header's length, the header (JSON: dtype, shape and data_offsets of each key), and
    the data. The safetensors library first checks the whole file: lengths, shapes, offsets without gap or overlap.

    Raises
    ------
    WeightsError
        If the file is not valid safetensors.
    OSError
        If the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file, safe_open(path, framework="np"):  # safe_open does the checks
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
            mapped = np.asarray(np.memmap(file, np.uint8, "r"))[8 + length :]
        header.pop("__metadata__", None)
        tensors = {}
        for key, info in header.items():
            dtype, (start, stop) = info["dtype"], info["data_offsets"]
            if not key.isprintable():
                raise ValueError(f"key {key!r} is not printable")
            if dtype not in DTYPES:
                raise WeightsError(f"{path}: {key}: expected dtype {' or '.join(FLOATS)}, got {dtype}")
            tensors[key] = Tensor(dtype, mapped[start:stop].view(DTYPES[dtype]).reshape(info["shape"]))
    except WeightsError:
        raise
    except (SafetensorError, ValueError, TypeError) as error:
        check_is_not_lfs_pointer(path)
        raise WeightsError(f"{path}: not a valid safetensors file: {' '.join(str(error).split())}") from None
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError(f"duplicate key {Counter(key for key, _ in pairs).most_common(1)[0][0]!r}")
    return result


class Parameters(Mapping[str, Array]):
    """The parameters of a checkpoint by key. Those stored in int8 are computed from their codes at each access."""

    def __init__(self, arrays: Mapping[str, Array], quantized: Mapping[str, tuple[Array, Array]], dtype: Any) -> None:
        self.arrays = dict(arrays)
        self._quantized = dict(quantized)  # codes (outputs, inputs) and scale (outputs,)
        self._dtype = dtype
        self._keys = [*self.arrays, *self._quantized]

    def __getitem__(self, key: str) -> Array:
        if key in self.arrays:
            return self.arrays[key]
        codes, scale = self._quantized[key]
        value: Array = codes * scale[:, None].astype(self._dtype)
        value.flags.writeable = False
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def stored(self) -> list[Array]:
        """Return the arrays as they are in the file."""
        return [*self.arrays.values(), *(codes for codes, _ in self._quantized.values())]


def read_params(path: Path, config: BertConfig, dtype: npt.DTypeLike = np.float32) -> Mapping[str, Array]:
    """Return the model's parameters by checkpoint key, as read-only arrays.

    A "bert." prefix is removed from the keys. The pooler and position_ids are left out, because sentence embeddings do
    not use them.

    Parameters
    ----------
    path
        A safetensors file with parameters in float32, float16, bfloat16, float64, or as `minilm-np quantize` writes
        them; or a model.safetensors.index.json, which names several such files.
    config
        The hyperparameters, which determine the keys and shapes.
    dtype
        float32 or float64. Parameters that the file stores in this dtype are memory-mapped, others are converted.

    Raises
    ------
    WeightsError
        If a parameter is missing, has another shape or is not a float, or if the file has a parameter that would
        change the architecture; the message names file and key.
    """
    tensors = _read_shards(path) if path.suffix == ".json" else read_safetensors(path)
    tensors = {_OLD_NAMES.sub(lambda match: _NEW_NAMES[match[0]], key): tensor for key, tensor in tensors.items()}
    if "bert.embeddings.word_embeddings.weight" in tensors:
        tensors = {key.removeprefix("bert."): tensor for key, tensor in tensors.items()}
    if config.num_hidden_layers > len(tensors):  # checked first, because 10**12 layers would have too many names
        message = f"expected num_hidden_layers {config.num_hidden_layers}, got only {len(tensors)} tensors"
        raise WeightsError(f"{path}: {message}, see config.json")
    shapes = parameter_shapes(config)
    quantized = _take_quantized(path, tensors, shapes)
    for key in tensors:
        if key not in shapes and key.startswith(("encoder.", "embeddings.")) and key != "embeddings.position_ids":
            what = f"the architecture in config.json, whose num_hidden_layers is {config.num_hidden_layers}"
            raise WeightsError(f"{path}: {key}: not a parameter of {what}")
    params = {}
    for key, shape in shapes.items():
        if key in quantized:
            continue
        if key not in tensors:
            layers = f"; config.json has num_hidden_layers {config.num_hidden_layers}" if ".layer." in key else ""
            raise WeightsError(f"{path}: {key}: expected shape {shape}, got no such key{layers}")
        stored_dtype, data = tensors[key]
        if stored_dtype not in FLOATS:
            raise WeightsError(f"{path}: {key}: expected dtype {' or '.join(FLOATS)}, got {stored_dtype}")
        if data.shape != shape:
            sizes = ", ".join(_parameter_axes(config.num_hidden_layers)[key])
            raise WeightsError(f"{path}: {key}: expected shape {shape}, got {data.shape}; config.json sets {sizes}")
        if stored_dtype == "BF16":
            data = bf16_to_float32(data)
        params[key] = np.require(data, dtype, "A")  # copies only to convert, or to align
        params[key].flags.writeable = False
    return Parameters(params, quantized, np.dtype(dtype)) if quantized else params


def _take_quantized(
    path: Path, tensors: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[Array, Array]]:
    """Remove the dense weights in int8 from `tensors`, and return their codes and scales by key."""
    quantized = {}
    for name in [key.removesuffix(CODES) for key in tensors if key.endswith(CODES)]:
        key = f"{name}.weight"
        shape = shapes.get(key, ())
        for part, wanted, dtype in ((CODES, shape, "I8"), (SCALE, shape[:1], "F32")):
            found = tensors.get(name + part)
            if len(shape) != 2 or found is None or (found.dtype, found.data.shape) != (dtype, wanted):
                got = "no such key" if found is None else f"{found.dtype} of shape {found.data.shape}"
                raise WeightsError(f"{path}: {name}{part}: expected {dtype} of shape {wanted}, got {got}")
        if key in tensors:
            raise WeightsError(f"{path}: {key}: expected one of {key} and {name}{CODES}, got both")
        codes, scale = tensors.pop(name + CODES).data, np.array(tensors.pop(name + SCALE).data)
        if not (np.isfinite(scale) & (scale > 0)).all():
            raise WeightsError(f"{path}: {name}{SCALE}: expected positive numbers, got {scale.min()} to {scale.max()}")
        quantized[key] = codes, scale
    return quantized


def quantized_files(folder: Path, params: Mapping[str, Array]) -> dict[str, str | bytes]:
    """Return config.json and model.safetensors of a checkpoint with the dense weights in int8 and the rest in float32.

    The header of the second has the sha256 of the source's weights, as they were read, and of its own tensors.
    """
    from safetensors.numpy import save

    layout = find_layout(folder)
    tensors: dict[str, Array] = {}
    source = hashlib.sha256()
    for key in sorted(params):
        value = np.ascontiguousarray(params[key], np.float32)
        source.update(key.encode() + value.tobytes())
        if value.ndim == 2 and key.startswith("encoder."):
            codes, scale = quantize_weight(value)
            tensors[key.removesuffix(".weight") + CODES] = codes
            tensors[key.removesuffix(".weight") + SCALE] = scale.reshape(-1)
        else:
            tensors[key] = value
    own = hashlib.sha256()
    for key in sorted(tensors):
        own.update(key.encode() + tensors[key].tobytes())
    config = {**read_json(layout.transformer / "config.json"), "quantization_config": QUANTIZATION}
    # One entry, because the library writes several in a random order.
    metadata = {"minilm_np_int8": json.dumps({"sha256": own.hexdigest(), "source_sha256": source.hexdigest()})}
    return {
        "config.json": json.dumps(config, indent=2) + "\n",
        "model.safetensors": save(tensors, metadata=metadata),
    }


def trained_files(folder: Path, params: Mapping[str, Array]) -> dict[str, str | bytes]:
    """Return config.json and model.safetensors of a checkpoint whose parameters are replaced by these, in float32.

    Its pooler, which sentence-transformers loads but does not use, is kept as it was.
    """
    from safetensors.numpy import save

    layout = find_layout(folder)
    path = layout.weights
    tensors = _read_shards(path) if path.suffix == ".json" else read_safetensors(path)
    named = {f"pooler.dense.{kind}": tensors.get(f"pooler.dense.{kind}") for kind in ("weight", "bias")}
    named = {key: tensors.get(f"bert.{key}", tensor) for key, tensor in named.items()}
    pooler = {
        key: bf16_to_float32(tensor.data) if tensor.dtype == "BF16" else tensor.data.astype(np.float32)
        for key, tensor in named.items()
        if tensor is not None
    }
    config = read_json(layout.transformer / "config.json")
    config |= {key: "float32" for key in ("dtype", "torch_dtype") if key in config}
    if config.get("quantization_config") == QUANTIZATION:
        del config["quantization_config"]
    weights = {key: np.ascontiguousarray(value, np.float32) for key, value in params.items()}
    return {
        "config.json": json.dumps(config, indent=2) + "\n",
        "model.safetensors": save(pooler | weights, metadata={"format": "pt"}),
    }


# Checkpoints that were converted from TensorFlow have these names, which transformers changes, too.
_NEW_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_OLD_NAMES = re.compile(r"LayerNorm\.(gamma|beta)$")


def _read_shards(index: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in shards(index):
        shard = read_safetensors(path)
        twice = sorted(tensors.keys() & shard.keys())
        if twice:
            raise WeightsError(f"{path}: {twice[0]}: also in another file of {index.name}")
        tensors |= shard
    return tensors


def release_pages(params: Mapping[str, Array]) -> None:
    """Free the memory of memory-mapped parameters; pages that are used again are read from disk again.

    For an op set that has copied the dense layers into its own layout, so that they are not in memory twice.
    """
    maps = set()
    for value in params.stored() if isinstance(params, Parameters) else params.values():
        base: Any = value
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap):
            maps.add(base)
    for mapped in maps:
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
