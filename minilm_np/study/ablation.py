"""The model without some of its parts: heads, layers, LayerNorms, positions or tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minilm_np import model as architecture
from minilm_np import ops
from minilm_np.encoder import as_texts
from minilm_np.model import Array, Bert, BertConfig, Ops
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.study.similarity import TokenPairs, weighted_tokens
from minilm_np.tokenizer import Tokens

Ranking = list[tuple[int, float]]  # texts by their similarity to one of them: (number of the text, cosine)


class Off(NamedTuple):
    """The parts that are switched off; `ablate` documents what each means."""

    heads: frozenset[tuple[int, int]] = frozenset()  # (layer, head)
    layers: frozenset[int] = frozenset()
    layer_norms: frozenset[str] = frozenset()
    positions: bool = False
    tokens: frozenset[tuple[int, int]] = frozenset()  # (text, token)


class AblationOps:
    """The op set of `bert` without some parts of the model. `model.forward` runs on it unchanged.

    T tokens that are left    H hidden size    N heads    D = H / N head size    S tokens of one sentence
    """

    def __init__(self, bert: Bert, off: Off, position_ids: Array):
        """Take the op set of `bert`, and the positions (T,) that the tokens had before some were switched off."""
        self.off, self.position_ids = off, position_ids
        self.op_set: Ops = bert.ops
        self.layer = 0  # the layer whose query, key and value were computed last: `attention` gets no weights
        self._modules = {id(weights): name for name, weights in bert.weights.items()}
        self._off_norms = {
            f"encoder.layer.{i}.{part}.LayerNorm" for i in off.layers for part in ("attention.output", "output")
        }

    def prepare_dense(self, weight: Array, bias: Array, /) -> Any:
        return self.op_set.prepare_dense(weight, bias)

    def embed(self, ids: Array, types: Array, positions: Array, tables: Any, norm: Any, eps: float, /) -> Array:
        word, token_type, position = tables
        if self.off.positions:
            position = np.zeros_like(position)
        if self._modules[id(norm)] in self.off.layer_norms:
            return np.asarray(word[ids] + token_type[types] + position[self.position_ids])
        return self.op_set.embed(ids, types, self.position_ids, (word, token_type, position), norm, eps)

    def linear(self, x: Array, dense: Any, activation: str | None, /) -> Array:
        module = self._modules[id(dense)]
        if module.endswith(".attention.self"):
            self.layer = int(module.split(".")[2])
        return self.op_set.linear(x, dense, activation)

    def add_layer_norm(self, x: Array, residual: Array, norm: Any, eps: float, /) -> Array:
        module = self._modules[id(norm)]
        if module in self._off_norms:  # both sublayers of a layer that is off return their input
            return residual
        if module in self.off.layer_norms:
            return x + residual
        return self.op_set.add_layer_norm(x, residual, norm, eps)

    def attention(self, qkv: Array, offsets: Array, num_heads: int, /) -> Array:
        context = self.op_set.attention(qkv, offsets, num_heads)  # (T, H)
        D = context.shape[1] // num_heads
        for head in self._heads_off():
            context[:, head * D : (head + 1) * D] = 0
        return context

    def attention_probs(self, qkv: Array, offsets: Array, num_heads: int, /) -> list[Array]:
        probs = self.op_set.attention_probs(qkv, offsets, num_heads)  # of (N, S, S)
        for of_text in probs:
            of_text[self._heads_off()] = 0
        return probs

    def pool(self, hidden_states: Array, offsets: Array, mode: str, /) -> Array:
        return self.op_set.pool(hidden_states, offsets, mode)

    def l2_normalize(self, x: Array, /) -> Array:
        return self.op_set.l2_normalize(x)

    def _heads_off(self) -> list[int]:
        return [head for layer, head in self.off.heads if layer == self.layer]


def without_tokens(tokens: Tokens, off: Iterable[tuple[int, int]]) -> tuple[Tokens, Array]:
    """Return packed tokens without some (text, token), and the positions (T,) of those that are left.

    The texts' offsets shrink with them. No token attends to one that is not there, and it is not pooled: the others
    have the values that they have with attention_mask 0.
    """
    token_ids, token_type_ids, offsets = tokens
    lengths = np.diff(offsets)
    position_ids = np.arange(len(token_ids)) - np.repeat(offsets[:-1], lengths)
    kept = np.ones(len(token_ids), bool)
    for text, token in off:
        kept[offsets[text] + token] = False
    shorter = np.concatenate([[0], np.cumsum(kept)])[offsets]
    return Tokens(token_ids[kept], token_type_ids[kept], shorter), position_ids[kept]


@dataclass(frozen=True)
class Ablation:
    """What changes when parts of the model are switched off.

    texts: the n texts. tokens: the word pieces of each. off: the parts that are off. before, after: the sentence
    embeddings (n, H), in the model's dtype. Similarities are cosines, in float64, whatever the model normalizes.
    """

    texts: tuple[Any, ...]
    tokens: tuple[tuple[str, ...], ...]
    off: Off
    before: Array
    after: Array
    _mode: str = field(repr=False)
    _hidden_states: tuple[tuple[Array, ...], tuple[Array, ...]] = field(repr=False)  # (S, H) of each text, twice

    def cosines(self, a: int = 0, b: int = 1) -> tuple[float, float]:
        """Return the cosine of two texts, given by their numbers, before and after."""
        self._check(a, b)
        return _cosine(self.before, a, b), _cosine(self.after, a, b)

    def cosine_change(self, a: int = 0, b: int = 1) -> float:
        """Return by how much the cosine of two texts changes; below 0 if it falls."""
        before, after = self.cosines(a, b)
        return after - before

    def token_pairs(self, a: int = 0, b: int = 1) -> tuple[TokenPairs, TokenPairs]:
        """Return the cosine of two texts as a sum over pairs of tokens, before and after; see `study.token_pairs`.

        A token that is off keeps its row or column, of zeros: it is not pooled.
        """
        self._check(a, b)
        sides = []
        for hidden_states, off in zip(self._hidden_states, (Off(), self.off), strict=True):
            rows, columns = (self._weighted(hidden_states[text], text, off) for text in (a, b))
            lengths = [max(float(np.linalg.norm(part.sum(axis=0))), 1e-12) for part in (rows, columns)]
            sides.append(TokenPairs(self.tokens[a], self.tokens[b], rows @ columns.T / (lengths[0] * lengths[1])))
        return sides[0], sides[1]

    def ranking(self, query: int = 0) -> tuple[Ranking, Ranking]:
        """Return the other texts, the most similar first, before and after: lists of (number of the text, cosine)."""
        self._check(query)
        first, second = (_ranking(embeddings, query) for embeddings in (self.before, self.after))
        return first, second

    def _weighted(self, hidden_states: Array, text: int, off: Off) -> Array:  # (S, H) -> (S + those off, H)
        """Return what each token adds to the pooled vector of a text: zeros for a token that is off."""
        kept = [t for t in range(len(self.tokens[text])) if (text, t) not in off.tokens]
        weighted = np.zeros((len(self.tokens[text]), hidden_states.shape[1]))
        weighted[kept] = weighted_tokens(hidden_states.astype(np.float64), self._mode)
        return weighted

    def _check(self, *numbers: int) -> None:
        for number in numbers:
            if not 0 <= number < len(self.texts):
                raise ValueError(f"text: expected 0 to {len(self.texts) - 1}, got {number}")


def ablate(
    model: SentenceTransformer,
    texts: Sequence[Any],
    *,
    heads: Iterable[tuple[int, int]] = (),
    layers: Iterable[int] = (),
    layer_norms: Iterable[str] = (),
    positions: bool = False,
    tokens: Iterable[tuple[int, int]] = (),
) -> Ablation:
    """Encode texts with the whole model and again with parts of it switched off.

    The parts can be combined. All other operations stay those of the model's op set, in its dtype.

    Parameters
    ----------
    model
        The model, on any op set.
    texts
        One or more texts, as in `model.encode`.
    heads
        Pairs (layer, head). The output of the head, its D columns of attention.self.context, is 0 before
        attention.output.dense. This is what a `head_mask` of 0 in PyTorch does: the head's attention probabilities are
        multiplied by 0. The bias of attention.output.dense is still added.
    layers
        Numbers of layers. The hidden states pass through the layer unchanged.
    layer_norms
        Names of LayerNorms: "embeddings.LayerNorm", "encoder.layer.{i}.attention.output.LayerNorm" or
        "encoder.layer.{i}.output.LayerNorm". The sum x + residual, or of the embedding tables, is not normalized, and
        the weight and the bias of the LayerNorm are not applied either. In a layer that is off this changes nothing.
    positions
        Whether to leave out the position embeddings: their rows are not added before embeddings.LayerNorm.
    tokens
        Pairs (text, token), counted from 0 with [CLS]. No other token attends to the token, and it is left out of the
        pooling, as with attention_mask 0. The other tokens keep their positions. Pooling "cls" takes the first token
        that is left.

    Returns
    -------
    Ablation
        The embeddings (n, H) before and after, and what follows from them. Measured against PyTorch with the same parts
        masked: within 4e-7 in float32 and 3e-15 in float64.

    Raises
    ------
    ValueError
        If a part does not exist, or no token of a text is left; the message names the argument.
    InputError
        If an input is not a text.

    Examples
    --------
    >>> from minilm_np import SentenceTransformer
    >>> from minilm_np.study import ablate
    >>> texts = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
    >>> ablation = ablate(SentenceTransformer(), texts, layers=[5])
    >>> before, after = ablation.cosines(0, 1)
    >>> print(f"{before:.3f} {after:.3f}")
    0.755 0.939
    """
    parts = {"heads": heads, "layers": layers, "layer_norms": layer_norms, "positions": positions, "tokens": tokens}
    return next(ablations(model, texts, [parts]))


def ablations(
    model: SentenceTransformer, texts: Sequence[Any], choices: Iterable[Mapping[str, Any]]
) -> Iterator[Ablation]:
    """Yield the result of `ablate` for each choice of parts (its keyword arguments). The whole model runs only once."""
    texts = as_texts(texts, "texts", allow_one=False)
    if not texts:
        raise ValueError("texts: expected one or more texts, got none")
    packed, bert = model.tokens(texts), model._bert
    strings = model.tokenizer.strings(packed.token_ids)
    whole = None
    for parts in choices:
        off = _checked(model.config, packed, **{**Off()._asdict(), **parts})
        before, states_before = whole = whole or _run(bert, packed)
        shorter, position_ids = without_tokens(packed, off.tokens)
        after, states_after = _run(bert._replace(ops=AblationOps(bert, off, position_ids)), shorter)
        yield Ablation(
            texts=tuple(texts),
            tokens=tuple(tuple(strings[start:stop]) for start, stop in pairwise(packed.offsets)),
            off=off,
            before=before,
            after=after,
            _mode=model.config.pooling_mode,
            _hidden_states=(states_before, states_after),
        )


def head_effects(model: SentenceTransformer, a: str, b: str) -> Array:
    """Return by how much the cosine of two texts changes when one head is switched off: (L, N) for L layers, N heads.

    Parameters
    ----------
    model
        The model, on any op set.
    a, b
        The texts.

    Examples
    --------
    >>> from minilm_np import SentenceTransformer
    >>> from minilm_np.study import head_effects
    >>> effects = head_effects(SentenceTransformer(), "A man is eating food.", "A man is eating a piece of bread.")
    >>> effects.shape
    (6, 12)
    """
    L, N = model.config.num_hidden_layers, model.config.num_attention_heads
    choices = [{"heads": [(i, h)]} for i in range(L) for h in range(N)]
    return np.array([ablation.cosine_change() for ablation in ablations(model, [a, b], choices)]).reshape(L, N)


def _run(bert: Bert, tokens: Tokens) -> tuple[Array, tuple[Array, ...]]:
    """Return the embeddings (n, H), and for each text the last layer's hidden states (S, H)."""
    hidden_states = architecture.encoder(bert, *tokens)
    embeddings = architecture.sentence_embeddings(bert, hidden_states, tokens.offsets)
    return embeddings, tuple(hidden_states[start:stop] for start, stop in pairwise(tokens.offsets))


