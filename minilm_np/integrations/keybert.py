"""A backend for KeyBERT; needs keybert, which needs sentence-transformers."""

from __future__ import annotations

from keybert.backend import BaseEmbedder

from minilm_np.integrations._common import Backend


class MiniLMBackend(Backend, BaseEmbedder):  # type: ignore[misc]
    """Embed documents and candidate words for `KeyBERT(model=...)`.

    KeyBERT does not recognize a SentenceTransformer of this package and would load another model instead.

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
    >>> from keybert import KeyBERT
    >>> from minilm_np.integrations.keybert import MiniLMBackend
    >>> keywords = KeyBERT(MiniLMBackend()).extract_keywords("The bank raised its interest rate again.")
    >>> [word for word, _ in keywords[:2]]
    ['bank', 'rate']
    """
