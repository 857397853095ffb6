"""The laboratory of mistakes: what each known mistake of a port does to a few texts.

Every mistake of crosscheck's catalogue is made, one at a time, by crosscheck's own simulator. Left out are the copies
of a mistake in a single layer, such as weight-transposed-query-layer-3; weight-transposed-query-all-layers is there.
"""

from __future__ import annotations

import ast
import inspect
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minilm_np import model, ops
from minilm_np.crosscheck import word_pieces
from minilm_np.crosscheck.mistakes import Mistake, catalogue
from minilm_np.crosscheck.truth import by_text, simulator, tolerance
from minilm_np.crosscheck.variant import Checkpoint, Run, Variant
from minilm_np.encoder import as_texts
from minilm_np.files import replaced
from minilm_np.model import Array
from minilm_np.study.page import asset, environment, json_in_html
from minilm_np.tokenizer import Tokenizer

EXAMPLES = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Two chefs at the Caf\u00e9 Zo\u00eb bake 300 loaves.",
    "It's half-past nine; the man hasn't eaten.",
    "NASA landed on the moon in 1969.",
)
MAX_TEXTS = 20
SMALL_CHANGE = 0.01  # of a cosine
ROUNDING = 1e-6  # changes of a cosine up to this are rounding in float32 (measured: 1.2e-7)
FINAL = "sentence_embedding"


class Code(NamedTuple):
    """A mistake as a difference of one line."""

    right: str
    wrong: str
    file: str = ""  # the file of this package that has the right line; "" if no line of it is the place of the mistake


class Ranked(NamedTuple):
    text: int  # number of the text
    cosine: float  # with the first text


@dataclass(frozen=True)
class Switch:
    """A mistake, and what it does to the texts.

    name, says: those of crosscheck's catalogue. cosine: of the first two texts, with the mistake. error: the largest
    error of an element of the sentence embeddings, against float64. first_wrong_stage: the first stage that is out of
    crosscheck's tolerance, "token_ids" included; None if no stage is. ranking: the other texts by their cosine with the
    first, the most similar first.
    """

    name: str
    says: str
    cosine: float
    error: float
    first_wrong_stage: str | None
    ranking: tuple[Ranked, ...]
    code: Code


class Lesson(NamedTuple):
    """What the cosine of the first two texts shows of the mistakes: numbers of mistakes."""

    mistakes: int
    visible: int  # those whose error is out of tolerance
    small: int  # of the visible ones, those that move the cosine by less than SMALL_CHANGE
    raised: int  # of the visible ones, those that raise it

    def __str__(self) -> str:
        return (
            f"{self.mistakes} mistakes, one at a time; {self.visible} of them change the vectors of these texts.\n"
            f"Of these {self.visible}, {self.small} move the cosine of the first two texts by less than "
            f"{SMALL_CHANGE}, and {self.raised} raise it: a cosine cannot show that a model is right."
        )


