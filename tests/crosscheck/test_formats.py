"""Number formats: rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minilm_np.crosscheck.variant import to_bf16

Encode = Callable[[list[str]], Any]


# --- formats


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even() -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -1.005, 3.0e38, np.inf, np.nan, 0.0], np.float32)
    wanted = np.array([1.0, 1.0, 1.015625, -1.0078125, 3.0040553e38, np.inf, np.nan, 0.0], np.float32)
    np.testing.assert_allclose(to_bf16(x), wanted, rtol=1e-5)
    assert np.array_equal(to_bf16(x)[:4], wanted[:4])
