"""Simulate a hole with any mistake: crosscheck's catalogue, and mistakes that a finished port rarely has.

The mistakes have the form of crosscheck/mistakes.py: a name, a description, and fields with their wrong values.
`AnswerVariant` adds fields to crosscheck's `Variant`, and `AnswerOps` computes them. The architecture is model.py's.
Everything runs in float64 on one sentence, which takes about a millisecond for one layer.

S tokens    H hidden size (384)    N heads (12)    D head size (32)    I intermediate size (1536)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from minilm_np import ops
from minilm_np.crosscheck.form import FORMS
from minilm_np.crosscheck.mistakes import Mistake, catalogue
from minilm_np.crosscheck.variant import Batch, Named, Variant, VariantOps
from minilm_np.model import Array, Bert, BertConfig
from minilm_np.tokenizer import Tokens


@dataclass(frozen=True)
class AnswerVariant(Variant):
    """The decisions of an answer; the defaults are the correct ones."""

    # embeddings
    word_factor: float = 1.0
    token_types_used: bool = True
    positions: Literal["learned", "sinusoidal", "reversed"] = "learned"
    words_used: bool = True
    # LayerNorm
    eps_place: Literal["variance", "deviation"] = "variance"
    norm_divisor: Literal["deviation", "variance", "mean square", "none"] = "deviation"
    norm_centered: bool = True
    norm_over: Literal["row", "tokens", "everything"] = "row"
    norm_weight: bool = True
    norm_bias: bool = True
    norm_affine: Literal["weight first", "bias first", "swapped"] = "weight first"
    # attention
    weighting: str = "softmax"  # a key of WEIGHTINGS
    masked: Literal["none", "causal", "future only", "self"] = "none"
    probs_transposed: bool = False
    num_heads: int = 12
    merged: Literal["as split", "blocks", "interleaved"] = "as split"  # how heads are put side by side
    score_divisor: float | None = None  # of scores, instead of the one that attention_scale describes
    output_dense: bool = True
    # sublayers
    residual: Literal["before", "after", "sublayer twice", "input twice"] = "before"
    norm_of: Literal["this sublayer", "the other sublayer", "embeddings"] = "this sublayer"
    reshaped: frozenset[str] = frozenset()  # dense modules whose weight is reshaped to (inputs, outputs)
    parameter_layer: int | None = None  # the layer whose parameters every layer uses
    activation: str = ""  # a key of ACTIVATIONS; "" for hidden_act
    activation_after: Literal["intermediate", "output", "both"] = "intermediate"
    # pooling
    pooled: str = ""  # a key of POOLINGS; "" for pooling_mode
    form: str = "unit"  # a name in crosscheck's FORMS
    # the loop
    sublayers: Literal["both", "attention", "feed_forward", "swapped", "grouped"] = "both"
    pooling: bool = True


# --- the tables --------------------------------------------------------------------------------

SQRT2 = math.sqrt(2)


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


ACTIVATIONS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "silu": ("x * sigmoid(x) instead of GELU", lambda x: x * _sigmoid(x)),
    "activation-missing": ("no activation between the two dense layers", lambda x: x),
    "gelu-erf-unscaled": ("GELU with erf(x) instead of erf(x / sqrt(2))", lambda x: 0.5 * x * (1 + _erf(x))),
    "gelu-erf-scaled-up": (
        "GELU with erf(x * sqrt(2)) instead of erf(x / sqrt(2))",
        lambda x: x * (1 + _erf(x * SQRT2)) / 2,
    ),
    "gelu-not-halved": ("x (1 + erf(x / sqrt(2))) without the factor 1/2", lambda x: x * (1 + _erf(x / SQRT2))),
    "gelu-without-1": ("x erf(x / sqrt(2)) / 2: the 1 in 1 + erf is missing", lambda x: 0.5 * x * _erf(x / SQRT2)),
    "gelu-negated": ("GELU with 1 - erf instead of 1 + erf", lambda x: 0.5 * x * (1 - _erf(x / SQRT2))),
    "gelu-cdf": ("the normal distribution function without the factor x", lambda x: 0.5 * (1 + _erf(x / SQRT2))),
    "gelu-density": (
        "x times the normal density instead of the distribution function",
        lambda x: x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    ),
    "gelu-tanh-without-cube": (
        "the tanh approximation of GELU, without the cubic term",
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * x)),
    ),
    "gelu-tanh-unscaled": (
        "the tanh approximation of GELU, without the factor sqrt(2 / pi)",
        lambda x: 0.5 * x * (1 + np.tanh(x + 0.044715 * x**3)),
    ),
    "tanh": ("tanh instead of GELU", np.tanh),
    "sigmoid": ("a sigmoid instead of GELU", _sigmoid),
    "leaky-relu": ("leaky ReLU (slope 0.01) instead of GELU", lambda x: np.where(x > 0, x, 0.01 * x)),
    "elu": ("ELU instead of GELU", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "softplus": ("softplus instead of GELU", lambda x: np.logaddexp(x, 0)),
    "relu6": ("ReLU6 instead of GELU", lambda x: np.clip(x, 0, 6)),
    "absolute-value": ("the absolute value instead of GELU", np.abs),
}


def _over(*axes: int) -> Callable[[Array], Array]:
    def softmax(scores: Array) -> Array:  # (N, S, S)
        exponentials = np.exp(scores - scores.max(axis=axes, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=axes, keepdims=True))

    return softmax


WEIGHTINGS: dict[str, tuple[str, Callable[[Array], Array]]] = {  # (N, S, S) -> (N, S, S)
    "softmax-over-queries": ("the softmax runs over the queries (axis 0 of S x S) instead of the keys", _over(-2)),
    "softmax-over-heads": ("the softmax runs over the heads instead of the keys", _over(-3)),
    "softmax-over-head": ("one softmax for all scores of a head instead of one for each row", _over(-1, -2)),
    "softmax-over-everything": ("one softmax for all scores of all heads", _over(-1, -2, -3)),
    "softmax-missing": ("the scores are used as they are, without softmax", lambda s: s),
    "softmax-without-exp": ("scores are divided by their sum without exp", lambda s: s / s.sum(-1, keepdims=True)),
    "softmax-not-divided": ("exp of the scores is not divided by its sum", np.exp),
    "softmax-not-divided-shifted": (
        "exp of the scores less their maximum is not divided by its sum",
        lambda s: np.exp(s - s.max(-1, keepdims=True)),
    ),
    "softmax-by-sigmoid": ("a sigmoid of each score instead of a softmax", _sigmoid),
    "softmax-twice": ("the softmax is applied twice", lambda s: ops.softmax(ops.softmax(s))),
    "softmax-negated": ("the softmax of the negated scores", lambda s: ops.softmax(-s)),
    "softmax-base-2": ("the softmax with powers of 2 instead of e", lambda s: ops.softmax(s * math.log(2))),
    "attention-identity": (
        "every token attends to itself only: the value is the context",
        lambda s: np.broadcast_to(np.eye(s.shape[-1]), s.shape),
    ),
    "attention-scale-after-softmax": (
        "the probabilities are divided by sqrt(32) instead of the scores",
        lambda s: ops.softmax(s * math.sqrt(32)) / math.sqrt(32),
    ),
    "attention-scale-length": (
        "attention scores are divided by sqrt(S), the number of tokens, instead of sqrt(32)",
        lambda s: ops.softmax(s * math.sqrt(32) / math.sqrt(s.shape[-1])),
    ),
}  # fmt: skip

POOLINGS: dict[str, tuple[str, Callable[[Array], Array]]] = {  # (S, H) -> (H,)
    "pooling-over-width": ("the mean of each token's elements instead of the mean over tokens", lambda x: x.mean(1)),
    "pooling-last": ("the vector of [SEP], the last token, instead of the mean", lambda x: x[-1]),
    "pooling-second": ("the vector of the token after [CLS] instead of the mean", lambda x: x[1]),
    "pooling-min": ("the minimum instead of the mean", lambda x: x.min(0)),
    "pooling-median": ("the median instead of the mean", lambda x: np.median(x, axis=0)),
    "pooling-without-cls": ("the mean leaves out [CLS]", lambda x: x[1:].mean(0)),
    "pooling-without-sep": ("the mean leaves out [SEP]", lambda x: x[:-1].mean(0)),
    "pooling-of-unit-tokens": (
        "each token's vector is scaled to length 1 before the mean",
        lambda x: ops.l2_normalize(x).mean(0),
    ),
    "pooling-of-squares": ("the mean of the squares", lambda x: np.square(x).mean(0)),
    "pooling-of-absolutes": ("the mean of the absolute values", lambda x: np.abs(x).mean(0)),
    "pooling-without-scale-of-length": ("the sum is not divided by S", lambda x: x.sum(0)),
    "pooling-missing": ("the hidden states of all tokens are returned, without pooling", lambda x: x),
}


def _mistake(name: str, description: str, **change: Any) -> Mistake:
    return Mistake(name, description, tuple(change.items()))


def _extra(config: BertConfig) -> Iterator[Mistake]:
    """Yield the mistakes that crosscheck's catalogue does not have."""
    L = config.num_hidden_layers

    def everywhere(*modules: str) -> frozenset[str]:
        return frozenset(f"encoder.layer.{i}.{module}" for module in modules for i in range(L))

    # LayerNorm
    for eps in ("1e-01", "1e-02", "1e-03", "1e-04", "1e-07", "1e-08", "1e-09", "1e-10", "1e-11"):
        yield _mistake(
            f"layer-norm-eps-{eps}", f"LayerNorm with eps {float(eps):g} instead of 1e-12", layer_norm_eps=float(eps)
        )
    yield _mistake("layer-norm-eps-missing", "LayerNorm without eps", layer_norm_eps=0.0)
    yield _mistake(
        "layer-norm-eps-outside-root",
        "LayerNorm adds eps to the standard deviation instead of to the variance, before the root",
        eps_place="deviation",
    )
    yield _mistake(
        "layer-norm-without-root",
        "LayerNorm divides by the variance instead of its square root",
        norm_divisor="variance",
    )
    yield _mistake("layer-norm-not-divided", "LayerNorm subtracts the mean but does not divide", norm_divisor="none")
    yield _mistake("layer-norm-mean-kept", "LayerNorm does not subtract the mean", norm_centered=False)
    yield _mistake(
        "layer-norm-rms",
        "x / sqrt(mean(x^2) + eps), which is RMSNorm, instead of LayerNorm",
        norm_divisor="mean square",
        norm_centered=False,
    )
    yield _mistake(
        "layer-norm-over-tokens",
        "LayerNorm takes mean and variance over the tokens instead of over the row",
        norm_over="tokens",
    )
    yield _mistake(
        "layer-norm-over-everything",
        "LayerNorm takes one mean and one variance for the whole matrix",
        norm_over="everything",
    )
    yield _mistake("layer-norm-weight-missing", "LayerNorm does not multiply by its weight", norm_weight=False)
    yield _mistake("layer-norm-bias-missing", "LayerNorm does not add its bias", norm_bias=False)
    yield _mistake(
        "layer-norm-weight-and-bias-missing",
        "LayerNorm uses neither its weight nor its bias",
        norm_weight=False,
        norm_bias=False,
    )
    yield _mistake(
        "layer-norm-bias-before-weight",
        "LayerNorm adds its bias before it multiplies by its weight",
        norm_affine="bias first",
    )
    yield _mistake(
        "layer-norm-weight-and-bias-swapped",
        "LayerNorm multiplies by its bias and adds its weight",
        norm_affine="swapped",
    )
    # embeddings
    yield _mistake("token-types-ignored", "token_type_ids are not used: every token has type 0", token_types_used=False)
    yield _mistake("word-embeddings-missing", "no word embedding is added", words_used=False)
    yield _mistake(
        "embeddings-scaled",
        "word embeddings are multiplied by sqrt(384), as in the original transformer",
        word_factor=math.sqrt(384),
    )
    yield _mistake(
        "positions-sinusoidal", "sine and cosine positions instead of the learned table", positions="sinusoidal"
    )
    yield _mistake("positions-reversed", "positions are counted from the end of the sentence", positions="reversed")
    # attention
    for name, (description, _) in WEIGHTINGS.items():
        yield _mistake(name, description, weighting=name)
    yield _mistake("attention-causal", "a causal mask: no token attends to later tokens", masked="causal")
    yield _mistake(
        "attention-causal-reversed", "a reversed causal mask: no token attends to earlier tokens", masked="future only"
    )
    yield _mistake("attention-self-masked", "no token attends to itself", masked="self")
    yield _mistake(
        "attention-probs-transposed",
        "the probabilities are transposed before they weigh the values",
        probs_transposed=True,
    )
    yield _mistake(
        "attention-scale-multiplied",
        "attention scores are multiplied by sqrt(32) instead of divided",
        score_divisor=1 / math.sqrt(32),
    )
    yield _mistake(
        "attention-scale-heads",
        "attention scores are divided by sqrt(12), the number of heads, instead of sqrt(32)",
        score_divisor=math.sqrt(12),
    )
    yield _mistake("attention-one-head", "one head of 384 columns instead of 12 of 32", num_heads=1)
    yield _mistake(
        "attention-one-head-scale-32",
        "one head of 384 columns instead of 12 of 32, with scores divided by sqrt(32)",
        num_heads=1,
        score_divisor=math.sqrt(32),
    )
    for heads in (2, 3, 4, 6, 8, 16, 24, 32, 48):
        yield _mistake(
            f"attention-{heads}-heads", f"{heads} heads of {384 // heads} columns instead of 12 of 32", num_heads=heads
        )
    for order, name, description in (
        ((0, 0, 2), "attention-query-as-key", "the query is used as the key, too"),
        ((1, 1, 2), "attention-key-as-query", "the key is used as the query, too"),
        ((0, 1, 0), "attention-query-as-value", "the query is used as the value, too"),
        ((0, 1, 1), "attention-key-as-value", "the key is used as the value, too"),
        ((0, 2, 2), "attention-value-as-key", "the value is used as the key, too"),
        ((2, 1, 2), "attention-value-as-query", "the value is used as the query, too"),
        ((1, 2, 0), "attention-qkv-rotated", "query, key and value are key, value and query"),
        ((2, 0, 1), "attention-qkv-rotated-back", "query, key and value are value, query and key"),
        ((0, 0, 0), "attention-query-only", "the query is used as key and value, too"),
    ):
        yield _mistake(name, description, attention_order=order)
    for name, description, split, merged in (
        (
            "heads-split-untransposed",
            "(S, 384) is reshaped to (12, S, 32) without transposing",
            "not transposed",
            "blocks",
        ),
        (
            "heads-split-interleaved",
            "columns are assigned to heads in turn instead of in blocks of 32, and put back in blocks",
            "interleaved",
            "blocks",
        ),
        (
            "heads-merged-interleaved",
            "the heads' columns are put side by side in turn instead of in blocks of 32",
            "blocks",
            "interleaved",
        ),
    ):
        yield _mistake(name, description, heads=split, merged=merged)
    yield _mistake(
        "attention-scale-64",
        "attention scores are divided by 8, as for heads of 64 columns, instead of sqrt(32)",
        score_divisor=8.0,
    )
    yield _mistake("attention-output-dense-missing", "attention.output.dense is missing", output_dense=False)
    # sublayers
    yield _mistake(
        "weight-transposed-query-key-value",
        "the weights of query, key and value are transposed",
        transposed=everywhere("attention.self.query", "attention.self.key", "attention.self.value"),
    )
    yield _mistake(
        "weight-transposed-query-key",
        "the weights of query and key are transposed",
        transposed=everywhere("attention.self.query", "attention.self.key"),
    )
    yield _mistake(
        "bias-dropped-query-key-value",
        "the biases of query, key and value are not added",
        without_bias=everywhere("attention.self.query", "attention.self.key", "attention.self.value"),
    )
    yield _mistake(
        "bias-dropped-query-key",
        "the biases of query and key are not added",
        without_bias=everywhere("attention.self.query", "attention.self.key"),
    )
    yield _mistake(
        "residual-after-layer-norm", "the residual is added after LayerNorm instead of before it", residual="after"
    )
    yield _mistake(
        "residual-of-itself",
        "the sublayer's output is added to itself instead of to its input",
        residual="sublayer twice",
    )
    yield _mistake("residual-twice", "the residual is added twice", residual="input twice")
    yield _mistake(
        "layer-norm-of-other-sublayer",
        "the LayerNorm has the parameters of the layer's other LayerNorm",
        norm_of="the other sublayer",
    )
    yield _mistake(
        "layer-norm-of-embeddings", "the LayerNorm has the parameters of embeddings.LayerNorm", norm_of="embeddings"
    )
    for module in ("intermediate.dense", "output.dense"):
        name = f"weight-reshaped-{module.split('.')[0]}"
        yield _mistake(name, f"the weight of {module} is reshaped instead of transposed", reshaped=everywhere(module))
    yield _mistake(
        "weight-reshaped-both",
        "the weights of the dense layers are reshaped instead of transposed",
        reshaped=everywhere("intermediate.dense", "output.dense"),
    )
    for i in range(L):
        yield _mistake(f"parameters-of-layer-{i}", f"every layer uses the parameters of layer {i}", parameter_layer=i)
    for name, (description, _) in ACTIVATIONS.items():
        yield _mistake(name, description, activation=name)
    yield _mistake(
        "activation-after-output", "GELU after the second dense layer instead of the first", activation_after="output"
    )
    yield _mistake("activation-twice", "GELU after both dense layers", activation_after="both")
    # pooling
    for name, (description, _) in POOLINGS.items():
        yield _mistake(name, description, pooled=name)
        yield _mistake(
            f"{name}-not-normalized", f"{description}; not scaled to length 1", pooled=name, form="no-normalization"
        )
    yield _mistake(
        "pooling-cls-not-normalized", "the vector of [CLS], not scaled to length 1", pooling_mode="cls", scaling="none"
    )
    for name, description, _ in FORMS:
        if name != "unit":
            yield _mistake(name, description, form=name)
    # the loop
    for i in range(L):
        yield _mistake(f"layer-{i}-repeated", f"every layer is layer {i}", layers=(i,) * L)
    yield _mistake(
        "hidden-states-not-passed-on",
        "every layer gets the embeddings: its output is not passed to the next",
        layers=(L - 1,),
    )
    yield _mistake("last-layer-twice", "the last layer runs twice", layers=(*range(L), L - 1))
    yield _mistake("first-layer-twice", "the first layer runs twice", layers=(0, *range(L)))
    yield _mistake("each-layer-twice", "each layer runs twice", layers=tuple(i for i in range(L) for _ in range(2)))
    yield _mistake("all-layers-twice", "the six layers run twice", layers=(*range(L), *range(L)))
    yield _mistake(
        "feed-forward-missing", "feed_forward is not called, or its result is not used", sublayers="attention"
    )
    yield _mistake("attention-missing", "attention is not called, or its result is not used", sublayers="feed_forward")
    yield _mistake("sublayers-swapped", "feed_forward runs before attention", sublayers="swapped")
    yield _mistake(
        "sublayers-grouped", "all layers' attention runs before all layers' feed_forward", sublayers="grouped"
    )
    yield _mistake("pooling-left-out", "pooling is not called: the hidden states are returned", pooling=False)


