"""Embedders for Haystack 2 pipelines; needs haystack-ai."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from haystack import Document, component, default_to_dict

from minilm_np.encoder import InputError
from minilm_np.integrations._common import single
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.weights import DEFAULT_MODEL


class _Embedder:
    """The options of both embedders. A pipeline stores them, so the model is given by its name or folder."""

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        encode_kwargs: dict[str, Any] | None = None,
        backend: str = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
        dtype: str = "float32",
    ):
        if not isinstance(model, str):
            raise TypeError(f"model: expected the name or folder of a model, got {type(model).__name__}")
        self.model, self.encode_kwargs = model, dict(encode_kwargs or {})
        self.backend, self.threads, self.truncate_dim, self.dtype = backend, threads, truncate_dim, dtype
        self._model: SentenceTransformer | None = None

    def warm_up(self) -> None:
        """Load the model, if it is not loaded yet."""
        self._loaded()

    def to_dict(self) -> dict[str, Any]:
        """Return the name of the class and the options, which a saved pipeline stores."""
        options = {name: getattr(self, name) for name in ("backend", "threads", "truncate_dim", "dtype")}
        description: dict[str, Any] = default_to_dict(
            self, model=self.model, encode_kwargs=self.encode_kwargs, **options
        )
        return description

    def _loaded(self) -> SentenceTransformer:
        if self._model is None:
            self._model = SentenceTransformer(
                self.model,
                backend=self.backend,
                threads=self.threads,
                truncate_dim=self.truncate_dim,
                dtype=self.dtype,
            )
        return self._model


@component
class MiniLMTextEmbedder(_Embedder):
    """Embed a query in a pipeline.

    Parameters
    ----------
    model
        The name or folder of a model.
    encode_kwargs
        Arguments for every call of `SentenceTransformer.encode_query`, such as `truncation`.
    backend, threads, truncate_dim, dtype
        As in SentenceTransformer.

    Examples
    --------
    >>> from minilm_np.integrations.haystack import MiniLMTextEmbedder
    >>> len(MiniLMTextEmbedder().run("Where is my parcel?")["embedding"])
    384
    """

    @component.output_types(embedding=list[float])  # type: ignore[untyped-decorator]
    def run(self, text: str) -> dict[str, list[float]]:
        """Return {"embedding": list of H floats} of a query. Raises InputError for anything but a str."""
        return {"embedding": self._loaded().encode_query(single(text, "text"), **self.encode_kwargs).tolist()}


@component
class MiniLMDocumentEmbedder(_Embedder):
    """Embed the content of documents in a pipeline.

    Parameters
    ----------
    model
        The name or folder of a model.
    encode_kwargs
        Arguments for every call of `SentenceTransformer.encode_document`, such as `truncation`.
    backend, threads, truncate_dim, dtype
        As in SentenceTransformer.

    Examples
    --------
    >>> from haystack import Document
    >>> from minilm_np.integrations.haystack import MiniLMDocumentEmbedder
    >>> documents = MiniLMDocumentEmbedder().run([Document(content="Where is my parcel?")])["documents"]
    >>> len(documents[0].embedding)
    384
    """

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Return {"documents": copies of the documents with their embedding}; a document without content counts as "".

        Raises InputError for anything but a list of Documents.
        """
        if not isinstance(documents, list):
            raise InputError(f"documents: expected a list of Documents, got {type(documents).__name__}")
        for row, document in enumerate(documents):
            if not isinstance(document, Document):
                raise InputError(f"documents[{row}]: expected a Document, got {type(document).__name__}")
        embeddings = self._loaded().encode_document([d.content or "" for d in documents], **self.encode_kwargs)
        vectors = embeddings.tolist()
        return {"documents": [replace(d, embedding=v) for d, v in zip(documents, vectors, strict=True)]}
