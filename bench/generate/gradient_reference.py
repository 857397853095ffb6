"""Write tests/reference/gradients.json, the gradients of a batch by PyTorch in float64: `python bench/generate/...`.

For each parameter: the norm of its gradient, the sum, and elements at fixed places. Needs the parity extra.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from minilm_np.weights import find_or_fetch

PAIRS = [
    ["How far is the moon?", "It is 384,400 km away."],
    ["Who wrote Hamlet?", "Shakespeare wrote it."],
    ["the the the", "the cat, the cat [PAD]"],
    ["bread", "A loaf of bread and some butter, " * 9],
]
ELEMENTS = 5
OUTPUT = Path(__file__).parents[2] / "tests" / "reference" / "gradients.json"


def summary(gradient: Any) -> dict[str, Any]:
    """Return the numbers that are compared of one parameter's gradient."""
    flat = np.asarray(gradient, np.float64).ravel()
    places = np.argsort(-np.abs(flat), kind="stable")[: ELEMENTS * 7 : 7]
    return {
        "norm": float(np.linalg.norm(flat)),
        "sum": float(flat.sum()),
        "elements": {str(int(i)): float(flat[i]) for i in places},
    }


def main() -> None:
    from sentence_transformers import SentenceTransformer, losses

    model: Any = SentenceTransformer(str(find_or_fetch().folder), device="cpu").double().eval()
    loss = losses.MultipleNegativesRankingLoss(model)
    value = loss([model.preprocess(list(column)) for column in zip(*PAIRS, strict=True)], None)
    value.backward()
    gradients = {
        name.rpartition("auto_model.")[2].rpartition("0.model.")[2]: summary(p.grad.numpy())
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    content = {"pairs": PAIRS, "loss": float(value.detach()), "gradients": gradients}
    OUTPUT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
