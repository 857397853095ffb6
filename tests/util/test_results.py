"""What the similarity functions return supports what callers of sentence-transformers write, without PyTorch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.embeddings import normal

from minilm_np import util

A, B = normal(3, 8), normal(4, 8, seed=1)
SCORES: Any = util.cos_sim(A, B)
PLAIN = np.array(SCORES)
IDIOMS: dict[str, tuple[Callable[[], Any], Any]] = {  # by name: what a caller writes, and its right value
    "float of two vectors": (lambda: float(util.cos_sim(A[0], B[0])), pytest.approx(PLAIN[0, 0], abs=1e-6)),
    "item of two vectors": (lambda: util.cos_sim(A[0], B[0]).item(), pytest.approx(PLAIN[0, 0], abs=1e-6)),
    "float, pairwise": (lambda: float(util.pairwise_cos_sim(A[0], B[0])), float(util.pairwise_cos_sim(A[0], B[0]))),
    "cpu, numpy": (lambda: SCORES.cpu().numpy().tolist(), PLAIN.tolist()),
    "detach": (lambda: SCORES.detach().cpu().numpy().argmax(), PLAIN.argmax()),
    "row, tolist": (lambda: SCORES[0].tolist(), PLAIN[0].tolist()),
    "number, item": (lambda: SCORES[1][2].item(), float(PLAIN[1, 2])),
    "number, format": (lambda: f"{SCORES[1][2]:.4f}", f"{PLAIN[1, 2]:.4f}"),
    "numbers of a row": (lambda: [number.item() for number in SCORES[0]], PLAIN[0].tolist()),
    "squeeze": (lambda: SCORES[:1].squeeze().cpu().tolist(), PLAIN[0].tolist()),
    "topk": (lambda: SCORES[0].topk(2).values.tolist(), np.sort(PLAIN[0])[::-1][:2].tolist()),
    "topk of rows": (lambda: SCORES.topk(k=1)[1][:, 0].tolist(), PLAIN.argmax(axis=1).tolist()),
    "argsort": (lambda: np.argsort(-SCORES[0]).tolist(), np.argsort(-PLAIN[0]).tolist()),
    "diagonal": (lambda: SCORES.diagonal().tolist(), PLAIN.diagonal().tolist()),
    "repr": (lambda: repr(SCORES), repr(PLAIN)),
}


@pytest.mark.parametrize("name", IDIOMS)
def test_similarities_support_what_callers_write(name: str) -> None:
    idiom, expected = IDIOMS[name]
    assert idiom() == expected


@pytest.mark.parametrize(
    "compute",
    [
        lambda: 1 - SCORES,
        lambda: SCORES * 2,
        lambda: SCORES > 0,
        lambda: SCORES.max(axis=1),
        lambda: SCORES.argsort(),
        lambda: np.sort(SCORES),
        lambda: np.stack([SCORES, SCORES]),
        lambda: pickle.loads(pickle.dumps(SCORES)),
        lambda: copy.deepcopy(SCORES),
    ],
)
def test_arithmetic_numpys_functions_and_copies_give_plain_arrays(compute: Callable[[], Any]) -> None:
    assert type(compute()) is np.ndarray


def test_other_methods_of_a_tensor_fail_with_a_line_that_says_why() -> None:
    with pytest.raises(AttributeError, match=r"unsqueeze: expected an attribute of a NumPy array.*Tensors"):
        SCORES.unsqueeze(0)
    with pytest.raises(TypeError):
        float(SCORES)
