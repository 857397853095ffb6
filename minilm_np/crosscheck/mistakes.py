"""The catalogue: every known mistake, as the decisions of a `Variant` that it changes.

A row of the tables below is a name for reports and the command line, a description, and one or more fields of `Variant`
(variant.py) with their wrong values.

To add a mistake:

1. Add a row to the table it belongs to. If no field of `Variant` expresses the mistake, add one whose default is the
   correct decision, and read it in variant.py at the place where the model makes this decision.
2. If the new field affects only some texts, texts in a batch, or one part of the model, add it to a set at the end of
   this file's first section; the search uses these to skip work.
3. Make the same mistake in PyTorch in tests/support/faults.py, and check that it is found:
   `python bench/confusion.py NAME`.

Rows are ordered from plain and general to specific: of several mistakes that fit, the report lists the earlier first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from minilm_np.crosscheck.variant import LONGEST, Variant
from minilm_np.crosscheck.word_pieces import RULES
from minilm_np.model import BertConfig

RIGHT = Variant()

# Fields whose effect on a text depends on the other texts of the batch. The same holds for padding to LONGEST and for
# int8 activations, which share one range.
BATCH_FIELDS = frozenset(("rows", "positions_from"))
# Fields that can leave one text right and another wrong; all others change every text or none.
TEXT_FIELDS = frozenset(
    ("max_seq_length", "special_tokens", "normalizer", "rule", "chunks", "pad_to", "mask_by_id", "rows")
)
# Fields that change what the encoder receives of a text, and no arithmetic: a text that keeps its word pieces keeps its
# vector. A port has one tokenizer, so `rule` clashes with the others.
WORD_PIECE_FIELDS = frozenset(("prefix", "rule", "normalizer", "max_seq_length", "special_tokens", "chunks"))
# Fields about one parameter, padding or a number format rather than the whole model.
PART_FIELDS = frozenset(
    (
        *("transposed", "without_bias", "without_norm", "without_residual", "layers", "pad_to"),
        *("weights", "activations", "rule", "chunks"),
    )
)


@dataclass(frozen=True)
class Mistake:
    name: str  # for instance "gelu-tanh"
    description: str
    change: tuple[tuple[str, Any], ...]  # fields of Variant and their wrong values

    def apply(self, variant: Variant = RIGHT) -> Variant:
        """Return the variant with this mistake added."""
        return replace(variant, **dict(self.change))

    @property
    def depends_on_batch(self) -> bool:
        """Whether the effect on a text depends on the other texts of its batch."""
        return any(
            value == LONGEST if field == "pad_to" else field in BATCH_FIELDS or value == "int8"
            for field, value in self.change
        )

    @property
    def can_spare_texts(self) -> bool:
        """Whether some texts may stay right. A mistake of arithmetic changes every text, more or less, or none."""
        return any(field in TEXT_FIELDS for field, _ in self.change)

    @property
    def concerns_whole_model(self) -> bool:
        """Whether it is about more than one parameter, padding or a number format."""
        return not any(field in PART_FIELDS for field, _ in self.change)

    def clashes_with(self, other: Mistake) -> bool:
        """Whether both change the same decision, so that a port cannot make both."""
        mine, others = ({field for field, _ in mistake.change} for mistake in (self, other))
        if "rule" in mine | others and mine & WORD_PIECE_FIELDS and others & WORD_PIECE_FIELDS:
            return True
        return bool(mine & others)

    @property
    def concerns_word_pieces(self) -> bool:
        """Whether a text keeps its right vector if it keeps its word pieces."""
        return all(field in WORD_PIECE_FIELDS for field, _ in self.change)

    @property
    def is_slow(self) -> bool:
        """Whether its simulation is slow, because every text is padded to 128 word pieces or more."""
        return any(field == "pad_to" and value != LONGEST for field, value in self.change)

    @property
    def is_rule(self) -> bool:
        """Whether it is one of word_pieces.RULES."""
        return any(field == "rule" for field, _ in self.change)


def mistake(name: str, description: str, **change: Any) -> Mistake:
    """Return one row of the catalogue. Raises TypeError if `change` names a field that Variant does not have."""
    replace(RIGHT, **change)
    return Mistake(name, description, tuple(change.items()))


def catalogue(config: BertConfig | None = None) -> list[Mistake]:
    """Return every known mistake for a checkpoint of this configuration, plain and general ones first."""
    return [
        *ARITHMETIC,
        *TOKENS,
        *PADDING,
        *FORMATS,
        *RESULT,
        *parameter_mistakes(config or BertConfig()),
        *WORD_PIECES,
    ]


# --- the tables --------------------------------------------------------------------------------

# fmt: off
ARITHMETIC = (
    mistake("gelu-tanh", "the tanh approximation of GELU instead of erf", hidden_act="gelu_new"),
    mistake("gelu-quick", "x * sigmoid(1.702 x) instead of GELU with erf", hidden_act="quick_gelu"),
    mistake("relu", "ReLU instead of GELU", hidden_act="relu"),
    mistake("layer-norm-eps-1e-05", "LayerNorm with eps 1e-5 instead of 1e-12", layer_norm_eps=1e-5),
    mistake("layer-norm-eps-1e-06", "LayerNorm with eps 1e-6 instead of 1e-12", layer_norm_eps=1e-6),
    mistake("layer-norm-unbiased", "LayerNorm divides the variance by H - 1 instead of H", unbiased_variance=True),
    mistake("embeddings-layer-norm-missing", "no LayerNorm after the embedding tables",
            without_norm=frozenset({"embeddings.LayerNorm"})),
    mistake("pre-norm", "LayerNorm before each sublayer instead of after it", pre_norm=True),
    mistake("attention-unscaled", "attention scores are not divided by sqrt(32)", attention_scale="none"),
    mistake("attention-scale-hidden", "attention scores are divided by sqrt(384), the hidden size, instead of sqrt(32)",
            attention_scale="hidden"),
    mistake("attention-scale-squared", "attention scores are divided by 32, the head size, instead of sqrt(32)",
            attention_scale="head squared"),
    mistake("attention-uniform", "every token attends to all tokens alike", attention_scale="uniform"),
    mistake("attention-qk-swapped", "query and key are swapped", attention_order=(1, 0, 2)),
    mistake("attention-kv-swapped", "key and value are swapped", attention_order=(0, 2, 1)),
    mistake("attention-qv-swapped", "query and value are swapped", attention_order=(2, 1, 0)),
    mistake("heads-interleaved", "columns are assigned to heads in turn instead of in blocks of 32",
            heads="interleaved"),
    mistake("heads-not-transposed", "(S, 384) is reshaped to (12, S, 32) without transposing", heads="not transposed"),
    mistake("heads-not-transposed-padded", "as heads-not-transposed, in a padded batch",
            heads="not transposed", pad_to=LONGEST),
    mistake("heads-merged-untransposed", "the context (12, S, 32) is reshaped to (S, 384) without transposing back",
            heads="not transposed back"),
    mistake("heads-merged-untransposed-padded", "as heads-merged-untransposed, in a padded batch",
            heads="not transposed back", pad_to=LONGEST),
)


def _normalizer(**options: bool) -> tuple[tuple[str, bool], ...]:
    return tuple(options.items())


TOKENS = (
    mistake("truncation-128", "texts are truncated to 128 word pieces (the setting in tokenizer.json) instead of 256",
            max_seq_length=128),
    mistake("truncation-512", "texts are truncated to 512 word pieces, or not at all, instead of 256",
            max_seq_length=512),
    *(
        mistake(f"truncation-{length}", f"texts are truncated to {length} word pieces instead of 256{why}",
                max_seq_length=length)
        for length, why in (
            (32, ""), (64, ""), (254, " (256 without room for [CLS] and [SEP])"),
            (258, " (256 and [CLS] and [SEP])"), (384, ""))
    ),
    mistake("chunks-averaged", "a long text is encoded in parts, whose vectors are averaged", chunks="averaged"),
    mistake("chunks-averaged-by-length",
            "a long text is encoded in parts, whose vectors are averaged with their lengths as weights",
            chunks="averaged by length"),
    mistake("no-special-tokens", "[CLS] and [SEP] are missing", special_tokens=()),
    mistake("no-cls", "[CLS] is missing", special_tokens=("[SEP]",)),
    mistake("no-sep", "[SEP] is missing", special_tokens=("[CLS]",)),
    mistake("cased", "texts are not lowercased, and accents are kept", normalizer=_normalizer(lowercase=False)),
    mistake("cased-without-accents", "texts are not lowercased",
            normalizer=_normalizer(lowercase=False, strip_accents=True)),
    mistake("accents-kept", "accents are kept", normalizer=_normalizer(strip_accents=False)),
    mistake("cjk-not-split", "Chinese characters are not split into separate words",
            normalizer=_normalizer(handle_chinese_chars=False)),
    mistake("no-unicode-cleaning", "control characters are kept", normalizer=_normalizer(clean_text=False)),
    mistake("no-normalizer", "no text cleaning, lowercasing, accent stripping or splitting of Chinese characters",
            normalizer=_normalizer(
                clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)),
    mistake("prefix-query", "'query: ' is added in front of each text", prefix="query: "),
    mistake("prefix-passage", "'passage: ' is added in front of each text", prefix="passage: "),
    mistake("token-types-missing", "no token type embedding is added", token_type=None),
    mistake("token-types-1", "token type 1 instead of 0", token_type=1),
    mistake("positions-off-by-1", "positions start at 1 instead of 0", position_offset=1),
    mistake("positions-off-by-2", "positions start at 2 instead of 0, as in RoBERTa", position_offset=2),
    mistake("positions-not-restarted", "positions continue from one text of a batch to the next",
            positions_from="batch"),
    mistake("positions-left-padded", "positions count from the left padding instead of from [CLS]",
            positions_from="left padding"),
    mistake("positions-all-0", "every position is 0", positions_from="nothing"),
    mistake("positions-missing", "no position embedding is added", without_positions=True),
    mistake("mask-and-types-swapped",
            "attention_mask and token_type_ids are swapped: token types are 1, and no token may be attended to",
            token_type="mask", attention_scale="uniform", padding_attended=True, pad_to=LONGEST),
    mistake("mask-and-types-swapped-unmasked",
            "attention_mask and token_type_ids are swapped: token types are 1, and attention includes padding",
            token_type="mask", padding_attended=True, pad_to=LONGEST),
)

PADDING = (
    *(
        mistake(f"{name}{suffix}", f"{description}; {width}", pad_to=pad_to, **change)
        for name, description, change in (
            ("padding-attended", "attention includes padding", {"padding_attended": True}),
            ("padding-in-mean", "the mean includes padding", {"padding_pooled": True}),
            ("padding-unmasked", "attention and the mean include padding",
                {"padding_attended": True, "padding_pooled": True}),
        )
        for suffix, width, pad_to in (
            ("", "padded to the longest text of the batch", LONGEST),
            ("-128", "padded to 128", 128),
            ("-256", "padded to 256", 256),
            ("-512", "padded to 512", 512),
        )
    ),
    mistake("padding-mask-by-id", "the mask is token_ids != 0, which also hides a [PAD] written in a text",
            mask_by_id=True),
)

FORMATS = (
    mistake("fp16-weights", "weights in float16", weights="fp16"),
    mistake("fp16-activations", "weights and activations in float16", weights="fp16", activations="fp16"),
    mistake("bf16-weights", "weights in bfloat16", weights="bf16"),
    mistake("bf16-activations", "weights and activations in bfloat16", weights="bf16", activations="bf16"),
    mistake("bf16-dense", "weights and inputs of dense layers in bfloat16",
            weights="bf16 dense", activations="bf16 dense"),
    mistake("int8-weights-per-tensor", "dense weights in int8, one scale per tensor", weights="int8 per tensor"),
    mistake("int8-weights-per-channel", "dense weights in int8, one scale per output", weights="int8 per channel"),
    mistake("int8-dynamic", "dense weights and embedding tables in int8, activations in uint8, scaled to their range",
            weights="int8 per tensor", tables="int8 per tensor", activations="int8", pad_to=LONGEST),
    mistake("int8-dynamic-dense", "dense weights in int8, activations in uint8, scaled to their range",
            weights="int8 per tensor", activations="int8", pad_to=LONGEST),
    mistake("int8-dynamic-per-channel",
            "dense weights in int8, one scale per output, activations in uint8, scaled to their range",
            weights="int8 per channel", activations="int8", pad_to=LONGEST),
    mistake("int8-dense", "dense weights in int8, one scale per output, their inputs in uint8, one range per token",
            weights="int8 dense", activations="int8 per token"),
)

RESULT = (
    mistake("pooling-cls", "the vector of [CLS] instead of the mean", pooling_mode="cls"),
    mistake("pooling-max", "the maximum instead of the mean", pooling_mode="max"),
    mistake("pooling-mean-sqrt-len", "the sum divided by sqrt(S), not scaled to length 1",
            pooling_mode="mean_sqrt_len_tokens", scaling="none"),
    mistake("pooling-sum", "the sum instead of the mean, not scaled to length 1", pooling_mode="sum", scaling="none"),
    mistake("mean-over-width", "the sum is divided by the padded length, and not scaled to length 1",
            pooling_mode="mean over width", scaling="none", pad_to=LONGEST),
    mistake("mean-over-width-unmasked", "the mean includes padding, and is not scaled to length 1",
            padding_pooled=True, scaling="none", pad_to=LONGEST),
    mistake("mean-over-width-attended", "attention and the mean include padding; not scaled to length 1",
            padding_attended=True, padding_pooled=True, scaling="none", pad_to=LONGEST),
    mistake("pooler", "the pooler's output instead of the mean of the hidden states", pooling_mode="pooler"),
    mistake("pooler-not-normalized", "the pooler's output, not scaled to length 1",
            pooling_mode="pooler", scaling="none"),
    mistake("pooler-before-tanh", "pooler.dense without tanh instead of the mean", pooling_mode="pooler before tanh"),
    mistake("pooler-before-tanh-not-normalized", "pooler.dense without tanh, not scaled to length 1",
            pooling_mode="pooler before tanh", scaling="none"),
    mistake("pooling-without-specials", "the mean leaves out [CLS] and [SEP]", specials_pooled=False),
    mistake("no-normalization", "vectors are not scaled to length 1", scaling="none"),
    mistake("normalization-twice", "vectors are divided by their length twice", scaling="twice"),
    mistake("rows-longest-first", "rows are returned sorted by length, longest first", rows="longest first"),
    mistake("rows-shortest-first", "rows are returned sorted by length, shortest first", rows="shortest first"),
    mistake("rows-first-repeated", "the first row is returned twice, the last is missing", rows="first repeated"),
    mistake("rows-all-first", "every row is the first row of the batch", rows="all first"),
)
# fmt: on
WORD_PIECES = tuple(mistake(name, rule.description, rule=name) for name, rule in RULES.items())


def parameter_mistakes(config: BertConfig) -> Iterator[Mistake]:
    """Yield what can go wrong with each parameter, in all layers and in each layer, and with the layers' order."""
    L = config.num_hidden_layers
    dense = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention-output": "attention.output.dense",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
    }
    norms = {"attention": "attention.output.LayerNorm", "output": "output.LayerNorm"}
    biased = dense | {f"{name}-layer-norm": module for name, module in norms.items()}

    for scope, where, layers in [
        ("all-layers", "all layers", range(L)),
        *((f"layer-{i}", f"layer {i}", range(i, i + 1)) for i in range(L)),
    ]:

        def in_layers(module: str, layers: range = layers) -> frozenset[str]:
            return frozenset(f"encoder.layer.{i}.{module}" for i in layers)

        for name, module in dense.items():
            description = f"the weight of {module} is transposed: read in the wrong memory order, {where}"
            yield mistake(f"weight-transposed-{name}-{scope}", description, transposed=in_layers(module))
        for name, module in biased.items():
            description = f"the bias of {module} is not added, {where}"
            yield mistake(f"bias-dropped-{name}-{scope}", description, without_bias=in_layers(module))
        for name, module in norms.items():
            description = f"the residual before {module} is not added, {where}"
            yield mistake(f"residual-dropped-{name}-{scope}", description, without_residual=in_layers(module))
            description = f"{module} is missing, {where}"
            yield mistake(f"layer-norm-missing-{name}-{scope}", description, without_norm=in_layers(module))

    def everywhere(modules: dict[str, str]) -> frozenset[str]:
        return frozenset(f"encoder.layer.{i}.{module}" for module in modules.values() for i in range(L))

    first_norm = {"embeddings.LayerNorm"}
    yield mistake("weight-transposed-all", "every dense weight is transposed", transposed=everywhere(dense))
    yield mistake("bias-dropped-all-dense", "no dense layer adds its bias", without_bias=everywhere(dense))
    yield mistake("bias-dropped-all", "no bias is added", without_bias=everywhere(biased) | first_norm)
    description = "the bias of embeddings.LayerNorm is not added"
    yield mistake("bias-dropped-embeddings", description, without_bias=frozenset(first_norm))
    yield mistake("residual-dropped-all", "no residual is added", without_residual=everywhere(norms))
    for i in range(L):
        name = "last-layer-dropped" if i == L - 1 else f"layer-dropped-{i}"
        yield mistake(name, f"layer {i} is missing", layers=tuple(j for j in range(L) if j != i))
    yield mistake("hidden-states-of-embeddings", "the hidden states are those before layer 0", layers=())
    for i in range(L - 2):
        yield mistake(f"hidden-states-of-layer-{i}", f"the hidden states are those after layer {i}",
                      layers=tuple(range(i + 1)))  # fmt: skip
    for i, j in combinations(range(L), 2):
        order = list(range(L))
        order[i], order[j] = j, i
        yield mistake(f"layers-swapped-{i}-{j}", f"layers {i} and {j} are swapped", layers=tuple(order))
    yield mistake("layers-reversed", "the layers run in reverse order", layers=tuple(reversed(range(L))))