def _cosine(embeddings: Array, a: int, b: int) -> float:
    u, v = ops.l2_normalize(embeddings[[a, b]].astype(np.float64))
    return float(u @ v)


def _ranking(embeddings: Array, query: int) -> Ranking:
    pairs = [(i, _cosine(embeddings, query, i)) for i in range(len(embeddings)) if i != query]
    return sorted(pairs, key=lambda pair: -pair[1])  # stable: of equal texts the first


# --- the arguments -----------------------------------------------------------------------------


def layer_norm_names(config: BertConfig) -> list[str]:
    """Return the names of the LayerNorms, in the order of the forward pass."""
    layers = (
        f"encoder.layer.{i}.{part}" for i in range(config.num_hidden_layers) for part in ("attention.output", "output")
    )
    return [f"{module}.LayerNorm" for module in ("embeddings", *layers)]


def _checked(
    config: BertConfig,
    packed: Tokens,
    heads: Iterable[tuple[int, int]],
    layers: Iterable[int],
    layer_norms: Iterable[str],
    positions: bool,
    tokens: Iterable[tuple[int, int]],
) -> Off:
    """Return the parts to switch off. Raises ValueError for a part that does not exist."""
    L, N = config.num_hidden_layers, config.num_attention_heads
    norms = layer_norm_names(config)
    lengths = np.diff(packed.offsets)
    off = Off(
        frozenset(_pair("heads", pair, f"pairs (layer, head) of layer 0 to {L - 1} and head 0 to {N - 1}", (L, N))
                  for pair in _items("heads", heads)),
        frozenset(_number("layers", layer, L) for layer in _items("layers", layers)),
        frozenset(_items("layer_norms", layer_norms)),
        bool(positions),
        frozenset(_pair("tokens", pair, f"pairs (text, token) of text 0 to {len(lengths) - 1}", (len(lengths), None))
                  for pair in _items("tokens", tokens)),
    )  # fmt: skip
    if not isinstance(positions, bool | np.bool_):
        raise ValueError(f"positions: expected True or False, got {positions!r}")
    for name in off.layer_norms:
        if name not in norms:
            raise ValueError(f"layer_norms: expected names such as {norms[0]} or {norms[-1]}, got {name!r}")
    for text, token in sorted(off.tokens):
        if token >= lengths[text]:
            got = f"({text}, {token})"
            raise ValueError(f"tokens: expected token 0 to {lengths[text] - 1} in text {text}, got {got}")
    for text, length in enumerate(lengths):
        if sum(of == text for of, _ in off.tokens) == length:
            raise ValueError(f"tokens: expected one token or more left in text {text}, got all {length} switched off")
    return off


def _items(argument: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{argument}: expected a list, got {values!r}")
    return list(values)


def _number(argument: str, value: Any, limit: int) -> int:
    if not _is_index(value, limit):
        raise ValueError(f"{argument}: expected numbers 0 to {limit - 1}, got {value!r}")
    return int(value)


def _pair(argument: str, value: Any, expected: str, limits: tuple[int, int | None]) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if len(pair) != 2 or not all(_is_index(part, limit) for part, limit in zip(pair, limits, strict=True)):
        raise ValueError(f"{argument}: expected {expected}, got {value!r}")
    return int(pair[0]), int(pair[1])


def _is_index(value: Any, limit: int | None) -> bool:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and value >= 0 and (limit is None or value < limit)
