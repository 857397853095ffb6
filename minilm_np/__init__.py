"""Sentence embeddings from all-MiniLM-L6-v2, written from scratch with NumPy and Numba.

>>> from minilm_np import SentenceTransformer
>>> SentenceTransformer().encode(["A man is eating food."]).shape
(1, 384)
"""

from __future__ import annotations

from typing import Any

import lazy_loader as lazy

__version__ = "0.1.0"
# `import minilm_np` imports no other module of the package, not even NumPy: __init__.pyi lists the public names, and
# lazy_loader imports the module of a name when the name is first used (PEP 562).
_load, __dir__, __all__ = lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "util":
        import minilm_np.util

        return minilm_np.util
    try:
        return _load(name)
    except AttributeError:
        from minilm_np.absent import check_absent

        check_absent(__name__, name)
        raise
