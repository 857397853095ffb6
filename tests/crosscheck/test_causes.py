"""The search for causes names the mistake that explains a difference."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.ports import port_with

from minilm_np import SentenceTransformer
from minilm_np.crosscheck import compare, crosscheck, probe_batches, probe_texts, stage_texts
from minilm_np.crosscheck.causes import Evidence, Search
from minilm_np.crosscheck.mistakes import Mistake, catalogue, mistake
from minilm_np.crosscheck.truth import STAGE_ROWS, batches, simulator, tolerance, truth
from minilm_np.kernels.simd import WITHOUT_JIT
from minilm_np.model import stage_names


def from_catalogue(name: str) -> Mistake:
    return next(known for known in catalogue() if known.name == name)


def test_mistake_rejects_unknown_field() -> None:
    with pytest.raises(TypeError, match="hidden_akt"):
        mistake("gelu-typo", "a field that Variant does not have", hidden_akt="relu")


@pytest.mark.parametrize(
    "name",
    [
        "gelu-tanh", "layer-norm-eps-1e-06", "truncation-128", "cased", "positions-off-by-1", "padding-attended",
        "padding-in-mean", "pooling-cls", "no-normalization", "attention-kv-swapped", "heads-interleaved",
        "weight-transposed-query-layer-3", "bias-dropped-output-layer-5", "last-layer-dropped", "layers-swapped-1-2",
        "fp16-weights", "int8-weights-per-channel", "rows-longest-first", "rows-first-repeated",
    ],
)  # fmt: skip
def test_names_single_mistake(name: str) -> None:
    report = crosscheck(port_with(name))
    assert not report.ok and report.first_divergence == "sentence_embedding"
    assert [cause.name for cause in report.causes] == [name], report
    assert report.causes[0].explained > 0.99 and report.causes[0].fits and name in str(report)


@pytest.fixture
def enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the search end: on a machine that does other work, threads that wait for each other take CPU time, too."""
    monkeypatch.setattr(compare, "CPU_SECONDS", 300.0)


@pytest.mark.skipif(WITHOUT_JIT, reason="minutes without the JIT")
@pytest.mark.usefixtures("enough_time")
@pytest.mark.parametrize("dtype, name", [("bfloat16", "bf16-dense"), ("int8", "int8-dense")])
def test_names_our_own_low_precision(dtype: str, name: str, weights_folder: Path) -> None:
    model = SentenceTransformer(weights_folder, dtype=dtype)
    report = crosscheck(partial(model.encode, truncation="ignore"))
    assert not report.ok and report.causes[0].name == name and report.causes[0].explained > 0.99, report
    stage = "encoder.layer.0.attention.self.query"
    report = crosscheck(stages={stage: model.stages(stage_texts())[stage]})
    assert report.causes[0].name == name and report.causes[0].explained > 0.999, report


@pytest.mark.usefixtures("enough_time")
def test_names_pair_of_mistakes() -> None:
    report = crosscheck(port_with("gelu-tanh", "truncation-128"))
    assert report.causes[0].name == "gelu-tanh + truncation-128" and report.causes[0].fits, report


@pytest.mark.usefixtures("enough_time")
def test_names_pair_of_which_one_shows_in_few_texts() -> None:
    report = crosscheck(port_with("fp16-weights", "accents-kept"))
    assert report.causes[0].name == "accents-kept + fp16-weights" and report.causes[0].fits, report


@pytest.mark.usefixtures("enough_time")
def test_finds_mistake_in_few_texts_under_noise_in_all() -> None:
    """The first wrong text has no control characters, so it cannot decide; the search tries other texts."""
    noise = np.random.default_rng(7).standard_normal((40, 384)) * 2e-5
    got = list(np.concatenate([port_with("no-unicode-cleaning")(texts) for texts in probe_batches()]) + noise)
    rows, final = range(40), "sentence_embedding"
    one = Evidence(final, rows, batches(), got, truth().of(final, rows), tolerance(final))
    tried = ("truncation-128", "truncation-512", "accents-kept", "cjk-not-split", "no-unicode-cleaning")
    search = Search(simulator(), truth().token_ids, [one], only=lambda m: m.name in tried, pairs=False)
    (cause,) = search.causes()
    assert cause.name == "no-unicode-cleaning" and not cause.fits and cause.explained > 0.95


def test_tolerance_grows_with_vector_length() -> None:
    """A vector of length 30 rounds by more than a unit vector: the cause fits, and no pair is tried."""
    report = crosscheck(lambda texts: port_with("pooling-mean-sqrt-len")(texts) * (1 + 1e-6))
    assert report.causes[0].name == "pooling-mean-sqrt-len" and report.causes[0].fits, report


