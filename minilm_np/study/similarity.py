"""Where a similarity comes from: the cosine after each layer, and its exact split into pairs of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from minilm_np import ops
from minilm_np.model import Array
from minilm_np.sentence_transformer import SentenceTransformer

SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[PAD]")
FOLDED = "[CLS] [SEP]"  # the row of all special tokens together


@dataclass(frozen=True)
class TokenPairs:
    """The cosine of two texts as a sum over pairs of tokens.

    rows, columns: the n and m tokens of the two texts. values (n, m), float64: what each pair adds to the cosine. The
    tokens are vectors of the last layer, and each has seen all tokens of its text. So a value says how the arithmetic
    of the similarity is distributed. It does not say what the similarity would be without a word.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Array

    @property
    def cosine(self) -> float:
        """The sum of all values: the cosine similarity."""
        return float(self.values.sum())

    @property
    def row_sums(self) -> Array:
        """What each token of the first text adds, (n,)."""
        return np.asarray(self.values.sum(axis=1))

    @property
    def column_sums(self) -> Array:
        """What each token of the second text adds, (m,)."""
        return np.asarray(self.values.sum(axis=0))

    def words(self) -> TokenPairs:
        """Return the same with the word pieces of a word (`em ##bed ##ding`) added up."""
        return self._merged(*(_words(names) for names in (self.rows, self.columns)))

    def fold_special_tokens(self) -> TokenPairs:
        """Return the same with [CLS] and [SEP] added up, in a last row and a last column."""
        return self._merged(*(_without_special(names) for names in (self.rows, self.columns)))

    def largest(self, count: int = 5) -> list[tuple[str, str, float]]:
        """Return the pairs that add most: (row, column, value), the largest first; of equal values the first pair."""
        order = np.argsort(-self.values, axis=None, kind="stable")[:count]
        pairs = (np.unravel_index(i, self.values.shape) for i in order)
        return [(self.rows[i], self.columns[j], float(self.values[i, j])) for i, j in pairs]

    def _merged(self, rows: list[tuple[str, list[int]]], columns: list[tuple[str, list[int]]]) -> TokenPairs:
        values = [[self.values[np.ix_(i, j)].sum() for _, j in columns] for _, i in rows]
        names = (tuple(name for name, _ in groups) for groups in (rows, columns))
        return replace(self, rows=next(names), columns=next(names), values=np.array(values))


def token_pairs(model: SentenceTransformer, a: str, b: str) -> TokenPairs:
    """Split the cosine similarity of two texts into what each pair of their tokens adds.

    Mean pooling and the dot product are linear in the last layer's token vectors h_i of `a` and g_j of `b`. With the
    pooled vectors u = sum(h_i) / n and v = sum(g_j) / m, the cosine u v / (|u| |v|) is the sum of
    h_i g_j / (n m |u| |v|) over all i and j. The other pooling modes are sums of the same form.

    Parameters
    ----------
    model
        The model. Its hidden states are taken as they are; the split is computed in float64.
    a, b
        The texts.

    Returns
    -------
    TokenPairs
        One value for each pair of tokens, [CLS] and [SEP] included. They add up to the cosine (measured: within 2e-16
        of `model.similarity` in float64, and within 1e-7 in float32).

    Examples
    --------
    >>> from minilm_np import SentenceTransformer
    >>> from minilm_np.study import token_pairs
    >>> pairs = token_pairs(SentenceTransformer(), "A man is eating food.", "Someone eats bread.")
    >>> pairs.values.shape
    (8, 6)
    >>> print(f"{pairs.cosine:.4f}")
    0.5671
    """
    mode = model.config.pooling_mode
    last = f"encoder.layer.{model.config.num_hidden_layers - 1}.output"
    stages = model.stages([a, b], detail=True)
    rows, columns = (weighted_tokens(part.astype(np.float64), mode) for part in _split(stages[last], stages["offsets"]))
    lengths = [max(float(np.linalg.norm(part.sum(axis=0))), 1e-12) for part in (rows, columns)]
    names = (tuple(tokens) for tokens in stages["tokens"])
    return TokenPairs(next(names), next(names), rows @ columns.T / (lengths[0] * lengths[1]))


def weighted_tokens(hidden_states: Array, mode: str) -> Array:  # (S, H) -> (S, H)
    """Return what each token adds to the pooled vector: their sum is `ops.pool` of one text."""
    S, H = hidden_states.shape
    if mode == "mean":
        return np.asarray(hidden_states / S)
    if mode == "mean_sqrt_len_tokens":
        return np.asarray(hidden_states / np.sqrt(S))
    chosen = np.zeros((S, H))
    chosen[np.argmax(hidden_states, axis=0) if mode == "max" else 0, np.arange(H)] = 1  # of equal elements the first
    return hidden_states * chosen


def layer_cosines(model: SentenceTransformer, a: str, b: str) -> dict[str, float]:
    """Return the cosine similarity of two texts after each layer, if the model ended there.

    The hidden states of `embeddings` and of each encoder.layer.{i}.output are pooled, and the cosine of the two vectors
    is computed in float64. The last one is the model's similarity.
    """
    stages = model.stages([a, b])
    offsets = np.asarray(model.tokens([a, b]).offsets)
    outputs = ["embeddings", *(f"encoder.layer.{i}.output" for i in range(model.config.num_hidden_layers))]
    cosines = {}
    for name in outputs:
        pooled = ops.pool(stages[name].astype(np.float64), offsets, model.config.pooling_mode)
        u, v = ops.l2_normalize(pooled)
        cosines[name] = float(u @ v)
    return cosines


def _split(hidden_states: Array, offsets: Array) -> list[Array]:
    return [hidden_states[start:stop] for start, stop in pairwise(offsets)]


def _words(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the words and the numbers of their pieces."""
    words: list[tuple[str, list[int]]] = []
    for i, name in enumerate(names):
        if name.startswith("##") and len(name) > 2 and words and words[-1][0] not in SPECIAL_TOKENS:
            word, pieces = words.pop()
            words.append((word + name[2:], [*pieces, i]))
        else:
            words.append((name, [i]))
    return words


def _without_special(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the other tokens, and then all special ones together."""
    special = [i for i, name in enumerate(names) if name in SPECIAL_TOKENS]
    return [*((name, [i]) for i, name in enumerate(names) if i not in special), (FOLDED, special)]
