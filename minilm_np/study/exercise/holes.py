"""The six holes: their right answers, computed by model.py, and the cases that each is tested with.

Each hole is tested alone, on the right input. Some cases have parameters that leave only a part of the hole, which
tells where a mistake lies: with weights of 0 in `attention.output.dense`, attention is LayerNorm(hidden_states).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from minilm_np import model, ops
from minilm_np.crosscheck.mistakes import Mistake
from minilm_np.crosscheck.truth import tolerance
from minilm_np.crosscheck.variant import Checkpoint, Named
from minilm_np.model import Array, Bert
from minilm_np.study.exercise.wrong_answers import AnswerOps, AnswerVariant, Parameters, sentence
from minilm_np.tokenizer import Tokenizer

HOLES = ("embeddings", "layer_norm", "attention", "feed_forward", "pooling", "encode")
SENTENCE = "A man is eating a piece of bread."
SHORT = "Yes."
PAIR = ("What is she eating?", "An apple.")  # the tokens of the second text have type 1
LAYERS = (0, 4)  # the layers whose parameters attention and feed_forward are tested with
EPS = "eps of the LayerNorm"  # the part that cases with tiny inputs test
TINY = 1e-6  # inputs of LayerNorm of this size have a variance near eps
ACTIVATION_POINTS = np.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])


@dataclass(eq=False)
class Case:
    """One call of a hole."""

    hole: str
    label: str  # for messages
    arguments: dict[str, Any]  # by name, without params
    parameters: Parameters | None  # None for a hole without params
    stage: str  # the stage whose tolerance holds
    part: tuple[str, str] | None = None  # stage and description of the part that this case tests

    @cached_property
    def right(self) -> Array:
        return run(self, None)

    @property
    def size(self) -> int:
        """The number of rows that it computes."""
        return max(len(value) for value in self.arguments.values() if isinstance(value, np.ndarray) and value.ndim)

    @property
    def tolerance(self) -> float:
        return tolerance(self.stage)


def run(case: Case, variant: AnswerVariant | None, observe: model.Observer = None) -> Array:
    """Return the hole's result in float64: the right one for None, or that of a variant."""
    given = case.arguments
    tokens = next(
        value for name, value in given.items() if name in ("token_ids", "x", "attention_output", "hidden_states")
    )
    batch = sentence(
        given.get("token_ids", np.zeros(len(tokens), int)), given.get("token_type_ids", np.zeros(len(tokens), int))
    )
    wrong = variant or AnswerVariant()
    parameters = case.parameters or Parameters({}, {})
    config = model.BertConfig(
        num_attention_heads=wrong.num_heads,
        layer_norm_eps=wrong.layer_norm_eps,
        pooling_mode=wrong.pooling_mode,
        normalize=wrong.scaling != "none",
    )
    bert = Bert(config, ops, parameters.modules(variant))
    answer = AnswerOps(wrong, batch, bert)
    if variant is not None:
        bert = bert._replace(ops=answer)
    offsets = batch.tokens.offsets
    with np.errstate(all="ignore"):  # a wrong variant may overflow
        if case.hole == "embeddings":
            return model.embeddings(bert, *batch.tokens)
        if case.hole == "layer_norm":
            norm = (given["weight"], given["bias"])
            if variant is None:
                return ops.layer_norm(given["x"], norm, config.layer_norm_eps)
            return answer._layer_norm(given["x"], Named("LayerNorm", norm), config.layer_norm_eps)
        if case.hole == "attention":
            name = f"encoder.layer.{given['layer']}.attention"
            return model.self_attention(bert, name, given["hidden_states"], offsets, observe)
        if case.hole == "feed_forward":
            return model.feed_forward(bert, f"encoder.layer.{given['layer']}", given["attention_output"], observe)
        if case.hole == "pooling":
            return np.asarray(model.sentence_embeddings(bert, given["hidden_states"], offsets, observe)[0])
        return _loop(bert, wrong, batch.tokens, observe)


