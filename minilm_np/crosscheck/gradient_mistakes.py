"""The catalogue of mistakes in a backward pass, as the fields of `Decisions` (gradient_variant.py) that they change.

To add a mistake, add a row; if no field expresses it, add one whose default is right, and read it where the backward
pass decides. Mistakes that show in the numbers alone (a constant factor, a transposed matrix, clipping) are in
gradient_forms.py. Rows are ordered from plain to special: of several that fit equally well, the first is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minilm_np.crosscheck.gradient_variant import RIGHT, Decisions

# Fields whose effect depends on which texts are in one call of the model, and those that hold for each layer
BATCH_FIELDS = frozenset(("scatter", "bias_mean", "weight_mean", "norm_mean", "pool"))
TABLE_FIELDS = frozenset(("scatter", "tables", "padding_row"))
OTHER_FIELDS = TABLE_FIELDS | {"scale", "direction", "detached", "loss", "normalize", "pool"}


@dataclass(frozen=True)
class GradientMistake:
    """A mistake, in all layers or in some."""

    name: str  # for instance "softmax-gradient-no-sum"
    description: str
    change: tuple[tuple[str, Any], ...]  # fields of Decisions and their wrong values
    layers: tuple[int, ...] | None = None  # where it is made; None: everywhere

    @property
    def of_layers(self) -> bool:
        """Whether it can be made in one layer and not in another."""
        return not any(field in OTHER_FIELDS for field, _ in self.change)

    @property
    def of_tables(self) -> bool:
        """Whether it changes the gradients of embedding tables only."""
        return all(field in TABLE_FIELDS for field, _ in self.change)

    @property
    def depends_on_batch(self) -> bool:
        """Whether it matters that anchors and positives are computed in one call or in two."""
        return any(field in BATCH_FIELDS for field, _ in self.change)

    def apply(self, decisions: Decisions = RIGHT) -> Decisions:
        """Return the decisions with this mistake added."""
        return replace(decisions, **dict(self.change))

    def only_in(self, layer: int) -> GradientMistake:
        """Return the same mistake in one layer."""
        return replace(self, name=f"{self.name}-layer-{layer}", layers=(layer,),
                       description=f"{self.description}, in layer {layer} only")  # fmt: skip


def _mistake(name: str, description: str, **change: Any) -> GradientMistake:
    replace(RIGHT, **change)
    return GradientMistake(name, description, tuple(change.items()))


def _without(*parts: str) -> frozenset[str]:
    return frozenset(parts)


def in_single_layers(layers: Sequence[int]) -> Iterator[GradientMistake]:
    """Yield every mistake of a layer, made in one of these layers only."""
    for layer in layers:
        yield from (mistake.only_in(layer) for mistake in GRADIENT_MISTAKES if mistake.of_layers)


# fmt: off
GRADIENT_MISTAKES = (
    # the loss
    *(_mistake(f"loss-scale-{name}", f"the loss multiplies cosines by {name}, not by 20", scale=scale)
      for name, scale in (("1", 1.0), ("5", 5.0), ("10", 10.0), ("1/0.07", 1 / 0.07), ("30", 30.0), ("50", 50.0),
                          ("100", 100.0), ("0.05", 0.05))),
    _mistake("loss-symmetric", "the loss is the mean of both directions, anchor to positive and back",
             direction="symmetric"),
    _mistake("loss-symmetric-sum", "the loss is the sum of both directions, anchor to positive and back",
             direction="symmetric-sum"),
    _mistake("loss-symmetric-joint", "the loss has one softmax over both directions", direction="joint"),
    _mistake("loss-direction-reversed", "the loss chooses an anchor for each positive", direction="positives"),
    _mistake("positives-detached", "only the anchors' embeddings get a gradient", detached="positives"),
    _mistake("anchors-detached", "only the positives' embeddings get a gradient", detached="anchors"),
    _mistake("cross-entropy-gradient-no-one", "the cross entropy's gradient is p instead of p - 1 at the positive",
             loss=_without("positive")),
    # the embeddings
    _mistake("normalize-gradient-no-projection", "the normalization's gradient keeps the part along the vector",
             normalize=_without("projection")),
    _mistake("normalize-gradient-no-length", "the normalization's gradient is not divided by |x|",
             normalize=_without("length")),
    _mistake("normalize-gradient-missing", "the gradient passes the normalization unchanged",
             normalize=_without("projection", "length")),
    _mistake("pool-gradient-no-mean", "the mean's gradient is not divided by the number of tokens", pool="1"),
    _mistake("pool-gradient-padded", "the mean's gradient is divided by the padded length", pool="padded"),
    _mistake("pool-gradient-divided-twice", "the mean's gradient is divided twice by the number of tokens",
             pool="square"),
    _mistake("pool-gradient-first-token", "only [CLS] gets the gradient of the mean", pool="first"),
    # activation
    _mistake("gelu-gradient-tanh", "the derivative of tanh GELU instead of erf GELU", activation="tanh"),
    _mistake("gelu-gradient-no-density", "GELU's derivative without x phi(x)", activation="no-density"),
    _mistake("gelu-gradient-relu", "the derivative of ReLU instead of GELU", activation="relu"),
    _mistake("gelu-gradient-at-output", "GELU's derivative at its output instead of its input", activation="at-output"),
    _mistake("gelu-gradient-missing", "the gradient passes GELU unchanged", activation="skipped"),
    _mistake("gelu-gradient-quick", "the derivative of x sigmoid(1.702 x) instead of GELU", activation="quick"),
    _mistake("gelu-gradient-silu", "the derivative of SiLU instead of GELU", activation="silu"),
    _mistake("gelu-gradient-only-density", "GELU's derivative is x phi(x), without Phi(x)", activation="only-density"),
    _mistake("gelu-gradient-density-without-x", "GELU's derivative has phi(x) instead of x phi(x)",
             activation="density-without-x"),
    _mistake("gelu-gradient-density-unscaled", "GELU's derivative has exp(-x^2 / 2) without 1 / sqrt(2 pi)",
             activation="density-unscaled"),
    _mistake("gelu-gradient-density-sqrt-pi", "GELU's derivative has 1 / sqrt(pi) instead of 1 / sqrt(2 pi)",
             activation="density-sqrt-pi"),
    _mistake("gelu-gradient-density-exponent", "GELU's derivative has exp(-x^2) instead of exp(-x^2 / 2)",
             activation="density-exponent"),
    _mistake("gelu-gradient-density-negative", "GELU's derivative is Phi(x) - x phi(x)",
             activation="density-negative"),
    _mistake("gelu-gradient-value", "the gradient is multiplied by GELU itself", activation="value"),
    # LayerNorm
    _mistake("layer-norm-gradient-no-mean", "LayerNorm's gradient without mean(g)", norm=_without("mean")),
    _mistake("layer-norm-gradient-no-projection", "LayerNorm's gradient without z mean(g z)",
             norm=_without("projection")),
    _mistake("layer-norm-gradient-no-means", "LayerNorm's gradient without mean(g) and z mean(g z)",
             norm=_without("mean", "projection")),
    _mistake("layer-norm-gradient-no-deviation", "LayerNorm's gradient is not divided by the deviation",
             norm=_without("deviation")),
    _mistake("layer-norm-gradient-no-weight", "LayerNorm's gradient without its weight: g = dy",
             norm=_without("weight")),
    _mistake("layer-norm-gradient-missing", "the gradient passes LayerNorm unchanged", norm=_without("skip")),
    _mistake("layer-norm-gradient-only-weight", "LayerNorm's gradient is dy w alone",
             norm=_without("mean", "projection", "deviation")),
    _mistake("layer-norm-weight-gradient-x", "the gradient of LayerNorm's weight uses x instead of z",
             norm_weight_from="x"),
    _mistake("layer-norm-weight-gradient-centered", "the gradient of LayerNorm's weight uses x - mean instead of z",
             norm_weight_from="centered"),
    _mistake("layer-norm-weight-gradient-output", "the gradient of LayerNorm's weight uses the output instead of z",
             norm_weight_from="y"),
    _mistake("layer-norm-parameters-gradient-weighted", "the gradients of LayerNorm's parameters use dy w, not dy",
             norm_weighted=True),
    # residuals and sublayers
    _mistake("residual-gradient-missing", "no residual's gradient is added",
             residual=_without("attention.output", "output")),
    _mistake("residual-gradient-missing-attention", "the gradient of attention's residual is not added",
             residual=_without("attention.output")),
    _mistake("residual-gradient-missing-feed-forward", "the gradient of the feed-forward network's residual is not "
             "added", residual=_without("output")),
    _mistake("residual-gradient-before-layer-norm", "the residual gets the gradient of LayerNorm's output, not of its "
             "input", residual_before_norm=True),
    _mistake("sublayer-gradient-missing-attention", "the gradient does not enter attention",
             sublayer=_without("attention.output")),
    _mistake("sublayer-gradient-missing-feed-forward", "the gradient does not enter the feed-forward network",
             sublayer=_without("output")),
    # dense layers
    _mistake("linear-gradient-transposed", "dx = dy W^T instead of dy W in the square matrices", transposed=True),
    *(_mistake(f"gradient-of-{part}-input-missing", f"the input of attention gets no gradient from {part}",
               lost_inputs=_without(part)) for part in ("query", "key", "value")),
    _mistake("gradient-of-query-key-value-inputs-missing", "the input of attention gets no gradient but the residual's",
             lost_inputs=_without("query", "key", "value")),
    # attention
    _mistake("attention-gradient-unscaled", "the scores' gradient is not divided by sqrt(32)", scaled="none"),
    _mistake("attention-gradient-unscaled-query", "the query's gradient is not divided by sqrt(32)", scaled="key"),
    _mistake("attention-gradient-unscaled-key", "the key's gradient is not divided by sqrt(32)", scaled="query"),
    _mistake("attention-gradient-scaled-twice", "the scores' gradient is divided by 32, not by sqrt(32)",
             scaled="twice"),
    _mistake("softmax-gradient-no-sum", "the softmax's gradient is p dp, without its sum", softmax="no-sum"),
    _mistake("softmax-gradient-elementwise", "the softmax's gradient is p (1 - p) dp", softmax="elementwise"),
    _mistake("softmax-gradient-missing", "the gradient passes the softmax unchanged", softmax="skipped"),
    _mistake("softmax-gradient-sum-over-queries", "the softmax's gradient sums over queries instead of keys",
             softmax="sum-over-queries"),
    _mistake("softmax-gradient-sum-over-all", "the softmax's gradient sums over queries and keys",
             softmax="sum-over-all"),
    _mistake("attention-gradient-value-not-transposed", "the value's gradient is P dy instead of P^T dy",
             attention=_without("value")),
    _mistake("attention-gradient-key-not-transposed", "the key's gradient is dS Q instead of dS^T Q",
             attention=_without("key")),
    _mistake("attention-gradient-heads-order", "the gradient is divided into heads without the transpose",
             attention=_without("heads")),
    *(_mistake(f"query-key-value-gradient-order-{'-'.join(('query', 'key', 'value')[i] for i in order)}",
               "the gradients of query, key and value are in another order", parts=order)
      for order in ((1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0), (2, 0, 1))),
    # means instead of sums
    *(_mistake(f"{name}{'-padded' * padded}", f"{text}{', padding included' * padded}", **change,
               **({"padded_count": True} if padded else {}))
      for padded in (False, True)
      for name, text, change in (
        ("bias-gradient-mean", "the gradients of the dense biases are means over tokens", {"bias_mean": True}),
        ("all-bias-gradients-mean", "the gradients of biases and of LayerNorm are means over tokens",
         {"bias_mean": True, "norm_mean": True}),
        ("layer-norm-parameters-gradient-mean", "the gradients of LayerNorm's parameters are means over tokens",
         {"norm_mean": True}),
        ("weight-gradient-mean", "the gradients of dense weights and biases are means over tokens",
         {"bias_mean": True, "weight_mean": True}),
        ("weight-gradient-mean-without-bias", "the gradients of the dense weights are means over tokens",
         {"weight_mean": True}))),
    # the embedding tables
    *(_mistake(f"embedding-gradient-{how}-{tables}", f"{text}, {where}", scatter=how, tables=tables)
      for tables, where in (("word", "in the word table"), ("all", "in all tables"),
                            ("padded", "in all tables, padding included"))
      for how, text in (("last", "rows of equal ids are overwritten instead of added: the last remains"),
                        ("first", "rows of equal ids are overwritten instead of added: the first remains"),
                        ("mean", "rows of equal ids are averaged instead of added"))),
    _mistake("padding-row-gradient", "the row of [PAD] gets a gradient; PyTorch's padding_idx=0 gives it none",
             padding_row=True),
)
