"""The backward pass with any mistake built in.

A `Decisions` has a field for each decision that the author of a backward pass makes; the defaults are right. A
`Simulation` ran the forward pass once, and walks back with the decisions that it is given. `backward.walk` has the
architecture, and asks `Decisions` for the function of each operation.

Dimensions as in backward.py: T tokens, B texts, S tokens of a text, H hidden size, N heads, D = H / N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from minilm_np import backward, ops
from minilm_np.backward import Rule
from minilm_np.model import Array, prepare
from minilm_np.ops import Dense, LayerNorm, Tables
from minilm_np.sentence_transformer import SentenceTransformer

NONE: frozenset[str] = frozenset()
Parts = frozenset[str]


@dataclass(frozen=True)
class Decisions:
    """The decisions of a loss and its backward pass. Sets of parts name what is left out, unless they say otherwise."""

    # the loss
    scale: float = 20.0  # the factor on cosines
    direction: str = "anchors"  # anchors, positives, symmetric (mean of both), symmetric-sum, joint (one softmax)
    detached: str = ""  # anchors or positives: the column that gets no gradient
    loss: Parts = NONE  # of its gradient: positive (the 1 of cross entropy's p - 1)
    # the embeddings
    normalize: Parts = NONE  # projection, length
    pool: str = "length"  # what the mean's gradient is divided by: length, 1, padded, square (length^2); or first
    # the layers
    activation: str = ""  # a key of GELUS, or the right one
    norm: Parts = NONE  # of dx: mean, projection, deviation, weight; skip: the whole LayerNorm
    norm_weight_from: str = "z"  # what dy is multiplied with for dw: z, x, centered, y
    norm_mean: bool = False  # the gradients of weight and bias are means over tokens
    norm_weighted: bool = False  # the gradients of weight and bias use dy w instead of dy
    residual: Parts = NONE  # whose gradient is not added: attention.output, output
    residual_before_norm: bool = False  # the residual gets the gradient of LayerNorm's output instead of its input
    sublayer: Parts = NONE  # sublayers that get no gradient: attention.output, output
    transposed: bool = False  # dx = dy W^T instead of dy W, in the square matrices
    lost_inputs: Parts = NONE  # whose dx is not added: query, key, value
    bias_mean: bool = False  # biases get the mean over tokens instead of the sum
    weight_mean: bool = False  # the same of weights
    padded_count: bool = False  # the means count padding as well
    # attention
    scaled: str = "both"  # which gradients 1 / sqrt(D) is in: both, none, query, key; twice: 1 / D
    softmax: str = "full"  # full, no-sum, sum-over-queries, sum-over-all, skipped, elementwise: p (1 - p)
    attention: Parts = NONE  # transposes left out: key, value; heads: head merging without the transpose
    parts: tuple[int, int, int] = (0, 1, 2)  # the order of query, key and value in dqkv
    # the embedding tables
    scatter: str = "add"  # for rows that occur several times: add, last, first, mean
    tables: str = "all"  # the tables that `scatter` holds for: word, all, padded (all, and padding counts as rows)
    padding_row: bool = False  # [PAD]'s row gets a gradient


RIGHT = Decisions()

# --- derivatives of the activation ---------------------------------------------------------------


def _distribution(x: Array) -> Array:
    nonzero = np.where(x == 0, 1, x)
    return np.asarray(np.where(x == 0, 0.5, ops.gelu(nonzero) / nonzero))


def _normal(x: Array, half: float = 0.5) -> Array:
    return np.asarray(np.exp(-half * np.minimum(np.abs(x), 26) ** 2))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -50, 50))))


GELUS: dict[str, Callable[[Array, Array], Array]] = {
    "tanh": backward.gelu_new_backward,
    "relu": backward.relu_backward,
    "no-density": lambda dy, x: dy * _distribution(x),
    "only-density": lambda dy, x: dy * x * _normal(x) / math.sqrt(2 * math.pi),
    "density-without-x": lambda dy, x: dy * (_distribution(x) + _normal(x) / math.sqrt(2 * math.pi)),
    "density-unscaled": lambda dy, x: dy * (_distribution(x) + x * _normal(x)),
    "density-sqrt-pi": lambda dy, x: dy * (_distribution(x) + x * _normal(x) / math.sqrt(math.pi)),
    "density-exponent": lambda dy, x: dy * (_distribution(x) + x * _normal(x, 1.0) / math.sqrt(2 * math.pi)),
    "density-negative": lambda dy, x: dy * (_distribution(x) - x * _normal(x) / math.sqrt(2 * math.pi)),
    "at-output": lambda dy, x: backward.gelu_backward(dy, ops.gelu(x)),
    "skipped": lambda dy, x: dy,
    "value": lambda dy, x: dy * ops.gelu(x),
    "quick": lambda dy, x: dy * _sigmoid(1.702 * x) * (1 + 1.702 * x * (1 - _sigmoid(1.702 * x))),
    "silu": lambda dy, x: dy * _sigmoid(x) * (1 + x * (1 - _sigmoid(x))),
}


# --- the texts of one call -----------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """The forward pass of texts that a port may compute in one call."""

    recorded: backward.Recorded
    offsets: Array  # (B + 1,)

    @property
    def lengths(self) -> Array:
        return np.diff(self.offsets)

    @property
    def padded_tokens(self) -> int:
        return len(self.lengths) * int(self.lengths.max())

    def padded(self, packed: Array) -> Array:
        """Return the rows of packed tokens (T, ...) with rows of zeros for padding (B * longest, ...)."""
        longest = int(self.lengths.max())
        rows = np.zeros((self.padded_tokens, *packed.shape[1:]), packed.dtype)
        for b, (start, stop) in enumerate(pairwise(self.offsets)):
            rows[b * longest : b * longest + stop - start] = packed[start:stop]
        return rows


# --- the operations ------------------------------------------------------------------------------


def _linear(d: Decisions, batch: Batch, module: str, dy: Array, x: Array, dense: Dense) -> tuple[Array, Dense]:
    _, ddense = backward.linear_backward(dy, x, dense)
    outputs, inputs = dense.weight.shape
    tokens = batch.padded_tokens if d.padded_count else len(dy)
    ddense = Dense(ddense.weight / (tokens if d.weight_mean else 1), ddense.bias / (tokens if d.bias_mean else 1))
    blocks = ("query", "key", "value") if module.endswith("attention.self") else ("",)
    dx = np.zeros((len(dy), inputs), dy.dtype)
    for block, part, weight in zip(
        blocks, np.split(dy, len(blocks), axis=1), np.split(dense.weight, len(blocks)), strict=True
    ):
        if block not in d.lost_inputs or not block:
            dx += part @ (weight.T if d.transposed and outputs == inputs * len(blocks) else weight)
    return dx, ddense


def _layer_norm(
    d: Decisions, batch: Batch, dy: Array, x: Array, norm: LayerNorm, eps: float
) -> tuple[Array, LayerNorm]:
    weight, bias = norm
    centered = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.mean(centered * centered, axis=-1, keepdims=True) + eps)
    z = centered / deviation
    g = dx = dy if "weight" in d.norm else dy * weight
    if "mean" not in d.norm:
        dx = dx - g.mean(axis=-1, keepdims=True)
    if "projection" not in d.norm:
        dx = dx - z * np.mean(g * z, axis=-1, keepdims=True)
    if "deviation" not in d.norm:
        dx = dx / deviation
    if "skip" in d.norm:
        dx = dy
    factor = {"z": z, "x": x, "centered": centered, "y": z * weight + bias}[d.norm_weight_from]
    of_output = dy * weight if d.norm_weighted else dy
    tokens = (batch.padded_tokens if d.padded_count else len(dy)) if d.norm_mean else 1
    return np.asarray(dx), ((of_output * factor).sum(axis=0) / tokens, of_output.sum(axis=0) / tokens)


def _add_layer_norm(
    d: Decisions, batch: Batch, module: str, dy: Array, x: Array, residual: Array, norm: LayerNorm, eps: float
) -> tuple[Array, Array, LayerNorm]:
    dx, dnorm = _layer_norm(d, batch, dy, x + residual, norm, eps)
    sublayer = "attention.output" if module.endswith("attention.output.LayerNorm") else "output"
    dresidual = dy if d.residual_before_norm else dx
    return dx * (sublayer not in d.sublayer), dresidual * (sublayer not in d.residual), dnorm


def _softmax(d: Decisions, dp: Array, p: Array) -> Array:
    if d.softmax == "skipped":
        return dp
    if d.softmax == "no-sum":
        return np.asarray(p * dp)
    if d.softmax == "elementwise":
        return np.asarray(p * (1 - p) * dp)
    axis: Any = {"full": -1, "sum-over-queries": -2, "sum-over-all": (-1, -2)}[d.softmax]
    return np.asarray(p * (dp - np.sum(dp * p, axis=axis, keepdims=True)))


def _attention(d: Decisions, dy: Array, qkv: Array, offsets: Array, num_heads: int) -> Array:
    dqkv = np.empty_like(qkv)
    D = dy.shape[1] // num_heads
    factor = {"both": D**-0.5, "none": 1.0, "twice": 1 / D, "query": 1.0, "key": 1.0}[d.scaled]
    of_query, of_key = (D**-0.5 if d.scaled == part else factor for part in ("query", "key"))
    for start, stop in pairwise(offsets):
        query, key, value = (part[0] for part in ops.split_heads(qkv[start:stop], 1, num_heads))  # each (N, S, D)
        p = ops.attention_weights(query, key)  # (N, S, S)
        if "heads" in d.attention:
            dcontext = dy[start:stop].reshape(num_heads, -1, D)
        else:
            dcontext = dy[start:stop].reshape(-1, num_heads, D).transpose(1, 0, 2)
        ds = _softmax(d, dcontext @ value.swapaxes(-1, -2), p)
        dkey = (ds if "key" in d.attention else ds.swapaxes(-1, -2)) @ query * of_key
        dvalue = (p if "value" in d.attention else p.swapaxes(-1, -2)) @ dcontext
        parts = np.stack([ds @ key * of_query, dkey, dvalue])[list(d.parts)]  # (3, N, S, D)
        dqkv[start:stop] = parts.transpose(2, 0, 1, 3).reshape(stop - start, -1)
    return dqkv


def _scatter(how: str, table: Array, rows: Array, dx: Array) -> Array:
    """Return the gradient of a table whose rows `rows` (T,) were looked up; dx: (T, H)."""
    dtable = np.zeros_like(table)
    if how in ("last", "first"):
        order = slice(None) if how == "last" else slice(None, None, -1)
        dtable[rows[order]] = dx[order]  # of equal rows NumPy keeps the last
        return dtable
    if how == "mean":
        dx = dx / np.bincount(rows)[rows][:, None]
    np.add.at(dtable, rows, dx)
    return dtable


def _embed(
    d: Decisions, batch: Batch, dy: Array, ids: Array, types: Array, positions: Array, tables: Tables, *norm: Any
) -> tuple[Tables, LayerNorm]:
    word, token_type, position = tables
    dx, dnorm = _layer_norm(d, batch, dy, word[ids] + token_type[types] + position[positions], *norm)
    dword = _scatter(d.scatter, word, ids, dx)
    if not d.padding_row:
        dword[backward.PADDING_ID] = 0
    how = "add" if d.tables == "word" else d.scatter
    if d.tables == "padded":
        longest = int(batch.lengths.max())
        dx, types = batch.padded(dx), batch.padded(types)
        positions = np.tile(np.arange(longest), len(batch.lengths))
    return (dword, _scatter(how, token_type, types, dx), _scatter(how, position, positions, dx)), dnorm


def _pool(d: Decisions, batch: Batch, dy: Array, hidden_states: Array, offsets: Array, mode: str) -> Array:
    if d.pool == "first":
        return backward.pool_backward(dy, hidden_states, offsets, "cls")
    lengths = np.diff(offsets)
    divisor = {"length": lengths, "1": lengths**0, "padded": lengths**0 * lengths.max(), "square": lengths**2}[d.pool]
    return np.repeat(dy / divisor[:, None], lengths, axis=0)


def _l2_normalize(d: Decisions, dy: Array, x: Array) -> Array:
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    y = x / length
    dx = dy if "projection" in d.normalize else dy - y * np.sum(dy * y, axis=-1, keepdims=True)
    return np.asarray(dx if "length" in d.normalize else dx / length)


def choose(d: Decisions, batch: Batch, op: str, module: str) -> Rule:
    """Return the function of an operation in a module, with the mistakes of `d`. As `backward.right_rule`."""
    if op in backward.ACTIVATIONS:
        return GELUS[d.activation] if d.activation else backward.RULES[op]
    rules: dict[str, Rule] = {
        "embed": partial(_embed, d, batch),
        "linear": partial(_linear, d, batch, module),
        "add_layer_norm": partial(_add_layer_norm, d, batch, module),
        "attention": partial(_attention, d),
        "pool": partial(_pool, d, batch),
        "l2_normalize": partial(_l2_normalize, d),
    }
    return rules[op]


# --- the loss ------------------------------------------------------------------------------------


def loss_and_its_gradient(d: Decisions, anchors: Array, positives: Array) -> tuple[float, Array, Array]:
    """Return MultipleNegativesRankingLoss of embeddings of length 1, (B, H) each, and its gradients.

    The gradients lack the projection of the loss's own normalization, because the model's normalization makes it again.
    """
    B = len(anchors)
    scores = d.scale * (anchors @ positives.T)
    right = np.diagonal(scores)
    rows, columns = (np.exp(scores - _log_sum(scores, axis)) for axis in (1, 0))
    of_rows, of_columns = (float(np.mean(_log_sum(scores, axis).ravel() - right)) for axis in (1, 0))
    one = np.zeros((B, B)) if "positive" in d.loss else np.eye(B)
    values: dict[str, tuple[float, Array]] = {
        "anchors": (of_rows, rows - one),
        "positives": (of_columns, columns - one),
        "symmetric": ((of_rows + of_columns) / 2, (rows + columns) / 2 - one),
        "symmetric-sum": (of_rows + of_columns, rows + columns - 2 * one),
        "joint": _joint(scores, one),
    }
    value, dscores = values[d.direction]
    dscores = dscores * (d.scale / B)
    danchors, dpositives = dscores @ positives, dscores.T @ anchors
    return value, danchors * (d.detached != "anchors"), dpositives * (d.detached != "positives")


def _log_sum(scores: Array, axis: int) -> Array:
    largest = scores.max(axis=axis, keepdims=True)
    return np.asarray(largest + np.log(np.exp(scores - largest).sum(axis=axis, keepdims=True)))


def _joint(scores: Array, one: Array) -> tuple[float, Array]:
    """One sum over an anchor's similarities to all positives, and of its positive to all anchors."""
    both = np.concatenate([scores, scores.T], axis=1)
    log_sum = _log_sum(both, 1)
    of_rows, of_columns = np.split(np.exp(both - log_sum), 2, axis=1)
    return float(np.mean(log_sum.ravel() - np.diagonal(scores))), of_rows + of_columns.T - one


