"""Dropout at the places where BERT has it, from a generator whose numbers depend only on where they are used.

(Srivastava et al. 2014.) BERT drops elements of the embeddings, of the attention probabilities, and of the output of
both sublayers before the residual is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minilm_np import ops
from minilm_np.model import Array, Bert
from minilm_np.tape import Tape


@dataclass(frozen=True)
class Dropout:
    """The probabilities of one training step, and what its masks depend on.

    hidden, attention: hidden_dropout_prob and attention_probs_dropout_prob of config.json. seed, step: 0 to 2^64 - 1.
    """

    hidden: float
    attention: float
    seed: int
    step: int

    def mask(self, sentences: Array, place: int, sizes: Array, dtype: Any) -> Array:
        """Return the masks of some sentences, one after the other: 0 with probability p, else 1 / (1 - p).

        A sentence's part depends on the seed, the step, the sentence's number in the batch, the place and the size, and
        on nothing else: not on threads, nor on which sentences are computed together. Philox is a counter-based
        generator (Salmon et al. 2011): seed and step are its key, place and sentence the upper half of its counter. p
        is rounded to a multiple of 2^-32.

        sentences: (B,). sizes: (B,), the number of elements for each. place: 0 for the embeddings; 3 i + 1, 2 and 3 for
        the attention probabilities and the two sublayer outputs of layer i.
        """
        p = self.attention if place % 3 == 1 else self.hidden
        generator = np.random.Philox(key=np.array([self.seed, self.step], np.uint64))
        state = generator.state
        numbers = np.empty(int(sizes.sum()), "<u4")
        start = 0
        for sentence, size in zip(sentences.tolist(), sizes.tolist(), strict=True):
            state["state"]["counter"][2:] = place, sentence
            generator.state = state  # 5 times as fast as a new generator
            pairs = generator.random_raw(-(-size // 2)).astype("<u8", copy=False)
            numbers[start : start + size] = pairs.view("<u4")[:size]
            start += size
        return np.multiply(numbers >= round(p * 2**32), 1 / (1 - p), dtype=dtype)


class DropoutTape(Tape):
    """A tape of a model that applies dropout, and records it.

    sentences (B,): the number of each sentence in the batch. offsets (B + 1,): as in `model.forward`.
    """

    def __init__(self, bert: Bert, dropout: Dropout, sentences: Array, offsets: Array):
        super().__init__(bert)
        self._dropout, self._sentences, self._lengths = dropout, sentences, np.diff(offsets)
        self._place = 0

    def _mask(self, sizes: Array, dtype: Any) -> Array:
        """Return the mask of the next place."""
        self._place += 1
        return self._dropout.mask(self._sentences, self._place - 1, sizes, dtype)

    def _drop(self, x: Array) -> Array:  # (T, H) -> (T, H)
        if not self._dropout.hidden:
            self._place += 1
            return x
        mask = self._mask(self._lengths * x.shape[1], x.dtype).reshape(x.shape)
        return np.asarray(self._keep("dropout", x * mask, x, mask))

    def embed(self, *inputs: Any) -> Any:
        return self._drop(super().embed(*inputs))

    def add_layer_norm(self, x: Array, residual: Array, norm: Any, eps: float, /) -> Any:
        return super().add_layer_norm(self._drop(x), residual, norm, eps)

    def attention(self, qkv: Array, offsets: Array, num_heads: int, /) -> Any:
        if not self._dropout.attention:
            self._place += 1
            return super().attention(qkv, offsets, num_heads)
        sizes = num_heads * self._lengths**2
        flat = np.split(self._mask(sizes, qkv.dtype), np.cumsum(sizes)[:-1])
        masks = [mask.reshape(num_heads, S, S) for mask, S in zip(flat, self._lengths.tolist(), strict=True)]
        compute = getattr(self.op_set, "attention_with_dropout", attention_with_dropout)
        context = compute(qkv, offsets, num_heads, masks)
        return self._keep("attention", context, qkv, offsets, num_heads, masks)


def attention_with_dropout(qkv: Array, offsets: Array, num_heads: int, masks: list[Array]) -> Array:
    """`ops.attention` with its probabilities multiplied by masks: B of (N, S, S). (T, 3H) -> (T, H)."""
    context = np.empty((len(qkv), qkv.shape[1] // 3), qkv.dtype)
    for first, last in ops.equal_length_runs(offsets):
        rows = slice(offsets[first], offsets[last])
        query, key, value = ops.split_heads(qkv[rows], last - first, num_heads)  # each (n, N, S, D)
        probs = ops.attention_weights(query, key) * np.stack(masks[first:last])  # (n, N, S, S)
        context[rows] = (probs @ value).transpose(0, 2, 1, 3).reshape(-1, context.shape[1])
    return context
