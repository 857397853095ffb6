"""Cross-check a port that is wrong: NumPy with the tanh approximation of GELU instead of erf."""

import numpy as np

from minilm_np import SentenceTransformer, model, ops
from minilm_np.crosscheck import crosscheck


class TanhGelu:
    """The NumPy op set, but every GELU is the approximation that GPT-2 uses."""

    def __getattr__(self, name):
        return getattr(ops, name)

    def linear(self, x, dense, activation):
        return ops.linear(x, dense, "gelu_new" if activation == "gelu" else activation)


right = SentenceTransformer(backend="numpy")
port = model.prepare(right.weights, right.config, TanhGelu())


def encode(texts):  # list of str -> (n, 384)
    return model.forward(port, *right.tokens(texts)).astype(np.float32)


report = crosscheck(encode)
print(report.ok)
print(report.causes[0].name)
