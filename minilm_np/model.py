"""The architecture: BERT as a sentence encoder, independent of the op set that computes it.

Read it from the bottom up: `forward` calls `encoder` and `sentence_embeddings`; each `encoder_layer` is
`self_attention` followed by `feed_forward`. Every operation is a function of the op set; ops.py defines each in NumPy.

T tokens of all sentences    B sentences    S tokens of one sentence    V vocabulary (30522)
H hidden size (384)    N heads (12)    I intermediate size (1536)    L layers (6)

Parameters and stages have the checkpoint's names. Papers: Devlin et al. 2018 (BERT), Vaswani et al. 2017 (attention),
Reimers & Gurevych 2019 (pooling), Wang et al. 2020 (MiniLM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Observer = Callable[[str, Any], None] | None  # called with the name and the value of each stage; must not modify it


@dataclass(frozen=True)
class BertConfig:
    """Hyperparameters, named as in config.json; the last three are those that a sentence encoder adds to BERT."""

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
    normalize: bool = True  # whether modules.json lists Normalize
    max_seq_length: int = 256  # sentence_bert_config.json


class Ops(Protocol):
    """The functions of an op set; minilm_np/ops.py documents what each computes."""

    def prepare_dense(self, weight: Array, bias: Array, /) -> Any: ...
    def embed(self, ids: Array, types: Array, positions: Array, tables: Any, norm: Any, eps: float, /) -> Array: ...
    def linear(self, x: Array, dense: Any, activation: str | None, /) -> Array: ...
    def add_layer_norm(self, x: Array, residual: Array, norm: Any, eps: float, /) -> Array: ...
    def attention(self, qkv: Array, offsets: Array, num_heads: int, /) -> Array: ...
    def attention_probs(self, qkv: Array, offsets: Array, num_heads: int, /) -> list[Array]: ...
    def pool(self, hidden_states: Array, offsets: Array, mode: str, /) -> Array: ...
    def l2_normalize(self, x: Array, /) -> Array: ...


class Bert(NamedTuple):
    """A model ready to run."""

    config: BertConfig
    ops: Ops
    weights: Mapping[str, Any]  # module name -> its weights, in the op set's layout


def prepare(params: Mapping[str, Array], config: BertConfig, ops: Ops) -> Bert:
    """Convert the parameters to the op set's layout, once, at load.

    query, key and value become one (3H, H) dense layer, "attention.self": one large matrix product instead of three.
    """

    def weight_and_bias(name: str) -> tuple[Array, Array]:
        return params[f"{name}.weight"], params[f"{name}.bias"]

    tables = tuple(params[f"embeddings.{table}_embeddings.weight"] for table in ("word", "token_type", "position"))
    weights: dict[str, Any] = {"embeddings": tables, "embeddings.LayerNorm": weight_and_bias("embeddings.LayerNorm")}
    for layer in (f"encoder.layer.{i}" for i in range(config.num_hidden_layers)):
        attention = f"{layer}.attention.self"
        qkv = [weight_and_bias(f"{attention}.{part}") for part in ("query", "key", "value")]
        weights[attention] = ops.prepare_dense(np.concatenate([w for w, _ in qkv]), np.concatenate([b for _, b in qkv]))
        for name in ("attention.output", "intermediate", "output"):
            weights[f"{layer}.{name}.dense"] = ops.prepare_dense(*weight_and_bias(f"{layer}.{name}.dense"))
        for name in ("attention.output", "output"):
            weights[f"{layer}.{name}.LayerNorm"] = weight_and_bias(f"{layer}.{name}.LayerNorm")
    return Bert(config, ops, weights)


# --- the forward pass --------------------------------------------------------------------------


def check_tokens(config: BertConfig, token_ids: Array, token_type_ids: Array, offsets: Array) -> None:
    """Raise ValueError unless every id and position is in its embedding table. The op sets do not check."""
    for name, values, limit in (
        ("token_ids", token_ids, config.vocab_size),
        ("token_type_ids", token_type_ids, config.type_vocab_size),
        ("lengths", offsets[1:] - offsets[:-1], config.max_position_embeddings + 1),
    ):
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise ValueError(f"tokens: {name}: expected integers (n,), got {values.dtype} of shape {values.shape}")
        # As unsigned numbers, negative ones are the largest, so one maximum finds both kinds.
        if values.astype(np.int64).view(np.uint64).max(initial=0) >= limit:
            i = int(np.flatnonzero((values < 0) | (values >= limit))[0])
            raise ValueError(f"tokens: {name}[{i}]: expected 0 to {limit - 1}, got {values[i]}")
    T = len(token_ids)
    if len(token_type_ids) != T or [*offsets[:1], *offsets[-1:]] != [0, T]:
        got = f"{len(token_type_ids)} and {offsets}"
        raise ValueError(f"tokens: expected {T} token_type_ids, and offsets from 0 to {T}, got {got}")


def embeddings(bert: Bert, token_ids: Array, token_type_ids: Array, offsets: Array) -> Array:  # (T,) -> (T, H)
    """LayerNorm of word + token type + position embeddings; for offsets [0, 2, 5] the positions are 0, 1, 0, 1, 2."""
    config, ops, w = bert
    check_tokens(config, token_ids, token_type_ids, offsets)
    position_ids = np.arange(len(token_ids)) - np.repeat(offsets[:-1], np.diff(offsets))  # (T,)
    norm = w["embeddings.LayerNorm"]
    return ops.embed(token_ids, token_type_ids, position_ids, w["embeddings"], norm, config.layer_norm_eps)


def self_attention(bert: Bert, name: str, hidden_states: Array, offsets: Array, observe: Observer) -> Array:
    """Mix the tokens of each sentence in N heads of D = H / N columns; then residual and LayerNorm (post-norm)."""
    config, ops, w = bert
    qkv = ops.linear(hidden_states, w[f"{name}.self"], None)  # (T, 3H)
    context = ops.attention(qkv, offsets, config.num_attention_heads)  # (T, H)
    projected = ops.linear(context, w[f"{name}.output.dense"], None)  # (T, H)
    output = ops.add_layer_norm(projected, hidden_states, w[f"{name}.output.LayerNorm"], config.layer_norm_eps)
    if observe:
        for part, value in zip(("query", "key", "value"), np.split(qkv, 3, axis=1), strict=True):  # each (T, H)
            observe(f"{name}.self.{part}", value)
        observe(f"{name}.self.attention_probs", ops.attention_probs(qkv, offsets, config.num_attention_heads))
        observe(f"{name}.self.context", context)
        observe(f"{name}.output", output)
    return output  # (T, H)


def feed_forward(bert: Bert, name: str, attention_output: Array, observe: Observer) -> Array:  # (T, H) -> (T, H)
    """Transform each token separately: H to I, activation, I to H; then residual and LayerNorm (post-norm)."""
    config, ops, w = bert
    intermediate = ops.linear(attention_output, w[f"{name}.intermediate.dense"], config.hidden_act)  # (T, I)
    projected = ops.linear(intermediate, w[f"{name}.output.dense"], None)  # (T, H)
    output = ops.add_layer_norm(projected, attention_output, w[f"{name}.output.LayerNorm"], config.layer_norm_eps)
    if observe:
        observe(f"{name}.intermediate", intermediate)
        observe(f"{name}.output", output)
    return output


def encoder_layer(bert: Bert, name: str, hidden_states: Array, offsets: Array, observe: Observer) -> Array:
    """Apply self-attention, then the feed-forward network; each adds its input to its output and normalizes the sum."""
    attention_output = self_attention(bert, f"{name}.attention", hidden_states, offsets, observe)  # (T, H)
    return feed_forward(bert, name, attention_output, observe)  # (T, H)


def encoder(bert: Bert, token_ids: Array, token_type_ids: Array, offsets: Array, observe: Observer = None) -> Array:
    """Return the last layer's hidden states: one contextual embedding per token. Arguments as in `forward`."""
    hidden_states = embeddings(bert, token_ids, token_type_ids, offsets)  # (T, H)
    if observe:
        observe("embeddings", hidden_states)
    for i in range(bert.config.num_hidden_layers):
        hidden_states = encoder_layer(bert, f"encoder.layer.{i}", hidden_states, offsets, observe)
    return hidden_states  # (T, H)