# --- the whole model -----------------------------------------------------------------------------


NORM_FIELDS = ("norm", "norm_weight_from", "norm_mean", "norm_weighted")
FIELDS = {  # operation -> the decisions that it depends on
    "linear": ("transposed", "lost_inputs", "bias_mean", "weight_mean"),
    "add_layer_norm": (*NORM_FIELDS, "residual", "residual_before_norm", "sublayer"),
    "attention": ("scaled", "softmax", "attention", "parts"),
    "embed": (*NORM_FIELDS, "scatter", "tables", "padding_row"),
    "pool": ("pool",),
    "l2_normalize": ("normalize",),
    **dict.fromkeys(backward.ACTIVATIONS, ("activation",)),
}


class Simulation:
    """The forward pass of rows of [anchor, positive], which can be walked back with any decisions.

    `rows` are those of the word table that are used, and [PAD]'s; gradients of the word table have only these.
    The right backward pass is kept, and an operation that is right and gets the right gradient is not computed again.
    """

    def __init__(self, model: SentenceTransformer, examples: Sequence[Sequence[str]]):
        anchors, positives = ([row[column] for row in examples] for column in (0, 1))
        ids = model.tokens([*anchors, *positives]).token_ids
        self.rows = np.unique(np.append(ids, backward.PADDING_ID))
        table = "embeddings.word_embeddings.weight"
        bert = prepare({**model.weights, table: model.weights[table][self.rows]}, model.config, ops)

        def batch(texts: list[str]) -> Batch:
            ids, types, offsets = model.tokens(texts)
            return Batch(backward.forward(bert, np.searchsorted(self.rows, ids), types, offsets), offsets)

        self.together = batch([*anchors, *positives])
        self.columns = batch(anchors), batch(positives)
        self.num_hidden_layers = model.config.num_hidden_layers
        self._kept: dict[tuple[int, str, str], tuple[Array, Any]] = {}  # of an operation: dy, and what it returned
        self._right = {id(_owner(gradient)) for _, gradient in self.walk(RIGHT)}

    def is_right(self, gradient: Array) -> bool:
        """Whether a gradient that `walk` yielded is the right one, which was not computed again."""
        return id(_owner(gradient)) in self._right

    def loss(self, d: Decisions) -> float:
        """Return the loss with these decisions."""
        return loss_and_its_gradient(d, *np.split(self.together.recorded.embeddings, 2))[0]

    def walk(
        self, d: Decisions, layers: Sequence[int] | None = None, apart: bool = False
    ) -> Iterator[tuple[str, Array]]:
        """Yield each parameter's name and gradient, from the loss backwards.

        layers: where decisions about layers hold; None: in all, and in the embeddings. apart: whether anchors and
        positives are two calls of the model, whose gradients are added.
        """
        _, *gradients = loss_and_its_gradient(d, *np.split(self.together.recorded.embeddings, 2))

        def walk_back(batch: Batch, dembeddings: Array) -> Iterator[tuple[str, Array]]:
            def rule(op: str, module: str) -> Rule:
                elsewhere = layers is not None and not any(module.startswith(f"encoder.layer.{i}.") for i in layers)
                if elsewhere or all(getattr(d, field) == getattr(RIGHT, field) for field in FIELDS[op]):
                    return partial(self._right_rule, id(batch), op, module)
                return choose(d, batch, op, module)

            return backward.walk(batch.recorded, dembeddings, rule)

        if not apart:
            yield from walk_back(self.together, np.concatenate(gradients))
            return
        for (name, first), (_, second) in zip(*map(walk_back, self.columns, gradients), strict=True):
            yield name, first + second

    def _right_rule(self, batch: int, op: str, module: str, dy: Array, *inputs: Any) -> Any:
        kept = self._kept.get((batch, op, module))
        if kept is not None and np.array_equal(kept[0], dy):
            return kept[1]
        returned = backward.RULES[op](dy, *inputs)
        self._kept.setdefault((batch, op, module), (dy, returned))  # of the first walk, which is right
        return returned


def _owner(array: Array) -> Array:
    """Return the array whose memory this one shows: query, key and value are parts of one."""
    return array if array.base is None else array.base
