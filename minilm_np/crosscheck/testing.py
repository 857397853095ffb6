"""The cross-check as an assertion, for any test runner."""

from __future__ import annotations

from typing import Any

from minilm_np.crosscheck.compare import crosscheck


def assert_matches_minilm(encode: Any = None, stages: Any = None, **options: Any) -> None:
    """Assert that a port matches the model. The arguments are those of `crosscheck`.

    Raises AssertionError with the report if the port differs.
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    report = crosscheck(encode, stages, **options)
    if not report.ok:
        raise AssertionError(f"\n{report}")
