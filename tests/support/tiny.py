"""A small checkpoint with the real vocabulary, in each of the layouts that are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from minilm_np.checkpoint import parameter_shapes
from minilm_np.model import BertConfig

TINY = BertConfig(
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=40,
    max_seq_length=30,
)
Params = dict[str, np.ndarray[Any, np.dtype[Any]]]


def tiny_params(seed: int = 0, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Params:
    random = np.random.default_rng(seed)
    return {
        key: random.normal(float("LayerNorm.weight" in key), 0.3, shape).astype(np.float32)
        for key, shape in (shapes or parameter_shapes(TINY)).items()
    }


def tiny_config(**changes: Any) -> dict[str, Any]:
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {
        "model_type": "bert",
        **{name: getattr(TINY, name) for name in (*names, "max_position_embeddings", "type_vocab_size")},
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        **changes,
    }


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_tiny(
    folder: Path, weights_folder: Path, params: Params | None = None, *, transformer: str = "", **config: Any
) -> Path:
    """Write a checkpoint of sentence-transformers: Transformer in the folder `transformer`, mean Pooling, Normalize."""
    inner = folder / transformer
    write_json(inner / "config.json", tiny_config(**config))
    write_json(inner / "sentence_bert_config.json", {"max_seq_length": TINY.max_seq_length, "do_lower_case": False})
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True})
    kinds = {"Transformer": transformer, "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(kinds.items())
        ],
    )
    save_file(params or tiny_params(), inner / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(weights_folder / "tokenizer.json", inner / "tokenizer.json")
    return folder


def write_plain(folder: Path, weights_folder: Path, params: Params | None = None, **config: Any) -> Path:
    """Write what transformers saves: config.json, weights and tokenizer."""
    write_tiny(folder, weights_folder, params, **{"architectures": ["BertModel"], **config})
    shutil.rmtree(folder / "1_Pooling")
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    return folder


def split_weights(folder: Path) -> None:
    """Replace model.safetensors by three shards and their index, as transformers saves large models."""
    from safetensors.numpy import load_file

    params = load_file(folder / "model.safetensors")
    names = [f"model-0000{i + 1}-of-00003.safetensors" for i in range(3)]
    weight_map = {key: names[i % 3] for i, key in enumerate(params)}
    for name in names:
        shard = {key: value for key, value in params.items() if weight_map[key] == name}
        save_file(shard, folder / name, metadata={"format": "pt"})
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / "model.safetensors").unlink()


def use_vocabulary(folder: Path, settings: dict[str, Any] | None = None) -> None:
    """Replace tokenizer.json by vocab.txt and, if settings are given, a tokenizer_config.json."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    pieces = sorted(vocabulary, key=vocabulary.get)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    if settings is not None:
        write_json(folder / "tokenizer_config.json", settings)
