"""The catalogue: every known mistake, as the one decision of a variant that it takes wrongly.

To add one: a line here; if no field of Variant says it, a field there and its place in variant.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any

from minilm_np.crosscheck.variant import LONGEST, Variant
from minilm_np.model import BertConfig

RIGHT = Variant()


@dataclass(frozen=True)
class Mistake:
    name: str  # a slug
    says: str  # for the report
    change: tuple[tuple[str, Any], ...]  # fields of Variant

    def apply(self, variant: Variant = RIGHT) -> Variant:
        return replace(variant, **dict(self.change))

    @property
    def of_batches(self) -> bool:
        """Whether its effect on a text depends on who else is in the batch."""
        return any(
            value == LONGEST if field == "pad_to" else field in ("rows", "positions_from") or value == "int8"
            for field, value in self.change
        )

    @property
    def of_texts(self) -> bool:
        """Whether it can leave one text right and another wrong; arithmetic changes all, more or less, or none."""
        return any(field in OF_TEXTS for field, _ in self.change)

    @property
    def of_whole_model(self) -> bool:
        """Whether it is neither one parameter's nor padding's nor a number format's."""
        return not any(field in OF_A_PART for field, _ in self.change)

    def clashes_with(self, other: Mistake) -> bool:
        """Whether both take the same decision, so that they cannot both be made."""
        return bool({field for field, _ in self.change} & {field for field, _ in other.change})


OF_TEXTS = frozenset(("max_seq_length", "special_tokens", "normalizer", "pad_to", "mask_by_id", "rows"))
OF_A_PART = frozenset(
    ("transposed", "without_bias", "without_norm", "without_residual", "layers", "pad_to", "weights", "activations")
)


def catalogue(config: BertConfig | None = None) -> list[Mistake]:
    """Every known mistake on a checkpoint of this configuration; plain and general ones first."""
    config = config or BertConfig()
    return [Mistake(name, says, tuple(change.items())) for name, says, change in _all(config)]


def _all(config: BertConfig) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield from _ARITHMETIC
    yield from _TOKENS
    yield from _PADDING
    yield from _FORMATS
    yield from _RESULT
    yield from _parameters(config)


def _normalizer(**options: bool) -> dict[str, Any]:
    return {"normalizer": tuple(options.items())}


_ARITHMETIC: list[tuple[str, str, dict[str, Any]]] = [
    ("gelu-tanh", "GELU by its tanh approximation instead of erf", {"hidden_act": "gelu_new"}),
    ("gelu-quick", "x * sigmoid(1.702 x) instead of GELU by erf", {"hidden_act": "quick_gelu"}),
    ("relu", "ReLU instead of GELU", {"hidden_act": "relu"}),
    ("layer-norm-eps-1e-05", "LayerNorm with eps 1e-5 instead of 1e-12", {"layer_norm_eps": 1e-5}),
    ("layer-norm-eps-1e-06", "LayerNorm with eps 1e-6 instead of 1e-12", {"layer_norm_eps": 1e-6}),
    ("layer-norm-unbiased", "LayerNorm divides the variance by H - 1 instead of H", {"unbiased_variance": True}),
    ("embeddings-layer-norm-missing", "no LayerNorm after the embedding tables", {
        "without_norm": frozenset({"embeddings.LayerNorm"})}),
    ("pre-norm", "LayerNorm before each sublayer instead of after it", {"pre_norm": True}),
    ("attention-unscaled", "attention scores are not divided by sqrt(32)", {"attention_scale": "none"}),
    ("attention-scale-hidden", "attention scores are divided by sqrt(384), the hidden size, instead of sqrt(32)", {
        "attention_scale": "hidden"}),
    ("attention-qk-swapped", "query and key are swapped", {"attention_order": (1, 0, 2)}),
    ("attention-kv-swapped", "key and value are swapped", {"attention_order": (0, 2, 1)}),
    ("attention-qv-swapped", "query and value are swapped", {"attention_order": (2, 1, 0)}),
    ("heads-interleaved", "columns are dealt to the heads one by one instead of in blocks of 32", {
        "heads": "interleaved"}),
    ("heads-not-transposed", "(S, 384) is reshaped to (12, S, 32) without transposing", {"heads": "not transposed"}),
    ("heads-not-transposed-padded", "as heads-not-transposed, in a padded batch", {
        "heads": "not transposed", "pad_to": LONGEST}),
    ("heads-merged-untransposed", "the context (12, S, 32) is reshaped to (S, 384) without transposing back", {
        "heads": "not transposed back"}),
    ("heads-merged-untransposed-padded", "as heads-merged-untransposed, in a padded batch", {
        "heads": "not transposed back", "pad_to": LONGEST}),
]  # fmt: skip

