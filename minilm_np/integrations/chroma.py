"""An `EmbeddingFunction` for Chroma collections; needs chromadb."""

from __future__ import annotations

from typing import Any

import numpy as np
from chromadb.api.types import EmbeddingFunction
from chromadb.utils.embedding_functions import register_embedding_function

from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.weights import DEFAULT_MODEL


@register_embedding_function
class MiniLMEmbeddingFunction(EmbeddingFunction[Any]):  # type: ignore[misc]
    """Encode documents and queries for a Chroma collection.

    A collection stores the function's name and options, and restores the function from them.

    model_name: the name or folder of a model. options: those of SentenceTransformer that JSON can represent.
    """

    def __init__(self, model_name: str = DEFAULT_MODEL, **options: Any):
        self.model_name, self.options = model_name, options
        self._model = SentenceTransformer(model_name, **options)

    def __call__(self, input: Any) -> Any:  # Chroma requires this parameter name
        return list(np.asarray(self._model.encode_document(list(input)), np.float32))

    def embed_query(self, input: Any) -> Any:
        return list(np.asarray(self._model.encode_query(list(input)), np.float32))

    @staticmethod
    def name() -> str:
        return "minilm_np"

    def default_space(self) -> Any:
        return "cosine"

    def supported_spaces(self) -> Any:
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        return {"model_name": self.model_name, **self.options}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> MiniLMEmbeddingFunction:
        return MiniLMEmbeddingFunction(**config)
