"""Number formats: rounding."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from support.paths import REPOSITORY

from minilm_np.crosscheck.mistakes import catalogue
from minilm_np.crosscheck.truth import K, tolerance
from minilm_np.crosscheck.variant import to_bf16

Encode = Callable[[list[str]], Any]


# --- formats


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even() -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -1.005, 3.0e38, np.inf, np.nan, 0.0], np.float32)
    wanted = np.array([1.0, 1.0, 1.015625, -1.0078125, 3.0040553e38, np.inf, np.nan, 0.0], np.float32)
    np.testing.assert_allclose(to_bf16(x), wanted, rtol=1e-5)
    assert np.array_equal(to_bf16(x)[:4], wanted[:4])


def test_the_numbers_in_the_docs_are_those_of_the_code() -> None:
    docs = REPOSITORY / "docs"
    page = (docs / "crosscheck.md").read_text(encoding="utf-8")
    assert f"{tolerance('sentence_embedding'):.1e} on the final vectors" in page
    assert K == 4 and "four times" in page and "four times" in (docs / "goldens.md").read_text(encoding="utf-8")
    matrix = page.split("<!-- confusion:begin -->")[1]
    made = [row.split(" | ") for row in matrix.splitlines() if re.search(r"\d\.\de[+-]\d\d \|$", row)]
    assert len(made) > 180 and {row[0].removeprefix("| ") for row in made} <= {mistake.name for mistake in catalogue()}
    first = sum(row[0] == f"| {row[1]}" for row in made)
    assert matrix.startswith(f"\n{first} of {len(made)} mistakes made in PyTorch are named first.")
