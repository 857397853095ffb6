"""MTEB 2: an encoder for `mteb.evaluate`. Needs mteb, which needs PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy.typing as npt
import torch
from mteb.models import ModelMeta

from minilm_np.evaluate.cache import fingerprint
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.weights import DEFAULT_MODEL, SHA256, sha256_of

Array = npt.NDArray[Any]


class MiniLMEncoder:
    """MTEB's EncoderProtocol over a SentenceTransformer, which it is given or makes from its name and options."""

    def __init__(self, model: str | SentenceTransformer = DEFAULT_MODEL, revision: str | None = None, **options: Any):
        if isinstance(model, SentenceTransformer):
            self.model = model
        else:
            self.model = SentenceTransformer(model, revision=revision, **options)

    def encode(self, inputs: Iterable[dict[str, Any]], *, prompt_type: Any = None, **kwargs: Any) -> Array:
        """inputs: a DataLoader of batches {"text": [str, ...]}; the other arguments say which task it is."""
        texts = [text for batch in inputs for text in batch["text"]]
        kind = getattr(prompt_type, "value", prompt_type)
        encode: Any = {"query": self.model.encode_query, "document": self.model.encode_document}.get(
            kind, self.model.encode
        )
        result: Array = encode(texts, truncation="ignore")
        return result.reshape(len(texts), self.model.get_embedding_dimension())

    # Tensors, since MTEB's summarization calls float() on what it gets for two vectors: one of shape (1, 1) can be that
    # as a tensor, not as an array.

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        return torch.from_numpy(self.model.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        return torch.from_numpy(self.model.similarity_pairwise(embeddings1, embeddings2))

    @cached_property
    def mteb_model_meta(self) -> Any:
        """Results are filed under this name and revision: another model's, or type's, are never taken for these."""
        folder = self.model.place.folder
        default = sha256_of(folder / "model.safetensors") == SHA256["model.safetensors"]
        name = "all-MiniLM-L6-v2" if default else folder.name
        return ModelMeta.create_empty({"name": f"minilm_np/{name}", "revision": fingerprint(self.model)})
