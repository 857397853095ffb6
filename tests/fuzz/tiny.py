"""A valid checkpoint of 80 KB that both op sets load in milliseconds: one layer of hidden size 48.

48 is the smallest size for which the Numba kernels work with every vector width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minilm_np.checkpoint import parameter_shapes
from minilm_np.model import BertConfig

Json = Any
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "dog", "sat", "on", "mat", "ran", "far", "##ing", "un", "##der", "1", "2", ".", ",", "!"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *WORDS, *LETTERS])}  # no token twice
CONFIG = BertConfig(
    vocab_size=len(VOCABULARY) + 4, hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=64,
    max_position_embeddings=24, max_seq_length=20,
)  # fmt: skip

CONFIG_JSON: Json = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    **{
        name: getattr(CONFIG, name)
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "max_position_embeddings", "type_vocab_size",
        )
    },
}  # fmt: skip
MODULES_JSON: Json = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")))
]
POOLING_JSON: Json = {
    "word_embedding_dimension": CONFIG.hidden_size,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}
SENTENCE_JSON: Json = {"max_seq_length": CONFIG.max_seq_length, "do_lower_case": False}


def added_token(content: str, token_id: int, **flags: bool) -> Json:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": True, **off, **flags}


def special(name: str, type_id: int = 0) -> Json:
    return {"SpecialToken": {"id": name, "type_id": type_id}}


def sequence(name: str, type_id: int = 0) -> Json:
    return {"Sequence": {"id": name, "type_id": type_id}}


TEMPLATE: Json = {
    "type": "TemplateProcessing",
    "single": [special("[CLS]"), sequence("A"), special("[SEP]")],
    "pair": [special("[CLS]"), sequence("A"), special("[SEP]"), sequence("B", 1), special("[SEP]", 1)],
    "special_tokens": {name: {"id": name, "ids": [VOCABULARY[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")},
}
TOKENIZER_JSON: Json = {
    "version": "1.0",
    "truncation": {"direction": "Right", "max_length": 12, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    },
    "added_tokens": [added_token(token, VOCABULARY[token]) for token in SPECIAL],
    "normalizer": {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": TEMPLATE,
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": VOCABULARY,
    },
}  # fmt: skip
JSON_FILES: dict[str, Json] = {  # those that a checkpoint must have, and then those that it may have
    "config.json": CONFIG_JSON,
    "modules.json": MODULES_JSON,
    "1_Pooling/config.json": POOLING_JSON,
    "sentence_bert_config.json": SENTENCE_JSON,
    "tokenizer.json": TOKENIZER_JSON,
}
OPTIONAL_FILES: dict[str, Json] = {
    "tokenizer_config.json": {"do_lower_case": True, "model_max_length": 18, "truncation_side": "right"},
    "config_sentence_transformers.json": {
        "prompts": {"query": "the ", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
        "truncate_dim": None,
    },
}


def parameters(config: BertConfig = CONFIG) -> dict[str, npt.NDArray[np.float32]]:
    """Return seeded parameters by key, large enough that positions and token types change a vector by 0.1."""
    rng = np.random.default_rng(20260801)
    return {
        key: rng.normal(1 if key.endswith("LayerNorm.weight") else 0, 0.2, shape).astype(np.float32)
        for key, shape in parameter_shapes(config).items()
    }


def safetensors(header: Json, data: bytes) -> bytes:
    """Return a safetensors file from its parts, which need not fit together."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def header_and_data(tensors: dict[str, npt.NDArray[Any]]) -> tuple[Json, bytes]:
    names = {"float32": "F32", "float64": "F64", "float16": "F16", "uint16": "BF16", "int64": "I64", "int32": "I32"}
    header, data = {}, b""
    for key, tensor in tensors.items():
        stop = len(data) + tensor.nbytes
        header[key] = {
            "dtype": names[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), stop],
        }
        data += tensor.tobytes()
    return header, data


def write(folder: Path) -> Path:
    """Write the checkpoint and return its folder."""
    for name, content in JSON_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(safetensors(*header_and_data(parameters())))
    return folder
