"""A third op set: float64 with the same bits on every machine. Golden bundles are written with it.

BLAS and the C library choose the order and the rounding of their operations by machine and version, so a float64
program returns different last bits on different machines. This op set uses only operations whose result IEEE 754
defines exactly (+ - * / sqrt, rounding, scaling by powers of two), in a fixed order. BLAS still computes the matrix
products, but they are exact in any order: each factor is split into slices with so few bits that no sum can round.
(Ozaki et al. 2012, Error-free transformations of matrix multiplication.) The result is as accurate as float64 and takes
ten times as long.
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

SLICES = 3  # of about 21 bits each: together 63 bits below the largest element of each row


def _slices(x: Array, bits: int) -> tuple[list[Array], Array]:
    """Return slices and exponent with x (..., M, K) = 2^exponent * sum_i slices[i] * 2^(-bits (i + 1)).

    Slices hold integers of magnitude up to 2^bits. exponent (..., M, 1) is one number per row. Bits below the last
    slice are dropped.
    """
    _, exponent = np.frexp(np.abs(x).max(axis=-1, keepdims=True, initial=0))
    rest = np.ldexp(x, -exponent)  # magnitude below 1
    slices = []
    for _ in range(SLICES):
        rest = np.ldexp(rest, bits)
        slices.append(np.rint(rest))
        rest = rest - slices[-1]
    return slices, exponent


def matmul(a: Array, b: Array) -> Array:  # (..., M, K), (..., K, N) -> (..., M, N)
    """Return a @ b with the same bits everywhere.

    The product of two slices is exact: a sum of K terms, each at most 2^(2 bits), stays at or below 2^53.
    """
    bits = (53 - max(a.shape[-1] - 1, 1).bit_length()) // 2
    a_slices, a_exponent = _slices(a, bits)
    b_slices, b_exponent = _slices(b.swapaxes(-1, -2), bits)
    total: Any = 0.0
    for order in reversed(range(SLICES)):  # smallest terms first
        for i in range(order + 1):
            exact = a_slices[i] @ b_slices[order - i].swapaxes(-1, -2)
            total = total + np.ldexp(exact, -bits * (order + 2))
    return np.asarray(np.ldexp(total, a_exponent + b_exponent.swapaxes(-1, -2)))


def _sum(x: Array) -> Array:  # (..., K) -> (..., 1)
    return matmul(x, np.ones((x.shape[-1], 1)))


def exp(x: Array) -> Array:
    """Return e^x for x <= 0 as 2^k e^r with |r| <= ln(2) / 2.

    The series of e^r ends at r^14; the next term is below 1e-19.
    """
    k = np.rint(x * 1.4426950408889634)  # 1 / ln 2
    r = x - k * 0.6931471803691238 - k * 1.9082149292705877e-10  # ln 2 in two parts: k times the first is exact
    total = np.ones_like(r)
    for n in range(14, 0, -1):
        total = 1 + total * r / n
    return np.asarray(np.ldexp(total, np.maximum(k, -2000).astype(np.int64)))


def gelu(x: Array) -> Array:
    """Return x Phi(x) with Phi(x) = 1/2 + phi(x) (x + x^3 / 3 + x^5 / (3 5) + ...).

    Abramowitz & Stegun 1964, 26.2.11. For |x| > 9, Phi is 0 or 1 up to 1e-19. The absolute error of Phi is about 1e-16.
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
        raise ValueError(f"activation: expected 'gelu' or 'relu', got {activation!r}, which is not reproducible")
    if activation == "gelu":
        return np.concatenate([gelu(block) for block in np.array_split(y, max(1, len(y) // 16))])
    return y if activation is None else ops.relu(y)


def layer_norm(x: Array, norm: LayerNorm, eps: float) -> Array:  # (T, H) -> (T, H)
    weight, bias = norm
    centered = x - _sum(x) / x.shape[-1]
    variance = _sum(centered * centered) / x.shape[-1]
    return np.asarray(centered / np.sqrt(variance + eps) * weight + bias)


def add_layer_norm(x: Array, residual: Array, norm: LayerNorm, eps: float) -> Array:  # (T, H) -> (T, H)
    return layer_norm(x + residual, norm, eps)


def embed(
    token_ids: Array, token_type_ids: Array, position_ids: Array, tables: Tables, norm: LayerNorm, eps: float
) -> Array:  # (T,), (T,), (T,) -> (T, H)
    word, token_type, position = tables
    return layer_norm(word[token_ids] + token_type[token_type_ids] + position[position_ids], norm, eps)


def attention_probs(qkv: Array, offsets: Array, num_heads: int) -> list[Array]:  # (T, 3H) -> B of (N, S, S)
    probs = []
    for start, stop in pairwise(offsets):
        query, key, _ = ops.split_heads(qkv[start:stop], 1, num_heads)[:, 0]  # each (N, S, D)
        scores = matmul(query, key.swapaxes(-1, -2)) / math.sqrt(query.shape[-1])
        weights = exp(scores - scores.max(axis=-1, keepdims=True))
        probs.append(weights / _sum(weights))
    return probs


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