NORM_FIELDS = frozenset(
    (
        *("layer_norm_eps", "unbiased_variance", "eps_place", "norm_divisor", "norm_centered"),
        *("norm_over", "norm_weight", "norm_bias", "norm_affine"),
    )
)
SUBLAYER_FIELDS = frozenset(
    (
        *(
            "transposed",
            "reshaped",
            "without_bias",
            "without_norm",
            "without_residual",
            "pre_norm",
            "residual",
            "norm_of",
        ),
        "parameter_layer",
    )
)
FIELDS: dict[str, frozenset[str]] = {  # the fields that change a hole's result
    "embeddings": NORM_FIELDS
    | {"without_norm", "without_bias", "token_type", "token_types_used", "position_offset", "positions_from"}
    | {"without_positions", "positions", "word_factor", "words_used"},
    "layer_norm": NORM_FIELDS,
    "attention": NORM_FIELDS
    | SUBLAYER_FIELDS
    | {"attention_scale", "attention_order", "heads", "weighting", "masked", "probs_transposed", "num_heads"}
    | {"score_divisor", "output_dense", "merged"},
    "feed_forward": NORM_FIELDS | SUBLAYER_FIELDS | {"hidden_act", "activation", "activation_after"},
    "pooling": frozenset(("pooling_mode", "specials_pooled", "scaling", "pooled", "form")),
    "encode": frozenset(("layers", "sublayers", "pooling", "token_types_used", "token_type")),
}