def _loop(bert: Bert, variant: AnswerVariant, tokens: Any, observe: model.Observer) -> Array:
    """`model.forward` of one sentence, with the layers and sublayers of the variant."""

    def attend(layer: int, hidden_states: Array) -> Array:
        return model.self_attention(bert, f"encoder.layer.{layer}.attention", hidden_states, tokens.offsets, observe)

    def transform(layer: int, hidden_states: Array) -> Array:
        return model.feed_forward(bert, f"encoder.layer.{layer}", hidden_states, observe)

    steps = {"both": (attend, transform), "attention": (attend,), "feed_forward": (transform,)}
    steps |= {"swapped": (transform, attend), "grouped": (attend, transform)}
    layers = range(bert.config.num_hidden_layers) if variant.layers is None else variant.layers
    chosen = steps[variant.sublayers]
    grouped = variant.sublayers == "grouped"
    order = (
        [(i, step) for step in chosen for i in layers] if grouped else [(i, step) for i in layers for step in chosen]
    )
    hidden_states = model.embeddings(bert, *tokens)
    if observe:
        observe("embeddings", hidden_states)
    for layer, step in order:
        hidden_states = step(layer, hidden_states)
    if not variant.pooling:
        return hidden_states
    return np.asarray(model.sentence_embeddings(bert, hidden_states, tokens.offsets, observe)[0])


def variant_of(mistakes: tuple[Mistake, ...]) -> AnswerVariant:
    """Return the variant that makes all these mistakes."""
    changes = {name: value for mistake in mistakes for name, value in mistake.change}
    return replace(AnswerVariant(), **changes)


# --- the cases ---------------------------------------------------------------------------------


class Exercise(NamedTuple):
    """The checkpoint, and the cases of each hole."""

    checkpoint: Checkpoint
    cases: dict[str, list[Case]]


