"""The check of gradients and optimizers without PyTorch: the port is our own backward pass, with a mistake."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import pytest

from minilm_np import SentenceTransformer
from minilm_np.crosscheck import (
    CannotCompareError,
    GradientReport,
    assert_matches_minilm,
    crosscheck,
    gradient_examples,
)
from minilm_np.crosscheck.gradient_mistakes import GRADIENT_MISTAKES, GradientMistake
from minilm_np.crosscheck.gradient_variant import RIGHT, Simulation
from minilm_np.crosscheck.gradients import FLOAT32_ERROR, LOSS_TOLERANCE, TOLERANCE, backwards, gradient_truth
from minilm_np.crosscheck.optimizer import MISTAKES, problem, steps
from minilm_np.model import Array
from minilm_np.training import AdamW, loss_and_gradients

Gradients = dict[str, Array]
LAYER = "encoder.layer."
WORD_TABLE = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def simulation(model: SentenceTransformer) -> Simulation:
    return Simulation(model, gradient_examples())


@pytest.fixture(scope="module")
def right(model: SentenceTransformer) -> Gradients:
    return loss_and_gradients(model, gradient_examples())[1]


def port(simulation: Simulation, *mistakes: GradientMistake, apart: bool = False) -> tuple[float, Gradients]:
    decisions = RIGHT
    for mistake in mistakes:
        decisions = mistake.apply(decisions)
    layers = mistakes[0].layers if mistakes else None
    gradients = dict(simulation.walk(decisions, layers, apart))
    used, table = gradients[WORD_TABLE], np.zeros((30522, 384), np.float32)
    table[simulation.rows] = used
    return simulation.loss(decisions), gradients | {WORD_TABLE: table}


def test_right_gradients_pass_in_both_precisions(
    model: SentenceTransformer, float64_model: SentenceTransformer
) -> None:
    for trained in (model, float64_model):
        for mini_batch_size in (None, 3):
            report = crosscheck(gradients=partial(loss_and_gradients, trained, mini_batch_size=mini_batch_size))
            assert report.ok and (report.max_error > 0 or trained is float64_model), report
            print(f"{trained.dtype}: largest error {report.max_error:.1e}")
    assert [stage.stage for stage in report.stages[1:-1]] == backwards(6)
    assert report.stages[0].stage == "loss" and report.stages[-1].stage == "second call"
    assert isinstance(report, GradientReport) and str(report).startswith("PASS  ") and TOLERANCE == 4 * FLOAT32_ERROR


@pytest.mark.parametrize("seed", range(3))
def test_rounding_of_another_order_raises_no_alarm(model: SentenceTransformer, seed: int) -> None:
    """Examples in another order, and parts of other sizes, round differently."""

    def gradients(examples: list[list[str]]) -> Any:
        random.Random(seed).shuffle(examples)
        return loss_and_gradients(model, examples, mini_batch_size=seed + 2)

    report = crosscheck(gradients=gradients)
    assert report.ok, report  # measured: 5.9e-6, tolerance 3.6e-5


# A quarter of the mistakes, as each takes about two seconds; test_gradients_parity.py makes 57 of them in PyTorch.
@pytest.mark.parametrize("mistake", GRADIENT_MISTAKES[::4], ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_first(simulation: Simulation, mistake: GradientMistake) -> None:
    loss, gradients = port(simulation, mistake, apart=mistake.depends_on_batch)
    with_loss = mistake.name.startswith("loss-") or mistake.of_tables
    report = crosscheck(gradients=(loss, gradients) if with_loss else gradients)
    assert not report.ok and report.causes[0].fits, report
    assert report.causes[0].name == mistake.name, report


@pytest.mark.parametrize("name", ["loss-scale-1", "loss-symmetric", "positives-detached", "pool-gradient-padded"])
def test_the_loss_is_not_needed(simulation: Simulation, name: str) -> None:
    mistake = next(mistake for mistake in GRADIENT_MISTAKES if mistake.name == name)
    for apart in (False, True):
        report = crosscheck(gradients=port(simulation, mistake, apart=apart)[1])
        assert report.causes[0].name == name, report


def test_a_mistake_in_one_layer_is_named_with_the_layer(simulation: Simulation) -> None:
    for name in ("softmax-gradient-no-sum", "residual-gradient-missing-attention", "gelu-gradient-tanh"):
        for layer in (0, 3, 5):
            mistake = next(mistake for mistake in GRADIENT_MISTAKES if mistake.name == name).only_in(layer)
            report = crosscheck(gradients=port(simulation, mistake))
            assert report.causes[0].name == f"{name}-layer-{layer}", report


def test_two_mistakes_are_named_together(simulation: Simulation) -> None:
    names = "gelu-gradient-no-density", "embedding-gradient-last-word"
    first, second = (next(m for m in GRADIENT_MISTAKES if m.name == name) for name in names)
    report = crosscheck(gradients=port(simulation, first, second))
    assert {*report.causes[0].name.split(" + ")} == {*names}, report


# --- mistakes that show in the numbers


def everywhere(change: Callable[[Array], Array]) -> Callable[[Gradients, Gradients], Gradients]:
    return lambda gradients, weights: {name: change(value) for name, value in gradients.items()}


def some(test: Callable[[str], bool], change: Callable[[Array], Array]) -> Callable[[Gradients, Gradients], Gradients]:
    return lambda gradients, weights: {n: change(value) if test(n) else value for n, value in gradients.items()}


def without(test: Callable[[str], bool]) -> Callable[[Gradients, Gradients], Gradients]:
    return lambda gradients, weights: {n: value for n, value in gradients.items() if not test(n)}


def renamed(old: str, new: str) -> Callable[[Gradients, Gradients], Gradients]:
    def change(name: str) -> str:
        return name.replace(old, "!").replace(new, old).replace("!", new)

    return lambda gradients, weights: {change(name): value for name, value in gradients.items()}


def norm(gradients: Gradients) -> float:
    return float(np.sqrt(sum(float(np.sum(value**2)) for value in gradients.values())))


def before_layer(layer: int) -> Callable[[str], bool]:
    return lambda name: name.startswith("embeddings") or int(name.split(".")[2]) < layer


FORMS: dict[str, tuple[str, Callable[[Gradients, Gradients], Gradients]]] = {
    "sum": ("loss-sum", everywhere(lambda g: 7 * g)),
    "doubled": ("gradients-doubled", everywhere(lambda g: 2 * g)),
    "halved": ("gradients-halved", everywhere(lambda g: g / 2)),
    "negative": ("gradients-negative", everywhere(lambda g: -g)),
    "loss scale missing": ("loss-scale-gradient-missing", everywhere(lambda g: g / 20)),
    "mixed precision": ("gradients-scaled", everywhere(lambda g: 1024 * g)),
    "another factor": ("gradients-scaled", everywhere(lambda g: 0.3 * g)),
    "clipped": ("gradients-clipped", lambda g, w: everywhere(lambda x: x / norm(g))(g, w)),
    "clipped to 5": ("gradients-clipped", lambda g, w: everywhere(lambda x: 5 * x / norm(g))(g, w)),
    "clipped one by one": ("gradients-clipped-one-by-one", everywhere(lambda g: g * min(1, 1 / np.linalg.norm(g)))),
    "clipped by value": ("gradients-clipped-by-value", everywhere(lambda g: np.clip(g, -1, 1))),
    "decay of all": (
        "weight-decay-in-gradient",
        lambda gradients, weights: {name: g + 0.01 * weights[name] for name, g in gradients.items()},
    ),
    "decay of weights": (
        "weight-decay-in-gradient",
        lambda gradients, weights: {
            name: g + 0.01 * weights[name] * (name.endswith("weight") and "LayerNorm" not in name)
            for name, g in gradients.items()
        },
    ),
    "transposed": (
        "weight-gradient-transposed",
        some(lambda name: "LayerNorm" not in name and name.startswith(LAYER) and name.endswith("weight"), np.transpose),
    ),
    "square ones transposed": ("weight-gradient-transposed", some(lambda name: "query.w" in name, np.transpose)),
    "query and key swapped": ("gradients-swapped", renamed("query", "key")),
    "layers swapped": ("gradients-swapped", renamed("layer.1.", "layer.4.")),
    "a layer is missing": ("gradient-missing", without(lambda name: name.startswith("encoder.layer.2."))),
    "a layer is zero": ("gradient-missing", some(lambda name: name.startswith("encoder.layer.2."), np.zeros_like)),
    "positions missing": ("gradient-missing", without(lambda name: "position" in name)),
    "types missing": ("gradient-missing", some(lambda name: "token_type" in name, np.zeros_like)),
    "detached": ("gradient-stops", some(before_layer(3), np.zeros_like)),
    "embeddings frozen": ("gradient-stops", without(before_layer(0))),
    "all zero": ("gradients-missing", everywhere(np.zeros_like)),
    "NaN": ("not-finite", some(lambda name: "layer.3.output.dense.bias" in name, lambda g: g * np.nan)),
}


@pytest.mark.parametrize("name", FORMS)
def test_names_what_shows_in_the_numbers(name: str, right: Gradients, model: SentenceTransformer) -> None:
    cause, change = FORMS[name]
    report = crosscheck(gradients=change(right, {n: np.asarray(value) for n, value in model.weights.items()}))
    assert not report.ok and report.causes[0].name == cause and report.causes[0].fits, report


def test_two_calls_show_dropout_and_what_is_not_reset(right: Gradients) -> None:
    noise = np.random.default_rng(3)
    report = crosscheck(gradients=lambda _: {name: g * noise.uniform(0.9, 1.1) for name, g in right.items()})
    assert report.causes[0].name == "dropout-on", report
    total = {name: np.zeros_like(g) for name, g in right.items()}

    def accumulate(_: Any) -> Gradients:
        for name, g in right.items():
            total[name] += g
        return total

    report = crosscheck(gradients=accumulate)
    assert report.causes[0].name == "gradients-accumulate" and report.first_divergence == "second call", report
    calls = iter((1.0, 1.01))
    report = crosscheck(gradients=lambda _: (lambda c: {name: c * g for name, g in right.items()})(next(calls)))
    assert report.causes[0].name == "gradients-change", report


# --- mistakes that are in no catalogue


def test_an_unknown_mistake_is_placed(right: Gradients) -> None:
    name = "encoder.layer.3.attention.self.query.bias"
    report = crosscheck(gradients=right | {name: 1.5 * right[name]})
    text = str(report)
    assert report.first_divergence == name and not report.causes, report
    assert f"the first wrong parameter, from the loss backwards, is {name}" in text
    assert "the softmax's gradient, 1 / sqrt(32), and dS K" in text
    assert "up to encoder.layer.3.attention.self.value.weight, is right" in text
    assert "its gradient is 1.5 times the right one" in text and "1 of 101 parameters are wrong" in text


def test_the_order_is_that_of_the_backward_pass(right: Gradients) -> None:
    names = [
        "embeddings.LayerNorm.bias",
        "encoder.layer.0.output.dense.weight",
        "encoder.layer.4.output.LayerNorm.bias",
    ]
    for i, name in enumerate(names):
        report = crosscheck(gradients=right | {n: right[n] + right[n].max() for n in names[: i + 1]}, causes=False)
        assert report.first_divergence == name and not report.causes and report.max_error > 0.5


def test_rows_of_the_word_table_are_named(right: Gradients) -> None:
    name = "embeddings.word_embeddings.weight"
    changed = right[name].copy()
    changed[7852, 3] += 1  # bread
    report = crosscheck(gradients=right | {name: changed}, causes=False)
    assert "worst    element [7852, 3], word piece bread: expected" in str(report)
    changed = right[name].copy()
    changed[29999, 3] += 1e-3  # in no text
    assert not crosscheck(gradients=right | {name: changed}, causes=False).ok


def test_a_wrong_loss_is_reported(right: Gradients) -> None:
    report = crosscheck(gradients=(3.0, right))
    assert report.first_divergence == "loss" and report.causes[0].name == "loss-value", report
    assert crosscheck(gradients=(gradient_truth().loss + 2 * LOSS_TOLERANCE / 3, right)).ok
    wrong = {name: np.sqrt(np.abs(g)) for name, g in right.items()}
    assert "the loss is wrong: expected 2.561133, got 3.000000; check encode first" in str(
        crosscheck(gradients=(3.0, wrong))
    )


# --- arguments


def test_prefixes_are_stripped_and_buffers_ignored(right: Gradients) -> None:
    for prefix in ("0.auto_model.", "bert.", "model.", "0.model."):
        more = {"pooler.dense.weight": np.ones(2), "embeddings.position_ids": np.arange(3)}
        assert crosscheck(gradients={prefix + name: value for name, value in {**right, **more}.items()}).ok


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "gradients: expected a mapping from parameter names to arrays, got list"),
        ({}, "gradients: expected a mapping .*, got an empty one"),
        ({"encoder.layer.9.output.dense.bias": np.ones(384)}, r"expected names such as .*, got 'encoder\.layer\.9"),
        ({"embeddings.LayerNorm.bias": ["a"]}, r"gradients\['embeddings\.LayerNorm\.bias'\]: expected numbers"),
        (
            {"embeddings.LayerNorm.bias": np.ones(384), "bert.embeddings.LayerNorm.bias": np.ones(384)},
            r"expected embeddings\.LayerNorm\.bias once, got it again as 'bert\.",
        ),
        ((np.ones(2), {"embeddings.LayerNorm.bias": np.ones(384)}), r"loss: expected one number, got shape \(2,\)"),
        (lambda examples: 1 / 0, "gradients: raised ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_be_compared_is_refused(returned: Any, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        crosscheck(gradients=returned)


def test_gradients_are_checked_alone(right: Gradients) -> None:
    with pytest.raises(CannotCompareError, match="expected gradients or optimizer alone"):
        crosscheck(lambda texts: texts, gradients=right)


def test_the_report_has_all_forms(right: Gradients) -> None:
    name = "encoder.layer.5.output.LayerNorm.weight"
    with pytest.raises(
        AssertionError, match=r"gradient-missing: missing or 0: encoder\.layer\.5.output\.LayerNorm\.weight"
    ):
        assert_matches_minilm(gradients={n: value for n, value in right.items() if n != name})
    report = crosscheck(gradients=right | {name: right[name][:5]})
    assert report.last.problem == "expected shape (384,), got (5,)" and report.to_dict()["max_error"] is None
    assert 'failures="1"' in report.to_junit() and len(report.sparkline()) == 101


# --- optimizers


def our_adam(params: Gradients, gradients: list[Gradients], rates: list[float], decay: float) -> Gradients:
    adam = AdamW(params, weight_decay=decay)
    for step, rate in zip(gradients, rates, strict=True):
        adam.step(step, rate)
    return adam.params


def in_float32(params: Gradients, gradients: list[Gradients], rates: list[float], decay: float) -> Gradients:
    def narrow(arrays: Gradients) -> Gradients:
        return {name: value.astype(np.float32) for name, value in arrays.items()}

    return our_adam(narrow(params), [narrow(step) for step in gradients], rates, decay)


def test_right_optimizers_pass() -> None:
    assert crosscheck(optimizer=our_adam).max_error == 0
    report = crosscheck(optimizer=in_float32)
    assert report.ok and report.max_error > 0, report
    print(f"float32: {report.max_error:.1e}")


@pytest.mark.parametrize("name", MISTAKES)
def test_every_optimizer_mistake_is_named_first(name: str) -> None:
    noise = np.random.default_rng(1)
    simulated = steps(MISTAKES[name][1])
    rounded = {n: v * (1 + 6e-8 * noise.uniform(-1, 1, v.shape)) for n, v in simulated.items()}
    report = crosscheck(optimizer=lambda *arguments: rounded)
    assert not report.ok and report.causes and report.causes[0].name == name, report


def test_other_optimizers_are_not_named() -> None:
    params, _ = problem()
    report = crosscheck(optimizer=lambda *arguments: {name: 1.1 * value for name, value in params.items()})
    assert not report.ok and not report.causes and "no known mistake" in str(report)
    assert crosscheck(optimizer=lambda params, *others: params).causes[0].name == "unchanged"
    with pytest.raises(CannotCompareError, match=r"optimizer: expected a mapping with dense\.weight, .*, got NoneType"):
        crosscheck(optimizer=cast(Any, lambda *arguments: None))