def known_mistakes(hole: str, config: BertConfig) -> list[Mistake]:
    """Return the mistakes that can be made in a hole: those of crosscheck's catalogue first, with their names."""
    mistakes: dict[str, Mistake] = {}
    for mistake in [*catalogue(config), *_extra(config)]:
        if all(field in FIELDS[hole] for field, _ in mistake.change) and "pooler" not in mistake.name:
            mistakes.setdefault(mistake.name, mistake)
    return list(mistakes.values())


# --- parameters --------------------------------------------------------------------------------


class Parameters:
    """The checkpoint's parameters, some of them replaced, and the dense layers that variants make of them."""

    def __init__(self, params: Mapping[str, Array], replaced: Mapping[str, Array]):
        self.params = {**params, **replaced}
        for value in replaced.values():
            value.flags.writeable = False  # as those of the checkpoint
        self.dense = lru_cache(256)(self._dense)

    def _dense(
        self,
        modules: tuple[str, ...],
        transposed: frozenset[str],
        reshaped: frozenset[str],
        without_bias: frozenset[str],
    ) -> ops.Dense:
        """Return these dense modules, stacked."""
        weights, biases = [], []
        for module in modules:
            weight, bias = self.params[f"{module}.weight"], self.params[f"{module}.bias"]
            if module in transposed:  # as in Simulator: a weight that is not square is read in the wrong memory order
                square = weight.shape[0] == weight.shape[1]
                weight = weight.T if square else np.ascontiguousarray(weight.T).reshape(weight.shape)
            if module in reshaped:
                weight = weight.reshape(weight.shape[::-1]).T
            weights.append(weight)
            biases.append(np.zeros_like(bias) if module in without_bias else bias)
        return ops.Dense(np.concatenate(weights), np.concatenate(biases))

    def modules(self, variant: AnswerVariant | None) -> Modules:
        """Return the modules of a variant, or of the right model, for the op set ops.py, if it is None."""
        return Modules(self, variant)