@dataclass(frozen=True)
class Laboratory:
    """The mistakes as switches, and the right values without any. texts: the first two are the example pair."""

    texts: tuple[str, ...]
    cosine: float
    ranking: tuple[Ranked, ...]
    switches: tuple[Switch, ...]  # in the order of the catalogue

    def change(self, switch: Switch) -> float:
        """Return by how much the mistake changes the cosine of the example pair."""
        return switch.cosine - self.cosine

    def moves(self, switch: Switch) -> bool:
        """Return whether the mistake puts the other texts in another order."""
        return [ranked.text for ranked in switch.ranking] != [ranked.text for ranked in self.ranking]

    @property
    def lesson(self) -> Lesson:
        """How many mistakes the cosine of the example pair hardly shows."""
        visible = [switch for switch in self.switches if not switch.error <= tolerance(FINAL)]
        small = sum(abs(self.change(switch)) < SMALL_CHANGE for switch in visible)
        raised = sum(self.change(switch) > ROUNDING for switch in visible)
        return Lesson(len(self.switches), len(visible), small, raised)

    def __str__(self) -> str:
        """A table, the largest change of the cosine first, and the lesson."""
        largest_first = sorted(self.switches, key=lambda switch: -_size(self.change(switch)))
        stages = max(len(switch.first_wrong_stage or "none") for switch in self.switches)
        lines = [f"{self.texts[0]!r} and {self.texts[1]!r}: cosine {self.cosine:.4f}", ""]
        lines += [f"{'change':>8} {'cosine':>8} {'error':>8}  {'first wrong stage':{stages}}  ranking  mistake"]
        for switch in largest_first:
            numbers = f"{self.change(switch):+8.4f} {switch.cosine:8.4f} {switch.error:8.1e}"
            ranking = "changed" if self.moves(switch) else "same"
            lines += [f"{numbers}  {switch.first_wrong_stage or 'none':{stages}}  {ranking:7}  {switch.name}"]
        return "\n".join([*lines, "", str(self.lesson)])

    def to_html(self) -> str:
        """Return one HTML page that needs no other file and no network.

        Raises
        ------
        ImportError
            If Jinja2 is not installed; it is in the extra `study`.
        """
        template = environment().from_string(asset("lab.html.j2"))
        from markupsafe import Markup

        page: str = template.render(
            lab=self,
            style=Markup(asset("lab.css")),
            script=Markup(asset("lab.js")),
            data=Markup(json_in_html(self._data())),
        )
        return page

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page of `to_html` to a file."""
        page = self.to_html()
        with replaced(Path(path)) as part:
            part.write_text(page, encoding="utf-8", newline="\n")

    def _data(self) -> dict[str, Any]:
        """Return what the page's script reads. Rounded, so that the page does not depend on the last bits."""

        def ranking(ranked: Iterable[Ranked]) -> list[list[Any]]:
            return [[one.text, _rounded(one.cosine)] for one in ranked]

        return {
            "texts": self.texts,
            "layers": simulator().checkpoint.config.num_hidden_layers,
            "cosine": _rounded(self.cosine),
            "ranking": ranking(self.ranking),
            "switches": [
                {
                    "name": switch.name,
                    "says": switch.says,
                    "cosine": _rounded(switch.cosine),
                    "error": f"{switch.error:.1e}",
                    "stage": switch.first_wrong_stage,
                    "ranking": ranking(switch.ranking),
                    "code": switch.code._asdict(),
                }
                for switch in self.switches
            ],
        }


def laboratory(texts: Sequence[str] = EXAMPLES, *, tried: Callable[[str], None] | None = None) -> Laboratory:
    """Make every known mistake of a port, one at a time, and measure what it does to a few texts.

    The texts are encoded together, by crosscheck's simulator of all-MiniLM-L6-v2 in float32. This takes about half a
    minute, most of it for the mistakes that pad each text to 512 word pieces.

    Parameters
    ----------
    texts
        2 to 20 texts. The first two are the example pair; all but the first are ranked by their cosine with the first.
    tried
        Called with the name of each mistake after it was made.

    Returns
    -------
    Laboratory
        A `Switch` for each mistake, and the lesson: how many mistakes the cosine of the pair hardly shows.

    Raises
    ------
    ValueError
        If there are too few or too many texts, or one is no text.
    """
    given = _checked(texts)
    simulator_of_mistakes = simulator()
    stages = model.stage_names(simulator_of_mistakes.checkpoint.config)
    reference = _reference(given)

    def run(variant: Variant) -> Run:
        return simulator_of_mistakes.run(variant, given, [range(len(given))], stages)

    right = run(Variant()).embeddings
    switches = []
    for mistake in layer_independent(simulator_of_mistakes.checkpoint):
        made = run(mistake.apply())
        switches.append(
            Switch(
                mistake.name,
                mistake.description,
                _cosine(made.embeddings, 1),
                max(map(_error, made.embeddings, reference[FINAL])),
                _first_wrong_stage(made, reference),
                _ranking(made.embeddings),
                code_of(mistake),
            )
        )
        if tried:
            tried(mistake.name)
    return Laboratory(tuple(given), _cosine(right, 1), _ranking(right), tuple(switches))


