"""BERT as a sentence encoder: the architecture, written once. What computes it, an op set, is passed in.

Read from the bottom up: `forward`, then `encoder_layer`, then its two halves `self_attention` and
`feed_forward`. Each operation is a function of the op set: ops.py says in NumPy what it means.

T tokens of all sentences    B sentences    S tokens of one sentence    V vocabulary (30522)
H hidden size (384)    N heads (12)    I intermediate size (1536)    L layers (6)

Names of parameters and stages are the checkpoint's. Devlin et al. 2018 (BERT), Vaswani et al. 2017
(attention), Reimers & Gurevych 2019 (pooling), Wang et al. 2020 (MiniLM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Observer = Callable[[str, Any], None]  # called with a stage's name and its value, which it must not change


@dataclass(frozen=True)
class BertConfig:
    """The hyperparameters, under config.json's own names; then what the sentence encoder adds to BERT."""

    vocab_size: int = 30522
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    pooling_mode: str = "mean"  # 1_Pooling/config.json
    normalize: bool = True  # modules.json lists Normalize
    max_seq_length: int = 256  # sentence_bert_config.json


class Ops(Protocol):
    """What an op set provides; minilm_np/ops.py documents each function."""

    def prepare_dense(self, weight: Array, bias: Array, /) -> Any: ...
    def embed(
        self,
        token_ids: Array,
        token_type_ids: Array,
        position_ids: Array,
        tables: tuple[Array, Array, Array],
        norm: tuple[Array, Array],
        eps: float,
        /,
    ) -> Array: ...
    def linear(self, x: Array, dense: Any, activation: str | None = None, /) -> Array: ...
    def add_layer_norm(self, x: Array, residual: Array, norm: tuple[Array, Array], eps: float, /) -> Array: ...
    def attention(self, qkv: Array, offsets: Array, num_heads: int, /) -> Array: ...
    def attention_probs(self, qkv: Array, offsets: Array, num_heads: int, /) -> list[Array]: ...
    def pool(self, hidden_states: Array, offsets: Array, mode: str, /) -> Array: ...
    def l2_normalize(self, x: Array, /) -> Array: ...


# --- parameters --------------------------------------------------------------------------------


def parameter_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Every checkpoint key that the model reads, with its shape; a dense weight is (outputs, inputs)."""
    H, I = config.hidden_size, config.intermediate_size  # noqa: E741
    dense: dict[str, tuple[int, int]] = {}
    layer_norm = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{i}" for i in range(config.num_hidden_layers)):
        dense |= {f"{layer}.attention.self.{part}": (H, H) for part in ("query", "key", "value")}
        dense |= {f"{layer}.attention.output.dense": (H, H)}
        dense |= {f"{layer}.intermediate.dense": (I, H), f"{layer}.output.dense": (H, I)}
        layer_norm += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, H),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, H),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, H),
    }
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in layer_norm:
        shapes |= {f"{name}.weight": (H,), f"{name}.bias": (H,)}
    return shapes


def prepare(params: Mapping[str, Array], config: BertConfig, ops: Ops) -> dict[str, Any]:
    """Parameters as the op set wants them, keyed by the module that uses them: done once, at load.

    query, key and value are stacked into one (3H, H) dense layer: one large matmul instead of three.
    """

    def dense(*names: str) -> Any:
        weight, bias = ([params[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
        return ops.prepare_dense(*(a[0] if len(a) == 1 else np.concatenate(a) for a in (weight, bias)))

    weights: dict[str, Any] = {
        "embeddings": tuple(
            params[f"embeddings.{table}_embeddings.weight"] for table in ("word", "token_type", "position")
        )
    }
    for key in parameter_shapes(config):
        name, _, kind = key.rpartition(".")
        if kind == "bias" and name.endswith("LayerNorm"):
            weights[name] = params[f"{name}.weight"], params[f"{name}.bias"]
        elif kind == "bias" and name.endswith("dense"):
            weights[name] = dense(name)
        elif kind == "bias" and name.endswith("self.query"):
            attention = name.removesuffix(".query")
            weights[attention] = dense(*(f"{attention}.{part}" for part in ("query", "key", "value")))
    return weights


# --- the forward pass --------------------------------------------------------------------------


def embeddings(token_ids: Array, token_type_ids: Array, offsets: Array, w: Any, config: BertConfig, ops: Ops) -> Array:
    """Word + token type + position, normalised; positions count from 0 in every sentence."""
    position_ids = np.arange(len(token_ids)) - np.repeat(offsets[:-1], np.diff(offsets))  # (T,)
    tables, norm = w["embeddings"], w["embeddings.LayerNorm"]
    return ops.embed(token_ids, token_type_ids, position_ids, tables, norm, config.layer_norm_eps)


def self_attention(
    hidden_states: Array, offsets: Array, w: Any, name: str, config: BertConfig, ops: Ops, observe: Observer | None
) -> Array:  # (T, H) -> (T, H)
    """Every token gathers from its own sentence's tokens; residual and LayerNorm after (post-norm)."""
    qkv = ops.linear(hidden_states, w[f"{name}.self"])  # (T, 3H)
    context = ops.attention(qkv, offsets, config.num_attention_heads)  # (T, H)
    projected = ops.linear(context, w[f"{name}.output.dense"])
    output = ops.add_layer_norm(projected, hidden_states, w[f"{name}.output.LayerNorm"], config.layer_norm_eps)
    if observe:
        for part, value in zip(("query", "key", "value"), np.split(qkv, 3, axis=1), strict=True):  # each (T, H)
            observe(f"{name}.self.{part}", value)
        observe(f"{name}.self.attention_probs", ops.attention_probs(qkv, offsets, config.num_attention_heads))
        observe(f"{name}.self.context", context)
        observe(f"{name}.output", output)
    return output