class Modules(dict[str, Any]):
    """`Bert.weights`, where each module is made when it is used: a hole uses one layer at most."""

    def __init__(self, parameters: Parameters, variant: AnswerVariant | None):
        super().__init__()
        self.parameters, self.named, self.variant = parameters, variant is not None, variant or AnswerVariant()

    def __missing__(self, name: str) -> Any:
        params, variant = self.parameters.params, self.variant
        if name == "embeddings":
            return tuple(
                params[f"embeddings.{table}_embeddings.weight"] for table in ("word", "token_type", "position")
            )
        source = name
        if variant.parameter_layer is not None and name.startswith("encoder.layer."):
            source = f"encoder.layer.{variant.parameter_layer}.{name.split('.', 3)[3]}"
        if name.endswith("LayerNorm"):
            weight, bias = params[f"{source}.weight"], params[f"{source}.bias"]
            value: Any = (weight, np.zeros_like(bias) if source in variant.without_bias else bias)
        else:
            parts = ("query", "key", "value")
            stacked = tuple(f"{source}.{part}" for part in parts) if name.endswith(".self") else (source,)
            inside = frozenset(stacked)
            changes = (variant.transposed & inside, variant.reshaped & inside, variant.without_bias & inside)
            value = self.parameters.dense(stacked, *changes)
        self[name] = Named(name, value) if self.named else value
        return self[name]


