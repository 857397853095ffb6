"""How far float32 gradients are from float64, ours and PyTorch's: `python bench/generate/tables.py gradients`.

The batches have pairs of texts of 3 to 256 word pieces. An error is the largest difference from our float64 gradient,
divided by the largest element of that gradient, and the mean of it over the batches; a row of the table is the largest
over the parameters of its kind.
The gradient of a key's bias is 0, so its rounding is divided by the largest element of the query bias's. Needs the
parity extra.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from race import docstrings
from timing import machine

from minilm_np import SentenceTransformer
from minilm_np.training import MultipleNegativesRankingLoss, loss_and_gradients
from minilm_np.weights import find_or_fetch

PAIRS = [
    ["How far is the moon?", "It is 384,400 km away from the earth, on average."],
    ["Who wrote Hamlet?", "Shakespeare."],
    ["bread", "A loaf, " * 20 + "and butter."],
    ["The cat chased the mouse, and the mouse chased the cheese. " * 8, "an animal that chases another"],
    ["[PAD] the the the", "the river runs into the sea " * 15],
    ["Berlin", "3,520,031 people live in Berlin. " * 30],
]


def batches() -> list[list[list[str]]]:
    """Return batches of six pairs: PAIRS, and paragraphs of the standard library's docstrings, the longest cut off."""
    paragraphs = docstrings()
    texts = [paragraphs[i] for i in np.random.default_rng(0).choice(len(paragraphs), 60, replace=False)]
    return [PAIRS, *([texts[i : i + 2] for i in range(start, start + 12, 2)] for start in range(0, 60, 12))]


def torch_gradients(model: Any, pairs: list[list[str]]) -> dict[str, Any]:
    """Return the gradients of sentence-transformers' model and loss."""
    from sentence_transformers import losses

    model.zero_grad()
    loss = losses.MultipleNegativesRankingLoss(model)
    loss([model.preprocess(list(column)) for column in zip(*pairs, strict=True)], None).backward()
    named = {
        name.rpartition("auto_model.")[2].rpartition("0.model.")[2]: p.grad for name, p in model.named_parameters()
    }
    return {name: gradient.numpy() for name, gradient in named.items() if gradient is not None}


def errors() -> dict[str, tuple[float, float]]:
    """Return (our error, PyTorch's error) of each parameter's gradient in float32: the mean over batches."""
    from sentence_transformers import SentenceTransformer as TorchModel

    folder = find_or_fetch().folder
    models = [SentenceTransformer(folder, backend="numpy", dtype=dtype) for dtype in ("float64", "float32")]
    torch_model: Any = TorchModel(str(folder), device="cpu").eval()
    found: dict[str, list[tuple[float, float]]] = {}
    for pairs in batches():
        exact, ours = (loss_and_gradients(model, pairs, loss=MultipleNegativesRankingLoss())[1] for model in models)
        theirs = torch_gradients(torch_model, pairs)
        for name, gradient in exact.items():
            scale = float(np.abs(exact[name.replace("key.bias", "query.bias")]).max())
            mine, other = (float(np.abs(of[name] - gradient).max()) / scale for of in (ours, theirs))
            found.setdefault(name, []).append((mine, other))
    return {name: (float(np.mean(pairs, axis=0)[0]), float(np.mean(pairs, axis=0)[1])) for name, pairs in found.items()}


def main(argv: Sequence[str] | None = None) -> tuple[str]:
    """Return the table."""
    assert not argv, argv
    warnings.simplefilter("ignore")
    kinds: dict[str, list[tuple[float, float]]] = {}
    for name, pair in errors().items():
        kinds.setdefault(re.sub(r"layer\.\d+\.", "layer.*.", name), []).append(pair)
    lines = ["| parameter | minilm_np | PyTorch | ratio |", "|---|---|---|---|"]
    for kind, pairs in kinds.items():
        ours, theirs = (max(pair[i] for pair in pairs) for i in (0, 1))
        lines.append(f"| {kind} | {ours:.1e} | {theirs:.1e} | {ours / theirs:.2f} |")
    return ("\n".join([*lines, "", f"{machine()}.", ""]),)


if __name__ == "__main__":
    print(*main())
