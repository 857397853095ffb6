"""The values that a page shows: every stage of one or two texts, and what the page needs to recompute the rest."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minilm_np import ops
from minilm_np.files import replaced
from minilm_np.model import Array, stage_names
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.study import packing
from minilm_np.study.attribution import METHODS, attributions
from minilm_np.study.effects import effects, packed
from minilm_np.study.page import json_in_html
from minilm_np.study.questions import QUESTIONS, Question
from minilm_np.study.similarity import layer_cosines

MAX_SIZE = 4_000_000  # bytes of a page, unless a larger limit is given
REST = 180_000  # of those for all but the data: scripts, style and sources; measured: 170,000
ESTIMATE = 3.3  # bytes in the page for a number; measured for two texts of 14 word pieces: 3.4
ABLATION = "pair matrices of the ablations"
# Of both texts, for gradients and ablation, which take about 300 forward passes.
MAX_TOKENS_WITH_EFFECTS = 100
DENSE = ("query", "key", "value")


@dataclass(frozen=True)
class Trace:
    """A page about one or two texts. `save` writes it, `to_html` returns it, and notebooks show it.

    texts: the texts. dropped: the kinds of stages that are not in the page, because it would be too large.
    """

    texts: tuple[str, ...]
    dropped: tuple[str, ...]
    data: dict[str, Any] = field(repr=False)
    packed: str = field(repr=False)

    @property
    def size(self) -> int:
        """An upper bound of the page's size in bytes."""
        return len(self.packed) + len(json_in_html(self.data)) + REST

    def to_html(self) -> str:
        """Return the page: one file without references to others. Raises ImportError without the study extra."""
        from minilm_np.study.page import render

        return render(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page. An existing file is replaced when the new one is complete."""
        html = self.to_html().encode()
        with replaced(Path(path)) as part:
            part.write_bytes(html)

    def _repr_html_(self) -> str:
        from html import escape

        style = "width:100%;height:85vh;border:1px solid #8888"
        return f'<iframe title="minilm_np" style="{style}" srcdoc="{escape(self.to_html())}"></iframe>'


def trace(model: SentenceTransformer, a: str, b: str | None = None, *, max_size: int = MAX_SIZE) -> Trace:
    """Return a page on which every number of the forward pass can be looked at.

    Parameters
    ----------
    model
        The model. The page has the bits of `model.stages([a, b])` in float32.
    a, b
        One text, or two to compare.
    max_size
        The largest size of the page in bytes. If all stages do not fit, the widest kinds are left out until the others
        do; `Trace.dropped` names them. Those of the embeddings, of the last layer and of pooling are always there.

    Raises
    ------
    TypeError
        If a text is not a str.
    ValueError
        If the page cannot be as small as `max_size`.

    Examples
    --------
    >>> from minilm_np import SentenceTransformer
    >>> from minilm_np.study import trace
    >>> page = trace(SentenceTransformer(), "A man is eating food.", "Someone eats bread.")
    >>> page.dropped
    ()
    """
    texts = [a] if b is None else [a, b]
    for name, text in zip("ab", texts, strict=False):
        if not isinstance(text, str):
            raise TypeError(f"{name}: expected a str, got {type(text).__name__}")
    stages = model.stages(texts, detail=True)
    found: dict[str, Any] = {
        "config": {name: getattr(model.config, name) for name in type(model.config).__dataclass_fields__},
        "backend": model.backend,
        "tail_coefficients": ops.TAIL_COEFFICIENTS_FLOAT64,
        "tail_scale": ops.TAIL_SCALE,
        "texts": [_text(model, text, stages, i) for i, text in enumerate(texts)],
        "offsets": np.asarray(stages["offsets"]).tolist(),
        "names": stage_names(model.config),
        "cosines": {},
        "attributions": {},
        "ablation": None,
        "questions": [_question(question) for question in QUESTIONS],
    }
    if b is not None:
        found["cosines"] = layer_cosines(model, a, b)
        if found["offsets"][-1] <= MAX_TOKENS_WITH_EFFECTS:
            found["attributions"] = _attributions(model, a, b)
            found["ablation"] = effects(model, a, b)
    sizes = _sizes(stages, model, found["ablation"])
    dropped: list[str] = []
    while True:
        # The first kinds are left out by an estimate, which is a little too small, so that large texts are not packed.
        if ESTIMATE * sum(size for kind, size in sizes.items() if kind not in dropped) <= max_size:
            page = _page(model, stages, found, sizes.keys() - dropped, dropped)
            size = page.size
            if size <= max_size:
                return page
        left = {kind: size for kind, size in sizes.items() if kind not in dropped}
        if not left:
            raise ValueError(f"max_size: expected at least {size} bytes for these texts, got {max_size}")
        dropped.append(max(left, key=lambda kind: left[kind]))


def _page(
    model: SentenceTransformer,
    stages: dict[str, Any],
    found: dict[str, Any],
    kept: Collection[str],
    dropped: Sequence[str],
) -> Trace:
    """Return the page with the kinds of stages in `kept`."""
    packer = packing.Packer()
    data = {
        **found,
        "dropped": list(dropped),
        "weights": _weights(model, packer),
        "rows": _rows(model, stages, packer),
        "cells": _cells(model, stages, packer),
        "stages": _pack_stages(model, stages, kept, packer),
    }
    if found["ablation"]:
        data["ablation"] = packed(found["ablation"], packer if ABLATION in kept else None)
    return Trace(tuple(text["text"] for text in found["texts"]), tuple(dropped), data, packer.base64())


def _text(model: SentenceTransformer, text: str, stages: dict[str, Any], i: int) -> dict[str, Any]:
    start, stop = stages["offsets"][i : i + 2]
    infos: list[Any] = []
    model.tokenizer.pack([text], infos)
    return {
        "text": text,
        "tokens": stages["tokens"][i],
        "ids": stages["token_ids"][start:stop].tolist(),
        "types": stages["token_type_ids"][start:stop].tolist(),
        "positions": stages["position_ids"][start:stop].tolist(),
        "dropped": int(infos[0].dropped),
        "read_until": int(infos[0].span[1]),
        "limit": model.max_seq_length,
    }


# --- what fits ---------------------------------------------------------------------------------


def _kind(name: str) -> str:
    """Return a stage's name without the layer's number."""
    return ".".join(part for part in name.split(".") if not part.isdigit()).removeprefix("encoder.layer.")


def _sizes(stages: dict[str, Any], model: SentenceTransformer, ablation: dict[str, Any] | None) -> dict[str, int]:
    """Return how many numbers each kind of stages has, in all layers. A kind's inputs go with it."""
    layers, T = model.config.num_hidden_layers, len(stages["token_ids"])
    H, inner = model.config.hidden_size, model.config.intermediate_size
    lengths = np.diff(stages["offsets"]).tolist()
    sizes = dict.fromkeys(("query", "key", "value", "context"), T * H * layers)
    sizes = {f"attention.self.{part}": size for part, size in sizes.items()}
    sizes["attention.self.attention_probs"] = sum(n**2 for n in lengths) * model.config.num_attention_heads * layers
    sizes["LayerNorm.input"] = T * H * (2 * layers + 1)
    sizes["intermediate"] = T * inner * layers
    sizes |= dict.fromkeys(("attention.output", "output"), T * H * layers)
    if ablation:
        sizes[ABLATION] = math.prod(lengths) * (1 + len(ablation["parts"]))
    return sizes


# --- blocks ------------------------------------------------------------------------------------


def _joined(value: Any) -> Array:
    """Return a stage as one array; attention_probs is a list."""
    parts = [np.asarray(part, np.float32).reshape(-1) for part in value] if isinstance(value, list) else [value]
    return np.concatenate(parts) if isinstance(value, list) else np.asarray(value, np.float32)


def _pack_stages(
    model: SentenceTransformer,
    stages: dict[str, Any],
    kept: Collection[str],
    packer: packing.Packer,
) -> dict[str, Any]:
    """Store every stage that is kept: its numbers, or what it is computed from and the difference in steps."""
    blocks: dict[str, Any] = {}
    weights, eps = model.weights, model.config.layer_norm_eps
    last = f"encoder.layer.{model.config.num_hidden_layers - 1}.output"
    for name in stage_names(model.config):
        kind, value = _kind(name), _joined(stages[name])
        always = name in ("embeddings", last, "pooled", "sentence_embedding")
        if not always and kind not in kept:
            continue
        module = f"{name}.LayerNorm"
        if f"{module}.input" in stages and "LayerNorm.input" in kept:
            x = _joined(stages[f"{module}.input"])
            weight, bias = (
                weights[f"{module}.{part}"].astype(np.float32).astype(np.float64) for part in ("weight", "bias")
            )
            recomputed = packing.layer_norm(x.astype(np.float64), weight, bias, eps)
            blocks[name] = {"input": packer.floats(x), "steps": packer.steps(value, recomputed)}
        elif kind == "intermediate":
            x = _joined(stages[f"{name}.dense"])
            if model.config.hidden_act == "gelu":
                steps = packer.steps(value, packing.gelu(x.astype(np.float64)))
                blocks[name] = {"input": packer.floats(x), "steps": steps}
            else:
                blocks[name] = {"input": packer.floats(x), "values": packer.floats(value)}
        else:
            blocks[name] = {"values": packer.floats(value)}
    return blocks


def _weights(model: SentenceTransformer, packer: packing.Packer) -> dict[str, Any]:
    """Store the parameters of every LayerNorm."""
    return {name: packer.floats(value) for name, value in model.weights.items() if "LayerNorm" in name}


def _rows(model: SentenceTransformer, stages: dict[str, Any], packer: packing.Packer) -> dict[str, Any]:
    """Store the rows of the embedding tables that the texts use: {table: {"ids": ids, "rows": block}}."""
    rows = {}
    for table, ids in (("word", "token_ids"), ("token_type", "token_type_ids"), ("position", "position_ids")):
        used = np.unique(stages[ids])
        weight = model.weights[f"embeddings.{table}_embeddings.weight"]
        rows[table] = {"ids": used.tolist(), "rows": packer.floats(weight[used])}
    return rows


def _cells(model: SentenceTransformer, stages: dict[str, Any], packer: packing.Packer) -> dict[str, Any]:
    """Store one output of each dense layer whole: {module: {"column": j, "weight": block (inputs,), "bias": number}}.

    It is the output that is largest for any token of the texts.
    """
    cells = {}
    for i in range(model.config.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        outputs = {
            **{f"{layer}.attention.self.{part}": stages[f"{layer}.attention.self.{part}"] for part in DENSE},
            f"{layer}.attention.output.dense": stages[f"{layer}.attention.output.dense"],
            f"{layer}.intermediate.dense": stages[f"{layer}.intermediate.dense"],
            f"{layer}.output.dense": stages[f"{layer}.output.dense"],
        }
        for module, value in outputs.items():
            column = int(np.argmax(np.abs(value).max(axis=0))) if len(value) else 0
            cells[module] = {
                "column": column,
                "weight": packer.floats(model.weights[f"{module}.weight"][column]),
                "bias": float(np.float32(model.weights[f"{module}.bias"][column])),
            }
    return cells


def _question(question: Question) -> dict[str, Any]:
    names = "question", "choices", "answer", "explanation"
    return {name: getattr(question, name) for name in names}


def _attributions(model: SentenceTransformer, a: str, b: str) -> dict[str, Any]:
    found = {}
    for method in METHODS:
        result = attributions(model, a, b, method=method)
        found[method] = {
            "values": [part.tolist() for part in result.values],
            "baseline_cosine": result.baseline_cosine,
            "completeness_error": result.completeness_error,
        }
    return found
