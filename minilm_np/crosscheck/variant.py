"""Simulate a port of the model that makes any given mistake.

A `Variant` lists the decisions that a port makes; the defaults are the correct ones. `Simulator.run` computes the
vectors and stages that a port with these decisions returns. The architecture is model.py's: a wrong decision passes it
a different tokenizer, parameter or operation. The code is slow, plain NumPy in float32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from minilm_np import formats, model, ops
from minilm_np.crosscheck.probes import TEXTS
from minilm_np.crosscheck.word_pieces import RULES, RuleTokenizer, Vocabulary
from minilm_np.model import Array, BertConfig
from minilm_np.tokenizer import Tokenizer, Tokens
from minilm_np.weights import load

Stages = dict[str, list[Array]]  # stage -> one value per text: (S, H), (N, S, S) or (H,)
LONGEST = 0  # pad_to: pad to the longest text of the batch


@dataclass(frozen=True)
class Variant:
    """The decisions of a port, in the order in which it makes them. The defaults are the correct ones."""

    # text -> word pieces
    prefix: str = ""
    rule: str = ""  # a name in word_pieces.RULES; "" for tokenizer.json with the three decisions below
    normalizer: tuple[tuple[str, bool], ...] = ()  # BertNormalizer options that differ from tokenizer.json
    max_seq_length: int = 256
    special_tokens: tuple[str, ...] = ("[CLS]", "[SEP]")
    chunks: Literal["none", "averaged", "averaged by length"] = "none"  # whether a long text is encoded in parts
    # word pieces -> rows of the embedding tables
    token_type: int | Literal["mask"] | None = 0  # None: no token type embedding is added
    position_offset: int = 0
    positions_from: Literal["sentence", "batch", "left padding", "nothing"] = "sentence"  # where position 0 is
    without_positions: bool = False  # no position embedding is added
    # padding: a correct port pads too, but masks it
    pad_to: int | None = None  # LONGEST, or a number of word pieces
    padding_attended: bool = False
    padding_pooled: bool = False
    mask_by_id: bool = False  # every word piece 0 counts as padding, including a [PAD] written in a text
    # parameters
    layers: tuple[int, ...] | None = None  # which layers run, in which order; None: all
    transposed: frozenset[str] = frozenset()  # dense modules, by their names in the checkpoint
    without_bias: frozenset[str] = frozenset()  # dense and LayerNorm modules
    # "bf16 dense" and "int8 dense": as the dense layers of SentenceTransformer in bfloat16 and int8
    weights: Literal["float32", "fp16", "bf16", "bf16 dense", "int8 per tensor", "int8 per channel", "int8 dense"] = (
        "float32"
    )
    tables: Literal["float32", "int8 per tensor"] = "float32"  # embedding tables, on top of `weights`
    # arithmetic
    hidden_act: Literal["gelu", "gelu_new", "quick_gelu", "relu"] = "gelu"
    layer_norm_eps: float = 1e-12
    unbiased_variance: bool = False
    without_norm: frozenset[str] = frozenset()  # LayerNorm modules
    without_residual: frozenset[str] = frozenset()  # LayerNorm modules whose residual is not added
    pre_norm: bool = False
    attention_scale: Literal["head", "head squared", "hidden", "none", "uniform"] = "head"
    attention_order: tuple[int, int, int] = (0, 1, 2)  # which of query, key, value acts as query, key, value
    heads: Literal["blocks", "interleaved", "not transposed", "not transposed back"] = "blocks"
    # after every operation, or as inputs of dense layers: "bf16 dense", "int8" (one range) and "int8 per token"
    activations: Literal["float32", "fp16", "bf16", "bf16 dense", "int8", "int8 per token"] = "float32"
    dither: bool = False  # round activations differently: errors of the same size in other directions
    # word pieces -> one vector
    pooling_mode: str = "mean"  # of ops.pool, or of POOLING_MODES
    specials_pooled: bool = True
    scaling: Literal["unit", "none", "twice"] = "unit"
    # rows of a batch
    rows: Literal["given", "longest first", "shortest first", "first repeated", "all first"] = "given"


POOLING_MODES = ("sum", "mean over width", "pooler", "pooler before tanh")  # on top of those of ops.pool
PARAMETER_FIELDS = (  # fields of Variant that change the prepared model
    *("layers", "transposed", "without_bias", "weights", "tables", "token_type"),
    *("hidden_act", "layer_norm_eps", "pooling_mode", "scaling"),
)


class Checkpoint(NamedTuple):
    """The checkpoint's files, read once for all variants."""

    folder: Path
    config: BertConfig
    params: Mapping[str, Array]

    @classmethod
    def load(cls, dtype: str = "float32") -> Checkpoint:
        """Load all-MiniLM-L6-v2. Raises what `weights.load` raises."""
        place, config, params = load(dtype=dtype)
        return cls(place.folder, config, params)


