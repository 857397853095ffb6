"""An embedding model for LlamaIndex; needs llama-index-core."""

from __future__ import annotations

import os
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr

from minilm_np.integrations._common import as_model, several, single
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.weights import DEFAULT_MODEL


class MiniLMEmbedding(BaseEmbedding):  # type: ignore[misc]
    """Embed queries and nodes for `Settings.embed_model` or an index's `embed_model`.

    Parameters
    ----------
    model
        A SentenceTransformer, or the name or folder of a model. Default: `model_name`, or the default model.
    embed_batch_size
        The number of texts per call of `SentenceTransformer.encode_document`, 1 to 2048.
    encode_kwargs
        Arguments for every call of `encode_document` and `encode_query`, such as `truncation`.
    **options
        Fields of LlamaIndex's BaseEmbedding, such as `callback_manager`, and other parameters of SentenceTransformer,
        which are not allowed if `model` is one.

    Examples
    --------
    >>> from minilm_np.integrations.llama_index import MiniLMEmbedding
    >>> len(MiniLMEmbedding().get_query_embedding("Where is my parcel?"))
    384
    """

    # LlamaIndex stores these fields, restores the object from them, and looks up cached vectors by them.
    encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    model_options: dict[str, Any] = Field(default_factory=dict)
    _model: Any = PrivateAttr()

    def __init__(
        self,
        model: str | os.PathLike[str] | SentenceTransformer | None = None,
        *,
        embed_batch_size: int = 256,
        encode_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ):
        fields = {name: options.pop(name) for name in list(options) if name in BaseEmbedding.model_fields}
        options = {**options.pop("model_options", {}), **options}
        loaded = as_model(model or fields.get("model_name", DEFAULT_MODEL), options)
        changing_vectors = {name: getattr(loaded, name) for name in ("prompts", "default_prompt_name", "truncate_dim")}
        if loaded.compute_dtype != "float32":  # the default is left out, as in descriptions that are already stored
            changing_vectors["dtype"] = loaded.compute_dtype
        super().__init__(
            embed_batch_size=embed_batch_size,
            encode_kwargs=encode_kwargs or {},
            model_options={**options, **changing_vectors},
            **{"model_name": str(loaded.place.folder), **fields},
        )
        self._model = loaded

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore from a pickle. LlamaIndex would call __init__ with its own fields, which loads the default model."""
        BaseModel.__setstate__(self, state)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of this class, which LlamaIndex stores."""
        return "MiniLMEmbedding"

    def get_text_embedding_batch(self, texts: Any, show_progress: bool = False, **kwargs: Any) -> list[list[float]]:
        """Return the embeddings of an iterable of str. Raises InputError for anything else, also for one str."""
        batch = several(texts, "texts")  # checked here, because the base class takes a str apart
        embeddings: list[list[float]] = super().get_text_embedding_batch(batch, show_progress, **kwargs)
        return embeddings

    async def aget_text_embedding_batch(
        self, texts: Any, show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """Return the embeddings of an iterable of str. Raises InputError for anything else, also for one str."""
        batch = several(texts, "texts")
        embeddings: list[list[float]] = await super().aget_text_embedding_batch(batch, show_progress, **kwargs)
        return embeddings

    def _get_query_embedding(self, query: str) -> list[float]:
        embedding: list[float] = self._model.encode_query(single(query, "query"), **self.encode_kwargs).tolist()
        return embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        embedding: list[float] = self._model.encode_document(single(text, "text"), **self.encode_kwargs).tolist()
        return embedding

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        embeddings = self._model.encode_document(several(texts, "texts"), **self.encode_kwargs)
        result: list[list[float]] = embeddings.tolist()
        return result
