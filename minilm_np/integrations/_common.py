"""What every adapter does with its input: frameworks pass on whatever they get, and a str is an iterable of letters."""

from __future__ import annotations

from typing import Any

from minilm_np.encoder import InputError, as_texts
from minilm_np.tokenizer import Text


def several(texts: Any, name: str) -> list[Text]:
    """Return the texts of an argument `name` that takes many of them.

    Parameters
    ----------
    texts
        An iterable of texts, as in `SentenceTransformer.encode`.
    name
        What errors call the argument.

    Raises
    ------
    InputError
        If `texts` is a single str, or anything that `encode` refuses.
    """
    if isinstance(texts, str):
        raise InputError(f"{name}: expected an iterable of str, got one str {_shortened(texts)!r}")
    return as_texts(texts, name)


def single(text: Any, name: str) -> str:
    """Return the text of an argument `name` that takes one. Raises InputError if it is not a str."""
    if not isinstance(text, str):
        raise InputError(f"{name}: expected a str, got {type(text).__name__}")
    return str(text)


def _shortened(text: str) -> str:
    return str(text) if len(text) <= 40 else text[:37] + "..."
