"""What the similarity functions return: Tensors for Tensors, and for anything else an array that can do what callers
of sentence-transformers do with its Tensors.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

from minilm_np.util._arrays import Array


class TensorArray(np.ndarray[Any, np.dtype[Any]]):
    """An array with those methods of a Tensor that callers use on results, accepted by the functions of PyTorch.

    Slices are TensorArrays, too. Arithmetic, comparisons and NumPy's functions give plain arrays, and PyTorch's
    functions give Tensors. It is printed and pickled as a plain array.

    Examples
    --------
    >>> from minilm_np import util
    >>> scores = util.cos_sim([3, 4], [[1, 0], [0, 1]])
    >>> scores[0].cpu().tolist() == scores.numpy()[0].tolist()
    True
    >>> round(float(util.cos_sim([3, 4], [1, 0])), 4)
    0.6
    >>> scores[0].topk(1).indices.tolist()
    [1]
    >>> type(1 - scores)
    <class 'numpy.ndarray'>
    """

    def numpy(self) -> Array:
        """Return the same numbers as a plain array, without a copy."""
        return np.asarray(self)

    def cpu(self) -> TensorArray:
        """Return self."""
        return self

    def detach(self) -> TensorArray:
        """Return self."""
        return self

    def topk(self, k: int, dim: int = -1) -> TopK:
        """Return the k largest values along a dimension, largest first, and their indices; the first of equal ones."""
        array = np.asarray(self)
        indices = np.argsort(-array, axis=dim, kind="stable").take(range(k), axis=dim)
        return TopK(np.take_along_axis(array, indices, dim).view(TensorArray), indices.view(TensorArray))

    def __float__(self) -> float:
        """Return the only number; NumPy raises TypeError if the array has dimensions, PyTorch does not."""
        return float(self.item() if self.size == 1 else np.asarray(self))

    def __int__(self) -> int:
        return int(self.item() if self.size == 1 else np.asarray(self))

    def __repr__(self) -> str:
        return repr(np.asarray(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Any:
        return np.array(self)

    def __getattr__(self, name: str) -> Any:
        # NumPy and other libraries look for attributes with underscores, which no caller writes.
        hint = (
            "" if name.startswith("_") else f"; give it Tensors, or pass the array to torch.{name} or torch.from_numpy"
        )
        raise AttributeError(f"{name}: expected an attribute of a NumPy array, because the arguments were arrays{hint}")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*_plain(inputs), **_plain(kwargs))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return func(*_plain(args), **_plain(kwargs))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*_as_tensors(args), **_as_tensors(kwargs or {}))


class TopK(NamedTuple):
    """What `TensorArray.topk` returns."""

    values: TensorArray
    indices: TensorArray


def _computed(name: str) -> Any:
    """Return the method `name` of an array; unlike a ufunc, it does not call __array_ufunc__."""

    def method(self: TensorArray, *args: Any, **kwargs: Any) -> Any:
        return getattr(np.asarray(self), name)(*args, **kwargs)

    method.__name__ = name
    method.__doc__ = getattr(np.ndarray, name).__doc__ and f"As in NumPy; the result of {name} is a plain array."
    return method


for _name in ("argmax", "argmin", "argpartition", "argsort", "astype", "dot", "searchsorted"):
    setattr(TensorArray, _name, _computed(_name))


def like_arguments(result: Array, *arguments: Any) -> Any:
    """Return result as a Tensor if an argument is one or starts with one, on its device, and else as a TensorArray."""
    tensor_type = getattr(sys.modules.get("torch"), "Tensor", ())  # without PyTorch, nothing is a Tensor
    for argument in arguments:
        first = argument[0] if isinstance(argument, list | tuple) and argument else argument
        if isinstance(first, tensor_type):
            return sys.modules["torch"].from_numpy(result).to(first.device)
    return result.view(TensorArray)


def _plain(value: Any) -> Any:
    """Return value with every TensorArray in it, or in its lists, tuples and dicts, as a plain array."""
    if isinstance(value, TensorArray):
        return np.asarray(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def _as_tensors(value: Any) -> Any:
    """Return value with every TensorArray in it, or in its lists, tuples and dicts, as a Tensor."""
    if isinstance(value, TensorArray):
        array = np.asarray(value)
        is_usable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
        return sys.modules["torch"].from_numpy(array if is_usable else array.copy())
    if isinstance(value, dict):
        return {name: _as_tensors(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_as_tensors(item) for item in value)
    return value
