"""`quantize_embeddings` under the module name that sentence-transformers gives it; see minilm_np.util."""

from __future__ import annotations

from typing import Any

from minilm_np.absent import check_absent
from minilm_np.util import quantize_embeddings, semantic_search_quantized

__all__ = ["quantize_embeddings", "semantic_search_quantized"]


def __getattr__(name: str) -> Any:
    check_absent(__name__, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