def test_explains_final_vectors_given_as_stage_of_some_texts() -> None:
    names = ["pooled", "sentence_embedding"]
    run = simulator().run(from_catalogue("pooling-cls").apply(), stage_texts(), [range(len(STAGE_ROWS))], names)
    report = crosscheck(stages=run.stages)
    assert report.first_divergence == "pooled" and report.causes[0].name == "pooling-cls", report
    assert crosscheck(stages={"sentence_embedding": run.stages["sentence_embedding"]}).causes[0].name == "pooling-cls"


@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_stage_with_wrong_shape_has_no_cause(off: float) -> None:
    """The first wrong text has no elements, so the share explained of it is undefined."""
    right = truth().of("embeddings", STAGE_ROWS)
    got = [np.zeros((0, 384)) if len(value) == 2 else value for value in right]
    got[-2] = got[-2] + off
    report = crosscheck(stages={"embeddings": got})
    assert not report.ok and report.causes == []


def test_names_mistake_that_only_a_stage_shows() -> None:
    name = "bias-dropped-key-layer-2"
    names = stage_names(truth().checkpoint.config)
    run = simulator().run(from_catalogue(name).apply(), stage_texts(), [range(len(STAGE_ROWS))], names)
    report = crosscheck(port_with(name), run.stages)
    assert report.first_divergence == "encoder.layer.2.attention.self.key"
    assert report.stages[-1].ok and not report.ok  # the vectors are right
    # dropping this bias in all layers fits the stage as well, but would change layer 0, which is right
    assert [cause.name for cause in report.causes] == [name]


def test_mistakes_without_the_wrong_stage_do_not_explain_it() -> None:
    """Layer 5 alone is wrong; variants that drop layers have no such stage."""
    stage = "encoder.layer.5.intermediate"
    got = [value * 1.5 for value in truth().of(stage, STAGE_ROWS)]
    report = crosscheck(stages={stage: got})
    assert report.part == "encoder" and not any(cause.fits for cause in report.causes), report


def test_mistake_that_a_right_stage_contradicts_is_only_a_candidate() -> None:
    name = "embeddings-layer-norm-missing"
    run = simulator().run(from_catalogue(name).apply(), stage_texts(), [range(len(STAGE_ROWS))], ["pooled"])
    evidence = []
    for stage, values in (("pooled", run.stages["pooled"]), ("embeddings", truth().of("embeddings", STAGE_ROWS))):
        expected = truth().of(stage, STAGE_ROWS)
        evidence.append(Evidence(stage, STAGE_ROWS, [range(len(STAGE_ROWS))], values, expected, tolerance(stage)))
    for right, fits in (((), True), (evidence[1:], False)):
        search = Search(
            simulator(), truth().token_ids, evidence[:1], only=lambda m: m.name == name, pairs=False, right=right
        )
        (cause,) = search.causes()
        assert cause.name == name and cause.explained > 0.99 and cause.fits is fits


def test_wrong_word_pieces_are_first_divergence() -> None:
    run = simulator().run(from_catalogue("accents-kept").apply(), probe_texts(), [range(40)])
    report = crosscheck(port_with("accents-kept"), tokenize=lambda texts: run.token_ids)
    assert report.first_divergence == "token_ids" and report.causes[0].name == "accents-kept", report


def test_random_noise_has_no_cause(model: SentenceTransformer) -> None:
    noise = np.random.default_rng(3).standard_normal((40, 384)) * 1e-3
    rows = dict(zip(probe_texts(), truth().embeddings + noise, strict=True))
    report = crosscheck(lambda texts: [rows[text] for text in texts])
    assert not report.ok and report.causes == [] and "no known mistake explains this" in str(report)


def test_search_stops_when_its_time_is_over() -> None:
    got = list(truth().embeddings + np.random.default_rng(3).standard_normal((40, 384)) * 1e-3)
    one = Evidence("sentence_embedding", range(40), batches(), got, list(truth().embeddings), 1e-6)
    tried: list[str] = []
    search = Search(simulator(), truth().token_ids, [one], tried.append, seconds=0)
    assert search.causes() == [] and search.stopped and not tried


def test_names_wrong_dimensions_values_and_rows() -> None:
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
    for got, name in cases:
        report = crosscheck(got)
        assert not report.ok and report.causes[0].name == name, (name, report)
        json.loads(report.to_json())
