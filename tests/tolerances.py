"""The one table of tolerances: per element, absolute, with the measured error that each is derived from.

Measured: the larger of two runs of OpenBLAS 0.3.31, with its Haswell and with its SkylakeX kernels (they differ by
up to 2 x). The tolerance is 3 times that, because another BLAS sums in another order again. For scale: wrong by
design gives 1.7e-5 (LayerNorm eps 1e-6), 3.3e-4 (tanh GELU), 1e-1 (positions off by one) on sentence_embedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    measured: float

    @property
    def atol(self) -> float:
        return 3 * self.measured


FLOAT32 = {  # minilm_np in float32 against float64, by kind of stage, largest over the layers
    "embeddings": Tolerance(1.1e-6),
    "attention.self.query": Tolerance(8.3e-6),
    "attention.self.key": Tolerance(8.8e-6),
    "attention.self.value": Tolerance(6.2e-6),
    "attention.self.attention_probs": Tolerance(2.9e-6),
    "attention.self.context": Tolerance(5.1e-6),
    "attention.output": Tolerance(9.7e-6),
    "intermediate": Tolerance(1.4e-5),
    "output": Tolerance(5.8e-6),
    "pooled": Tolerance(1.2e-6),
    "sentence_embedding": Tolerance(1.8e-7),
}
FLOAT64 = 1e-11  # against PyTorch float64, every stage; measured 3.6e-14
STORED = 2e-7  # relative and absolute: the goldens are float64 values stored as float32
VECTORS = 1e-6  # final unit vectors against sentence-transformers in float32; measured 2.5e-7
BATCH = 2e-7  # final unit vectors, same text in another batch (NumPy op set); measured 1.1e-7


def assert_close(found: Any, wanted: Any, atol: float, what: str, rtol: float = 0.0) -> None:
    """Every element: |found - wanted| <= atol + rtol |wanted|. The message names the worst element."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape, f"{what}: found shape {found.shape}, wanted {wanted.shape}"
    if found.size == 0:
        return
    error = np.abs(found.astype("float64") - wanted.astype("float64"))
    excess = error - rtol * np.abs(wanted)
    excess[np.isnan(excess)] = np.inf
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    assert excess[worst] <= atol, (
        f"{what}: element {tuple(int(i) for i in worst)}: found {found[worst]!r}, wanted {wanted[worst]!r}, "
        f"error {error[worst]:.2e}, tolerance {atol + rtol * abs(float(wanted[worst])):.2e}"
    )
