"""Sentence embeddings of all-MiniLM-L6-v2, from scratch on NumPy and Numba.

>>> from minilm_np import SentenceTransformer
>>> SentenceTransformer().encode(["A man is eating food."]).shape
(1, 384)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "SentenceTransformer",
    "TextInfo",
    "Tokens",
    "TruncationWarning",
    "WeightsError",
    "WeightsNotFoundError",
    "l2_normalize",
    "mean_pool",
]

if TYPE_CHECKING:
    from minilm_np.checkpoint import WeightsError as WeightsError
    from minilm_np.encoder import InputError as InputError
    from minilm_np.ops import l2_normalize as l2_normalize
    from minilm_np.ops import mean_pool as mean_pool
    from minilm_np.sentence_transformer import SentenceTransformer as SentenceTransformer
    from minilm_np.sentence_transformer import TextInfo as TextInfo
    from minilm_np.sentence_transformer import TruncationWarning as TruncationWarning
    from minilm_np.tokenizer import Tokens as Tokens
    from minilm_np.weights import WeightsNotFoundError as WeightsNotFoundError

_WHERE = {
    "InputError": "encoder",
    "SentenceTransformer": "sentence_transformer",
    "TextInfo": "sentence_transformer",
    "Tokens": "tokenizer",
    "TruncationWarning": "sentence_transformer",
    "WeightsError": "checkpoint",
    "WeightsNotFoundError": "weights",
    "l2_normalize": "ops",
    "mean_pool": "ops",
}


def __getattr__(name: str) -> Any:  # PEP 562: importing the package alone imports nothing, not even NumPy
    if name not in _WHERE:
        raise AttributeError(f"module 'minilm_np' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"minilm_np.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