_TOKENS: list[tuple[str, str, dict[str, Any]]] = [
    ("truncation-128", "texts are cut at 128 word pieces (tokenizer.json's own setting) instead of 256", {
        "max_seq_length": 128}),
    ("truncation-512", "texts are cut at 512 word pieces, or not at all, instead of at 256", {"max_seq_length": 512}),
    ("no-special-tokens", "no [CLS] and no [SEP]", {"special_tokens": ()}),
    ("no-cls", "no [CLS]", {"special_tokens": ("[SEP]",)}),
    ("no-sep", "no [SEP]", {"special_tokens": ("[CLS]",)}),
    ("cased", "texts are not put in lower case, accents are kept", _normalizer(lowercase=False)),
    ("cased-without-accents", "texts are not put in lower case", _normalizer(lowercase=False, strip_accents=True)),
    ("accents-kept", "accents are kept", _normalizer(strip_accents=False)),
    ("cjk-not-split", "Chinese characters are not words of their own", _normalizer(handle_chinese_chars=False)),
    ("no-unicode-cleaning", "control characters are kept", _normalizer(clean_text=False)),
    ("no-normalizer", "no cleaning, no lower case, accents kept, Chinese not split", _normalizer(
        clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)),
    ("prefix-query", "'query: ' before each text", {"prefix": "query: "}),
    ("prefix-passage", "'passage: ' before each text", {"prefix": "passage: "}),
    ("token-types-missing", "no token type embedding is added", {"token_type": None}),
    ("token-types-1", "token type 1 instead of 0", {"token_type": 1}),
    ("positions-off-by-1", "positions begin at 1 instead of 0", {"position_offset": 1}),
    ("positions-off-by-2", "positions begin at 2 instead of 0, as in RoBERTa", {"position_offset": 2}),
    ("positions-not-restarted", "positions run on from text to text of a batch", {"positions_from": "batch"}),
    ("positions-left-padded", "positions count from the left padding instead of from [CLS]", {
        "positions_from": "left padding"}),
]  # fmt: skip

_PADDING: list[tuple[str, str, dict[str, Any]]] = [
    (f"{slug}{suffix}", f"{says}; {where}", {"pad_to": to, **change})
    for slug, says, change in (
        ("padding-attended", "padding is attended to", {"padding_attended": True}),
        ("padding-in-mean", "padding is in the mean", {"padding_pooled": True}),
        ("padding-unmasked", "padding is attended to and in the mean", {
            "padding_attended": True, "padding_pooled": True}),
    )
    for suffix, where, to in (
        ("", "padded to the longest of a batch", LONGEST),
        ("-128", "padded to 128", 128),
        ("-256", "padded to 256", 256),
        ("-512", "padded to 512", 512),
    )
]  # fmt: skip

_PADDING.append(
    ("padding-mask-by-id", "the mask is token_ids != 0, so a [PAD] written in a text is padding", {"mask_by_id": True})
)

_FORMATS: list[tuple[str, str, dict[str, Any]]] = [
    ("fp16-weights", "weights in float16", {"weights": "fp16"}),
    ("fp16-activations", "weights and activations in float16", {"weights": "fp16", "activations": "fp16"}),
    ("bf16-weights", "weights in bfloat16", {"weights": "bf16"}),
    ("bf16-activations", "weights and activations in bfloat16", {"weights": "bf16", "activations": "bf16"}),
    ("int8-weights-per-tensor", "dense weights in int8, a scale for each tensor", {"weights": "int8 per tensor"}),
    ("int8-weights-per-channel", "dense weights in int8, a scale for each output", {"weights": "int8 per channel"}),
    ("int8-dynamic", "dense weights and embedding tables in int8, activations in uint8 by their range", {
        "weights": "int8 per tensor", "tables": "int8 per tensor", "activations": "int8", "pad_to": LONGEST}),
    ("int8-dynamic-dense", "dense weights in int8, activations in uint8 by their range", {
        "weights": "int8 per tensor", "activations": "int8", "pad_to": LONGEST}),
    ("int8-dynamic-per-channel", "dense weights in int8 by output, activations in uint8 by their range", {
        "weights": "int8 per channel", "activations": "int8", "pad_to": LONGEST}),
]  # fmt: skip

