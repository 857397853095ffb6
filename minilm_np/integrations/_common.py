"""What adapters do with their arguments: frameworks pass on whatever they get, and a str is an iterable of letters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from minilm_np.encoder import InputError, as_texts
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.tokenizer import Text
from minilm_np.weights import DEFAULT_MODEL


def as_model(model: Any, options: Mapping[str, Any]) -> SentenceTransformer:
    """Return a SentenceTransformer: `model` itself, or the one of this name or folder, loaded with the options.

    Raises TypeError for any other model, and ValueError for options if `model` is loaded already.
    """
    if isinstance(model, SentenceTransformer):
        if options:
            raise ValueError(f"{next(iter(options))}: expected no option, because the model is loaded already")
        return model
    if not isinstance(model, str | os.PathLike):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(f"model: expected a minilm_np.SentenceTransformer, or a name or folder, got {kind}")
    return SentenceTransformer(model, **options)


def several(texts: Any, name: str) -> list[Text]:
    """Return an iterable of texts as `encode` reads it. Raises InputError for anything else, also for one str."""
    return as_texts(texts, name, allow_one=False)


def single(text: Any, name: str) -> str:
    """Return the text of an argument `name` that takes one. Raises InputError if it is not a str."""
    if not isinstance(text, str):
        raise InputError(f"{name}: expected a str, got {type(text).__name__}")
    return str(text)


class Backend:
    """What the adapters for KeyBERT and BERTopic share, whose base classes have the same form."""

    def __init__(
        self,
        model: str | os.PathLike[str] | SentenceTransformer = DEFAULT_MODEL,
        encode_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ):
        super().__init__()
        self.embedding_model = as_model(model, options)
        self.encode_kwargs = dict(encode_kwargs or {})

    def embed(self, documents: Any, verbose: bool = False) -> npt.NDArray[Any]:
        """Return the embeddings (n, H) of an iterable of n documents or words.

        Parameters
        ----------
        documents
            An iterable of n str.
        verbose
            Whether to show a progress bar.

        Raises
        ------
        InputError
            If `documents` is anything but an iterable of str; the message names the row.
        """
        texts = several(documents, "documents")
        arguments = {"show_progress_bar": verbose, **self.encode_kwargs}
        embeddings: npt.NDArray[Any] = self.embedding_model.encode(texts, **arguments)
        return embeddings if texts else embeddings.reshape(0, self.embedding_model.get_embedding_dimension())
