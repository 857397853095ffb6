"""An encoder for `mteb.evaluate` of MTEB 2, and an entry in its registry of models; needs mteb, which needs PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import mteb
import numpy.typing as npt
import torch
from mteb.models import ModelMeta
from mteb.models.model_implementations import MODEL_REGISTRY

from minilm_np.encoder import InputError
from minilm_np.evaluate.cache import fingerprint
from minilm_np.integrations._common import several
from minilm_np.layout import find_layout
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.tokenizer import Text
from minilm_np.weights import DEFAULT_MODEL, SHA256, sha256_of

Array = npt.NDArray[Any]
REGISTERED = "minilm_np/all-MiniLM-L6-v2"  # the default model's name in MTEB's registry


class MiniLMEncoder:
    """Evaluate a SentenceTransformer with MTEB: an implementation of MTEB's EncoderProtocol.

    Parameters
    ----------
    model
        A SentenceTransformer, or the name or folder of a model.
    revision
        As in SentenceTransformer; not used if `model` is one.
    **options
        Other parameters of SentenceTransformer; not used if `model` is one.

    Examples
    --------
    MTEB reads the task's data from the Hugging Face hub or its cache:

        import mteb
        from minilm_np.integrations.mteb import MiniLMEncoder

        mteb.evaluate(MiniLMEncoder(), mteb.get_task("STSBenchmark"))

    Importing this module also adds the default model to MTEB's registry, for code that takes a name:

        model = mteb.get_model("minilm_np/all-MiniLM-L6-v2")
    """

    def __init__(self, model: str | SentenceTransformer = DEFAULT_MODEL, revision: str | None = None, **options: Any):
        if isinstance(model, SentenceTransformer):
            self.model = model
        else:
            self.model = SentenceTransformer(model, revision=revision, **options)

    def encode(self, inputs: Iterable[dict[str, Any]], *, prompt_type: Any = None, **kwargs: Any) -> Array:
        """Return the embeddings (n, D) of n texts.

        Parameters
        ----------
        inputs
            Batches {"text": [str, ...]}, from MTEB's DataLoader.
        prompt_type
            "query" calls `encode_query`, "document" calls `encode_document`, None calls `encode`.
        **kwargs
            MTEB's description of the task; ignored.
        """
        texts: list[Text] = []
        for i, batch in enumerate(inputs):
            if not isinstance(batch, Mapping) or "text" not in batch:
                raise InputError(f"inputs[{i}]: expected a batch with 'text', got {type(batch).__name__}")
            texts += several(batch["text"], f"inputs[{i}]['text']")
        kind = getattr(prompt_type, "value", prompt_type)
        encode: Any = {"query": self.model.encode_query, "document": self.model.encode_document}.get(
            kind, self.model.encode
        )
        result: Array = encode(texts, truncation="ignore")
        return result.reshape(len(texts), self.model.get_embedding_dimension())

    # These return tensors because MTEB's summarization task calls float() on the similarity of two vectors: a tensor of
    # shape (1, 1) allows that, an array of this shape does not.

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the similarities (n, m) of all pairs, as `SentenceTransformer.similarity` computes them."""
        return torch.from_numpy(self.model.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the similarities (n,) of row i of one set to row i of the other."""
        return torch.from_numpy(self.model.similarity_pairwise(embeddings1, embeddings2))

    @cached_property
    def mteb_model_meta(self) -> Any:
        """The name and revision under which MTEB caches results.

        The revision is a fingerprint of the model, so results of another model, op set or dtype are never reused.
        """
        folder = self.model.place.folder
        default = sha256_of(find_layout(folder).weights) == SHA256["model.safetensors"]
        name = REGISTERED if default else f"minilm_np/{folder.name}"
        return ModelMeta.create_empty({"name": name, "revision": fingerprint(self.model)})


def load_registered(name: str, revision: str | None = None, device: Any = None, **options: Any) -> MiniLMEncoder:
    """Return the default model for `mteb.get_model("minilm_np/all-MiniLM-L6-v2", **options)`.

    Name and revision are those of the entry in MTEB's registry; the weights are checked by their sha256.
    """
    return MiniLMEncoder(SentenceTransformer(DEFAULT_MODEL, device=device, **options))


# MTEB's own description of the model, with another loader. Entries are looked up by name only.
MODEL_REGISTRY[REGISTERED] = mteb.get_model_meta(DEFAULT_MODEL).model_copy(
    update={"name": REGISTERED, "loader": load_registered, "framework": ["NumPy"], "adapted_from": DEFAULT_MODEL}
)