def layer_independent(checkpoint: Checkpoint) -> list[Mistake]:
    """Return the catalogue without the copies of a mistake in a single layer."""

    def in_one_layer(value: Any) -> bool:
        return isinstance(value, frozenset) and len(value) == 1 and next(iter(value)).startswith("encoder.layer.")

    mistakes = catalogue(checkpoint.config)
    return [mistake for mistake in mistakes if not any(in_one_layer(value) for _, value in mistake.change)]


def require_jinja2() -> None:
    """Raise ImportError if pages cannot be written."""
    environment()


def _checked(texts: Sequence[str]) -> list[str]:
    checked: list[str] = []
    for row, text in enumerate(as_texts(texts, "texts", allow_one=False)):
        if not isinstance(text, str):
            raise ValueError(f"texts[{row}]: expected a str, got a pair")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            got = f"{text[error.start]!r}, half of a surrogate pair, as character {error.start}"
            raise ValueError(f"texts[{row}]: expected valid Unicode, got {got}") from None
        checked.append(text)
    if not 2 <= len(checked) <= MAX_TEXTS:
        raise ValueError(f"texts: expected 2 to {MAX_TEXTS}, got {len(checked)}")
    return checked


# --- what a mistake does -----------------------------------------------------------------------


def _reference(texts: list[str]) -> dict[str, list[Array]]:
    """Return the right values of each stage, "token_ids" first, in float64: one array for each text."""
    checkpoint = Checkpoint.load(dtype="float64")
    bert = model.prepare(checkpoint.params, checkpoint.config, ops)
    tokens = Tokenizer(checkpoint.folder / "tokenizer.json", checkpoint.config.max_seq_length)(texts)
    values = {"token_ids": by_text("token_ids", tokens.token_ids, tokens.offsets)}
    model.forward(bert, *tokens, lambda stage, value: values.__setitem__(stage, by_text(stage, value, tokens.offsets)))
    return values


def _error(value: Array, expected: Array) -> float:
    """Return the largest absolute error of an element; infinite for another shape or a value that is not finite."""
    if value.shape != expected.shape:
        return math.inf
    with np.errstate(over="ignore", invalid="ignore"):  # of values that are wrong by far
        error = np.abs(value.astype(np.float64) - expected)
    return float(np.where(np.isfinite(error), error, np.inf).max(initial=0))


def _first_wrong_stage(run: Run, reference: dict[str, list[Array]]) -> str | None:
    made = {"token_ids": run.token_ids, **run.stages}
    for stage, expected in reference.items():
        if max(map(_error, made[stage], expected)) > tolerance(stage):
            return stage
    return None


