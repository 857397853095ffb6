"""A model answer to the exercise: the sentence encoder all-MiniLM-L6-v2 in plain NumPy.

S tokens of the sentence    H hidden size (384)    N heads (12)    D = H / N head size (32)
I intermediate size (1536)
"""

# mypy: no-warn-return-any
from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]
Params = dict[str, Array]


def dense(params: Params, name: str, x: Array) -> Array:  # (S, inputs) -> (S, outputs)
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def softmax(scores: Array) -> Array:  # (N, S, S) -> (N, S, S)
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def embeddings(params: Params, token_ids: Integers, token_type_ids: Integers) -> Array:
    word = params["embeddings.word_embeddings.weight"][token_ids]  # (S, H)
    position = params["embeddings.position_embeddings.weight"][np.arange(len(token_ids))]  # (S, H)
    token_type = params["embeddings.token_type_embeddings.weight"][token_type_ids]  # (S, H)
    weight, bias = params["embeddings.LayerNorm.weight"], params["embeddings.LayerNorm.bias"]
    return layer_norm(word + position + token_type, weight, bias)


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    mean = x.mean(axis=-1, keepdims=True)  # (S, 1)
    variance = x.var(axis=-1, keepdims=True)  # (S, 1)
    return (x - mean) / np.sqrt(variance + 1e-12) * weight + bias


def attention(params: Params, layer: int, hidden_states: Array) -> Array:
    name = f"encoder.layer.{layer}.attention"

    def heads(part: str) -> Array:  # (S, H) -> (N, S, D)
        return dense(params, f"{name}.self.{part}", hidden_states).reshape(-1, 12, 32).transpose(1, 0, 2)

    query, key, value = heads("query"), heads("key"), heads("value")
    probs = softmax(query @ key.transpose(0, 2, 1) / math.sqrt(32))  # (N, S, S)
    context = (probs @ value).transpose(1, 0, 2).reshape(hidden_states.shape)  # (S, H)
    projected = dense(params, f"{name}.output.dense", context)  # (S, H)
    weight, bias = params[f"{name}.output.LayerNorm.weight"], params[f"{name}.output.LayerNorm.bias"]
    return layer_norm(projected + hidden_states, weight, bias)


def feed_forward(params: Params, layer: int, attention_output: Array) -> Array:
    name = f"encoder.layer.{layer}"
    intermediate = gelu(dense(params, f"{name}.intermediate.dense", attention_output))  # (S, I)
    projected = dense(params, f"{name}.output.dense", intermediate)  # (S, H)
    weight, bias = params[f"{name}.output.LayerNorm.weight"], params[f"{name}.output.LayerNorm.bias"]
    return layer_norm(projected + attention_output, weight, bias)


def pooling(hidden_states: Array) -> Array:
    pooled = hidden_states.mean(axis=0)  # (H,)
    return pooled / np.linalg.norm(pooled)


def encode(params: Params, token_ids: Integers, token_type_ids: Integers) -> Array:
    hidden_states = embeddings(params, token_ids, token_type_ids)  # (S, H)
    for layer in range(6):
        hidden_states = feed_forward(params, layer, attention(params, layer, hidden_states))
    return pooling(hidden_states)  # (H,)