# --- operations --------------------------------------------------------------------------------


def sentence(token_ids: Array, token_type_ids: Array) -> Batch:
    """Return a batch of one sentence."""
    S = len(token_ids)
    tokens = Tokens(np.asarray(token_ids), np.asarray(token_type_ids), np.array([0, S]))
    return Batch(tokens, np.arange(S), np.array([S]), np.ones(S, bool))


class AnswerOps(VariantOps):
    """The op set of an `AnswerVariant`, for one sentence."""

    variant: AnswerVariant

    def __init__(self, variant: AnswerVariant, batch: Batch, bert: Bert):
        super().__init__(variant, batch, bert)

    def embed(
        self, ids: Array, types: Array, positions: Array, tables: Any, norm: Named, eps: float
    ) -> Array:  # (S,), (S,), (S,) -> (S, H)
        variant = self.variant
        word, token_type, position = tables
        x = variant.word_factor * word[ids] if variant.words_used else np.zeros((len(ids), word.shape[1]))
        if variant.token_type is not None:
            types = (
                types
                if variant.token_types_used and variant.token_type == 0
                else np.full_like(types, variant.token_type)
            )
            x = x + token_type[types]
        if variant.positions_from == "nothing":
            positions = np.zeros_like(positions)
        if variant.positions == "reversed":
            positions = positions[::-1]
        table = _sinusoids(*position.shape) if variant.positions == "sinusoidal" else position
        if not variant.without_positions:
            x = x + table[positions + variant.position_offset]
        return self._layer_norm(x, norm, eps)

    def linear(self, x: Array, dense: Named, activation: str | None) -> Array:  # (S, inputs) -> (S, outputs)
        variant = self.variant
        if dense.name.endswith("attention.output.dense"):
            return super().linear(x, dense, None) if variant.output_dense else x
        place = {"intermediate.dense": "intermediate", "output.dense": "output"}.get(
            ".".join(dense.name.split(".")[-2:])
        )
        if place is None:
            return super().linear(x, dense, None)
        if variant.activation_after not in (place, "both"):
            return super().linear(x, dense, None)
        if variant.activation:
            return ACTIVATIONS[variant.activation][1](super().linear(x, dense, None))
        return super().linear(x, dense, variant.hidden_act)

    def add_layer_norm(self, x: Array, residual: Array, norm: Named, eps: float) -> Array:  # (S, H) -> (S, H)
        variant = self.variant
        if variant.norm_of != "this sublayer":
            mine, other = (
                ("attention.output.", "output.")
                if ".attention.output." in norm.name
                else ("output.", "attention.output.")
            )
            name = norm.name.replace(mine, other)
            norm = Named(
                norm.name, self.bert.weights["embeddings.LayerNorm" if variant.norm_of == "embeddings" else name].value
            )
        if variant.residual == "after":
            return np.asarray(self._layer_norm(x, norm, eps) + residual)
        if variant.residual == "sublayer twice":
            residual = x
        return super().add_layer_norm(x, 2 * residual if variant.residual == "input twice" else residual, norm, eps)

    def _layer_norm(self, x: Array, norm: Named, eps: float) -> Array:  # (S, H) -> (S, H)
        variant = self.variant
        if norm.name in variant.without_norm:
            return x
        axes: Any = {"row": -1, "tokens": 0, "everything": None}[variant.norm_over]
        weight, bias = norm.value
        if variant.norm_affine == "swapped":
            weight, bias = bias, weight
        centered = x - x.mean(axis=axes, keepdims=True)
        n = x.size if axes is None else x.shape[axes]
        variance = np.sum(centered * centered, axis=axes, keepdims=True) / (n - 1 if variant.unbiased_variance else n)
        if variant.norm_divisor == "mean square":
            variance = np.mean(x * x, axis=axes, keepdims=True)
        y = centered if variant.norm_centered else x
        if variant.norm_divisor == "variance":
            y = y / (variance + eps)
        elif variant.norm_divisor != "none":
            y = y / (np.sqrt(variance) + eps if variant.eps_place == "deviation" else np.sqrt(variance + eps))
        weight = weight if variant.norm_weight else np.ones_like(weight)
        bias = bias if variant.norm_bias else np.zeros_like(bias)
        return np.asarray((y + bias) * weight if variant.norm_affine == "bias first" else y * weight + bias)

    def attention(self, qkv: Array, offsets: Array, num_heads: int) -> Array:  # (S, 3H) -> (S, H)
        if self.variant.merged == "as split":
            return super().attention(qkv, offsets, num_heads)
        probs, value = next(self._heads(qkv, offsets, num_heads))
        order = (1, 0, 2) if self.variant.merged == "blocks" else (1, 2, 0)
        return np.asarray((probs @ value).transpose(order).reshape(len(qkv), -1))

    def _heads(self, qkv: Array, offsets: Array, num_heads: int) -> Iterator[tuple[Array, Array]]:
        """Yield attention_probs (N, S, S) and value (N, S, D)."""
        variant = self.variant
        if variant.weighting == "softmax" and variant.score_divisor is None:
            heads = super()._heads(qkv, offsets, num_heads)
        else:
            heads = self._weighted(qkv, offsets, num_heads)
        for probs, value in heads:
            yield np.swapaxes(self._mask(probs), -1, -2) if variant.probs_transposed else self._mask(probs), value

    def _weighted(self, qkv: Array, offsets: Array, num_heads: int) -> Iterator[tuple[Array, Array]]:
        variant = self.variant
        divide = {"head squared": math.sqrt(32), "hidden": math.sqrt(12), "none": 1 / math.sqrt(32)}  # beyond sqrt(32)
        weigh = WEIGHTINGS[variant.weighting][1] if variant.weighting != "softmax" else ops.softmax
        for start, stop in pairwise(offsets):
            parts = ops.split_heads(qkv[start:stop], 1, num_heads)[:, 0]  # (3, N, S, D)
            query, key, value = (parts[i] for i in variant.attention_order)
            if variant.score_divisor is not None:
                scores = query @ key.swapaxes(-1, -2) / variant.score_divisor
            else:
                scores = ops.attention_scores(query, key) / divide.get(variant.attention_scale, 1.0)
            yield weigh(scores), value

    def _mask(self, probs: Array) -> Array:  # (N, S, S) -> (N, S, S)
        """Set probabilities to 0 and divide by what is left, which equals -inf for the scores before the softmax."""
        S = probs.shape[-1]
        if self.variant.masked == "none" or S < 2:
            return probs
        seen = {"causal": np.tri(S), "future only": np.tri(S).T, "self": 1 - np.eye(S)}[self.variant.masked]
        left = probs * seen
        return np.asarray(left / left.sum(axis=-1, keepdims=True))

    def pool(self, hidden_states: Array, offsets: Array, mode: str) -> Array:  # (S, H) -> (1, H)
        if self.variant.pooled:
            return np.asarray(POOLINGS[self.variant.pooled][1](hidden_states))[None]
        return super().pool(hidden_states, offsets, mode)

    def l2_normalize(self, x: Array) -> Array:  # (1, H) -> (1, H)
        form = next(function for name, _, function in FORMS if name == self.variant.form)
        return super().l2_normalize(x) if form is FORMS[0][2] else np.asarray(form(x))


def _sinusoids(positions: int, width: int) -> Array:  # -> (positions, H)
    """The position table of Vaswani et al. 2017, section 3.5."""
    angles = np.arange(positions)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(positions, width)
