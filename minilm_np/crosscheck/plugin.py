"""pytest plugin, found by its entry point: the fixtures `minilm_goldens` and `assert_matches_minilm`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from minilm_np.crosscheck.truth import Truth


@pytest.fixture(scope="session")
def minilm_goldens() -> Truth:
    """The truth about the probes: token_ids, embeddings (40, 384) and stages in float64; computed once, two seconds."""
    from minilm_np.crosscheck.truth import truth

    return truth()


@pytest.fixture(scope="session")
def assert_matches_minilm() -> Callable[..., None]:
    """assert_matches_minilm(encode, stages=None, tokenize=None): fails with the report of `crosscheck`."""
    from minilm_np.crosscheck.testing import assert_matches_minilm as check

    def assert_matches(encode: Any = None, stages: Any = None, **options: Any) -> None:
        __tracebackhide__ = True
        check(encode, stages, **options)

    return assert_matches