def load() -> Exercise:
    """Load the checkpoint in float64 and compute all cases. Raises what `weights.load` raises."""
    checkpoint = Checkpoint.load(dtype="float64")
    params, H = checkpoint.params, checkpoint.config.hidden_size
    shared = Parameters(params, {})
    tokens = Tokenizer(checkpoint.folder / "tokenizer.json", checkpoint.config.max_seq_length)([SENTENCE, SHORT, PAIR])
    texts = {}
    for name, start, stop in zip(("sentence", "short", "pair"), tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        texts[name] = (
            tokens.token_ids[start:stop].astype(np.int64),
            tokens.token_type_ids[start:stop].astype(np.int64),
        )
    labels = {"sentence": repr(SENTENCE), "short": repr(SHORT), "pair": " and ".join(map(repr, PAIR))}
    arguments: dict[str, Any]
    stages: dict[str, dict[str, Array]] = {}  # text -> its stages
    cases: dict[str, list[Case]] = {hole: [] for hole in HOLES}

    for name, (ids, types) in texts.items():
        stages[name] = {}
        arguments = {"token_ids": ids, "token_type_ids": types}
        case = Case("encode", labels[name], arguments, shared, "sentence_embedding")
        case.right = run(case, None, stages[name].__setitem__)
        cases["encode"].append(case)
        cases["embeddings"].append(Case("embeddings", labels[name], arguments, shared, "embeddings"))
    cases["embeddings"] += _embeddings_parts(params)

    weight, bias = params["embeddings.LayerNorm.weight"], params["embeddings.LayerNorm.bias"]
    ids, types = texts["sentence"]
    tables = [params[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type", "position")]
    summed = tables[0][ids] + tables[1][types] + tables[2][: len(ids)]
    small = np.concatenate([summed[:4] * TINY / summed.std(), np.zeros((1, H))])
    ones, zeros = np.ones(H), np.zeros(H)
    for label, x, w, b, part in (
        ("weight 1 and bias 0", summed, ones, zeros, ("LayerNorm", "mean or variance")),
        (labels["sentence"], summed, weight, bias, ("LayerNorm", "weight or bias")),
        (f"rows of size {TINY:g} and a row of zeros", small, weight, bias, ("LayerNorm", EPS)),
    ):
        arguments = {"x": x, "weight": w, "bias": b}
        cases["layer_norm"].append(Case("layer_norm", label, arguments, None, "embeddings", part))

    for layer in LAYERS:
        prefix = f"encoder.layer.{layer}"
        before = "embeddings" if layer == 0 else f"encoder.layer.{layer - 1}.output"
        for name in ("sentence", "short"):
            label = f"{labels[name]}, layer {layer}"
            x, y = stages[name][before], stages[name][f"{prefix}.attention.output"]
            arguments = {"layer": layer, "hidden_states": x}
            cases["attention"].append(Case("attention", label, arguments, shared, f"{prefix}.attention.output"))
            arguments = {"layer": layer, "attention_output": y}
            cases["feed_forward"].append(Case("feed_forward", label, arguments, shared, f"{prefix}.output"))
    cases["attention"] += _attention_parts(params, stages["short"]["embeddings"])
    cases["feed_forward"] += _feed_forward_parts(params, stages["short"]["encoder.layer.0.attention.output"])

    for name in texts:
        arguments = {"hidden_states": stages[name]["encoder.layer.5.output"]}
        cases["pooling"].append(Case("pooling", labels[name], arguments, None, "sentence_embedding"))
    return Exercise(checkpoint, cases)


def _embeddings_parts(params: Mapping[str, Array]) -> list[Case]:
    names = {table: f"embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")}
    ids = np.array([101, 7, 180, 102])  # rows of a short word table
    given = {"token_ids": ids, "token_type_ids": np.array([0, 1, 1, 0])}
    tables = {
        names["word"]: params[names["word"]][:200],
        **{names[k]: params[names[k]] for k in ("position", "token_type")},
    }
    cases = []
    for table, name in names.items():
        only = {other: value if other == name else np.zeros_like(value) for other, value in tables.items()}
        part = (f"embeddings.{table}_embeddings", f"the {table.replace('_', ' ')} embeddings")
        label = f"all tables 0 but {name}"
        cases.append(Case("embeddings", label, given, Parameters(params, only), "embeddings", part))
    tiny = {name: value * (10 * TINY) for name, value in tables.items()}
    part = ("embeddings", EPS)
    return [
        *cases,
        Case("embeddings", f"tables multiplied by {10 * TINY:g}", given, Parameters(params, tiny), "embeddings", part),
    ]


def _attention_parts(params: Mapping[str, Array], hidden_states: Array) -> list[Case]:
    prefix, H = "encoder.layer.0.attention", hidden_states.shape[1]
    dense, value = f"{prefix}.output.dense", f"{prefix}.self.value"
    zero, zeros = np.zeros((H, H)), np.zeros(H)
    uniform = {
        f"{prefix}.self.{name}.{kind}": zero if kind == "weight" else zeros
        for name in ("query", "key")
        for kind in ("weight", "bias")
    }
    constant = {f"{value}.weight": zero, f"{value}.bias": np.ones(H)}
    no_output = {f"{dense}.weight": zero, f"{dense}.bias": zeros}
    tiny = {f"{dense}.{kind}": params[f"{dense}.{kind}"] * TINY for kind in ("weight", "bias")}
    parts: list[tuple[dict[str, Array], str, str, float]] = [
        (no_output, f"{prefix}.output", "the residual or LayerNorm, after the dense layer", 1.0),
        (tiny, f"{prefix}.output", EPS, TINY),
        (uniform | constant, f"{prefix}.output.dense", "attention.output.dense or its sum with the residual", 1.0),
        (uniform, f"{prefix}.self.context", "value, or how heads are split and put side by side", 1.0),
        ({}, f"{prefix}.self.attention_probs", "query, key, their scores or the softmax", 1.0),
    ]
    return [
        Case(
            "attention",
            _label(part, replaced, factor),
            {"layer": 0, "hidden_states": factor * hidden_states},
            Parameters(params, replaced),
            f"{prefix}.output",
            (stage, part),
        )
        for replaced, stage, part, factor in parts
    ]


def _feed_forward_parts(params: Mapping[str, Array], attention_output: Array) -> list[Case]:
    prefix, H = "encoder.layer.0", attention_output.shape[1]
    first, second = f"{prefix}.intermediate.dense", f"{prefix}.output.dense"
    weight, bias = params[f"{first}.weight"], params[f"{first}.bias"]
    no_output = {f"{second}.weight": np.zeros((H, len(bias))), f"{second}.bias": np.zeros(H)}
    tiny = {f"{second}.{kind}": params[f"{second}.{kind}"] * TINY for kind in ("weight", "bias")}
    constant = {f"{first}.weight": np.zeros_like(weight), f"{first}.bias": np.full(len(bias), 8.0)}
    shifted = {f"{first}.bias": bias + 40.0}  # GELU(a) is a for large a
    parts: list[tuple[dict[str, Array], str, str, float]] = [
        (no_output, f"{prefix}.output", "the residual or LayerNorm, after the second dense layer", 1.0),
        (tiny, f"{prefix}.output", EPS, TINY),
        (constant, second, "output.dense, the second dense layer, or its sum with the residual", 1.0),
        (shifted, first, "intermediate.dense, the first dense layer", 1.0),
    ]
    cases = [
        Case(
            "feed_forward",
            _label(part, replaced, factor),
            {"layer": 0, "attention_output": factor * attention_output},
            Parameters(params, replaced),
            f"{prefix}.output",
            (stage, part),
        )
        for replaced, stage, part, factor in parts
    ]
    return [*cases, _activation_case(params)]


def _activation_case(params: Mapping[str, Array]) -> Case:
    """Return the case whose result shows the activation of each of ACTIVATION_POINTS: see `activation_values`."""
    prefix = "encoder.layer.0"
    units, H = params[f"{prefix}.intermediate.dense.weight"].shape
    x = np.zeros((len(ACTIVATION_POINTS), H))
    x[:, 0], x[:, 1] = 1.0, -1.0
    x[:, 2], x[:, 3] = ACTIVATION_POINTS, -ACTIVATION_POINTS  # each row's mean is 0
    first, second = np.zeros((units, H)), np.zeros((H, units))
    first[0, 2] = 1.0  # unit 0 gets the point ...
    second[4, 0], second[5, 0] = 1.0, -1.0  # ... and its activation is element 4
    replaced = {
        f"{prefix}.intermediate.dense.weight": first,
        f"{prefix}.intermediate.dense.bias": np.zeros(units),
        f"{prefix}.output.dense.weight": second,
        f"{prefix}.output.dense.bias": np.zeros(H),
        f"{prefix}.output.LayerNorm.weight": np.ones(H),
        f"{prefix}.output.LayerNorm.bias": np.zeros(H),
    }
    part = (f"{prefix}.intermediate", "GELU")
    label = "parameters that leave only GELU"
    return Case(
        "feed_forward",
        label,
        {"layer": 0, "attention_output": x},
        Parameters(params, replaced),
        f"{prefix}.output",
        part,
    )


def activation_values(result: Array) -> Array:  # (7, H) -> (7,)
    """Return the activation of each of ACTIVATION_POINTS from the result of `_activation_case`.

    Before LayerNorm element 0 is 1 and element 4 the activation, and LayerNorm keeps their ratio, since the mean is 0.
    """
    return np.asarray(result[:, 4] / result[:, 0])


def _label(part: str, replaced: Mapping[str, Array], factor: float) -> str:
    if factor != 1.0:
        return f"inputs of LayerNorm multiplied by {factor:g}"
    return f"parameters that leave only {part}" if replaced else repr(SHORT)
