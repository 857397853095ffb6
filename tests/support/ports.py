"""Ports of the model with known mistakes, simulated by crosscheck's own variants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minilm_np.crosscheck.causes import variant_of
from minilm_np.crosscheck.mistakes import catalogue
from minilm_np.crosscheck.truth import simulator


def port_with(*names: str) -> Callable[[list[str]], Any]:
    """Return a function from texts to vectors that makes these mistakes of the catalogue."""
    variant = variant_of(tuple(mistake for mistake in catalogue() if mistake.name in names))
    return lambda texts: simulator().run(variant, texts, [range(len(texts))]).embeddings
