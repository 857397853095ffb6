"""The op set of training: products by NumPy's BLAS, everything else by the kernels, in float32.

It has the functions of minilm_np/ops.py, with the same names, meanings and layout of weights, and those of
minilm_np/backward.py for which there is a kernel. In the operations without a product, NumPy reads and writes memory
many times. The products stay in BLAS: it reaches 88 to 94 % of the FMA peak on a Zen 3, more than linear.py there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm_np import kernels, ops
from minilm_np.kernels import backward as _kernels
from minilm_np.kernels.simd import WIDTH, empty

Array = kernels.Array

prepare_dense = ops.prepare_dense
embed = kernels.embed
add_layer_norm = kernels.add_layer_norm
attention = kernels.attention
attention_probs = kernels.attention_probs
pool = kernels.pool
l2_normalize = kernels.l2_normalize


def linear(x: Array, dense: ops.Dense, activation: str | None) -> Array:
    y = ops.linear(x, dense, None)
    return y if activation is None else activate(y, activation)


def activate(y: Array, activation: str) -> Array:
    if activation != "gelu" or y.size % WIDTH:
        return ops.activate(y, activation)
    flat = y.reshape(-1)
    _kernels.gelu(flat, flat)
    return y


def attention_with_dropout(qkv: Array, offsets: Array, num_heads: int, masks: list[Array]) -> Array:
    T, H = len(qkv), qkv.shape[1] // 3
    context = _like(T, H)
    arguments = _flat(qkv), offsets, H, num_heads, _joined(masks), context.reshape(-1)
    _kernels.attention_with_dropout(*arguments, _scratch(H // num_heads, offsets))
    return context


def gelu_backward(dy: Array, x: Array) -> Array:
    dx = _like(*x.shape)
    _kernels.gelu_backward(_flat(dy), _flat(x), dx.reshape(-1))
    return dx


def linear_backward(dy: Array, x: Array, dense: ops.Dense) -> tuple[Array, ops.Dense]:
    db = np.empty(dy.shape[1])
    _kernels.sum_over_tokens(_flat(dy), *dy.shape, db)
    return dy @ dense.weight, ops.Dense(dy.T @ x, db.astype(np.float32))


def add_layer_norm_backward(
    dy: Array, x: Array, residual: Array, norm: ops.LayerNorm, eps: float
) -> tuple[Array, Array, ops.LayerNorm]:
    T, H = x.shape
    dx, dweight, dbias = _like(T, H), np.empty(H), np.empty(H)
    arguments = _flat(dy), _flat(x), _flat(residual), T, H, _flat(norm[0]), eps
    _kernels.add_layer_norm_backward(*arguments, dx.reshape(-1), dweight, dbias, empty(H))
    return dx, dx, (dweight.astype(np.float32), dbias.astype(np.float32))


def attention_backward(
    dy: Array, qkv: Array, offsets: Array, num_heads: int, masks: list[Array] | None = None
) -> Array:
    T, H = dy.shape
    dqkv = _like(T, 3 * H)
    arguments = _flat(dy), _flat(qkv), offsets, H, num_heads, _joined(masks or []), dqkv.reshape(-1)
    _kernels.attention_backward(*arguments, _scratch(H // num_heads, offsets))
    return dqkv


def _flat(x: Array) -> Array:
    return np.ascontiguousarray(x, np.float32).reshape(-1)


def _like(rows: int, columns: int) -> Array:
    result: Array = empty(rows * columns).reshape(rows, columns)
    return result


def _joined(masks: list[Array]) -> Array:
    return np.concatenate([np.zeros(0, np.float32), *(mask.reshape(-1) for mask in masks)])


def _scratch(head_size: int, offsets: Array) -> Any:
    return empty(_kernels.scratch_size(head_size, int(np.diff(offsets).max(initial=0))))
