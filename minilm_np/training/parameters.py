"""All parameters of a model in one flat vector, with a view of each by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from minilm_np.model import Array


class Parameters(NamedTuple):
    """A vector, and its parts under the checkpoint's names. A change of one is a change of the other."""

    flat: Array  # (P,); P is 22,565,376 for all-MiniLM-L6-v2
    views: dict[str, Array]


BLOCK = 2**16  # elements; temporaries of this size stay in a core's cache


def blocks(flat: Array) -> list[slice]:
    """Return slices that cover a vector, of a size that is fast to compute element by element."""
    return [slice(start, min(start + BLOCK, len(flat))) for start in range(0, len(flat), BLOCK)]


def order(names: Mapping[str, Array]) -> list[str]:
    """Return the names in the checkpoint's order, but with query, key and value next to each other in each layer.

    So the stacked weight (3H, H) that model.py uses is one part of the vector, and so is the stacked bias.
    """
    kinds = {"weight": 0, "bias": 1}
    positions = {name: i for i, name in enumerate(names)}
    first: dict[str, int] = {}  # attention module -> the position of its first parameter
    for name in names:
        first.setdefault(_attention(name) or name, positions[name])

    def key(name: str) -> tuple[int, int, int]:
        module = _attention(name)
        kind = kinds.get(name.rpartition(".")[2], 0) if module else 0
        return first[module or name], kind, positions[name]

    return sorted(names, key=key)


def _attention(name: str) -> str | None:
    module, found, _ = name.partition(".attention.self.")
    return module + found if found else None


def empty_like(params: Mapping[str, Array]) -> Parameters:
    """Return a vector of zeros with a view for each of these parameters."""
    dtypes = {value.dtype for value in params.values()}
    if len(dtypes) != 1:
        raise ValueError(f"params: expected one dtype, got {', '.join(sorted(map(str, dtypes))) or 'no parameters'}")
    flat = np.zeros(sum(value.size for value in params.values()), dtypes.pop())
    views, start = {}, 0
    for name in order(params):
        size = params[name].size
        views[name] = flat[start : start + size].reshape(params[name].shape)
        start += size
    return Parameters(flat, views)


def copy_of(params: Mapping[str, Array]) -> Parameters:
    """Return a vector with copies of these parameters."""
    copied = empty_like(params)
    for name, view in copied.views.items():
        view[...] = params[name]
    return copied
