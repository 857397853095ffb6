"""Optional frameworks in a test."""

from __future__ import annotations

import warnings
from typing import Any

import pytest


def framework(name: str, extra: str = "the integrations extra") -> Any:
    """Import a framework without its warnings, or skip the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"needs {extra}", exc_type=ImportError)


class OtherModelError(Exception):
    """Raised when a framework loads a model of sentence-transformers."""


def no_other_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sentence-transformers raise OtherModelError, which names the model, instead of loading one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sentence_transformers
    except ImportError:
        return

    def refuse(_: Any, model_name_or_path: Any = None, *__: Any, **___: Any) -> None:
        raise OtherModelError(model_name_or_path)

    monkeypatch.setattr(sentence_transformers.SentenceTransformer, "__init__", refuse)
