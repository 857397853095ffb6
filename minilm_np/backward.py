"""The backward pass: the gradient of each operation of ops.py, in the same order and under the same names.

`forward` runs model.py's architecture on a `Tape`, which keeps what each operation received and returned. `backward`
walks these calls in reverse and applies the chain rule: the gradient of an operation's output becomes the gradients of
its inputs, and those of the parameters that it used. The architecture is not written again.

Every `<op>_backward` takes dy, the gradient of a scalar loss with respect to the operation's output, and then what the
operation received. It returns the gradients of the inputs, and of the parameters, with the shapes and the dtype of
these. Formulas: derivatives of those in ops.py. (Rumelhart, Hinton & Williams 1986.)

T tokens of all sentences    B sentences    S tokens of one sentence    N heads
H hidden size (384)    D = H / N head size (32)    n neighboring sentences of equal length
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minilm_np import model, ops
from minilm_np.model import Array, Bert
from minilm_np.ops import Dense, LayerNorm, Tables
from minilm_np.tape import Tape

TABLES = tuple(f"embeddings.{table}_embeddings.weight" for table in ("word", "token_type", "position"))
PADDING_ID = 0  # [PAD]; its row of the word table gets no gradient, as with padding_idx=0 in PyTorch


# --- activations -------------------------------------------------------------------------------


def gelu_backward(dy: Array, x: Array) -> Array:
    """dx = dy (Phi(x) + x phi(x)), where phi = Phi' is the normal density exp(-x^2 / 2) / sqrt(2 pi)."""
    magnitude = np.minimum(np.abs(x), 40)  # phi(40) is 0 in float64; larger squares could overflow
    nonzero = np.where(x == 0, 1, x)
    distribution = np.where(x == 0, 0.5, ops.gelu(nonzero) / nonzero).astype(x.dtype)  # Phi(x) = gelu(x) / x
    return np.asarray(dy * (distribution + x * np.exp(-0.5 * magnitude * magnitude) / math.sqrt(2 * math.pi)))


def gelu_new_backward(dy: Array, x: Array) -> Array:
    """dx = dy (0.5 (1 + t) + 0.5 x (1 - t^2) u'), with t = tanh(u) and u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    scale = math.sqrt(2 / math.pi)
    t = np.tanh(scale * (x + 0.044715 * x * x * x))
    return np.asarray(dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * 0.044715 * x * x)))


def relu_backward(dy: Array, x: Array) -> Array:
    """dx = dy where x > 0, else 0."""
    return np.asarray(dy * (x > 0))


ACTIVATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "gelu": gelu_backward,
    "gelu_new": gelu_new_backward,
    "relu": relu_backward,
}


def activate_backward(dy: Array, x: Array, rule: Callable[[Array, Array], Array]) -> Array:  # (T, I) -> (T, I)
    """An activation's gradient by one of the functions above, a few rows at a time, which stay in the cache."""
    dx = np.empty_like(dy)
    rows = max(1, 32768 // dy.shape[1])
    for start in range(0, len(dy), rows):
        part = slice(start, start + rows)
        dx[part] = rule(dy[part], x[part])
    return dx


# --- dense layers and LayerNorm ----------------------------------------------------------------


def sum_over_tokens(x: Array) -> Array:  # (T, n) -> (n,)
    """The sum of the rows, added up in float64: in float32 the error would grow with the number of tokens."""
    return np.asarray(x.sum(axis=0, dtype=np.float64).astype(x.dtype))


def linear_backward(dy: Array, x: Array, dense: Dense) -> tuple[Array, Dense]:
    """Of y = x W^T + b: dx = dy W, dW = dy^T x, db = the sum of dy over tokens.

    dy: (T, outputs). x, dx: (T, inputs). dW: (outputs, inputs). db: (outputs,). An activation is a step of its own.
    """
    return dy @ dense.weight, Dense(dy.T @ x, sum_over_tokens(dy))


def layer_norm_backward(dy: Array, x: Array, norm: LayerNorm, eps: float) -> tuple[Array, LayerNorm]:
    """Of y = z w + b with z = (x - mean) / sqrt(variance + eps), over the last axis. (Ba et al. 2016, eq. 4.)

    With g = dy w: dx = (g - mean(g) - z mean(g z)) / sqrt(variance + eps). The two means are there because every x of a
    row changes the row's mean and variance. dw = the sum of dy z over tokens, db = the sum of dy. dy, x, dx: (T, H).
    """
    weight, _ = norm
    centered = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.mean(centered * centered, axis=-1, keepdims=True) + eps)
    z = centered / deviation
    g = dy * weight
    dx = (g - g.mean(axis=-1, keepdims=True) - z * np.mean(g * z, axis=-1, keepdims=True)) / deviation
    return np.asarray(dx), (sum_over_tokens(dy * z), sum_over_tokens(dy))


def add_layer_norm_backward(
    dy: Array, x: Array, residual: Array, norm: LayerNorm, eps: float
) -> tuple[Array, Array, LayerNorm]:
    """Return dx, d residual and those of the parameters. A sum passes its gradient on to both terms unchanged."""
    dx, dnorm = layer_norm_backward(dy, x + residual, norm, eps)
    return dx, dx, dnorm


