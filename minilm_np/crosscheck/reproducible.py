"""The third op set: float64 whose every bit is the same on every machine.

BLAS and the C library round as the machine's vectors and their authors like, so the same float64 program gives other
last bits elsewhere. Here only operations are used that IEEE 754 defines to the bit (+ - * / sqrt, rounding, scaling by
powers of two), in a fixed order. Matrix products, whose order BLAS chooses, are made exact: each factor is cut into
slices of so few bits that no sum can round, whatever its order. (Ozaki et al. 2012, Error-free transformations of
matrix multiplication.) As accurate as float64, ten times slower; golden bundles are made with it.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from minilm_np import ops
from minilm_np.model import Array
from minilm_np.ops import Dense, LayerNorm, Tables, prepare_dense

__all__ = ["add_layer_norm", "attention", "attention_probs", "embed", "l2_normalize", "linear", "pool", "prepare_dense"]

SLICES = 3  # of about 21 bits each: 63 bits below each row's largest element


def _slices(x: Array, bits: int) -> tuple[list[Array], Array]:
    """x (..., M, K) = 2^exponent * sum of slices[i] * 2^(-bits (i + 1)), slices of integers up to 2^bits, one exponent
    (..., M, 1) a row; what is smaller than the last slice is dropped."""
    _, exponent = np.frexp(np.abs(x).max(axis=-1, keepdims=True, initial=0))
    rest = np.ldexp(x, -exponent)  # below 1
    slices = []
    for _ in range(SLICES):
        rest = np.ldexp(rest, bits)
        slices.append(np.rint(rest))
        rest = rest - slices[-1]
    return slices, exponent


def matmul(a: Array, b: Array) -> Array:  # (..., M, K), (..., K, N) -> (..., M, N)
    """a @ b, the same bits everywhere: K products of two slices, each below 2^(2 bits), sum to less than 2^53."""
    bits = (53 - max(a.shape[-1] - 1, 1).bit_length()) // 2
    a_slices, a_exponent = _slices(a, bits)
    b_slices, b_exponent = _slices(b.swapaxes(-1, -2), bits)
    total: Any = 0.0
    for both in reversed(range(SLICES)):  # the smallest first
        for i in range(both + 1):
            exact = a_slices[i] @ b_slices[both - i].swapaxes(-1, -2)
            total = total + np.ldexp(exact, -bits * (both + 2))
    return np.asarray(np.ldexp(total, a_exponent + b_exponent.swapaxes(-1, -2)))


def _sum(x: Array) -> Array:  # (..., K) -> (..., 1)
    return matmul(x, np.ones((x.shape[-1], 1)))


def exp(x: Array) -> Array:
    """e^x, x <= 0: 2^k e^r, |r| <= ln(2) / 2, e^r by its series to r^14 (the next term is below 1e-19)."""
    k = np.rint(x * 1.4426950408889634)  # 1 / ln 2
    r = x - k * 0.6931471803691238 - k * 1.9082149292705877e-10  # ln 2 in two parts; k times the first is exact
    total = np.ones_like(r)
    for n in range(14, 0, -1):
        total = 1 + total * r / n
    return np.asarray(np.ldexp(total, np.maximum(k, -2000).astype(np.int64)))


def gelu(x: Array) -> Array:
    """x Phi(x), Phi(x) = 1/2 + phi(x) (x + x^3 / 3 + x^5 / (3 5) + ...). (Abramowitz & Stegun 1964, 26.2.11.)

    Beyond |x| = 9 Phi is 0 or 1 to 1e-19. The absolute error of Phi is about 1e-16.
    """
    z = np.clip(x, -9, 9)
    square = z * z
    term = total = z
    for n in range(3, 400, 2):
        term = term * square / n
        total = total + term
        if np.abs(term).max(initial=0) < 1e-18:
            break
    phi = exp(-0.5 * square) * (1 / math.sqrt(2 * math.pi))
    return np.asarray(x * np.clip(0.5 + phi * total, 0, 1))


def linear(x: Array, dense: Dense, activation: str | None) -> Array:  # (T, inputs) -> (T, outputs)
    y = matmul(x, dense.weight.T) + dense.bias
    if activation not in (None, "gelu", "relu"):
        raise ValueError(f"activation: found {activation!r}, wanted 'gelu' or 'relu': bits of others differ by machine")
    if activation == "gelu":
        return np.concatenate([gelu(block) for block in np.array_split(y, max(1, len(y) // 16))])
    return y if activation is None else ops.relu(y)


def layer_norm(x: Array, norm: LayerNorm, eps: float) -> Array:  # (T, H) -> (T, H)
    weight, bias = norm
    centred = x - _sum(x) / x.shape[-1]
    variance = _sum(centred * centred) / x.shape[-1]
    return np.asarray(centred / np.sqrt(variance + eps) * weight + bias)


def add_layer_norm(x: Array, residual: Array, norm: LayerNorm, eps: float) -> Array:  # (T, H) -> (T, H)
    return layer_norm(x + residual, norm, eps)


def embed(
    token_ids: Array, token_type_ids: Array, position_ids: Array, tables: Tables, norm: LayerNorm, eps: float
) -> Array:  # (T,), (T,), (T,) -> (T, H)
    word, token_type, position = tables
    return layer_norm(word[token_ids] + token_type[token_type_ids] + position[position_ids], norm, eps)


def attention_probs(qkv: Array, offsets: Array, num_heads: int) -> list[Array]:  # (T, 3H) -> B of (N, S, S)
    found = []
    for start, stop in pairwise(offsets):
        query, key, _ = ops.split_heads(qkv[start:stop], 1, num_heads)[:, 0]  # each (N, S, D)
        scores = matmul(query, key.swapaxes(-1, -2)) / math.sqrt(query.shape[-1])
        weights = exp(scores - scores.max(axis=-1, keepdims=True))
        found.append(weights / _sum(weights))
    return found


def attention(qkv: Array, offsets: Array, num_heads: int) -> Array:  # (T, 3H) -> (T, H)
    context = np.empty((len(qkv), qkv.shape[1] // 3))
    probs = attention_probs(qkv, offsets, num_heads)
    for b, (start, stop) in enumerate(pairwise(offsets)):
        value = ops.split_heads(qkv[start:stop], 1, num_heads)[2, 0]  # (N, S, D)
        context[start:stop] = matmul(probs[b], value).transpose(1, 0, 2).reshape(stop - start, -1)
    return context


def pool(hidden_states: Array, offsets: Array, mode: str) -> Array:  # (T, H) -> (B, H)
    if mode in ("cls", "max"):
        return ops.pool(hidden_states, offsets, mode)
    sums = np.stack([_sum(hidden_states[start:stop].T)[:, 0] for start, stop in pairwise(offsets)])
    lengths = np.diff(offsets)[:, None].astype(np.float64)
    return np.asarray(sums / (lengths if mode == "mean" else np.sqrt(lengths)))


def l2_normalize(x: Array) -> Array:  # (B, H) -> (B, H)
    return np.asarray(x / np.maximum(np.sqrt(_sum(x * x)), 1e-12))
