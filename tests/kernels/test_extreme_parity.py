"""PyTorch's errors with numbers far outside the range of a trained model; needs the parity extra."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from support.extreme import BATCH_OFFSETS, HEAD_SIZE, HEADS, ROW_SCALES, SCORE_SCALES, huge_scores, scaled_rows
from support.kernels import Array

from minilm_np import kernels, ops

with warnings.catch_warnings():  # importing PyTorch raises warnings of its own
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="needs the parity extra")

pytestmark = pytest.mark.parity
ULP = 6e-8


def _pytorch_attention(qkv: Array, fused: bool) -> Array:
    functional, contexts = torch.nn.functional, []
    for start, stop in pairwise(BATCH_OFFSETS):
        parts = qkv[start:stop].reshape(stop - start, 3, 1, HEADS, HEAD_SIZE).transpose(1, 2, 3, 0, 4)
        query, key, value = torch.from_numpy(np.ascontiguousarray(parts))
        if fused:
            context = functional.scaled_dot_product_attention(query, key, value)
        else:
            context = functional.softmax(query @ key.transpose(-1, -2) * HEAD_SIZE**-0.5, dim=-1) @ value
        contexts.append(context[0].transpose(0, 1).reshape(stop - start, -1).numpy())
    return np.concatenate(contexts)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, *SCORE_SCALES])
def test_attention_is_as_close_to_float64_as_pytorch(scale: float, fused: bool) -> None:
    qkv = huge_scores(scale)
    expected = ops.attention(qkv.astype("f8"), BATCH_OFFSETS, HEADS)
    ours = np.abs(kernels.attention(qkv, BATCH_OFFSETS, HEADS) - expected).max()
    theirs = np.abs(_pytorch_attention(qkv, fused) - expected).max()
    assert ours <= 2 * theirs + 4 * ULP * np.abs(expected).max()


@pytest.mark.parametrize("scale", ROW_SCALES)
def test_operations_on_rows_are_as_close_to_float64_as_pytorch(scale: float) -> None:
    x = scaled_rows(scale)
    functional, H, eps = torch.nn.functional, x.shape[1], 1e-12
    norm, zeros, x64 = (np.ones(H, np.float32), np.zeros(H, np.float32)), 0 * x, x.astype("f8")
    dense = kernels.prepare_dense(np.eye(H, dtype=np.float32), norm[1])
    theirs = torch.from_numpy(x)
    for ours, pytorch, expected in (
        (kernels.add_layer_norm(x, zeros, norm, eps), functional.layer_norm(theirs, (H,), eps=eps), None),
        (kernels.l2_normalize(x), functional.normalize(theirs), ops.l2_normalize(x64)),
        (kernels.linear(x, dense, "gelu"), functional.gelu(theirs), ops.gelu(x64)),
    ):
        if expected is None:
            expected = ops.add_layer_norm(x64, zeros, norm, eps)
        finite = torch.isfinite(pytorch).numpy()
        error, pytorch_error = (np.abs(np.where(finite, y, expected) - expected).max() for y in (ours, pytorch.numpy()))
        assert np.isfinite(ours)[finite].all()  # PyTorch's LayerNorm is NaN from 1e30 on, ours from 4e37
        assert error <= 2 * pytorch_error + 4 * ULP * np.abs(expected).max()
