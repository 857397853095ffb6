"""The NumPy op set: each operation of the model in a few lines, in the dtype of its inputs.

In float64 it is the reference that every other computation is compared with. In float32 it is fast enough for small
jobs, because nearly all of its time goes into 2-D matrix products in BLAS.

T tokens of all sentences    B sentences    S tokens of one sentence    N heads
H hidden size (384)    D = H / N head size (32)    n neighboring sentences of equal length

Sentences are packed, not padded: sentence b is rows offsets[b]:offsets[b+1] of a (T, H) matrix. Only attention and
pooling use offsets; every other operation computes each row from the same row of its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LayerNorm = tuple[Array, Array]  # weight (H,), bias (H,)
Tables = tuple[Array, Array, Array]  # word (V, H), token type (2, H), position (512, H)


class Dense(NamedTuple):
    """The parameters of a dense layer, in the checkpoint's layout."""

    weight: Array  # (outputs, inputs)
    bias: Array  # (outputs,)


prepare_dense = Dense  # this op set uses the checkpoint's layout unchanged

# Phi(-a) = 0.5 * erfc(a / sqrt(2)) = exp(-a^2 / 2) * t * P(t) for a >= 0, with t = 1 / (1 + 0.3 a) and a fitted
# polynomial P: degree 7 for float32 (relative error 1.1e-7, half an ulp), degree 20 for float64 (5e-15). NumPy has no
# erfc, and math.erfc takes four times as long, one element at a time. bench/generate/polynomials.py fits P.
TAIL_SCALE = 0.3
# fmt: off
TAIL_COEFFICIENTS = (  # t^7 first
    0.0361948322, -0.15937822, 0.210118253, -0.057167251, 0.130416402, 0.0993471372, 0.120845529, 0.119623263)
TAIL_COEFFICIENTS_FLOAT64 = (  # t^20 first
    -0.0032227777452477737, 0.030969454459681429, -0.13010101534987079, 0.30253586961589479,
    -0.38391727712237067, 0.1265907190724562, 0.44076398246961918, -0.89761787123725179, 0.90799218650738578,
    -0.61502183544733224, 0.32716289383171232, -0.12881484524234685, 0.023429200487880393,
    -0.022683164775599493, 0.0020152877701026819, 0.026291044620348543, 0.057984750609194453,
    0.087366706782804976, 0.10891132489254343, 0.11968268164623327, 0.11968268415416222)
# fmt: on


def gelu(x: Array) -> Array:
    """x * Phi(x), where Phi is the normal distribution function: 0.5 x erfc(-x / sqrt(2)). (Hendrycks & Gimpel 2016.)

    Measured error in float32: 1.4e-7 for |x| < 4 (PyTorch 2.13: 1.2e-6), and 1e-6 relative down to x = -5, where
    1 + erf(x / sqrt(2)) would cancel. In float64: 1e-15, and 1e-13 relative down to x = -37.
    """
    magnitude = np.minimum(np.abs(x), 40)  # Phi(-40) is 0 in float64; larger squares could overflow
    t = 1 / (1 + TAIL_SCALE * magnitude)
    first, *others = TAIL_COEFFICIENTS if x.dtype.itemsize <= 4 else TAIL_COEFFICIENTS_FLOAT64
    tail = np.full_like(x, first)
    for coefficient in others:  # Horner
        tail *= t
        tail += coefficient
    tail *= t
    tail *= np.exp(-0.5 * magnitude * magnitude)  # Phi(-|x|)
    return np.asarray(np.maximum(x, 0) - magnitude * tail)


def gelu_new(x: Array) -> Array:
    """The tanh approximation of GELU, as in GPT-2; it differs from `gelu` by up to 4.7e-4."""
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))))


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.asarray(np.maximum(x, 0))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"gelu": gelu, "gelu_new": gelu_new, "relu": relu}


# --- dense layers and LayerNorm ----------------------------------------------------------------


def activate(y: Array, activation: str) -> Array:  # (T, I) -> (T, I)
    """Replace y by its activation, and return it."""
    rows = max(1, 32768 // y.shape[1])  # 128 KB of float32, so the activation's temporaries stay in L2
    for start in range(0, len(y), rows):
        y[start : start + rows] = ACTIVATIONS[activation](y[start : start + rows])
    return y


def linear(x: Array, dense: Dense, activation: str | None) -> Array:  # (T, inputs) -> (T, outputs)
    """x W^T + b, followed by the activation unless it is None."""
    y = x @ dense.weight.T
    y += dense.bias
    return y if activation is None else activate(y, activation)


def layer_norm(x: Array, norm: LayerNorm, eps: float) -> Array:  # (T, H) -> (T, H)
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis. (Ba et al. 2016, eq. 4.)"""
    weight, bias = norm
    centered = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centered * centered, axis=-1, keepdims=True)
    return np.asarray(centered / np.sqrt(variance + eps) * weight + bias)


def add_layer_norm(x: Array, residual: Array, norm: LayerNorm, eps: float) -> Array:  # (T, H) -> (T, H)
    """LayerNorm(x + residual): x is a sublayer's output, residual its input. (Vaswani et al. 2017, section 3.1.)"""
    return layer_norm(x + residual, norm, eps)


def embed(
    token_ids: Array, token_type_ids: Array, position_ids: Array, tables: Tables, norm: LayerNorm, eps: float
) -> Array:  # (T,), (T,), (T,) -> (T, H)
    """LayerNorm of the sum of three table lookups. (Devlin et al. 2018, figure 2.)"""
    word, token_type, position = tables
    return layer_norm(word[token_ids] + token_type[token_type_ids] + position[position_ids], norm, eps)


# --- attention as in the paper: one sentence, one head; leading axes are batched ---------------


def attention_scores(query: Array, key: Array) -> Array:  # (..., S, D), (..., S, D) -> (..., S, S)
    """Q K^T / sqrt(D): row i holds how well each key matches query i. (Vaswani et al. 2017, eq. 1.)"""
    return np.asarray(query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1]))


