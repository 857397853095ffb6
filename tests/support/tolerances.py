"""The largest absolute error of an element that a test allows, with the measurement that each bound comes from.

The float32 bounds are multiples of the errors in minilm_np/crosscheck/float32_errors.json. That table has for each
stage the largest error over the probe texts, the two op sets, PyTorch, and the OpenBLAS 0.3.31 kernels Katmai,
Sandybridge, Haswell and SkylakeX, whose errors differ by up to 3.3 x. The bounds are wider than the table for two
reasons: another BLAS sums in another order, and the tests encode other texts. The errors of those texts, measured with
the same four kernels, relative to the table:

    TEXTS, every stage of every layer                       at most 1.48 (layer 4's key, Sandybridge)
    NASTY["320 word pieces"], largest over the layers       at most 2.13 (attention_probs, Sandybridge)
    TEXTS, pooled and sentence_embedding                    at most 0.88 (pooled, SkylakeX)

Long texts of repeated words have larger errors inside the layers: the probe "400 pieces" reaches 3.35 (attention_probs,
Sandybridge). No bound here is meant for it, and crosscheck does not compare its stages.

For scale: an incorrect LayerNorm eps of 1e-6 changes sentence_embedding by 3.0e-5, tanh GELU by 3.9e-4, and positions
off by one by 2.4e-1 (docs/confusion.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from fidelity import kind

from minilm_np.crosscheck.truth import float32_errors

STAGE_FACTOR = 3.0  # for the stages, which the table measures on 12 probes; twice the 1.48 above, 1.4 times the 2.13
VECTOR_FACTOR = 2.3  # for pooled and sentence_embedding, measured on all 40 probes; 2.6 times the 0.88 above
FLOAT32 = {  # minilm_np in float32 against float64, by stage
    stage: (VECTOR_FACTOR if stage in ("pooled", "sentence_embedding") else STAGE_FACTOR) * max(errors.values())
    for stage, errors in float32_errors().items()
}
FLOAT32_BY_KIND: dict[str, float] = {}  # by kind of stage, such as "attention.self.query": the largest of its layers
for _stage, _atol in FLOAT32.items():
    FLOAT32_BY_KIND[kind(_stage)] = max(_atol, FLOAT32_BY_KIND.get(kind(_stage), 0.0))

FLOAT64 = 1e-11  # every stage against PyTorch float64; measured 3.9e-14
PYTORCH_REFERENCE = 1e-12  # minilm_np in float64 against the PyTorch reference, on top of STORED; measured 1.8e-16
STORED = 1e-7  # relative: the PyTorch reference stores float64 values as float32, which rounds by up to 6e-8
VECTORS = 1e-6  # final unit vectors against sentence-transformers in float32; measured 2.9e-7
BATCH = 3e-7  # final unit vectors, same text in another batch (NumPy op set); measured 2.3e-7, promised in README.md
RANDOM_CHECKPOINTS = 2.5e-5  # small random checkpoints in float32, values near 4; measured 7.7e-6


def assert_close(actual: Any, expected: Any, atol: float, what: str, rtol: float = 0.0) -> None:
    """Assert |actual - expected| <= atol + rtol |expected| and finite for every element.

    The message names the worst element.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: expected shape {expected.shape}, got {actual.shape}"
    if actual.size == 0:
        return
    with np.errstate(invalid="ignore"):  # inf - inf, 0 * inf
        error = np.asarray(np.abs(actual.astype("float64") - expected.astype("float64")))
        excess = np.asarray(error - rtol * np.abs(expected))
    excess[~(np.isfinite(actual) & np.isfinite(expected))] = np.inf
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    assert excess[worst] <= atol, (
        f"{what}: element {tuple(int(i) for i in worst)}: expected {expected[worst]!r}, got {actual[worst]!r}, "
        f"error {error[worst]:.2e}, tolerance {atol:.1e} + {rtol:.1e} |expected|"
    )
