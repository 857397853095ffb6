"""Recompute the self-attention of layer 0 by hand, from the checkpoint's weights, and compare it with the model."""

import numpy as np

from minilm_np import SentenceTransformer

model = SentenceTransformer(dtype="float64")
stages = model.stages(["The bank of the river was muddy."], detail=True)
w = model.weights
name = "encoder.layer.0.attention"

x = stages["embeddings"]  # (S, 384): one sentence, so the packed matrix is the paper's
heads = []
for part in ("query", "key", "value"):
    projected = x @ w[f"{name}.self.{part}.weight"].T + w[f"{name}.self.{part}.bias"]  # (S, 384)
    heads.append(projected.reshape(len(x), 12, 32).swapaxes(0, 1))  # (12, S, 32)
query, key, value = heads
scores = query @ key.swapaxes(1, 2) / np.sqrt(32)  # (12, S, S)
probs = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)  # softmax
context = (probs @ value).swapaxes(0, 1).reshape(len(x), 384)
dense = context @ w[f"{name}.output.dense.weight"].T + w[f"{name}.output.dense.bias"]
residual = dense + x
centered = residual - residual.mean(axis=1, keepdims=True)
normalized = centered / np.sqrt(centered.var(axis=1, keepdims=True) + 1e-12)
output = normalized * w[f"{name}.output.LayerNorm.weight"] + w[f"{name}.output.LayerNorm.bias"]

for stage, by_hand in (
    ("self.attention_probs", probs),
    ("self.context", context),
    ("output.dense", dense),
    ("output", output),
):
    expected = stages[f"{name}.{stage}"]
    expected = expected[0] if isinstance(expected, list) else expected
    print(f"{stage:21} {by_hand.shape!s:12} equal: {np.abs(by_hand - expected).max() < 1e-12}")