def softmax(scores: Array) -> Array:
    """exp(s) / sum(exp(s)) over the last axis, with the maximum subtracted first so that exp cannot overflow."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def attention_weights(query: Array, key: Array) -> Array:  # (..., S, D), (..., S, D) -> (..., S, S)
    """softmax(Q K^T / sqrt(D)); each row sums to 1 and weighs the rows of V."""
    return softmax(attention_scores(query, key))


# --- attention over packed sentences: query, key and value of all heads in one (T, 3H) matrix --


def split_heads(qkv: Array, n: int, num_heads: int) -> Array:  # (n S, 3H) -> (3, n, N, S, D)
    """Query, key and value of n sentences of equal length S, as one (S, D) matrix per sentence and head."""
    head_size = qkv.shape[1] // (3 * num_heads)
    return qkv.reshape(n, -1, 3, num_heads, head_size).transpose(2, 0, 3, 1, 4)


def equal_length_runs(offsets: Array, most: int = 2**16) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) for runs of neighboring sentences of equal length, which NumPy can compute together.

    A run ends before its attention weights exceed `most` elements per head (3 MB for 12 heads in float32).
    """
    lengths = np.diff(offsets)
    first = 0
    for b in range(1, len(lengths) + 1):
        if b == len(lengths) or lengths[b] != lengths[first] or (b - first + 1) * int(lengths[b]) ** 2 > most:
            yield first, b
            first = b


def attention(qkv: Array, offsets: Array, num_heads: int) -> Array:  # (T, 3H) -> (T, H)
    """Multi-head attention: softmax(Q K^T / sqrt(D)) V per sentence and head, heads concatenated (section 3.2.2)."""
    context = np.empty((len(qkv), qkv.shape[1] // 3), qkv.dtype)
    for first, last in equal_length_runs(offsets):
        rows = slice(offsets[first], offsets[last])
        query, key, value = split_heads(qkv[rows], last - first, num_heads)  # each (n, N, S, D)
        per_head = attention_weights(query, key) @ value  # (n, N, S, D)
        context[rows] = per_head.transpose(0, 2, 1, 3).reshape(-1, context.shape[1])  # (n S, H)
    return context


def attention_probs(qkv: Array, offsets: Array, num_heads: int) -> list[Array]:  # (T, 3H) -> B of (N, S, S)
    """The attention weights of each sentence; element [h, i, j]: how much token i attends to token j in head h."""
    heads = [split_heads(qkv[start:stop], 1, num_heads) for start, stop in pairwise(offsets)]
    return [attention_weights(query[0], key[0]) for query, key, _ in heads]


# --- sentence embeddings -----------------------------------------------------------------------


def pool(hidden_states: Array, offsets: Array, mode: str) -> Array:  # (T, H) -> (B, H)
    """One vector per sentence; mode is "mean", "cls" (first token), "max" or "mean_sqrt_len_tokens" (sum / sqrt(S))."""
    if len(offsets) == 1:  # no sentences
        return hidden_states[:0]
    sentences = [hidden_states[start:stop] for start, stop in pairwise(offsets)]
    if mode == "mean":
        return np.stack([rows.mean(axis=0) for rows in sentences])
    if mode == "cls":
        return hidden_states[offsets[:-1]]
    if mode == "max":
        return np.stack([rows.max(axis=0) for rows in sentences])
    if mode == "mean_sqrt_len_tokens":
        return np.stack([rows.sum(axis=0) / math.sqrt(len(rows)) for rows in sentences])
    raise ValueError(f"mode: expected 'mean', 'cls', 'max' or 'mean_sqrt_len_tokens', got {mode!r}")


def mean_pool(hidden_states: Array, offsets: Array) -> Array:  # (T, H) -> (B, H)
    """The mean of a sentence's hidden states, [CLS] and [SEP] included. (Reimers & Gurevych 2019, section 3.)"""
    return pool(hidden_states, offsets, "mean")


def l2_normalize(x: Array) -> Array:  # (B, H) -> (B, H)
    """x / max(|x|, 1e-12): rows of length 1, so that a dot product is a cosine similarity."""
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12))
