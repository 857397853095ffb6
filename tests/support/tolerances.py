"""The one table of tolerances: per element, absolute, with the measured error that each is derived from.

Measured: the largest over the texts of corpus.NASTY and bench/fidelity.py and over the kernels Katmai, Sandybridge,
Haswell and SkylakeX of OpenBLAS 0.3.31 (they differ by up to 3.3 x). The tolerance is 3 times that, because another
BLAS sums in another order again. For scale: wrong by design gives 1.7e-5 (LayerNorm eps 1e-6), 3.3e-4 (tanh GELU), 1e-1
(positions off by one) on sentence_embedding.
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
    "embeddings": Tolerance(1.2e-6),
    "attention.self.query": Tolerance(9.9e-6),
    "attention.self.key": Tolerance(1.1e-5),
    "attention.self.value": Tolerance(7.6e-6),
    "attention.self.attention_probs": Tolerance(6.2e-6),
    "attention.self.context": Tolerance(1.1e-5),
    "attention.output": Tolerance(1.2e-5),
    "intermediate": Tolerance(2.7e-5),
    "output": Tolerance(7.0e-6),
    "pooled": Tolerance(1.2e-6),
    "sentence_embedding": Tolerance(2.0e-7),
}
FLOAT64 = 1e-11  # against PyTorch float64, every stage; measured 3.9e-14
GOLDEN64 = 1e-12  # minilm_np in float64 against the goldens, on top of STORED; measured 1.8e-16
STORED = 1e-7  # relative: the goldens are float64 values stored as float32, which rounds by up to 6e-8
VECTORS = 1e-6  # final unit vectors against sentence-transformers in float32; measured 2.9e-7
BATCH = 3e-7  # final unit vectors, same text in another batch (NumPy op set); measured 2.3e-7, promised in README.md
OTHER = 2.5e-5  # small random checkpoints in float32, values near 4; measured 7.7e-6


def assert_close(found: Any, wanted: Any, atol: float, what: str, rtol: float = 0.0) -> None:
    """Every element: |found - wanted| <= atol + rtol |wanted|, both finite. The message names the worst element."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape, f"{what}: found shape {found.shape}, wanted {wanted.shape}"
    if found.size == 0:
        return
    with np.errstate(invalid="ignore"):  # inf - inf, 0 * inf
        error = np.asarray(np.abs(found.astype("float64") - wanted.astype("float64")))
        excess = np.asarray(error - rtol * np.abs(wanted))
    excess[~(np.isfinite(found) & np.isfinite(wanted))] = np.inf
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    assert excess[worst] <= atol, (
        f"{what}: element {tuple(int(i) for i in worst)}: found {found[worst]!r}, wanted {wanted[worst]!r}, "
        f"error {error[worst]:.2e}, tolerance {atol:.1e} + {rtol:.1e} |wanted|"
    )
