"""Gradients against central differences in float64, without PyTorch; test_backward_parity.py compares with autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.tiny import TINY, tiny_params

from minilm_np import SentenceTransformer, backward, kernels, model, ops
from minilm_np.checkpoint import parameter_shapes
from minilm_np.ops import Dense

RANDOM = np.random.default_rng(11)
OFFSETS = np.array([0, 1, 4, 7, 12])
H, N, T, B = 8, 2, 12, 4
MAX_ERROR = 1e-6  # of a directional derivative, relative to |gradient| |direction|; measured: 4.5e-9
STEP = 1e-5  # of a central difference, whose own error is of the order of its square


def normal(*shape: int) -> Any:
    return RANDOM.normal(size=shape)


NORM: Any = (normal(H) + 1, normal(H))
DENSE: Any = Dense(normal(5, H), normal(5))
X: Any = normal(T, H)
Row = tuple[Callable[[Any], Any], Callable[[Any, Any], Any], Any]


def pool(mode: str) -> Row:
    return (
        lambda x: ops.pool(x, OFFSETS, mode),
        lambda dy, x: backward.pool_backward(dy, x, OFFSETS, mode),
        normal(T, H),
    )


# By name: the operation as a function of one array, its gradient as a function of dy and this array, and the array
OPS: dict[str, Row] = {
    "gelu": (ops.gelu, backward.gelu_backward, np.r_[normal(60) * 3, 0.0]),
    "gelu_new": (ops.gelu_new, backward.gelu_new_backward, normal(60) * 3),
    "relu": (ops.relu, backward.relu_backward, normal(60) * 3),
    "linear": (
        lambda x: ops.linear(x, DENSE, None),
        lambda dy, x: backward.linear_backward(dy, x, DENSE)[0],
        normal(T, H),
    ),
    "linear, weight": (
        lambda w: ops.linear(X, Dense(w, DENSE.bias), None),
        lambda dy, w: backward.linear_backward(dy, X, Dense(w, DENSE.bias))[1].weight,
        normal(5, H),
    ),
    "layer_norm": (
        lambda x: ops.layer_norm(x, NORM, 1e-3),
        lambda dy, x: backward.layer_norm_backward(dy, x, NORM, 1e-3)[0],
        normal(T, H),
    ),
    "layer_norm, weight": (
        lambda w: ops.layer_norm(X, (w, NORM[1]), 1e-3),
        lambda dy, w: backward.layer_norm_backward(dy, X, (w, NORM[1]), 1e-3)[1][0],
        normal(H),
    ),
    "add_layer_norm, residual": (
        lambda residual: ops.add_layer_norm(X, residual, NORM, 1e-12),
        lambda dy, residual: backward.add_layer_norm_backward(dy, X, residual, NORM, 1e-12)[1],
        normal(T, H),
    ),
    "softmax": (ops.softmax, lambda dy, s: backward.softmax_backward(dy, ops.softmax(s)), normal(3, 5, 5)),
    "attention": (
        lambda qkv: ops.attention(qkv, OFFSETS, N),
        lambda dy, qkv: backward.attention_backward(dy, qkv, OFFSETS, N),
        normal(T, 3 * H),
    ),
    **{f"pool, {mode}": pool(mode) for mode in ("mean", "cls", "max", "mean_sqrt_len_tokens")},
    "l2_normalize": (ops.l2_normalize, backward.l2_normalize_backward, normal(B, H)),
    "l2_normalize of nearly 0": (ops.l2_normalize, backward.l2_normalize_backward, normal(B, H) * 1e-20),
}


def relative_error(loss: Callable[[Any], float], gradient: Any, at: Any, scale: float = 1.0) -> float:
    """The error of the derivative along random directions, relative to the largest that it could be."""
    worst = 0.0
    for _ in range(3):
        direction = RANDOM.normal(size=at.shape)
        step = STEP * scale * direction
        difference = (loss(at + step) - loss(at - step)) / (2 * STEP * scale)
        size = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        worst = max(worst, abs(difference - float(np.sum(gradient * direction))) / size)
    return worst


@pytest.mark.parametrize("name", OPS)
def test_operation(name: str) -> None:
    op, op_backward, x = OPS[name]
    dy = RANDOM.normal(size=op(x).shape)
    error = relative_error(lambda at: float(np.sum(dy * op(at))), op_backward(dy, x), x, min(1.0, np.abs(x).max()))
    assert error <= MAX_ERROR


def tokens() -> tuple[Any, Any, Any]:
    """Sentences of 1 to 5 tokens, with repeated word pieces, [PAD] and both token types."""
    ids = np.array([101, 101, 7592, 102, 101, 0, 102, 101, 7592, 7592, 5, 102])
    return ids, np.array([0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1]), OFFSETS


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize(
    ("pooling_mode", "normalize"), [("mean", True), ("cls", True), ("max", False), ("mean_sqrt_len_tokens", False)]
)
def test_every_parameter_of_a_small_model(hidden_act: str, pooling_mode: str, normalize: bool) -> None:
    config = replace(TINY, hidden_act=hidden_act, pooling_mode=pooling_mode, normalize=normalize)
    params = {name: value.astype(np.float64) for name, value in tiny_params().items()}
    dembeddings = RANDOM.normal(size=(B, H))

    def loss(changed: dict[str, Any]) -> float:
        return float(np.sum(dembeddings * model.forward(model.prepare(params | changed, config, ops), *tokens())))

    bert = model.prepare(params, config, ops)
    gradients = backward.backward(backward.forward(bert, *tokens()), dembeddings)
    assert {name: g.shape for name, g in gradients.items()} == parameter_shapes(config)
    word = "embeddings.word_embeddings.weight"
    assert not gradients[word][0].any()  # [PAD] occurs in a text
    assert not np.delete(gradients[word], [5, 101, 102, 7592], axis=0).any()
    for name, gradient in gradients.items():
        if name.endswith("key.bias"):  # does not change the softmax; in the real model measured: 7.2e-17
            assert np.abs(gradient).max() <= 1e-14 * np.abs(gradients[name.replace("key", "value")]).max()
        elif name == word:
            rows = [5, 101, 102, 7592]

            def of_rows(at: Any) -> float:
                table = params[word].copy()
                table[rows] = at  # noqa: B023, called in this round of the loop only
                return loss({word: table})

            assert relative_error(of_rows, gradient[rows], params[word][rows]) <= MAX_ERROR, name
        else:
            error = relative_error(lambda at, name=name: loss({name: at}), gradient, params[name])  # type: ignore[misc]
            assert error <= MAX_ERROR, name


def test_forward_has_the_bits_of_the_op_set(float64_model: SentenceTransformer) -> None:
    batch = float64_model.tokens(["A man is eating food.", "", "bread"])
    bert = model.prepare(float64_model.weights, float64_model.config, ops)
    assert np.array_equal(backward.forward(bert, *batch).embeddings, model.forward(bert, *batch))


def test_gradients_have_the_dtype_of_the_model() -> None:
    bert = model.prepare(tiny_params(), TINY, ops)
    recorded = backward.forward(bert, *tokens())
    gradients = backward.backward(recorded, np.ones_like(recorded.embeddings))
    assert {gradient.dtype for gradient in gradients.values()} == {np.dtype(np.float32)}


def test_other_op_sets_are_refused() -> None:
    bert = model.prepare(tiny_params(), TINY, ops)._replace(ops=kernels)
    with pytest.raises(TypeError, match=r"bert: expected a model prepared with minilm_np\.ops, got minilm_np\.kernels"):
        backward.forward(bert, *tokens())
