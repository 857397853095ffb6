"""A backend for BERTopic; needs bertopic, which needs sentence-transformers."""

from __future__ import annotations

from bertopic.backend import BaseEmbedder

from minilm_np.integrations._common import Backend


class MiniLMBackend(Backend, BaseEmbedder):  # type: ignore[misc]
    """Embed documents, words and topics for `BERTopic(embedding_model=...)`.

    BERTopic does not recognize a SentenceTransformer of this package and would load another model instead.

    Parameters
    ----------
    model
        A SentenceTransformer, or the name or folder of a model.
    encode_kwargs
        Arguments for every call of `SentenceTransformer.encode`, such as `truncation`.
    **options
        Other parameters of SentenceTransformer; not allowed if `model` is one.

    Examples
    --------
    >>> from minilm_np.integrations.bertopic import MiniLMBackend
    >>> MiniLMBackend().embed_documents(["The cat sleeps on the sofa.", "Shares fell in London today."]).shape
    (2, 384)
    """
