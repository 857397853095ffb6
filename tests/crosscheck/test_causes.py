"""The cause search names the mistake that explains a difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minilm_np import SentenceTransformer
from minilm_np.crosscheck import (
    crosscheck,
    probe_batches,
    probe_texts,
    stage_texts,
)
from minilm_np.crosscheck.causes import Evidence, Search
from minilm_np.crosscheck.mistakes import RIGHT, catalogue
from minilm_np.crosscheck.truth import STAGE_ROWS, batches, simulator, tolerance, truth
from minilm_np.model import stage_names

Encode = Callable[[list[str]], Any]


def made_with(*names: str) -> Encode:
    """A backend that makes these mistakes of the catalogue."""
    variant = RIGHT
    for mistake in catalogue():
        variant = mistake.apply(variant) if mistake.name in names else variant
    return lambda texts: simulator().run(variant, texts, [range(len(texts))]).embeddings


# --- wrong ones are named


@pytest.mark.parametrize(
    "name",
    [
        "gelu-tanh", "layer-norm-eps-1e-06", "truncation-128", "cased", "positions-off-by-1", "padding-attended",
        "padding-in-mean", "pooling-cls", "no-normalization", "attention-kv-swapped", "heads-interleaved",
        "weight-transposed-query-layer-3", "bias-dropped-output-layer-5", "last-layer-dropped", "layers-swapped-1-2",
        "fp16-weights", "int8-weights-per-channel", "rows-longest-first", "rows-first-repeated",
    ],
)  # fmt: skip
def test_a_mistake_is_named(name: str) -> None:
    report = crosscheck(made_with(name))
    assert not report.ok and report.first_divergence == "sentence_embedding"
    assert [cause.name for cause in report.causes] == [name], report
    assert report.causes[0].explained > 0.99 and report.causes[0].fits and name in str(report)


def test_two_mistakes_are_named() -> None:
    report = crosscheck(made_with("gelu-tanh", "truncation-128"))
    assert report.causes[0].name == "gelu-tanh + truncation-128" and report.causes[0].fits, report


def test_two_mistakes_of_which_one_shows_in_few_texts_are_named() -> None:
    report = crosscheck(made_with("fp16-weights", "accents-kept"))
    assert report.causes[0].name == "accents-kept + fp16-weights" and report.causes[0].fits, report


def test_a_mistake_of_few_texts_is_found_among_noise_in_all() -> None:
    """The first text that is wrong has no control characters: it says nothing of them, others are asked."""
    noise = np.random.default_rng(7).standard_normal((40, 384)) * 2e-5
    found = list(np.concatenate([made_with("no-unicode-cleaning")(texts) for texts in probe_batches()]) + noise)
    rows, final = range(40), "sentence_embedding"
    one = Evidence(final, rows, batches(), found, truth().of(final, rows), tolerance(final))
    leave_it = ("truncation-128", "truncation-512", "accents-kept", "cjk-not-split", "no-unicode-cleaning")
    search = Search(simulator(), truth().token_ids, [one], only=lambda m: m.name in leave_it, pairs=False)
    (cause,) = search.causes()
    assert cause.name == "no-unicode-cleaning" and not cause.fits and cause.explained > 0.95


def test_long_vectors_may_be_off_by_more() -> None:
    """Rounding of a vector of length 30 is not that of one of length 1: the cause fits, and no second is sought."""
    report = crosscheck(lambda texts: made_with("pooling-mean-sqrt-len")(texts) * (1 + 1e-6))
    assert report.causes[0].name == "pooling-mean-sqrt-len" and report.causes[0].fits, report


def test_final_vectors_among_the_stages_are_those_of_some_texts() -> None:
    names = ["pooled", "sentence_embedding"]
    mistake = next(m for m in catalogue() if m.name == "pooling-cls")
    run = simulator().run(mistake.apply(), stage_texts(), [range(len(STAGE_ROWS))], names)
    report = crosscheck(stages=run.stages)
    assert report.first_divergence == "pooled" and report.causes[0].name == "pooling-cls", report
    assert crosscheck(stages={"sentence_embedding": run.stages["sentence_embedding"]}).causes[0].name == "pooling-cls"


@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_a_stage_of_another_shape_is_explained_by_nothing(off: float) -> None:
    """The first text that is wrong has no numbers at all, so nothing that could be explained a share of."""
    right = truth().of("embeddings", STAGE_ROWS)
    found = [np.zeros((0, 384)) if len(one) == 2 else one for one in right]
    found[-2] = found[-2] + off
    report = crosscheck(stages={"embeddings": found})
    assert not report.ok and report.causes == []


def test_a_mistake_that_only_a_stage_shows_is_named() -> None:
    mistake = next(m for m in catalogue() if m.name == "bias-dropped-key-layer-2")
    names = stage_names(truth().checkpoint.config)
    run = simulator().run(mistake.apply(), stage_texts(), [range(len(STAGE_ROWS))], names)
    report = crosscheck(made_with(mistake.name), run.stages)
    assert report.first_divergence == "encoder.layer.2.attention.self.key"
    assert report.stages[-1].ok and not report.ok  # the vectors are right
    # the same bias dropped in all layers fits this stage as well, but not layer 0, which is right
    assert [cause.name for cause in report.causes] == [mistake.name]


def test_wrong_word_pieces_are_the_first_divergence() -> None:
    mistake = next(m for m in catalogue() if m.name == "accents-kept")
    run = simulator().run(mistake.apply(), probe_texts(), [range(40)])
    report = crosscheck(made_with(mistake.name), tokenize=lambda texts: run.token_ids)
    assert report.first_divergence == "token_ids" and report.causes[0].name == "accents-kept", report


def test_noise_is_not_explained(model: SentenceTransformer) -> None:
    noise = np.random.default_rng(3).standard_normal((40, 384)) * 1e-3
    rows = dict(zip(probe_texts(), truth().embeddings + noise, strict=True))
    report = crosscheck(lambda texts: [rows[text] for text in texts])
    assert not report.ok and report.causes == [] and "no known mistake explains this" in str(report)


def test_what_is_no_mistake_of_arithmetic_is_named() -> None:
    rng = np.random.default_rng(4)
    right = truth().embeddings
    with_nan = right.copy()
    with_nan[3, 5] = np.nan
    random = rng.standard_normal((40, 384))
    cases = [
        (rng.standard_normal((40, 768)), "other-dimension"),
        (right[:, :128], "other-dimension"),
        (with_nan, "not-finite"),
        (right * 0, "all-zero"),
        (random / np.linalg.norm(random, axis=1, keepdims=True), "unrelated-vectors"),
        (right[rng.permutation(40)], "rows-out-of-order"),
        (right[[0, 1, 1, *range(3, 40)]], "rows-repeated"),
    ]
    for found, name in cases:
        report = crosscheck(found)
        assert not report.ok and report.causes[0].name == name, (name, report)
        json.loads(report.to_json())
