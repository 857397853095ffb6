"""Recompute layer 0 by hand from its parameters and compare every step with the model."""

import math

import numpy as np

from minilm_np import SentenceTransformer

model = SentenceTransformer(dtype="float64")
stages = model.stages("The bank of the river was muddy.", detail=True)  # one text: S tokens, nothing to unpack
layer = "encoder.layer.0"


def dense(x, name):  # (S, inputs) -> (S, outputs)
    return x @ model.weights[f"{layer}.{name}.weight"].T + model.weights[f"{layer}.{name}.bias"]


def layer_norm(x, name):  # (S, 384) -> (S, 384)
    normalized = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-12)
    return normalized * model.weights[f"{layer}.{name}.weight"] + model.weights[f"{layer}.{name}.bias"]


def split_heads(x):  # (S, 384) -> (12, S, 32)
    return x.reshape(len(x), 12, 32).swapaxes(0, 1)


# Self-attention
x = stages["embeddings"]  # (S, 384)
query, key, value = (split_heads(dense(x, f"attention.self.{name}")) for name in ("query", "key", "value"))
scores = query @ key.swapaxes(1, 2) / math.sqrt(32)  # (12, S, S)
probs = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)  # softmax
context = (probs @ value).swapaxes(0, 1).reshape(x.shape)  # (S, 384)
attention_dense = dense(context, "attention.output.dense")
attention_output = layer_norm(attention_dense + x, "attention.output.LayerNorm")

# Feed-forward network
gelu_input = dense(attention_output, "intermediate.dense")  # (S, 1536)
intermediate = gelu_input * (1 + np.vectorize(math.erf)(gelu_input / math.sqrt(2))) / 2  # GELU
output_dense = dense(intermediate, "output.dense")  # (S, 384)
output = layer_norm(output_dense + attention_output, "output.LayerNorm")

for stage, by_hand in {
    "attention.self.attention_scores": scores,
    "attention.self.attention_probs": probs,
    "attention.self.context": context,
    "attention.output.dense": attention_dense,
    "attention.output": attention_output,
    "intermediate.dense": gelu_input,
    "intermediate": intermediate,
    "output.dense": output_dense,
    "output": output,
}.items():
    expected = stages[f"{layer}.{stage}"]
    expected = expected[0] if isinstance(expected, list) else expected  # scores and probabilities: an array per text
    print(f"{stage:31} {by_hand.shape!s:12} equal: {np.abs(by_hand - expected).max() < 1e-12}")