def embed_backward(
    dy: Array,
    token_ids: Array,
    token_type_ids: Array,
    position_ids: Array,
    tables: Tables,
    norm: LayerNorm,
    eps: float,
    dtables: Tables | None = None,
) -> tuple[Tables, LayerNorm]:
    """Of LayerNorm(word[ids] + token_type[types] + position[positions]): each row of a table sums its tokens' dx.

    Rows are added in the order of the tokens, to `dtables` if it is given. dy: (T, H). The tables' gradients have the
    tables' shapes.
    """
    word, token_type, position = tables
    x = word[token_ids] + token_type[token_type_ids] + position[position_ids]
    dx, dnorm = layer_norm_backward(dy, x, norm, eps)
    dword, dtoken_type, dposition = dtables or [np.zeros_like(table) for table in tables]
    kept = token_ids != PADDING_ID
    np.add.at(dword, token_ids[kept], dx[kept])
    np.add.at(dtoken_type, token_type_ids, dx)
    np.add.at(dposition, position_ids, dx)
    return (dword, dtoken_type, dposition), dnorm


# --- attention ---------------------------------------------------------------------------------


def softmax_backward(dy: Array, probs: Array) -> Array:  # (..., S, S), (..., S, S) -> (..., S, S)
    """Of p = softmax(s), given p: ds = p (dp - sum(dp p)) over the last axis."""
    return np.asarray(probs * (dy - np.sum(dy * probs, axis=-1, keepdims=True)))


