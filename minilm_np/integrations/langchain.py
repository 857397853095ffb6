"""An `Embeddings` class for LangChain; needs langchain-core."""

from __future__ import annotations

import os
from typing import Any

from langchain_core.embeddings import Embeddings

from minilm_np.encoder import LOW_PRECISION
from minilm_np.integrations._common import as_model, several, single
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.weights import DEFAULT_MODEL


class MiniLMEmbeddings(Embeddings):  # type: ignore[misc]
    """Encode texts as lists of floats, 384 for the default model.

    Parameters
    ----------
    model
        A SentenceTransformer, or the name or folder of a model.
    encode_kwargs
        Arguments for every call of `SentenceTransformer.encode_document` and `encode_query`, such as `truncation`.
    **options
        Other parameters of SentenceTransformer; not allowed if `model` is one.

    Examples
    --------
    >>> from minilm_np.integrations.langchain import MiniLMEmbeddings
    >>> embeddings = MiniLMEmbeddings(encode_kwargs={"truncation": "ignore"})
    >>> len(embeddings.embed_query("Where is my parcel?"))
    384
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | SentenceTransformer = DEFAULT_MODEL,
        encode_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ):
        self.model = as_model(model, options)
        # Other frameworks that take LangChain's Embeddings read it, and it can be the namespace of cached vectors.
        self.model_name = str(self.model.place.folder)
        if self.model.compute_dtype in LOW_PRECISION:
            self.model_name += f" ({self.model.compute_dtype})"
        self.encode_kwargs = dict(encode_kwargs or {})

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the embedding of each text, in order. Raises InputError for anything but an iterable of str."""
        embeddings: list[list[float]] = self.model.encode_document(
            several(texts, "texts"), **self.encode_kwargs
        ).tolist()
        return embeddings

    def embed_query(self, text: str) -> list[float]:
        """Return the embedding of a query. Raises InputError for anything but a str."""
        embedding: list[float] = self.model.encode_query(single(text, "text"), **self.encode_kwargs).tolist()
        return embedding