class Batch(NamedTuple):
    """The packed tokens of texts that run together, including padding."""

    tokens: Tokens
    position_ids: Array  # (T,)
    lengths: Array  # (B,) without padding
    mask: Array  # (T,) bool: False where a token is padding


class Run(NamedTuple):
    embeddings: Array  # (n, H)
    stages: Stages
    token_ids: list[Array]  # (S,) each


class Simulator:
    """Run variants of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self._tokenizer = lru_cache(64)(self._make_tokenizer)
        self._vocabulary = lru_cache(1)(lambda: Vocabulary.read(checkpoint.folder / "tokenizer.json"))
        self._pooler = lru_cache(1)(self._read_pooler)
        self.token_ids = lru_cache(256)(self._token_ids)
        self.stage = lru_cache(512)(self._run_stage)  # checks of further ports ask for many of the same values
        self._stored = lru_cache(2)(self._store_parameters)
        self._bert = lru_cache(2)(self._prepare)  # the correct model and the current variant

    def _run_stage(
        self, variant: Variant, rows: tuple[int, ...], batches: tuple[tuple[int, ...], ...], stage: str
    ) -> list[Array]:
        """Return one stage's value for each of these rows of TEXTS; `batches` holds indices into `rows`."""
        run = self.run(variant, [TEXTS[row] for row in rows], batches, [stage])
        return run.token_ids if stage == "token_ids" else run.stages[stage]

    def run(
        self,
        variant: Variant,
        texts: Sequence[str],
        batches: Iterable[Sequence[int]],
        stages: Iterable[str] = (),
    ) -> Run:
        """Return what a port with this variant's decisions returns for `texts`.

        batches: indices into `texts` of the texts that the port receives, and returns, together.
        stages: names of the stages to return as well.
        """
        embeddings = np.zeros((len(texts), self.checkpoint.config.hidden_size), np.float32)
        nothing = np.zeros(0)  # of a stage that the variant does not have: a layer that does not run
        values: dict[str, list[Any]] = {stage: [nothing] * len(texts) for stage in stages}
        token_ids: list[Any] = [None] * len(texts)
        for rows in batches:
            chunks = self._token_rows(variant, [texts[row] for row in rows])
            batch = self._batch(variant, [ids for of_text in chunks for ids in of_text])
            starts = np.cumsum([0, *(len(of_text) for of_text in chunks)])  # row of each text's first chunk
            observed: dict[str, list[Array]] = {}

            def observe(
                stage: str, value: Any, batch: Batch = batch, observed: dict[str, list[Array]] = observed
            ) -> None:
                if stage in values:
                    observed[stage] = _split_by_text(stage, value, batch)

            vectors = self._forward(variant, batch, observe if values else None)
            if variant.chunks != "none":
                vectors = _average(vectors, batch.lengths, starts, variant)
                observed = {stage: [value[start] for start in starts[:-1]] for stage, value in observed.items()}
                batch = batch._replace(lengths=batch.lengths[starts[:-1]])
            order = _row_order(variant.rows, batch.lengths)
            embeddings[list(rows)] = vectors[order]
            for i, row in enumerate(rows):
                start = batch.tokens.offsets[starts[i]]
                token_ids[row] = batch.tokens.token_ids[start : start + batch.lengths[i]]
                for stage, of_batch in observed.items():
                    values[stage][row] = of_batch[i]
                if "sentence_embedding" in values:
                    values["sentence_embedding"][row] = embeddings[row]
        return Run(embeddings, values, token_ids)

    # --- text -> word pieces -------------------------------------------------------------------

    def _token_ids(self, variant: Variant) -> list[list[list[int]]]:
        """Return the word pieces of each of TEXTS: one list for each of its chunks."""
        return self._token_rows(variant, list(TEXTS))

    def embed_pieces(self, token_ids: Sequence[Sequence[int]]) -> Array:
        """Return the right vectors (n, H) of n texts, given as word pieces."""
        return self._forward(Variant(), self._batch(Variant(), [list(ids) for ids in token_ids]), None)

    def pieces_by_rule(self, text: str) -> dict[str, list[int]]:
        """Return the word pieces of a text by each of RULES."""
        return {name: RuleTokenizer(self._vocabulary(), rule).token_ids(text) for name, rule in RULES.items()}

    def piece_names(self, token_ids: Sequence[int]) -> str:
        """Return word pieces in a form for reports."""
        names = {number: piece for piece, number in self._vocabulary().ids.items()}
        return " ".join(names[number] for number in token_ids)

    def _make_tokenizer(self, normalizer: tuple[tuple[str, bool], ...], length: int, specials: tuple[str, ...]) -> Any:
        path = self.checkpoint.folder / "tokenizer.json"
        if not normalizer and len(specials) == 2:
            return Tokenizer(path, length)
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        spec = json.loads(path.read_text(encoding="utf-8"))
        spec["normalizer"] |= dict(normalizer)
        for form in ("single", "pair"):
            spec["post_processor"][form] = [
                part
                for part in spec["post_processor"][form]
                if "Sequence" in part or part["SpecialToken"]["id"] in specials
            ]
        tokenizer = HuggingFaceTokenizer.from_str(json.dumps(spec))
        tokenizer.no_padding()
        tokenizer.enable_truncation(length)
        return tokenizer

    def _token_rows(self, variant: Variant, texts: list[str]) -> list[list[list[int]]]:
        """Return the word pieces of texts: for each text one list, or one for each chunk."""
        texts = [variant.prefix + text for text in texts]
        if variant.rule:
            by_rule = RuleTokenizer(self._vocabulary(), RULES[variant.rule], variant.max_seq_length)
            return [[by_rule.token_ids(text)] for text in texts]
        length = variant.max_seq_length if variant.chunks == "none" else 2**20
        tokenizer = self._tokenizer(variant.normalizer, length, variant.special_tokens)
        encode = tokenizer.encode if isinstance(tokenizer, Tokenizer) else tokenizer.encode_batch
        rows = [list(encoding.ids) for encoding in encode(texts)]
        if variant.chunks == "none":
            return [[ids] for ids in rows]
        room = variant.max_seq_length - 2
        return [
            [[ids[0], *ids[start : start + room], ids[-1]] for start in range(1, max(2, len(ids) - 1), room)]
            if len(ids) > variant.max_seq_length
            else [ids]
            for ids in rows
        ]

    def _batch(self, variant: Variant, ids: list[list[int]]) -> Batch:
        lengths = np.array([len(row) for row in ids])
        if variant.pad_to is not None:
            width = max(variant.pad_to, int(lengths.max(initial=0)))
            ids = [row + [0] * (width - len(row)) for row in ids]  # [PAD] is word piece 0
        padded_lengths = np.array([len(row) for row in ids])
        offsets = np.concatenate([[0], np.cumsum(padded_lengths)])
        T = int(offsets[-1])
        position_ids = np.arange(T)
        if variant.positions_from != "batch":
            position_ids -= np.repeat(offsets[:-1], padded_lengths)
        if variant.positions_from == "nothing":
            position_ids[:] = 0
        if variant.positions_from == "left padding":
            position_ids += np.repeat(lengths.max(initial=0) - lengths, padded_lengths)
        position_ids += variant.position_offset
        last_position = self.checkpoint.config.max_position_embeddings - 1
        token_ids = np.array([piece for row in ids for piece in row], np.int32)
        mask = np.arange(T) - np.repeat(offsets[:-1], padded_lengths) < np.repeat(lengths, padded_lengths)
        types = mask.astype(np.int32) if variant.token_type == "mask" else np.full(T, variant.token_type or 0, np.int32)
        if variant.mask_by_id:
            mask &= token_ids != 0
        return Batch(Tokens(token_ids, types, offsets), np.clip(position_ids, 0, last_position), lengths, mask)

    # --- parameters ----------------------------------------------------------------------------

    def _store_parameters(self, weights: str, tables: str) -> Mapping[str, Array]:
        params = self.checkpoint.params
        if weights != "float32":
            params = {name: _round_parameter(name, value, weights) for name, value in params.items()}
        if tables != "float32":
            names = [name for name in params if name.endswith("_embeddings.weight")]
            params = {**params, **{name: formats.round_to_int8(params[name]) for name in names}}
        return params

    def _prepare(self, variant: Variant) -> model.Bert:
        config, params = self.checkpoint.config, dict(self._stored(variant.weights, variant.tables))
        for name in variant.transposed:
            weight = params[f"{name}.weight"]
            # A weight that is not square is misread: memory in (inputs, outputs) order taken as (outputs, inputs)
            square = weight.shape[0] == weight.shape[1]
            params[f"{name}.weight"] = weight.T if square else np.ascontiguousarray(weight.T).reshape(weight.shape)
        for name in variant.without_bias:
            params[f"{name}.bias"] = np.zeros_like(params[f"{name}.bias"])
        types = "embeddings.token_type_embeddings.weight"
        if variant.token_type is None:
            params[types] = np.zeros_like(params[types])
        if variant.layers is not None:
            config = replace(config, num_hidden_layers=len(variant.layers))
            originals = dict(params)
            for i, layer in enumerate(variant.layers):
                target, source = f"encoder.layer.{i}.", f"encoder.layer.{layer}."
                params |= {target + k.removeprefix(source): v for k, v in originals.items() if k.startswith(source)}
        config = replace(
            config,
            hidden_act=variant.hidden_act,
            layer_norm_eps=variant.layer_norm_eps,
            pooling_mode=variant.pooling_mode,
            normalize=variant.scaling != "none",
        )
        bert = model.prepare(params, config, ops)
        if variant.pooling_mode.startswith("pooler"):
            bert = bert._replace(weights={**bert.weights, "pooler.dense": self._pooler()})
        named = {name: Named(name, value) for name, value in bert.weights.items() if name != "embeddings"}
        return bert._replace(weights={**bert.weights, **named})

    def _read_pooler(self) -> ops.Dense:
        """Return pooler.dense of the checkpoint, which sentence embeddings do not use."""
        from safetensors import safe_open

        with safe_open(self.checkpoint.folder / "model.safetensors", "np") as file:
            named = {key.removeprefix("bert."): key for key in file.keys()}  # noqa: SIM118, it is not a mapping
            weight, bias = (file.get_tensor(named[f"pooler.dense.{part}"]) for part in ("weight", "bias"))
        return ops.Dense(weight.astype(np.float32), bias.astype(np.float32))

    def _forward(self, variant: Variant, batch: Batch, observe: model.Observer) -> Array:
        bert = self._bert(replace(Variant(), **{field: getattr(variant, field) for field in PARAMETER_FIELDS}))
        with np.errstate(all="ignore"):  # a wrong variant may overflow
            return model.forward(bert._replace(ops=VariantOps(variant, batch, bert)), *batch.tokens, observe)