def _cosine(embeddings: Array, text: int) -> float:
    """Return the cosine of the first text and another, in float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        u, v = ops.l2_normalize(embeddings[[0, text]].astype(np.float64))
        return float(u @ v)


def _ranking(embeddings: Array) -> tuple[Ranked, ...]:
    ranked = [Ranked(text, _cosine(embeddings, text)) for text in range(1, len(embeddings))]
    return tuple(sorted(ranked, key=lambda one: -one.cosine if math.isfinite(one.cosine) else math.inf))


def _rounded(cosine: float) -> float | None:
    return round(cosine, 6) + 0.0 if math.isfinite(cosine) else None  # + 0.0: no -0.0


def _size(change: float) -> float:
    return abs(change) if math.isfinite(change) else math.inf


# --- the code difference -----------------------------------------------------------------------

OPS, MODEL, WORD_PIECES = "minilm_np/ops.py", "minilm_np/model.py", "minilm_np/crosscheck/word_pieces.py"

GELU = "return np.asarray(np.maximum(x, 0) - magnitude * tail)"
NORM = "return np.asarray(centered / np.sqrt(variance + eps) * weight + bias)"
VARIANCE = "variance = np.mean(centered * centered, axis=-1, keepdims=True)"
EMBED = "return layer_norm(word[token_ids] + token_type[token_type_ids] + position[position_ids], norm, eps)"
SCORES = "return np.asarray(query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1]))"
HEADS = "query, key, value = split_heads(qkv[rows], last - first, num_heads)"
MERGED = "context[rows] = per_head.transpose(0, 2, 1, 3).reshape(-1, context.shape[1])"
MEAN = "return np.stack([rows.mean(axis=0) for rows in sentences])"
UNIT = "return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12))"
POSITIONS = "position_ids = np.arange(len(token_ids)) - np.repeat(offsets[:-1], np.diff(offsets))"
ATTENTION_NORM = (
    'output = ops.add_layer_norm(projected, hidden_states, w[f"{name}.output.LayerNorm"], config.layer_norm_eps)'
)
OUTPUT_NORM = (
    'output = ops.add_layer_norm(projected, attention_output, w[f"{name}.output.LayerNorm"], config.layer_norm_eps)'
)
NORMALIZED = "normalized = bert.ops.l2_normalize(pooled) if bert.config.normalize else pooled"
LAYERS = "for i in range(bert.config.num_hidden_layers):"
ROWS = "return normalized"

# The right line is a line of the file. With the wrong one in its place, the package makes the mistake.
# fmt: off
LINES: dict[str, Code] = {
    "gelu-tanh": Code(
        GELU, "return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))", OPS),
    "gelu-quick": Code(GELU, "return np.asarray(x / (1 + np.exp(-1.702 * x)))", OPS),
    "relu": Code(GELU, "return np.asarray(np.maximum(x, 0))", OPS),
    "layer-norm-eps-1e-05": Code(NORM, NORM.replace("eps", "1e-5"), OPS),
    "layer-norm-eps-1e-06": Code(NORM, NORM.replace("eps", "1e-6"), OPS),
    "layer-norm-unbiased": Code(
        VARIANCE, "variance = np.sum(centered * centered, axis=-1, keepdims=True) / (x.shape[-1] - 1)", OPS),
    "embeddings-layer-norm-missing": Code(
        EMBED, "return word[token_ids] + token_type[token_type_ids] + position[position_ids]", OPS),
    "attention-unscaled": Code(SCORES, "return np.asarray(query @ key.swapaxes(-1, -2))", OPS),
    "attention-scale-hidden": Code(SCORES, SCORES.replace("query.shape[-1]", "384"), OPS),
    "attention-scale-squared": Code(SCORES, "return np.asarray(query @ key.swapaxes(-1, -2) / query.shape[-1])", OPS),
    "attention-uniform": Code(SCORES, "return np.asarray(query @ key.swapaxes(-1, -2) * 0)", OPS),
    "attention-qk-swapped": Code(HEADS, HEADS.replace("query, key, value", "key, query, value"), OPS),
    "attention-kv-swapped": Code(HEADS, HEADS.replace("query, key, value", "query, value, key"), OPS),
    "attention-qv-swapped": Code(HEADS, HEADS.replace("query, key, value", "value, key, query"), OPS),
    "heads-merged-untransposed": Code(MERGED, "context[rows] = per_head.reshape(-1, context.shape[1])", OPS),
    "token-types-missing": Code(EMBED, EMBED.replace(" + token_type[token_type_ids]", ""), OPS),
    "token-types-1": Code(EMBED, EMBED.replace("token_type[token_type_ids]", "token_type[1]"), OPS),
    "positions-off-by-1": Code(POSITIONS, f"{POSITIONS} + 1", MODEL),
    "positions-off-by-2": Code(POSITIONS, f"{POSITIONS} + 2", MODEL),
    "positions-not-restarted": Code(POSITIONS, "position_ids = np.arange(len(token_ids))", MODEL),
    "positions-left-padded": Code(
        POSITIONS,
        "position_ids = np.arange(len(token_ids)) + np.repeat(max(np.diff(offsets)) - offsets[1:], np.diff(offsets))",
        MODEL),
    "positions-all-0": Code(POSITIONS, "position_ids = np.zeros_like(token_ids)", MODEL),
    "positions-missing": Code(EMBED, EMBED.replace(" + position[position_ids]", ""), OPS),
    "pooling-cls": Code(MEAN, "return np.stack([rows[0] for rows in sentences])", OPS),
    "pooling-max": Code(MEAN, "return np.stack([rows.max(axis=0) for rows in sentences])", OPS),
    "pooling-without-specials": Code(MEAN, "return np.stack([rows[1:-1].mean(axis=0) for rows in sentences])", OPS),
    "no-normalization": Code(NORMALIZED, "normalized = pooled", MODEL),
    "normalization-twice": Code(UNIT, "return np.asarray(x / np.sum(x * x, axis=-1, keepdims=True))", OPS),
    "rows-longest-first": Code(ROWS, 'return normalized[np.argsort(-np.diff(offsets), kind="stable")]', MODEL),
    "rows-shortest-first": Code(ROWS, 'return normalized[np.argsort(np.diff(offsets), kind="stable")]', MODEL),
    "rows-first-repeated": Code(ROWS, "return normalized[np.maximum(np.arange(len(normalized)) - 1, 0)]", MODEL),
    "rows-all-first": Code(ROWS, "return normalized[np.zeros(len(normalized), int)]", MODEL),
    "residual-dropped-all": Code(
        "return layer_norm(x + residual, norm, eps)", "return layer_norm(x, norm, eps)", OPS),
    "residual-dropped-attention-all-layers": Code(
        ATTENTION_NORM, ATTENTION_NORM.replace("hidden_states", "0 * hidden_states"), MODEL),
    "residual-dropped-output-all-layers": Code(
        OUTPUT_NORM, OUTPUT_NORM.replace("attention_output", "0 * attention_output"), MODEL),
    "layer-norm-missing-attention-all-layers": Code(ATTENTION_NORM, "output = projected + hidden_states", MODEL),
    "layer-norm-missing-output-all-layers": Code(OUTPUT_NORM, "output = projected + attention_output", MODEL),
    "bias-dropped-embeddings": Code(EMBED, EMBED.replace("norm, eps", "(norm[0], 0), eps"), OPS),
    "bias-dropped-all-dense": Code("y += dense.bias", "y += 0", OPS),
}

POOLED = "vector = l2_normalize(rows.mean(axis=0))"
DENSE = "y = x @ weight.T + bias"
SPLIT = "heads = x.reshape(S, 12, 32).transpose(1, 0, 2)"
ENCODED = "ids = tokenizer.encode(text).ids"
PIECES = "vector = encode(pieces[:256])"
INPUTS = "bert(token_ids, attention_mask=mask, token_type_ids=types)"
SWAPPED = "bert(token_ids, attention_mask=types, token_type_ids=mask)"
POOLER = "rows[0] @ pooler.weight.T + pooler.bias"

# The place of these mistakes is in code that this package does not have, such as padding, or in more than one line.
OTHERS: dict[str, Code] = {
    "pre-norm": Code("x = layer_norm(x + sublayer(x))", "x = x + sublayer(layer_norm(x))"),
    "heads-interleaved": Code(SPLIT, "heads = x.reshape(S, 32, 12).transpose(2, 0, 1)"),
    "heads-not-transposed": Code(SPLIT, "heads = x.reshape(12, S, 32)"),
    "heads-not-transposed-padded": Code(SPLIT, "heads = x.reshape(12, S, 32)  # S is the padded length"),
    "heads-merged-untransposed-padded": Code(
        "context = per_head.transpose(1, 0, 2).reshape(S, 384)",
        "context = per_head.reshape(S, 384)  # S is the padded length"),
    "chunks-averaged": Code(PIECES, "vector = l2_normalize(np.mean([encode(part) for part in parts], axis=0))"),
    "chunks-averaged-by-length": Code(
        PIECES, "vector = l2_normalize(np.average([encode(part) for part in parts], axis=0, weights=lengths))"),
    "no-special-tokens": Code(ENCODED, "ids = tokenizer.encode(text, add_special_tokens=False).ids"),
    "no-cls": Code(ENCODED, f"{ENCODED}[1:]"),
    "no-sep": Code(ENCODED, f"{ENCODED}[:-1]"),
    "prefix-query": Code(ENCODED, 'ids = tokenizer.encode("query: " + text).ids'),
    "prefix-passage": Code(ENCODED, 'ids = tokenizer.encode("passage: " + text).ids'),
    "mask-and-types-swapped": Code(INPUTS, f"{SWAPPED}  # large negative numbers absorb all scores"),
    "mask-and-types-swapped-unmasked": Code(INPUTS, f"{SWAPPED}  # a mask of 0 everywhere masks nothing"),
    "padding-mask-by-id": Code("mask = np.arange(width) < lengths[:, None]", "mask = token_ids != 0"),
    "fp16-weights": Code(DENSE, "y = x @ round_to_fp16(weight).T + round_to_fp16(bias)"),
    "fp16-activations": Code(DENSE, "y = round_to_fp16(x @ round_to_fp16(weight).T + round_to_fp16(bias))"),
    "bf16-weights": Code(DENSE, "y = x @ round_to_bf16(weight).T + round_to_bf16(bias)"),
    "bf16-activations": Code(DENSE, "y = round_to_bf16(x @ round_to_bf16(weight).T + round_to_bf16(bias))"),
    "bf16-dense": Code(DENSE, "y = round_to_bf16(x) @ round_to_bf16(weight).T + bias"),
    "int8-weights-per-tensor": Code(DENSE, "y = x @ round_to_int8(weight).T + bias"),
    "int8-weights-per-channel": Code(DENSE, "y = x @ round_to_int8(weight, axis=1).T + bias"),
    "int8-dynamic": Code(
        DENSE, "y = round_to_uint8(x) @ round_to_int8(weight).T + bias  # and embedding tables in int8"),
    "int8-dynamic-dense": Code(DENSE, "y = round_to_uint8(x) @ round_to_int8(weight).T + bias"),
    "int8-dynamic-per-channel": Code(DENSE, "y = round_to_uint8(x) @ round_to_int8(weight, axis=1).T + bias"),
    "int8-dense": Code(DENSE, "y = round_rows_to_uint8(x) @ round_to_int8(weight, axis=1).T + bias"),
    "pooling-mean-sqrt-len": Code(POOLED, "vector = rows.sum(axis=0) / math.sqrt(len(rows))"),
    "pooling-sum": Code(POOLED, "vector = rows.sum(axis=0)"),
    "mean-over-width": Code(POOLED, "vector = rows.sum(axis=0) / padded_length"),
    "mean-over-width-unmasked": Code(POOLED, "vector = padded_rows.mean(axis=0)"),
    "mean-over-width-attended": Code(POOLED, "vector = padded_rows.mean(axis=0)  # and attention includes padding"),
    "pooler": Code(POOLED, f"vector = l2_normalize(np.tanh({POOLER}))"),
    "pooler-not-normalized": Code(POOLED, f"vector = np.tanh({POOLER})"),
    "pooler-before-tanh": Code(POOLED, f"vector = l2_normalize({POOLER})"),
    "pooler-before-tanh-not-normalized": Code(POOLED, f"vector = {POOLER}"),
    "weight-transposed-all": Code(DENSE, "y = x @ weight.T.reshape(weight.shape).T + bias"),
    "bias-dropped-all": Code(DENSE, "y = x @ weight.T  # and LayerNorm without its bias"),
}
PADDED = {
    "padding-attended": Code("probs = softmax(np.where(mask, scores, -np.inf))", "probs = softmax(scores)"),
    "padding-in-mean": Code(
        "pooled = (hidden_states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1)[:, None]",
        "pooled = hidden_states.mean(axis=1)"),
    "padding-unmasked": Code("encode(token_ids, attention_mask=mask)", "encode(token_ids, attention_mask=None)"),
}
# fmt: on
NORMALIZER = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}


def code_of(mistake: Mistake) -> Code:
    """Return a mistake as a difference of one line."""
    code = LINES.get(mistake.name) or OTHERS.get(mistake.name)
    if code:
        return code
    change = dict(mistake.change)
    if mistake.is_rule:
        return _rule_code(change["rule"])
    if "padding_attended" in change or "padding_pooled" in change:
        name = next(name for name in PADDED if mistake.name == name or mistake.name.startswith(f"{name}-"))
        width = "the longest text" if not change["pad_to"] else f"{change['pad_to']} word pieces"
        return PADDED[name]._replace(wrong=f"{PADDED[name].wrong}  # padded to {width}")
    if "max_seq_length" in change:
        right = "tokenizer.enable_truncation(max_length=256)"
        return Code(right, right.replace("256", str(change["max_seq_length"])))
    if "normalizer" in change:
        return Code(
            _call("BertNormalizer", NORMALIZER), _call("BertNormalizer", NORMALIZER | dict(change["normalizer"]))
        )
    if "layers" in change:
        return Code(LAYERS, f"for i in {change['layers']}:", MODEL)
    return _parameter_code(mistake)


def _call(name: str, arguments: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{argument}={value}' for argument, value in arguments.items())})"


def _parameter_code(mistake: Mistake) -> Code:
    """Return the code of a parameter that is wrong in all layers."""
    ((field, modules),) = mistake.change
    name = min(modules).split(".", 3)[3]
    if field == "transposed":
        # A weight that is not square is read in the wrong memory order.
        weight = "weight.T.reshape(weight.shape)" if name in ("intermediate.dense", "output.dense") else "weight.T"
        return Code(f"{DENSE}  # {name}", f"{DENSE.replace('weight', weight)}  # {name}".replace(".T.T", ""))
    if field == "without_bias" and name.endswith("LayerNorm"):
        right = "y = (x - mean) / np.sqrt(variance + eps) * weight + bias"
        return Code(f"{right}  # {name}", f"{right.removesuffix(' + bias')}  # {name}")
    if field == "without_bias":
        return Code(f"{DENSE}  # {name}", f"{DENSE.removesuffix(' + bias')}  # {name}")
    raise KeyError(f"{mistake.name}: no code")


@lru_cache(1)
def _rules() -> dict[str, Code]:
    """Return the code of each of word_pieces.RULES: the fields of a Rule that differ, in the source."""
    source = inspect.getsource(word_pieces)

    def text(node: ast.expr | None) -> str:
        segment = ast.get_source_segment(source, node) if node else None
        return " ".join((segment or "").split()).replace("( ", "(").replace("[ ", "[")

    defaults: dict[str, str] = {}
    rules: dict[str, Code] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "Rule":
            fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
            defaults = {text(field.target): text(field.value) for field in fields}
        elif isinstance(node, ast.AnnAssign) and text(node.target) == "RULES" and isinstance(node.value, ast.Dict):
            for key, call in zip(node.value.keys, node.value.values, strict=True):
                keywords = call.keywords if isinstance(call, ast.Call) else []
                changed = {keyword.arg or "": text(keyword.value) for keyword in keywords}
                right = ", ".join(f"{field}={defaults[field]}" for field in changed)
                wrong = ", ".join(f"{field}={value}" for field, value in changed.items())
                rules[ast.literal_eval(key or call)] = Code(right, wrong, WORD_PIECES)
    return rules


def _rule_code(name: str) -> Code:
    return _rules()[name]
