"""Find the heads that attend to the previous token, from the attention probabilities of every layer."""

import numpy as np

from minilm_np import SentenceTransformer

model = SentenceTransformer()
stages = model.stages(["The cat sat on the mat because it was tired."])
for layer in range(model.config.num_hidden_layers):
    probs = stages[f"encoder.layer.{layer}.attention.self.attention_probs"][0]  # (N, S, S): row i belongs to token i
    to_previous = np.diagonal(probs, offset=-1, axis1=1, axis2=2).mean(axis=1)  # (N,) mean of probs[head, i, i - 1]
    for head in np.flatnonzero(to_previous > 0.5):
        print(f"layer {layer}, head {head}: {to_previous[head]:.2f} of the attention goes to the previous token")
