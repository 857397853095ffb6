"""What a page shows of ablation: for each head, layer, LayerNorm and token, what changes when it is switched off."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm_np.model import Array
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.study.ablation import Ablation, ablate, ablations, layer_norm_names
from minilm_np.study.packing import Packer

# Ranked by their similarity to the first text, together with the second.
OTHERS = (
    "Someone prepares a meal.",
    "The orchestra begins its concert.",
    "A dog runs through the park.",
    "The bank raised its interest rates.",
)


def effects(model: SentenceTransformer, a: str, b: str) -> dict[str, Any]:
    """Return the effects on two texts: the parts by name with cosine, ranking, and the pair matrix (n, m).

    The ranking is that of `b` and OTHERS by similarity to `a`: (number, cosine), 1 for `b`, 2 for the first of OTHERS.
    """
    texts = [a, b, *OTHERS]
    whole = ablate(model, texts)
    parts: list[tuple[str, dict[str, Any]]] = []
    for layer in range(model.config.num_hidden_layers):
        heads = range(model.config.num_attention_heads)
        parts += [(f"layer {layer}, head {head}", {"heads": [(layer, head)]}) for head in heads]
    parts += [(f"layer {layer}", {"layers": [layer]}) for layer in range(model.config.num_hidden_layers)]
    parts += [(name, {"layer_norms": [name]}) for name in layer_norm_names(model.config)]
    parts.append(("position embeddings", {"positions": True}))
    for text in (0, 1):
        for token, name in enumerate(whole.tokens[text]):
            parts.append((f"{name} ({token}) of text {text + 1}", {"tokens": [(text, token)]}))
    return {
        "others": OTHERS,
        "whole": _summary(whole, 0),
        "parts": [
            {"name": name, **_summary(ablation, 1)}
            for (name, _), ablation in zip(parts, ablations(model, texts, [off for _, off in parts]), strict=True)
        ],
    }


def packed(found: dict[str, Any], packer: Packer | None) -> dict[str, Any]:
    """Return the effects with a block for each pair matrix, or without the matrices if there is no packer."""

    def summary(part: dict[str, Any]) -> dict[str, Any]:
        return {**part, "pairs": packer.floats(part["pairs"]) if packer else None}

    return {**found, "whole": summary(found["whole"]), "parts": [summary(part) for part in found["parts"]]}


def _summary(ablation: Ablation, side: int) -> dict[str, Any]:
    return {
        "cosine": ablation.cosines()[side],
        "ranking": ablation.ranking()[side],
        "pairs": _short(ablation.token_pairs()[side].values),
    }


def _short(values: Array) -> Array:
    """Return float32 numbers rounded to 12 bits (four digits are shown), which take half of the space."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x800)) & np.uint32(0xFFFFF000)).view(np.float32)