# --- operations --------------------------------------------------------------------------------


class Named(NamedTuple):
    """A module's weights with its name, which tells an operation where in the model it runs."""

    name: str
    value: Any


class VariantOps:
    """The NumPy op set (ops.py) with the variant's decisions, for one batch.

    T tokens of all texts, including padding    B texts    H hidden size    N heads    S tokens of one text    D = H / N
    """

    prepare_dense = staticmethod(ops.prepare_dense)

    def __init__(self, variant: Variant, batch: Batch, bert: model.Bert):
        self.variant, self.batch, self.bert = variant, batch, bert
        self.random = np.random.default_rng(0)

    def embed(
        self, ids: Array, types: Array, positions: Array, tables: Any, norm: Named, eps: float
    ) -> Array:  # (T,), (T,), (T,) -> (T, H)
        word, token_type, position = tables
        x = self._round(word[ids] + token_type[types])
        if not self.variant.without_positions:
            x = self._round(x + position[self.batch.position_ids])
        return self._round(self._layer_norm(x, norm, eps))

    def linear(self, x: Array, dense: Named, activation: str | None) -> Array:  # (T, inputs) -> (T, outputs)
        variant, name = self.variant, dense.name
        if variant.pre_norm and name.endswith(("attention.self", "intermediate.dense")):
            layer = name.removesuffix(".attention.self").removesuffix(".intermediate.dense")
            norm = f"{layer}.attention.output" if name.endswith("attention.self") else f"{layer}.output"
            x = self._layer_norm(x, self.bert.weights[f"{norm}.LayerNorm"], variant.layer_norm_eps)
        x = self._round_input(x)
        y = self._round(ops.linear(x, dense.value, None))
        if activation == "quick_gelu":
            y = y / (1 + np.exp(-1.702 * y))
        elif activation is not None:
            y = ops.ACTIVATIONS[activation](y)
        return self._round(y)

    def add_layer_norm(self, x: Array, residual: Array, norm: Named, eps: float) -> Array:  # (T, H) -> (T, H)
        x = x if norm.name in self.variant.without_residual else self._round(x + residual)
        return x if self.variant.pre_norm else self._round(self._layer_norm(x, norm, eps))

    def attention(self, qkv: Array, offsets: Array, num_heads: int) -> Array:  # (T, 3H) -> (T, H)
        context = np.empty((len(qkv), qkv.shape[1] // 3), qkv.dtype)
        heads = self._heads(qkv, offsets, num_heads)
        for (start, stop), (probs, value) in zip(pairwise(offsets), heads, strict=True):
            per_head = self._round(self._round(probs) @ value)  # (N, S, D)
            order = {"interleaved": (1, 2, 0), "not transposed back": (0, 1, 2), "not transposed": (0, 1, 2)}
            context[start:stop] = per_head.transpose(order.get(self.variant.heads, (1, 0, 2))).reshape(
                stop - start, context.shape[1]
            )
        return context

    def attention_probs(self, qkv: Array, offsets: Array, num_heads: int) -> list[Array]:
        return [probs for probs, _ in self._heads(qkv, offsets, num_heads)]

    def _heads(self, qkv: Array, offsets: Array, num_heads: int) -> Iterator[tuple[Array, Array]]:
        """Yield attention_probs (N, S, S) and value (N, S, D) of each text."""
        variant = self.variant
        head_size = qkv.shape[1] // (3 * num_heads)
        hidden_size = num_heads * head_size
        widths = {"head": head_size, "head squared": head_size**2, "hidden": hidden_size, "none": 1, "uniform": 1}
        width = widths[variant.attention_scale]
        for start, stop in pairwise(offsets):
            parts = qkv[start:stop].reshape(stop - start, 3, head_size * num_heads).transpose(1, 0, 2)  # (3, S, H)
            if variant.heads == "interleaved":
                split = parts.reshape(3, stop - start, head_size, num_heads).transpose(0, 3, 1, 2)
            elif variant.heads == "not transposed":
                split = np.ascontiguousarray(parts).reshape(3, num_heads, stop - start, head_size)
            else:
                split = parts.reshape(3, stop - start, num_heads, head_size).transpose(0, 2, 1, 3)
            query, key, value = (split[i] for i in variant.attention_order)  # each (N, S, D)
            scores = self._round(self._round(query @ key.swapaxes(-1, -2)) / np.float32(math.sqrt(width)))
            if variant.attention_scale == "uniform":
                scores[:] = 0
            if not variant.padding_attended:
                scores[..., ~self.batch.mask[start:stop]] = -np.inf
            yield (ops.softmax(scores) if stop > start else scores), value

    def pool(self, hidden_states: Array, offsets: Array, mode: str) -> Array:  # (T, H) -> (B, H)
        variant = self.variant
        pooled = np.zeros((len(offsets) - 1, hidden_states.shape[1]), hidden_states.dtype)
        for b, (start, stop) in enumerate(pairwise(offsets)):
            rows = hidden_states[start:stop]
            if not variant.padding_pooled:
                rows = rows[self.batch.mask[start:stop]]
            if not variant.specials_pooled:
                rows = rows[1 : self.batch.lengths[b] - 1]
            if mode in POOLING_MODES and len(rows):
                pooled[b] = self._pool_otherwise(rows, stop - start, mode)
            elif len(rows):  # without tokens the pooled vector stays 0
                pooled[b] = ops.pool(rows, np.array([0, len(rows)]), mode)[0]
        return self._round(pooled)

    def _pool_otherwise(self, rows: Array, width: int, mode: str) -> Array:  # (S, H) -> (H,)
        if mode in ("sum", "mean over width"):
            return np.asarray(rows.sum(axis=0) / (1 if mode == "sum" else width))
        y = ops.linear(rows[:1], self.bert.weights["pooler.dense"].value, None)[0]
        return np.asarray(y if mode == "pooler before tanh" else np.tanh(y))

    def l2_normalize(self, x: Array) -> Array:  # (B, H) -> (B, H)
        x = ops.l2_normalize(x) if self.variant.scaling != "twice" else x / np.sum(x * x, axis=-1, keepdims=True)
        return self._round(x)

    def _layer_norm(self, x: Array, norm: Named, eps: float) -> Array:  # (T, H) -> (T, H)
        if norm.name in self.variant.without_norm:
            return x
        weight, bias = norm.value
        if self.variant.unbiased_variance:
            H = x.shape[-1]
            centered = x - x.mean(axis=-1, keepdims=True)
            variance = np.sum(centered * centered, axis=-1, keepdims=True) / (H - 1)
            return np.asarray(centered / np.sqrt(variance + np.float32(eps)) * weight + bias)
        return ops.layer_norm(x, norm.value, eps)

    def _half_steps(self, x: Array) -> Array:
        """Return random offsets between -1/2 and 1/2, which move roundings to the other neighbor."""
        return self.random.random(x.shape, np.float32) - np.float32(0.5)

    def _round_input(self, x: Array) -> Array:
        """Return the input of a dense layer, rounded if the variant rounds only there."""
        activations = self.variant.activations
        if activations not in ("bf16 dense", "int8", "int8 per token"):
            return x
        half_steps: Array | float = self._half_steps(x) if self.variant.dither else 0.0
        if activations == "bf16 dense":
            return formats.round_to_bf16(x * (1 + np.float32(formats.EPSILON["bf16"]) * half_steps))
        return (formats.round_to_uint8 if activations == "int8" else formats.round_rows_to_uint8)(x, half_steps)

    def _round(self, x: Array) -> Array:
        activations = self.variant.activations
        if self.variant.dither and activations in formats.EPSILON:
            x = x * (1 + np.float32(formats.EPSILON[activations]) * self._half_steps(x))
        if activations == "fp16":
            return formats.round_to_fp16(x)
        return formats.round_to_bf16(x) if activations == "bf16" else x


def _round_parameter(name: str, value: Array, format: str) -> Array:
    """Return a parameter as it is after storage in `format`; "bf16 dense" and int8 apply to dense weights only."""
    if format == "fp16":
        return formats.round_to_fp16(value)
    if format == "bf16":
        return formats.round_to_bf16(value)
    if value.ndim < 2 or name.startswith("embeddings."):
        return value
    if format == "bf16 dense":
        return formats.round_to_bf16(value)
    if format == "int8 dense":
        codes, scale = formats.quantize_weight(value)
        return np.asarray(codes * scale)
    return formats.round_to_int8(value, axis=1 if format == "int8 per channel" else None)


def _average(vectors: Array, lengths: Array, starts: Array, variant: Variant) -> Array:
    """Return for each text the mean of its chunks' vectors; chunks starts[i]:starts[i + 1] are those of text i."""
    weights = (lengths if variant.chunks == "averaged by length" else np.ones(len(lengths)))[:, None]
    means = [(vectors[a:b] * weights[a:b]).sum(axis=0) / weights[a:b].sum() for a, b in pairwise(starts)]
    averaged: Array = np.stack(means).astype(np.float32)
    return ops.l2_normalize(averaged) if variant.scaling == "unit" else averaged


def _split_by_text(stage: str, value: Any, batch: Batch) -> list[Array]:
    """Return a stage's value for each text, without padding."""
    if stage.endswith("attention_probs"):
        return [probs[:, :n, :n] for probs, n in zip(value, batch.lengths, strict=True)]
    if stage in ("pooled", "sentence_embedding"):
        return list(value)
    return [value[start : start + n] for start, n in zip(batch.tokens.offsets[:-1], batch.lengths, strict=True)]


def _row_order(rows: str, lengths: Array) -> Array:
    """Return, for each place in a batch's result, which row is returned there."""
    if rows == "longest first":
        return np.argsort(-lengths, kind="stable")
    if rows == "shortest first":
        return np.argsort(lengths, kind="stable")
    order = np.arange(len(lengths))
    if rows == "first repeated":
        return np.maximum(order - 1, 0)
    return np.zeros_like(order) if rows == "all first" else order
