"""A pytest plugin with the fixtures `minilm_goldens` and `assert_matches_minilm`; an entry point registers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from minilm_np.crosscheck.truth import Truth


@pytest.fixture(scope="session")
def minilm_goldens() -> Truth:
    """The float64 reference for the probe texts: token_ids, embeddings (40, 384) and stages.

    Computed once per session, in two seconds.
    """
    from minilm_np.crosscheck.truth import truth

    return truth()


@pytest.fixture(scope="session")
def assert_matches_minilm() -> Callable[..., None]:
    """A function of (encode, stages=None, tokenize=None) that fails with the report of `crosscheck` if they differ."""
    from minilm_np.crosscheck.testing import assert_matches_minilm as check

    def assert_matches(encode: Any = None, stages: Any = None, **options: Any) -> None:
        __tracebackhide__ = True
        check(encode, stages, **options)

    return assert_matches