def attention_backward(
    dy: Array, qkv: Array, offsets: Array, num_heads: int, masks: list[Array] | None = None
) -> Array:  # (T, H), (T, 3H) -> (T, 3H)
    """Of context = P V with P = softmax(Q K^T / sqrt(D)), per sentence and head. (Vaswani et al. 2017, eq. 1.)

    dP = dy V^T, dS = the softmax's gradient of dP, dQ = dS K / sqrt(D), dK = dS^T Q / sqrt(D), dV = P^T dy. With
    dropout, context = (P M) V, element by element: dP = (dy V^T) M and dV = (P M)^T dy. masks: B of M (N, S, S).
    """
    dqkv = np.empty_like(qkv)
    hidden_size = dy.shape[1]
    scale = math.sqrt(hidden_size // num_heads)
    for first, last in ops.equal_length_runs(offsets):
        rows, n = slice(offsets[first], offsets[last]), last - first
        query, key, value = ops.split_heads(qkv[rows], n, num_heads)  # each (n, N, S, D)
        probs = ops.attention_weights(query, key)  # (n, N, S, S)
        dcontext = dy[rows].reshape(n, -1, num_heads, hidden_size // num_heads).transpose(0, 2, 1, 3)  # (n, N, S, D)
        dprobs, dropped = dcontext @ value.swapaxes(-1, -2), probs
        if masks is not None:
            mask = np.stack(masks[first:last])
            dprobs, dropped = dprobs * mask, probs * mask
        dscores = softmax_backward(dprobs, probs) / scale
        parts = dscores @ key, dscores.swapaxes(-1, -2) @ query, dropped.swapaxes(-1, -2) @ dcontext
        dqkv[rows] = np.stack(parts).transpose(1, 3, 0, 2, 4).reshape(-1, 3 * hidden_size)  # (3, n, N, S, D) -> rows
    return dqkv


def dropout_backward(dy: Array, x: Array, mask: Array) -> Array:  # all (T, H)
    """Of y = x mask: dx = dy mask. A mask is 0 with probability p, else 1 / (1 - p). (Srivastava et al. 2014.)"""
    return np.asarray(dy * mask)


# --- sentence embeddings -----------------------------------------------------------------------


def pool_backward(dy: Array, hidden_states: Array, offsets: Array, mode: str) -> Array:  # (B, H), (T, H) -> (T, H)
    """Of one vector per sentence: every token, the first, or for each column the largest, gets the sentence's dy.

    "mean" divides it by S, "mean_sqrt_len_tokens" by sqrt(S). Of equal largest elements the first gets all of it.
    """
    dx = np.zeros_like(hidden_states)
    for b, (start, stop) in enumerate(pairwise(offsets)):
        if mode == "cls":
            dx[start] = dy[b]
        elif mode == "max":
            dx[start + np.argmax(hidden_states[start:stop], axis=0), np.arange(dx.shape[1])] = dy[b]
        else:
            dx[start:stop] = dy[b] / {"mean": stop - start, "mean_sqrt_len_tokens": math.sqrt(stop - start)}[mode]
    return dx


def l2_normalize_backward(dy: Array, x: Array) -> Array:  # (B, H), (B, H) -> (B, H)
    """Of y = x / |x|: dx = (dy - y sum(dy y)) / |x|. Only the part of dy at right angles to x turns y."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    y = x / np.maximum(length, 1e-12)
    along = np.where(length > 1e-12, np.sum(dy * y, axis=-1, keepdims=True), 0)  # below, the divisor is constant
    return np.asarray((dy - y * along) / np.maximum(length, 1e-12))


# --- the chain rule over the whole model -------------------------------------------------------


Rule = Callable[..., Any]
Choose = Callable[[str, str], Rule]
RULES: dict[str, Rule] = {
    "embed": embed_backward,
    "linear": linear_backward,
    "add_layer_norm": add_layer_norm_backward,
    "attention": attention_backward,
    "pool": pool_backward,
    "dropout": dropout_backward,
    "l2_normalize": l2_normalize_backward,
    **ACTIVATIONS,
}


class Recorded(NamedTuple):
    """A forward pass that can be walked back."""

    embeddings: Array  # (B, H)
    tape: Tape


def forward(bert: Bert, token_ids: Array, token_type_ids: Array, offsets: Array, tape: Tape | None = None) -> Recorded:
    """Run `model.forward` on a tape. Arguments as there; the embeddings have the same bits.

    tape: a new tape of `bert` that does more than recording, such as dropout.

    The model's op set is ops.py or another with the same layout of weights; else TypeError is raised. `backward` uses
    the op set's own `<op>_backward` where it has one.
    """
    if bert.ops.prepare_dense is not ops.prepare_dense:
        raise TypeError(f"bert: expected a model prepared with minilm_np.ops, got {getattr(bert.ops, '__name__', '?')}")
    tape = tape or Tape(bert)
    return Recorded(model.forward(bert._replace(ops=tape), token_ids, token_type_ids, offsets), tape)


def backward(recorded: Recorded, dembeddings: Array, gradients: dict[str, Array] | None = None) -> dict[str, Array]:
    """Return the gradients of a loss with respect to every parameter, under the checkpoint's names.

    dembeddings (B, H): the gradient with respect to the embeddings. gradients: those of other texts, to add to, in
    place. The gradient of a key's bias is 0 but for rounding: the softmax does not change if a number is added to all
    scores of a row.
    """
    if gradients is None:
        return dict(walk(recorded, dembeddings))
    word, token_type, position = (gradients[name] for name in TABLES)
    for name, gradient in walk(recorded, dembeddings, dtables=(word, token_type, position)):
        if name not in TABLES:  # walk has added to those
            gradients[name] += gradient
    return gradients


def walk(
    recorded: Recorded, dembeddings: Array, rule: Choose | None = None, dtables: Tables | None = None
) -> Iterator[tuple[str, Array]]:
    """Yield the name and the gradient of every parameter, from the loss backwards. Arguments as in `backward`.

    dtables: the gradients of the embedding tables, to add to, in place.
    rule: returns the function to use for an operation in a module, such as ("linear", "encoder.layer.0.output.dense");
    `minilm_np.crosscheck` makes mistakes with it. None: those of the op set, or of this file.
    """
    calls, op_set = recorded.tape.calls, recorded.tape.op_set
    rule = rule or (lambda op, _: getattr(op_set, f"{op}_backward", RULES[op]))
    pending = {id(recorded.embeddings): dembeddings}  # of each value, the sum of the gradients that reached it so far

    def add(value: Array, gradient: Array) -> None:
        pending[id(value)] = pending[id(value)] + gradient if id(value) in pending else gradient

    for number, (op, module, inputs, output) in reversed(list(enumerate(calls))):
        dy = pending.pop(id(output))
        if op in ("l2_normalize", "pool", "dropout"):
            add(inputs[0], rule(op, "")(dy, *inputs))
        elif op == "attention":  # the call before computed query, key and value
            add(inputs[0], rule(op, calls[number - 1].module)(dy, *inputs))
        elif op == "add_layer_norm":
            dx, dresidual, dnorm = rule(op, module)(dy, *inputs)
            add(inputs[0], dx)
            add(inputs[1], dresidual)
            yield from _named(module, dnorm)
        elif op == "linear" and inputs[-1] is not None:  # the call before has the activation's input
            before = calls[number - 1].output
            add(before, activate_backward(dy, before, rule(inputs[-1], module)))
        elif op == "linear":
            x, dense, _ = inputs
            dx, ddense = rule(op, module)(dy, x, dense)
            add(x, dx)
            if module.endswith("attention.self"):  # query, key and value are one layer in model.py
                parts = (np.split(gradient, 3) for gradient in ddense)
                for part, *weight_and_bias in zip(("query", "key", "value"), *parts, strict=True):
                    yield from _named(f"{module}.{part}", weight_and_bias)
            else:
                yield from _named(module, ddense)
        else:  # embed
            summed, dnorm = rule(op, "embeddings")(dy, *inputs, *([] if dtables is None else [dtables]))
            yield from _named("embeddings.LayerNorm", dnorm)
            yield from zip(TABLES, summed, strict=True)


def _named(module: str, weight_and_bias: Sequence[Array]) -> Iterator[tuple[str, Array]]:
    return zip((f"{module}.weight", f"{module}.bias"), weight_and_bias, strict=True)
