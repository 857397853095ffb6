"""Write the PyTorch reference, tests/reference/pytorch.safetensors: `python bench/generate/pytorch_reference.py`.

It has every stage, computed by PyTorch in float64, for TEXTS of tests/support/texts.py, so that the tests need no
PyTorch. The larger stages are sampled (see `sample`), because all of their elements would take 25 MB; token ids, pooled
and sentence_embedding are complete. Values are stored as float32. One machine writes the same bytes every time. Needs
the parity extra.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

REPOSITORY = Path(__file__).parents[2]
REFERENCE = REPOSITORY / "tests" / "reference" / "pytorch.safetensors"
SAMPLE_SIZE = 384  # elements of a stage; the hidden size, so that every column occurs


def sample(stage: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return elements 0, s, 2s ... 383s (modulo the size n) of the flattened stage, or all if it is small or pooled.

    The stride s is the smallest integer from 0.635 n up that has no common factor with n. So no element is sampled
    twice, and n = rows x 384 gives every column once. 0.635 was found by trial: for texts of up to 64 word pieces every
    row, head, query and key is sampled (the golden ratio misses queries of some lengths).
    """
    flat = np.ravel(value)
    n = flat.size
    if n <= SAMPLE_SIZE or stage in ("pooled", "sentence_embedding"):
        return flat
    stride = next(s for s in count(round(0.635 * n)) if gcd(s, n) == 1)
    return np.asarray(flat[np.arange(SAMPLE_SIZE) * stride % n])


def main() -> None:
    sys.path[:0] = [str(REPOSITORY / folder) for folder in ("tests", "bench")]
    import tokenizers
    import torch
    import transformers
    from fidelity import load_bert, pytorch_stages
    from safetensors.numpy import save_file
    from support.texts import TEXTS

    from minilm_np import SentenceTransformer, weights

    folder = weights.find_or_fetch().folder
    model = SentenceTransformer(folder, backend="numpy")
    bert = load_bert(folder, "float64")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, text in TEXTS.items():
        tokens = model.tokens([text])
        arrays[f"{name}/token_ids"] = tokens.token_ids
        arrays[f"{name}/token_type_ids"] = tokens.token_type_ids
        for stage, value in pytorch_stages(bert, tokens).items():
            arrays[f"{name}/{stage}"] = sample(stage, value).astype(np.float32)
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "weights sha256": weights.SHA256["model.safetensors"],
        "dtype": "computed in float64, stored as float32",
        "sampled": " ".join((sample.__doc__ or "").split()),
    }
    # A single key: the library writes several keys in a different order each time.
    save_file(arrays, REFERENCE, metadata={"made with": json.dumps(versions)})
    print(f"{REFERENCE.name}: {len(TEXTS)} texts, {len(arrays)} arrays, {REFERENCE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
