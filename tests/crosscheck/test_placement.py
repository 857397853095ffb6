"""Where no known mistake explains a difference, the report names the form of the result or the part that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minilm_np.crosscheck import crosscheck, probe_batches, probe_texts, stage_texts
from minilm_np.crosscheck.truth import batches, simulator, truth
from minilm_np.crosscheck.variant import Variant
from minilm_np.formats import round_to_bf16

ONE_BY_ONE = [[row] for row in range(40)]


def pooled() -> Any:
    return simulator().run(Variant(scaling="none"), probe_texts(), batches()).embeddings.astype(np.float64)


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def call_by_call(change: Callable[[Any], Any]) -> Callable[[list[str]], Any]:
    row = {text: i for i, text in enumerate(probe_texts())}
    return lambda texts: change(pooled()[[row[text] for text in texts]])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rounded-to-4-decimals", lambda p: unit(p).round(4)),
        ("rounded-to-2-decimals", lambda p: unit(p).round(2)),
        ("rounded-to-fp16", lambda p: unit(p).astype(np.float16)),
        ("rounded-to-bf16", lambda p: round_to_bf16(unit(p).astype(np.float32))),
        ("scaled-by-one-factor", lambda p: unit(p) * 7.5),
        ("scaled-by-one-factor + rounded-to-0-decimals", lambda p: np.round(unit(p) * 127)),
        ("rounded-to-grid", lambda p: np.round(unit(p) * 300) / 300),
        ("scaled-by-largest-element", lambda p: p / np.abs(p).max(1, keepdims=True)),
        ("scaled-by-largest-element-of-call", lambda p: p / np.abs(p).max()),
        ("scaled-by-call", lambda p: p / np.linalg.norm(p)),
        ("centered", lambda p: unit(p - p.mean(1, keepdims=True))),
    ],
)
def test_names_the_form_of_a_result(name: str, change: Callable[[Any], Any]) -> None:
    report = crosscheck(call_by_call(change))
    assert [cause.name for cause in report.causes] == [name] and report.causes[0].fits, report


def test_names_a_constant_vector_for_special_texts() -> None:
    got = truth().embeddings.copy()
    got[[3, 39]] = 0
    (cause,) = crosscheck(got).causes
    assert cause.name == "constant-vector" and "zeros instead of the vector of: empty, 400 pieces;" in cause.says


def test_says_what_texts_with_wrong_word_pieces_have_in_common() -> None:
    got = truth().embeddings.copy()
    wrong = [row for row, text in enumerate(probe_texts()) if "-" in text]
    got[wrong] = unit(got[wrong] + np.random.default_rng(1).standard_normal((len(wrong), 384)) * 0.02)
    report = crosscheck(got)
    assert report.causes == [] and report.part == "tokenizer", report
    assert "right on all texts without hyphens; wrong on all with hyphens" in str(report)


def test_places_weights_of_right_hidden_states_in_the_pooling() -> None:
    stage = "encoder.layer.5.output"
    run = simulator().run(Variant(), probe_texts(), ONE_BY_ONE, [stage])
    got = np.stack([np.linspace(1, 2, len(value)) @ value for value in run.stages[stage]])
    report = crosscheck(unit(got))
    assert report.part == "pooling" and not any(cause.fits for cause in report.causes), report


def test_places_noise_in_the_encoder() -> None:
    noise = np.random.default_rng(3).standard_normal((40, 384)) * 1e-3
    report = crosscheck(truth().embeddings + noise)
    assert report.causes == [] and report.part == "encoder" and "known    encoder: " in str(report), report


def test_places_a_wrong_stage() -> None:
    got = [value + 0.01 for value in truth().of("embeddings", ROWS)]
    report = crosscheck(stages={"embeddings": got})
    assert report.part == "encoder" and report.known == ("the first wrong stage is embeddings",), report


ROWS = [row for row, text in enumerate(probe_texts()) if text in stage_texts()]


def test_batching() -> None:
    """Only the longest text of each call is right, as with padding that is not masked."""
    got, rng = truth().embeddings.copy(), np.random.default_rng(5)
    lengths = [len(ids) for ids in truth().token_ids]
    for batch in batches():
        for row in batch:
            if lengths[row] < max(lengths[other] for other in batch):
                got[row] = unit((got[row] + rng.standard_normal(384) * 0.01)[None])[0]
    rows = dict(zip(probe_texts(), got, strict=True))
    assert len(probe_batches()) == len(batches())
    report = crosscheck(lambda texts: [rows[text] for text in texts])
    assert report.part == "batching" and not any(cause.fits for cause in report.causes), report