def sentence_embeddings(bert: Bert, hidden_states: Array, offsets: Array, observe: Observer = None) -> Array:
    """Pool each sentence's hidden states into one vector; scale it to length 1 if `config.normalize` is set."""
    pooled = bert.ops.pool(hidden_states, offsets, bert.config.pooling_mode)  # (B, H)
    normalized = bert.ops.l2_normalize(pooled) if bert.config.normalize else pooled  # (B, H)
    if observe:
        observe("pooled", pooled)
        observe("sentence_embedding", normalized)
    return normalized  # (B, H)


def forward(bert: Bert, token_ids: Array, token_type_ids: Array, offsets: Array, observe: Observer = None) -> Array:
    """Compute the sentence embeddings (B, H) of a packed batch.

    token_ids (T,): 0 to V - 1. token_type_ids (T,): 0, or 1 in the second text of a pair. offsets (B + 1,): increasing
    from 0 to T; sentence b is tokens offsets[b]:offsets[b+1]. observe: called with each stage of `stage_names`.
    """
    hidden_states = encoder(bert, token_ids, token_type_ids, offsets, observe)  # (T, H)
    return sentence_embeddings(bert, hidden_states, offsets, observe)  # (B, H)


def stage_names(config: BertConfig) -> list[str]:
    """Return the names of the stages, in order; `attention.output` and `output` are after residual and LayerNorm.

    Shapes: attention_probs is a list of B arrays (N, S, S), intermediate is (T, I), pooled and sentence_embedding are
    (B, H), all others are (T, H).
    """
    attention = ("self.query", "self.key", "self.value", "self.attention_probs", "self.context", "output")
    layer = (*(f"attention.{stage}" for stage in attention), "intermediate", "output")
    layers = (f"encoder.layer.{i}.{stage}" for i in range(config.num_hidden_layers) for stage in layer)
    return ["embeddings", *layers, "pooled", "sentence_embedding"]
