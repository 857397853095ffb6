"""The check itself: correct ports pass, and values that cannot be compared raise one-line errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from minilm_np import SentenceTransformer
from minilm_np.crosscheck import CannotCompareError, crosscheck, probe_texts, stage_texts
from minilm_np.crosscheck.truth import STAGE_ROWS, truth
from minilm_np.model import stage_names

# --- correct ports pass


def test_both_op_sets_pass(model: SentenceTransformer, numba_model: SentenceTransformer) -> None:
    for port in (model, numba_model):
        report = crosscheck(partial(port.encode, truncation="ignore"), port.stages)
        assert report.ok and report.first_divergence is None and not report.causes, report
        assert 0 < report.max_error <= report.tolerance < 2e-6
        assert len(report.stages) == len(stage_names(port.config)) + 1 and str(report).startswith("PASS")


def test_accepts_every_form_of_correct_values(model: SentenceTransformer) -> None:
    packed = model.stages(stage_texts())
    name = "encoder.layer.2.output"
    lengths = [len(ids) for ids in (truth().token_ids[row] for row in STAGE_ROWS)]
    by_text = np.split(packed[name], np.cumsum(lengths)[:-1])
    padded = np.full((len(by_text), max(lengths), 384), np.nan)
    for row, value in zip(padded, by_text, strict=True):
        row[: len(value)] = value
    for form in (packed[name], by_text, [value[None] for value in by_text], padded):
        assert crosscheck(stages={name: form}).ok
    assert crosscheck(stages={"last_hidden_state": packed["encoder.layer.5.output"]}).ok
    assert crosscheck(model.encode(probe_texts(), truncation="ignore").tolist()).ok
    assert crosscheck(tokenize=lambda texts: [ids.tolist() for ids in truth().token_ids]).ok


def test_stages_locate_a_wrong_element(model: SentenceTransformer) -> None:
    def stages(texts: list[str]) -> dict[str, Any]:
        values = model.stages(texts)
        values["encoder.layer.4.output"] = values["encoder.layer.4.output"].copy()
        values["encoder.layer.4.output"][5, 7] += 1
        return values

    report = crosscheck(stages=stages, causes=False)
    assert not report.ok and report.first_divergence == "encoder.layer.4.output"
    worst = next(stage for stage in report.stages if not stage.ok).worst
    assert worst is not None and (worst.probe, worst.index, worst.token) == ("sentence", (5, 7), "a")
    assert abs(worst.found - worst.wanted - 1) < 1e-5 and "word piece a" in str(report)


# --- values that cannot be compared


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda texts: 1 / 0, "encode, batch 0: raised ZeroDivisionError: division by zero"),
        (lambda texts: [["a"] * 384] * len(texts), "encode, batch 0: expected numbers: got dtype <U1"),
        (
            lambda texts: [[0.0] * 384] * (len(texts) - 1),
            r"encode, batch 0: expected shape \(8, 384\), one vector per text, got \(7, 384\)",
        ),
        (lambda texts: [[0.0] * 3, [0.0] * 4], "encode, batch 0: expected numbers"),
        (lambda texts: None, "encode, batch 0: expected numbers"),
        (np.zeros(384), r"encode: expected shape \(40, 384\), one vector per text, got \(384,\)"),
        (
            lambda texts: np.zeros((len(texts), 300 + len(texts[0]) % 7)),
            "expected 30. dimensions as in batch 0, got 30.",
        ),
    ],
)
def test_rejects_vectors_that_cannot_be_compared(encode: Any, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        crosscheck(encode)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({}, "stages: expected a mapping from stage names to values, got an empty one"),
        ({"layer.0": np.zeros((3, 3))}, "stages: expected names such as .*, got 'layer.0'"),
        ({"pooled": np.zeros((3, 3))}, r"stages\['pooled'\]: expected a list of .*, got shape \(3, 3\)"),
        (
            {"last_hidden_state": [], "token_embeddings": []},
            "stages: expected encoder.layer.5.output once, got it again as 'token_embeddings'",
        ),
        ({"pooled": [[[1.0], [1.0, 2.0]]] * len(STAGE_ROWS)}, r"stages\['pooled'\]\[0\]: expected numbers"),
        ({"token_ids": [[1.5]]}, "token_ids: expected a list of 12 lists of int"),
        (lambda texts: 1 / 0, "stages: raised ZeroDivisionError"),
        (5, "stages: expected a mapping from stage names to values, got int"),
        (None, "crosscheck: expected encode, stages or tokenize, got none of them"),
    ],
)
def test_rejects_stages_that_cannot_be_compared(stages: Any, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        crosscheck(stages=stages)