_RESULT: list[tuple[str, str, dict[str, Any]]] = [
    ("pooling-cls", "the vector of [CLS] instead of the mean", {"pooling_mode": "cls"}),
    ("pooling-max", "the maximum instead of the mean", {"pooling_mode": "max"}),
    ("pooling-mean-sqrt-len", "the sum divided by sqrt(S), not scaled to length 1", {
        "pooling_mode": "mean_sqrt_len_tokens", "scaling": "none"}),
    ("pooling-without-specials", "[CLS] and [SEP] are left out of the mean", {"specials_pooled": False}),
    ("no-normalization", "vectors are not scaled to length 1", {"scaling": "none"}),
    ("normalization-twice", "vectors are divided by their length twice", {"scaling": "twice"}),
    ("rows-longest-first", "rows come back sorted by length, longest first", {"rows": "longest first"}),
    ("rows-shortest-first", "rows come back sorted by length, shortest first", {"rows": "shortest first"}),
    ("rows-first-repeated", "the first row comes twice, the last is missing", {"rows": "first repeated"}),
    ("rows-all-first", "every row is the batch's first", {"rows": "all first"}),
]  # fmt: skip


def _parameters(config: BertConfig) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What can go wrong with each parameter, in all layers and in one."""
    L = config.num_hidden_layers
    dense = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention-output": "attention.output.dense",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
    }
    norms = {"attention-layer-norm": "attention.output.LayerNorm", "output-layer-norm": "output.LayerNorm"}

    def everywhere(module: str) -> list[str]:
        return [f"encoder.layer.{i}.{module}" for i in range(L)]

    for slug, modules in [("all-layers", range(L)), *((f"layer-{i}", [i]) for i in range(L))]:
        where = "all layers" if slug == "all-layers" else f"layer {modules[0]}"
        for name, module in dense.items():
            yield (
                f"weight-transposed-{name}-{slug}",
                f"the weight of {module} is read in the wrong order (transposed), {where}",
                {"transposed": frozenset(everywhere(module)[i] for i in modules)},
            )
        for name, module in (dense | norms).items():
            yield (
                f"bias-dropped-{name}-{slug}",
                f"the bias of {module} is not added, {where}",
                {"without_bias": frozenset(everywhere(module)[i] for i in modules)},
            )
        for name, module in norms.items():
            yield (
                f"residual-dropped-{name.removesuffix('-layer-norm')}-{slug}",
                f"the residual before {module} is not added, {where}",
                {"without_residual": frozenset(everywhere(module)[i] for i in modules)},
            )
            yield (
                f"layer-norm-missing-{name.removesuffix('-layer-norm')}-{slug}",
                f"{module} is left out, {where}",
                {"without_norm": frozenset(everywhere(module)[i] for i in modules)},
            )
    every = [module for name in dense.values() for module in everywhere(name)]
    both = [module for name in norms.values() for module in everywhere(name)]
    yield "weight-transposed-all", "every dense weight is read in the wrong order", {"transposed": frozenset(every)}
    yield "bias-dropped-all-dense", "no dense layer adds its bias", {"without_bias": frozenset(every)}
    yield "bias-dropped-all", "no bias is added", {"without_bias": frozenset([*every, *both, "embeddings.LayerNorm"])}
    yield "bias-dropped-embeddings", "embeddings.LayerNorm's bias is not added", {
        "without_bias": frozenset({"embeddings.LayerNorm"})}  # fmt: skip
    yield "residual-dropped-all", "no residual is added", {"without_residual": frozenset(both)}
    for i in range(L):
        slug = "last-layer-dropped" if i == L - 1 else f"layer-dropped-{i}"
        yield slug, f"layer {i} is left out", {"layers": tuple(j for j in range(L) if j != i)}
    for i, j in combinations(range(L), 2):
        order = list(range(L))
        order[i], order[j] = j, i
        yield f"layers-swapped-{i}-{j}", f"layers {i} and {j} are swapped", {"layers": tuple(order)}
    yield "layers-reversed", "layers in the reverse order", {"layers": tuple(reversed(range(L)))}


def _check() -> None:
    """A misspelt field would be found only when its mistake is tried."""
    known = {field.name for field in fields(Variant)}
    for mistake in catalogue():
        assert {field for field, _ in mistake.change} <= known, mistake.name


_check()
