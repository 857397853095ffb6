"""The Numba op set: the functions of minilm_np/ops.py, with the same names and meanings, as float32 kernels.

The functions in this file take and return the same arrays as those of ops.py, except that `prepare_dense` returns a
layout of its own. They call the kernels, which work on flat, C-contiguous arrays and check nothing. The result for a
row has the same bits in every batch.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from minilm_np import ops
from minilm_np.kernels import bfloat16, int8
from minilm_np.kernels import layer_norm as _layer_norm
from minilm_np.kernels.attention import attention as _attention
from minilm_np.kernels.attention import attention_probs as _attention_probs
from minilm_np.kernels.attention import scratch_size
from minilm_np.kernels.linear import PANEL, Packed, prepare_dense
from minilm_np.kernels.simd import WIDTH, empty

Array = npt.NDArray[Any]
Dense = Packed | bfloat16.PackedBfloat16 | int8.PackedInt8
# The encoder divides texts into chunks of about this many tokens. Compared with 192, 256 and 448, 320 is the fastest on
# short and mixed texts, by 1 to 3 %.
TOKENS_PER_CHUNK = 192

__all__ = [
    "add_layer_norm",
    "attention",
    "attention_probs",
    "embed",
    "l2_normalize",
    "linear",
    "pool",
    "prepare_dense",
    "unsupported",
]


def op_set(compute_dtype: str) -> Any:
    """Return the op set that computes dense layers in "float32", "bfloat16" or "int8", and all else in float32."""
    if compute_dtype == "float32":
        return sys.modules[__name__]
    prepare = {"bfloat16": bfloat16.prepare_dense, "int8": int8.prepare_dense}[compute_dtype]
    functions = {name: globals()[name] for name in (*__all__, "TOKENS_PER_CHUNK")}
    return SimpleNamespace(**functions | {"prepare_dense": prepare})


def unsupported(
    hidden_size: int, num_attention_heads: int, intermediate_size: int, compute_dtype: str = "float32"
) -> str | None:
    """Return the reason why these kernels cannot compute a model of the given sizes, or None if they can."""
    terms = {"bfloat16": bfloat16.TERMS, "int8": int8.TERMS}.get(compute_dtype, 1)
    if hidden_size % terms or intermediate_size % terms:
        return f"{compute_dtype} needs hidden and intermediate sizes that are multiples of {terms}"
    if compute_dtype == "int8" and not int8.AVAILABLE:
        return "int8 needs a CPU with AVX2"
    head_size = hidden_size // num_attention_heads
    if head_size % WIDTH:
        return f"head size {head_size} is not a multiple of {WIDTH}, this CPU's vector width"
    if min(hidden_size, intermediate_size) < PANEL:
        return f"hidden or intermediate size is below {PANEL}"
    return None


def _flat(x: Array) -> Array:
    return np.ascontiguousarray(x, np.float32).reshape(-1)


def _empty(rows: int, columns: int) -> Array:
    result: Array = empty(rows * columns).reshape(rows, columns)
    return result


def embed(
    token_ids: Array,
    token_type_ids: Array,
    position_ids: Array,
    tables: ops.Tables,
    norm: ops.LayerNorm,
    eps: float,
) -> Array:
    H = tables[0].shape[1]
    y = _empty(len(token_ids), H)
    word, token_type, position = (_flat(table) for table in tables)
    ids = (np.ascontiguousarray(part, np.int32) for part in (token_ids, token_type_ids, position_ids))
    _layer_norm.embed(*ids, word, token_type, position, H, _flat(norm[0]), _flat(norm[1]), eps, y.reshape(-1))
    return y


def linear(x: Array, dense: Dense, activation: str | None) -> Array:
    T, N = len(x), dense.shape[0]
    y = _empty(T, N)
    dense.run(dense.operands(_flat(x)), T, activation == "gelu", y.reshape(-1))
    return y if activation in (None, "gelu") else ops.ACTIVATIONS[activation](y)


def add_layer_norm(x: Array, residual: Array, norm: ops.LayerNorm, eps: float) -> Array:
    T, H = x.shape
    y = _empty(T, H)
    _layer_norm.add_layer_norm(_flat(x), _flat(residual), T, H, _flat(norm[0]), _flat(norm[1]), eps, y.reshape(-1))
    return y


def attention(qkv: Array, offsets: Array, num_heads: int) -> Array:
    T, H = len(qkv), qkv.shape[1] // 3
    context = _empty(T, H)
    scratch = empty(scratch_size(H // num_heads, int(np.diff(offsets).max(initial=0))))
    _attention(_flat(qkv), offsets, H, num_heads, context.reshape(-1), 0, num_heads, scratch)
    return context


def attention_probs(qkv: Array, offsets: Array, num_heads: int) -> list[Array]:
    H = qkv.shape[1] // 3
    result = []
    for first, last in pairwise(offsets):
        probs = np.empty((num_heads, last - first, last - first), np.float32)
        scratch = empty(scratch_size(H // num_heads, last - first))
        _attention_probs(_flat(qkv), first, last - first, H, num_heads, probs.reshape(-1), scratch)
        result.append(probs)
    return result


def pool(hidden_states: Array, offsets: Array, mode: str) -> Array:
    if mode != "mean":
        return ops.pool(hidden_states, offsets, mode)
    H = hidden_states.shape[1]
    y = _empty(len(offsets) - 1, H)
    _layer_norm.mean_pool(_flat(hidden_states), offsets, H, y.reshape(-1))
    return y


def l2_normalize(x: Array) -> Array:
    B, H = x.shape
    y = _empty(B, H)
    _layer_norm.l2_normalize(_flat(x), B, H, y.reshape(-1))
    return y
