"""The evaluators under the module name that sentence-transformers gives them; see minilm_np.evaluate."""

from __future__ import annotations

from typing import Any

from minilm_np.absent import check_absent
from minilm_np.evaluate import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    RerankingEvaluator,
    TripletEvaluator,
)
from minilm_np.util import SimilarityFunction

__all__ = [
    "BinaryClassificationEvaluator",
    "EmbeddingSimilarityEvaluator",
    "InformationRetrievalEvaluator",
    "RerankingEvaluator",
    "SimilarityFunction",
    "TripletEvaluator",
]


def __getattr__(name: str) -> Any:
    check_absent(__name__, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
