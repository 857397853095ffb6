"""An `EmbeddingFunction` for Chroma collections; needs chromadb."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from chromadb.api.types import EmbeddingFunction
from chromadb.utils.embedding_functions import known_embedding_functions, register_embedding_function

from minilm_np.encoder import LOW_PRECISION
from minilm_np.integrations._common import several
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.weights import DEFAULT_MODEL


@register_embedding_function
class MiniLMEmbeddingFunction(EmbeddingFunction[Any]):  # type: ignore[misc]
    """Encode documents and queries for a Chroma collection.

    A collection stores the function's name and options, and restores the function from them. Chroma raises ValueError
    if a collection is opened with a function of another name. So the name of a low precision has its dtype.

    Parameters
    ----------
    model_name
        The name or folder of a model.
    **options
        Other parameters of SentenceTransformer. A collection stores them as JSON.

    Examples
    --------
    >>> import chromadb
    >>> from minilm_np.integrations.chroma import MiniLMEmbeddingFunction
    >>> notes = chromadb.EphemeralClient().create_collection("notes", embedding_function=MiniLMEmbeddingFunction())
    >>> notes.add(ids=["a", "b"], documents=["The cat sleeps on the sofa.", "Shares fell in London today."])
    >>> notes.query(query_texts=["news about the stock market"], n_results=1)["ids"]
    [['b']]
    """

    def __init__(self, model_name: str = DEFAULT_MODEL, **options: Any):
        self.model_name, self.options = model_name, options
        self._model = SentenceTransformer(model_name, **options)
        dtype = self._model.compute_dtype
        if "dtype" in options:
            options["dtype"] = dtype  # JSON has no NumPy dtypes
        if dtype in LOW_PRECISION:
            self.name = partial(_name, dtype)  # type: ignore[method-assign]

    def __call__(self, input: Any) -> Any:  # Chroma requires this parameter name
        """Return the embeddings of documents, an iterable of n str: a list of n float32 arrays (H,).

        Raises InputError for anything else, also for one str.
        """
        return list(np.asarray(self._model.encode_document(several(input, "input")), np.float32))

    def embed_query(self, input: Any) -> Any:
        """Return the embeddings of queries, an iterable of n str: a list of n float32 arrays (H,).

        Raises InputError for anything else, also for one str.
        """
        return list(np.asarray(self._model.encode_query(several(input, "input")), np.float32))

    @staticmethod
    def name() -> str:
        """Return the name that a collection stores: "minilm_np", or for instance "minilm_np_int8"."""
        return "minilm_np"

    def default_space(self) -> Any:
        """Return the distance that a collection uses by default: "cosine"."""
        return "cosine"

    def supported_spaces(self) -> Any:
        """Return the distances that a collection can use."""
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """Return the model's name and the options, which a collection stores."""
        return {"model_name": self.model_name, **self.options}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> MiniLMEmbeddingFunction:
        """Return the function that `get_config` describes."""
        return MiniLMEmbeddingFunction(**config)


def _name(dtype: str) -> str:
    return f"minilm_np_{dtype}"


for _dtype in LOW_PRECISION:
    known_embedding_functions[_name(_dtype)] = MiniLMEmbeddingFunction
