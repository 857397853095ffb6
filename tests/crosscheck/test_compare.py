"""The check itself: right ports pass, and answers that cannot be compared raise one-line errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from minilm_np import SentenceTransformer
from minilm_np.crosscheck import (
    CannotCompareError,
    crosscheck,
    probe_texts,
    stage_texts,
)
from minilm_np.crosscheck.truth import STAGE_ROWS, truth
from minilm_np.model import stage_names

Encode = Callable[[list[str]], Any]


# --- right backends pass


def test_both_op_sets_pass(model: SentenceTransformer, numba_model: SentenceTransformer) -> None:
    for right in (model, numba_model):
        report = crosscheck(partial(right.encode, truncation="ignore"), right.stages)
        assert report.ok and report.first_divergence is None and not report.causes, report
        assert 0 < report.max_error <= report.tolerance < 2e-6
        assert len(report.stages) == len(stage_names(right.config)) + 1 and str(report).startswith("PASS")


def test_any_form_of_a_right_answer_passes(model: SentenceTransformer) -> None:
    packed = model.stages(stage_texts())
    name = "encoder.layer.2.output"
    lengths = [len(ids) for ids in (truth().token_ids[row] for row in STAGE_ROWS)]
    rows = np.split(packed[name], np.cumsum(lengths)[:-1])
    padded = np.full((len(rows), max(lengths), 384), np.nan)
    for place, value in zip(padded, rows, strict=True):
        place[: len(value)] = value
    for form in (packed[name], rows, [row[None] for row in rows], padded):
        assert crosscheck(stages={name: form}).ok
    assert crosscheck(stages={"last_hidden_state": packed["encoder.layer.5.output"]}).ok
    assert crosscheck(model.encode(probe_texts(), truncation="ignore").tolist()).ok
    assert crosscheck(tokenize=lambda texts: [ids.tolist() for ids in truth().token_ids]).ok


def test_stages_alone_say_where(model: SentenceTransformer) -> None:
    def stages(texts: list[str]) -> dict[str, Any]:
        found = model.stages(texts)
        found["encoder.layer.4.output"] = found["encoder.layer.4.output"].copy()
        found["encoder.layer.4.output"][5, 7] += 1
        return found

    report = crosscheck(stages=stages, causes=False)
    assert not report.ok and report.first_divergence == "encoder.layer.4.output"
    worst = next(stage for stage in report.stages if not stage.ok).worst
    assert worst is not None and (worst.probe, worst.index, worst.token) == ("sentence", (5, 7), "a")
    assert abs(worst.found - worst.wanted - 1) < 1e-5 and "word piece a" in str(report)


# --- what cannot be compared


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda texts: 1 / 0, "encode, batch 0: raised ZeroDivisionError: division by zero"),
        (lambda texts: [["a"] * 384] * len(texts), "encode, batch 0: wanted numbers"),
        (lambda texts: [[0.0] * 384] * (len(texts) - 1), r"encode, batch 0: found shape \(7, 384\), wanted \(8, 384\)"),
        (lambda texts: [[0.0] * 3, [0.0] * 4], "encode, batch 0: wanted numbers"),
        (lambda texts: None, "encode, batch 0: wanted numbers"),
        (np.zeros(384), r"encode: found shape \(384,\), wanted \(40, 384\)"),
        (lambda texts: np.zeros((len(texts), 300 + len(texts[0]) % 7)), "found 30. dimensions, wanted 30. as before"),
    ],
)
def test_an_answer_that_cannot_be_compared(encode: Any, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        crosscheck(encode)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({}, "wanted a mapping of at least one"),
        ({"layer.0": np.zeros((3, 3))}, "found 'layer.0', wanted names such as"),
        ({"pooled": np.zeros((3, 3))}, r"found shape \(3, 3\); wanted a list of"),
        (
            {"last_hidden_state": [], "token_embeddings": []},
            "'token_embeddings' is another name of encoder.layer.5.output",
        ),
        ({"pooled": [[[1.0], [1.0, 2.0]]] * len(STAGE_ROWS)}, r"stages\['pooled'\]\[0\]: wanted numbers"),
        ({"token_ids": [[1.5]]}, "token_ids: wanted a list of"),
        (lambda texts: 1 / 0, "stages: raised ZeroDivisionError"),
    ],
)
def test_stages_that_cannot_be_compared(stages: Any, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        crosscheck(stages=stages)
    with pytest.raises(CannotCompareError, match="found nothing to compare"):
        crosscheck()