def feed_forward(
    attention_output: Array, w: Any, name: str, config: BertConfig, ops: Ops, observe: Observer | None
) -> Array:  # (T, H) -> (T, H)
    """Every token by itself: up to I, activation, down to H; residual and LayerNorm after."""
    intermediate = ops.linear(attention_output, w[f"{name}.intermediate.dense"], config.hidden_act)  # (T, I)
    projected = ops.linear(intermediate, w[f"{name}.output.dense"])  # (T, H)
    output = ops.add_layer_norm(projected, attention_output, w[f"{name}.output.LayerNorm"], config.layer_norm_eps)
    if observe:
        observe(f"{name}.intermediate", intermediate)
        observe(f"{name}.output", output)
    return output


def encoder_layer(
    hidden_states: Array, offsets: Array, w: Any, name: str, config: BertConfig, ops: Ops, observe: Observer | None
) -> Array:  # (T, H) -> (T, H)
    attention_output = self_attention(hidden_states, offsets, w, f"{name}.attention", config, ops, observe)
    return feed_forward(attention_output, w, name, config, ops, observe)


def encoder(
    token_ids: Array,  # (T,) integers below V
    token_type_ids: Array,  # (T,) 0, or 1 in the second text of a pair
    offsets: Array,  # (B + 1,) sentence b is tokens offsets[b]:offsets[b+1]
    w: Mapping[str, Any],  # from `prepare`, with the same op set
    config: BertConfig,
    ops: Ops,
    observe: Observer | None = None,
) -> Array:  # (T, H)
    """Token embeddings: what each token means in its sentence."""
    hidden_states = embeddings(token_ids, token_type_ids, offsets, w, config, ops)  # (T, H)
    if observe:
        observe("embeddings", hidden_states)
    for i in range(config.num_hidden_layers):
        hidden_states = encoder_layer(hidden_states, offsets, w, f"encoder.layer.{i}", config, ops, observe)
    return hidden_states


def forward(
    token_ids: Array,
    token_type_ids: Array,
    offsets: Array,
    w: Mapping[str, Any],
    config: BertConfig,
    ops: Ops,
    observe: Observer | None = None,
) -> Array:  # (B, H)
    """Sentence embeddings; arguments as in `encoder`. `observe(stage, value)` sees every stage of `stage_names`."""
    hidden_states = encoder(token_ids, token_type_ids, offsets, w, config, ops, observe)  # (T, H)
    sentence_embedding = pooled = ops.pool(hidden_states, offsets, config.pooling_mode)  # (B, H)
    if config.normalize:
        sentence_embedding = ops.l2_normalize(pooled)
    if observe:
        observe("pooled", pooled)
        observe("sentence_embedding", sentence_embedding)
    return sentence_embedding


def stage_names(config: BertConfig) -> list[str]:
    """The stages that an observer sees, in order. Shapes: attention_probs is a list of B arrays (N, S, S);
    intermediate (T, I); pooled and sentence_embedding (B, H); all others (T, H)."""
    attention = ["self.query", "self.key", "self.value", "self.attention_probs", "self.context", "output"]
    layer = [f"attention.{stage}" for stage in attention] + ["intermediate", "output"]
    layers = [f"encoder.layer.{i}.{stage}" for i in range(config.num_hidden_layers) for stage in layer]
    return ["embeddings", *layers, "pooled", "sentence_embedding"]
