"""An op set that records: it computes with another op set's functions and keeps what each call received and returned.

`model.forward` runs unchanged on a `Tape`, so the architecture is written only once, in model.py. The recorded calls
have every value of the forward pass, and the modules whose weights they used. `detailed_stages` gives the values names.
A backward pass can walk the calls in reverse.

Dimensions as in model.py: T tokens, B sentences, S tokens of one sentence, H hidden size, N heads, I intermediate size.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minilm_np import model, ops
from minilm_np.model import Array, Bert, BertConfig


class Call(NamedTuple):
    """One call of an op."""

    op: str  # the op's name, such as "linear"
    module: str  # the module whose weights it used, such as "encoder.layer.0.output.dense"; "" for none
    inputs: tuple[Any, ...]  # the arguments, in order
    output: Any


class Tape:
    """The op set of `bert`, with every call recorded in `calls`, in order.

    Outputs have the same bits as without the tape. `linear` with an activation is recorded twice, first without the
    activation, because op sets fuse the two and overwrite the activation's input. An op set that has no `activate`
    computes the product twice, too.
    """

    def __init__(self, bert: Bert):
        self.calls: list[Call] = []
        self.op_set = bert.ops
        self._modules = {id(weights): name for name, weights in bert.weights.items()}

    def _record(self, op: str, *inputs: Any) -> Any:
        return self._keep(op, getattr(self.op_set, op)(*inputs), *inputs)

    def _keep(self, op: str, output: Any, *inputs: Any) -> Any:
        module = next((self._modules[id(value)] for value in inputs if id(value) in self._modules), "")
        self.calls.append(Call(op, module, inputs, output))
        return output

    def prepare_dense(self, weight: Array, bias: Array, /) -> Any:
        return self.op_set.prepare_dense(weight, bias)

    def embed(self, ids: Array, types: Array, positions: Array, tables: Any, norm: Any, eps: float, /) -> Any:
        return self._record("embed", ids, types, positions, tables, norm, eps)

    def linear(self, x: Array, dense: Any, activation: str | None, /) -> Any:
        if activation is None:
            return self._record("linear", x, dense, None)
        before = self._record("linear", x, dense, None)
        activate = getattr(self.op_set, "activate", None)
        if activate is None:
            return self._record("linear", x, dense, activation)
        return self._keep("linear", activate(before.copy(), activation), x, dense, activation)

    def add_layer_norm(self, x: Array, residual: Array, norm: Any, eps: float, /) -> Any:
        return self._record("add_layer_norm", x, residual, norm, eps)

    def attention(self, qkv: Array, offsets: Array, num_heads: int, /) -> Any:
        return self._record("attention", qkv, offsets, num_heads)

    def attention_probs(self, qkv: Array, offsets: Array, num_heads: int, /) -> list[Array]:
        return self.op_set.attention_probs(qkv, offsets, num_heads)  # only for observers; not recorded

    def pool(self, hidden_states: Array, offsets: Array, mode: str, /) -> Any:
        return self._record("pool", hidden_states, offsets, mode)

    def l2_normalize(self, x: Array, /) -> Any:
        return self._record("l2_normalize", x)


LAYER_NORM = ("LayerNorm.input", "LayerNorm.mean", "LayerNorm.variance")


def detailed_stage_names(config: BertConfig) -> list[str]:
    """Return the names of `detailed_stages`, in the order of the forward pass: `model.stage_names` and these.

    - token_ids, token_type_ids, position_ids: (T,). offsets: (B + 1,).
    - encoder.layer.{i}.attention.self.attention_scores: a list of B arrays (N, S, S); the softmax's input.
    - encoder.layer.{i}.attention.output.dense, encoder.layer.{i}.output.dense: (T, H); before the residual is added.
    - encoder.layer.{i}.intermediate.dense: (T, I); the activation's input.
    - {module}.LayerNorm.input: (T, H); for `embeddings` the sum of the three look-ups, else dense output + residual.
    - {module}.LayerNorm.mean, {module}.LayerNorm.variance: (T, 1); over the columns of LayerNorm.input.
    """
    inputs = ["token_ids", "token_type_ids", "position_ids", "offsets"]
    before = {"embeddings": [*inputs, *_names("embeddings", LAYER_NORM)]}  # stage -> the details just before it
    for layer in (f"encoder.layer.{i}" for i in range(config.num_hidden_layers)):
        before[f"{layer}.attention.self.attention_probs"] = [f"{layer}.attention.self.attention_scores"]
        before[f"{layer}.attention.output"] = _names(f"{layer}.attention.output", ("dense", *LAYER_NORM))
        before[f"{layer}.intermediate"] = [f"{layer}.intermediate.dense"]
        before[f"{layer}.output"] = _names(f"{layer}.output", ("dense", *LAYER_NORM))
    return [name for stage in model.stage_names(config) for name in (*before.get(stage, ()), stage)]


def _names(module: str, parts: tuple[str, ...]) -> list[str]:
    return [f"{module}.{part}" for part in parts]


def detailed_stages(bert: Bert, token_ids: Array, token_type_ids: Array, offsets: Array) -> dict[str, Any]:
    """Run the forward pass and return every value needed to recompute each step, by `detailed_stage_names`.

    Arguments as in `model.forward`. Outputs of ops have the same bits as without the tape. Values that exist only
    inside an op (attention_scores; LayerNorm's input, mean and variance) are computed with NumPy, in the same dtype.
    """
    tape = Tape(bert)
    stages: dict[str, Any] = {"offsets": offsets}
    model.forward(bert._replace(ops=tape), token_ids, token_type_ids, offsets, stages.__setitem__)
    qkv_module = ""
    for op, module, inputs, output in tape.calls:
        if op == "embed":
            ids, types, positions, (word, token_type, position), *_ = inputs
            stages |= {"token_ids": ids, "token_type_ids": types, "position_ids": positions}
            stages |= _layer_norm_stages("embeddings", word[ids] + token_type[types] + position[positions])
        elif op == "linear" and module.endswith("attention.self"):
            qkv_module = module
        elif op == "linear" and inputs[-1] is None:
            stages[module] = output
        elif op == "attention":
            stages[f"{qkv_module}.attention_scores"] = _attention_scores(*inputs)
        elif op == "add_layer_norm":
            x, residual, *_ = inputs
            stages |= _layer_norm_stages(module.removesuffix(".LayerNorm"), x + residual)
    return {name: stages[name] for name in detailed_stage_names(bert.config)}


def _layer_norm_stages(module: str, x: Array) -> dict[str, Array]:
    values = (x, x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True))
    return dict(zip(_names(module, LAYER_NORM), values, strict=True))


def _attention_scores(qkv: Array, offsets: Array, num_heads: int) -> list[Array]:  # (T, 3H) -> B of (N, S, S)
    heads = [ops.split_heads(np.asarray(qkv[start:stop]), 1, num_heads) for start, stop in pairwise(offsets)]
    return [ops.attention_scores(query[0], key[0]) for query, key, _ in heads]
