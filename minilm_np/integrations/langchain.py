"""An `Embeddings` class for LangChain; needs langchain-core."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.weights import DEFAULT_MODEL


class MiniLMEmbeddings(Embeddings):  # type: ignore[misc]
    """Encode texts as lists of 384 floats.

    model: the name or folder of a model. encode_kwargs: options of SentenceTransformer.encode. options: those of
    SentenceTransformer.
    """

    def __init__(self, model: str = DEFAULT_MODEL, encode_kwargs: dict[str, Any] | None = None, **options: Any):
        self.model = SentenceTransformer(model, **options)
        self.encode_kwargs = dict(encode_kwargs or {})

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        embeddings: list[list[float]] = self.model.encode_document(list(texts), **self.encode_kwargs).tolist()
        return embeddings

    def embed_query(self, text: str) -> list[float]:
        embedding: list[float] = self.model.encode_query(text, **self.encode_kwargs).tolist()
        return embedding
