"""Exercises: the model answer is right, known wrong answers get the names of their mistakes, and no answer hangs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.commands import assert_fails, run
from threadpoolctl import threadpool_limits

from minilm_np.crosscheck.mistakes import catalogue
from minilm_np.crosscheck.probes import TEXTS
from minilm_np.crosscheck.truth import simulator, tolerance
from minilm_np.crosscheck.variant import Variant
from minilm_np.study.exercise import holes
from minilm_np.study.exercise.child import not_an_array
from minilm_np.study.exercise.judge import Answer, judge_hole
from minilm_np.study.exercise.wrong_answers import known_mistakes
from minilm_np.study.exercises import HoleResult, check_all, check_exercise, write_exercise

SOLUTION = (Path(__file__).parent / "solution.py").read_text(encoding="utf-8")
CATALOGUE = {mistake.name for mistake in catalogue()}
ELSEWHERE = ("bias-dropped-all", "bias-dropped-embeddings", "embeddings-layer-norm-missing")  # they change embeddings
GELU = "0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))"
TANH = "0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))"
LOOP = "feed_forward(params, layer, attention(params, layer, hidden_states))"
NORM_OF_ATTENTION = "return layer_norm(projected + hidden_states, weight, bias)"
NORM_OF_OUTPUT = "return layer_norm(projected + attention_output, weight, bias)"
NORM_OF_EMBEDDINGS = "return layer_norm(word + position + token_type, weight, bias)"
SPLIT, MERGE = "reshape(-1, 12, 32).transpose(1, 0, 2)", "(probs @ value).transpose(1, 0, 2)"
SOFTMAX = (
    "exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))\n"
    "    return exponentials / exponentials.sum(axis=-1, keepdims=True)"
)
PART = 'dense(params, f"{name}.self.{part}", hidden_states)'
CAUSAL = "+ np.triu(np.full((len(hidden_states), len(hidden_states)), -1e9), 1)"
RATIO = "(x - mean) / np.sqrt(variance + 1e-12)"


def normalized(x: str, eps: str) -> str:
    """Return LayerNorm written out, with its own eps, instead of a call of layer_norm."""
    mean, variance = f"({x}).mean(-1, keepdims=True)", f"({x}).var(-1, keepdims=True)"
    return f"return ({x} - {mean}) / np.sqrt({variance} + {eps}) * weight + bias"


def changed(*changes: tuple[str, str]) -> str:
    """Return the model answer with these texts replaced by others."""
    source = SOLUTION
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return source


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """BLAS with one thread, as in the process that checks: with more it is slow where other programs run."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def exercise(weights_folder: Path) -> holes.Exercise:
    return holes.load()


def answer_of(exercise: holes.Exercise, hole: str, source: str, dtype: str = "float64") -> Answer:
    """Run one hole of a source alone in this process, with the model answer's functions for the others."""
    right, answer = ModuleType("right"), ModuleType("answer")
    exec(SOLUTION, right.__dict__)
    exec(source, answer.__dict__)
    function = getattr(answer, hole)
    for other in holes.HOLES:
        if other != hole:
            setattr(answer, other, getattr(right, other))

    def cast(value: Any) -> Any:
        return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

    results = []
    for case in exercise.cases[hole]:
        params = [] if case.parameters is None else [{k: cast(v) for k, v in case.parameters.params.items()}]
        with np.errstate(all="ignore"):
            result = function(*params, *map(cast, case.arguments.values()))
        assert not not_an_array(result, case.right.shape)
        results.append(np.array(result, np.float64))
    return Answer("done", "", results)


def judged(exercise: holes.Exercise, hole: str, *changes: tuple[str, str]) -> HoleResult:
    return judge_hole(hole, answer_of(exercise, hole, changed(*changes)), exercise)


# --- right answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hole", holes.HOLES)
def test_model_answer_is_right_in_both_precisions(exercise: holes.Exercise, hole: str, dtype: str) -> None:
    answer = answer_of(exercise, hole, SOLUTION, dtype)
    assert judge_hole(hole, answer, exercise).verdict == "right"
    # Measured, in tolerances: 0.27 in float32 (layer_norm), 4e-5 in float64, where sqrt(32) is exact to 1e-16.
    limit = 0.6 if dtype == "float32" else 1e-3
    for case, result in zip(exercise.cases[hole], answer.results, strict=True):
        assert np.abs(result - case.right).max() <= limit * case.tolerance


@pytest.mark.parametrize(
    ("hole", "changes"),
    [
        ("pooling", [("mean(axis=0)", "sum(axis=0)")]),  # the same direction
        ("layer_norm", [("x.var(axis=-1, keepdims=True)", "np.square(x - mean).mean(-1, keepdims=True)")]),
        (
            "feed_forward",  # Abramowitz and Stegun 7.1.26: erf with an error of 1.5e-7
            [
                ("np.vectorize(math.erf)(", "erf("),
                (
                    "def gelu",
                    "def erf(x):\n    a, t = np.abs(x), 1 / (1 + 0.3275911 * np.abs(x))\n    p = [1.061405429, "
                    "-1.453152027, 1.421413741, -0.284496736, 0.254829592, 0]\n    return np.sign(x) * (1 - "
                    "np.polyval(p, t) * np.exp(-a * a))\n\n\ndef gelu",
                ),
            ],
        ),
    ],
)
def test_other_right_answers_are_right(exercise: holes.Exercise, hole: str, changes: list[tuple[str, str]]) -> None:
    assert judged(exercise, hole, *changes).verdict == "right"


# --- wrong answers -----------------------------------------------------------------------------

WRONG: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("embeddings", "positions-off-by-1", [("np.arange(len(token_ids))", "np.arange(1, len(token_ids) + 1)")]),
    ("embeddings", "positions-all-0", [("np.arange(len(token_ids))", "np.zeros(len(token_ids), int)")]),
    ("embeddings", "token-types-missing", [("word + position + token_type", "word + position")]),
    ("embeddings", "token-types-ignored", [("[token_type_ids]", "[0]")]),
    ("embeddings", "positions-missing", [("word + position + token_type", "word + token_type")]),
    ("embeddings", "token-types-missing + positions-missing", [("word + position + token_type", "word")]),
    ("embeddings", "embeddings-layer-norm-missing", [(NORM_OF_EMBEDDINGS, "return word + position + token_type")]),
    (
        "embeddings",
        "layer-norm-eps-1e-05",
        [(NORM_OF_EMBEDDINGS, normalized("(word + position + token_type)", "1e-5"))],
    ),
    ("embeddings", "embeddings-scaled", [("[token_ids]  #", "[token_ids] * math.sqrt(384)  #")]),
    ("layer_norm", "layer-norm-eps-1e-05", [("1e-12", "1e-5")]),
    ("layer_norm", "layer-norm-eps-1e-06", [("1e-12", "1e-6")]),
    ("layer_norm", "layer-norm-eps-missing", [(" + 1e-12", "")]),
    ("layer_norm", "layer-norm-eps-outside-root", [("np.sqrt(variance + 1e-12)", "(np.sqrt(variance) + 1e-12)")]),
    (
        "layer_norm",
        "layer-norm-eps-1e-06 + layer-norm-eps-outside-root",
        [("np.sqrt(variance + 1e-12)", "(np.sqrt(variance) + 1e-6)")],
    ),
    ("layer_norm", "layer-norm-unbiased", [("x.var(axis=-1, ", "x.var(axis=-1, ddof=1, ")]),
    ("layer_norm", "layer-norm-without-root", [("np.sqrt(variance + 1e-12)", "(variance + 1e-12)")]),
    ("layer_norm", "layer-norm-over-tokens", [("axis=-1", "axis=0")]),
    ("layer_norm", "layer-norm-bias-missing", [(" * weight + bias", " * weight")]),
    ("layer_norm", "layer-norm-bias-before-weight", [(f"{RATIO} * weight + bias", f"({RATIO} + bias) * weight")]),
    ("layer_norm", "layer-norm-mean-kept", [("(x - mean)", "x")]),
    ("attention", "attention-unscaled", [(" / math.sqrt(32)", "")]),
    ("attention", "attention-scale-hidden", [("math.sqrt(32)", "math.sqrt(384)")]),
    ("attention", "attention-scale-squared", [("math.sqrt(32)", "32")]),
    ("attention", "softmax-over-queries", [(SOFTMAX, SOFTMAX.replace("-1", "-2"))]),
    ("attention", "softmax-missing", [("probs = softmax(", "probs = (")]),
    ("attention", "residual-dropped-attention-all-layers", [("projected + hidden_states", "projected")]),
    (
        "attention",
        "residual-after-layer-norm",
        [(NORM_OF_ATTENTION, "return layer_norm(projected, weight, bias) + hidden_states")],
    ),
    ("attention", "layer-norm-missing-attention-all-layers", [(NORM_OF_ATTENTION, "return projected + hidden_states")]),
    ("attention", "layer-norm-eps-1e-06", [(NORM_OF_ATTENTION, normalized("(projected + hidden_states)", "1e-6"))]),
    (
        "attention",
        "pre-norm",
        [
            (NORM_OF_ATTENTION, "return projected + hidden_states"),
            (
                PART,
                'dense(params, f"{name}.self.{part}", layer_norm(hidden_states, '
                'params[f"{name}.output.LayerNorm.weight"], params[f"{name}.output.LayerNorm.bias"]))',
            ),
        ],
    ),
    ("attention", "attention-output-dense-missing", [('dense(params, f"{name}.output.dense", context)', "context")]),
    ("attention", "heads-split-untransposed", [(SPLIT, "reshape(12, -1, 32)")]),
    ("attention", "heads-merged-untransposed", [(MERGE, "(probs @ value)")]),
    ("attention", "heads-not-transposed", [(SPLIT, "reshape(12, -1, 32)"), (MERGE, "(probs @ value)")]),
    (
        "attention",
        "heads-interleaved",
        [(SPLIT, "reshape(-1, 32, 12).transpose(2, 0, 1)"), (MERGE, "(probs @ value).transpose(1, 2, 0)")],
    ),
    ("attention", "attention-qk-swapped", [("query @ key.", "key @ query.")]),
    ("attention", "attention-kv-swapped", [('heads("key"), heads("value")', 'heads("value"), heads("key")')]),
    ("attention", "attention-query-as-key", [('heads("key")', 'heads("query")')]),
    ("attention", "attention-causal", [("/ math.sqrt(32)", f"/ math.sqrt(32) {CAUSAL}")]),
    ("attention", "attention-one-head", [("(-1, 12, 32)", "(-1, 1, 384)"), ("math.sqrt(32)", "math.sqrt(384)")]),
    ("attention", "weight-transposed-all", [('.weight"].T', '.weight"]')]),
    ("attention", "bias-dropped-all-dense", [('.T + params[f"{name}.bias"]', ".T")]),
    ("attention", "parameters-of-layer-0", [("{layer}.attention", "0.attention")]),
    (
        "attention",
        "layer-norm-of-other-sublayer",
        [("{name}.output.LayerNorm", "encoder.layer.{layer}.output.LayerNorm")],
    ),
    (
        "attention",
        "attention-unscaled + residual-dropped-attention-all-layers",
        [(" / math.sqrt(32)", ""), ("projected + hidden_states", "projected")],
    ),
    ("feed_forward", "gelu-tanh", [(GELU, TANH)]),
    ("feed_forward", "gelu-quick", [(GELU, "x / (1 + np.exp(-1.702 * x))")]),
    ("feed_forward", "silu", [(GELU, "x / (1 + np.exp(-x))")]),
    ("feed_forward", "relu", [(GELU, "np.maximum(x, 0)")]),
    ("feed_forward", "gelu-erf-unscaled", [("(x / math.sqrt(2))", "(x)")]),
    ("feed_forward", "gelu-not-halved", [("0.5 * x", "x")]),
    ("feed_forward", "activation-missing", [("gelu(dense", "(dense")]),
    ("feed_forward", "residual-dropped-output-all-layers", [("projected + attention_output", "projected")]),
    ("feed_forward", "layer-norm-missing-output-all-layers", [(NORM_OF_OUTPUT, "return projected + attention_output")]),
    ("feed_forward", "bias-dropped-all-dense", [('.T + params[f"{name}.bias"]', ".T")]),
    (
        "feed_forward",
        "relu + residual-dropped-output-all-layers",
        [(GELU, "np.maximum(x, 0)"), ("projected + attention_output", "projected")],
    ),
    ("pooling", "pooling-over-width", [("mean(axis=0)", "mean(axis=1)")]),
    ("pooling", "pooling-cls", [("hidden_states.mean(axis=0)", "hidden_states[0]")]),
    ("pooling", "pooling-last", [("hidden_states.mean(axis=0)", "hidden_states[-1]")]),
    ("pooling", "pooling-max", [("mean(axis=0)", "max(axis=0)")]),
    ("pooling", "pooling-without-specials", [("hidden_states.mean", "hidden_states[1:-1].mean")]),
    ("pooling", "no-normalization", [("pooled / np.linalg.norm(pooled)", "pooled")]),
    ("pooling", "normalization-twice", [("np.linalg.norm(pooled)", "(pooled @ pooled)")]),
    ("pooling", "scaled-by-sum", [("np.linalg.norm(pooled)", "np.abs(pooled).sum()")]),
    ("encode", "last-layer-dropped", [("range(6)", "range(5)")]),
    ("encode", "layers-reversed", [("range(6)", "range(5, -1, -1)")]),
    ("encode", "layer-0-repeated", [("params, layer, attention(params, layer,", "params, 0, attention(params, 0,")]),
    ("encode", "feed-forward-missing", [(LOOP, "attention(params, layer, hidden_states)")]),
    ("encode", "pooling-left-out", [("return pooling(hidden_states)", "return hidden_states")]),
]


@pytest.mark.parametrize(("hole", "mistake", "changes"), WRONG)
def test_wrong_answers_get_the_name_of_their_mistake(
    exercise: holes.Exercise, hole: str, mistake: str, changes: list[tuple[str, str]]
) -> None:
    result = judged(exercise, hole, *changes)
    assert (result.verdict, result.mistake) == ("wrong", mistake)
    assert result.first_wrong_stage
    assert "\n" not in result.message and f"First wrong stage {result.first_wrong_stage}" in result.message


@pytest.mark.parametrize(
    ("hole", "changes", "stage", "says"),
    [
        ("embeddings", [("[token_ids]  #", "[token_ids + 1]  #")], "embeddings.word_embeddings", "word embeddings"),
        (
            "embeddings",
            [("[token_type_ids]", "[1 - token_type_ids]")],
            "embeddings.token_type_embeddings",
            "token type",
        ),
        ("layer_norm", [("x.mean(axis=-1", "x.mean(axis=0")], "LayerNorm.mean", "instead of 0"),
        ("layer_norm", [("* weight +", "* (weight + 1) +")], "LayerNorm.variance", "instead of 1"),
        (
            "attention",
            [("softmax(query @ key.transpose(0, 2, 1)", "softmax(abs(query @ key.transpose(0, 2, 1))")],
            "encoder.layer.0.attention.self.attention_probs",
            "softmax",
        ),
        (
            "attention",
            [(MERGE, "(probs @ value)[::-1].transpose(1, 0, 2)")],
            "encoder.layer.0.attention.self.context",
            "heads",
        ),
        (
            "attention",
            [(" / math.sqrt(32)", " / math.sqrt(20)")],
            "encoder.layer.0.attention.self.attention_probs",
            "softmax",
        ),
        (
            "feed_forward",
            [(GELU, "x * np.tanh(np.logaddexp(0, x))")],
            "encoder.layer.0.intermediate",
            "GELU(-1): expected -0.158655, got -0.303401",
        ),
        (
            "feed_forward",
            [(GELU, TANH.replace("0.044715", "0.0448"))],
            "encoder.layer.0.intermediate",
            "gelu-tanh, which",
        ),
        (
            "pooling",
            [("hidden_states.mean(axis=0)", "np.arange(1, len(hidden_states) + 1) @ hidden_states")],
            "pooled",
            "0.100, 0.200, 0.300, 0.400",
        ),
        (
            "pooling",
            [("np.linalg.norm(pooled)", "np.linalg.norm(pooled) * 2")],
            "sentence_embedding",
            "the length is 2",
        ),
    ],
)
def test_unknown_mistakes_are_placed(
    exercise: holes.Exercise, hole: str, changes: list[tuple[str, str]], stage: str, says: str
) -> None:
    result = judged(exercise, hole, *changes)
    assert (result.verdict, result.mistake, result.first_wrong_stage) == ("wrong", None, stage)
    assert says in result.message


def test_names_shared_with_the_catalogue_mean_the_same() -> None:
    changes = {mistake.name: mistake.change for mistake in catalogue()}
    for hole in holes.HOLES:
        for mistake in known_mistakes(hole, exercise_config()):
            assert changes.get(mistake.name, mistake.change) == mistake.change
    assert len({mistake for _, mistake, _ in WRONG} & CATALOGUE) >= 25


def exercise_config() -> Any:
    return simulator().checkpoint.config


def test_simulated_attention_equals_crosscheck(exercise: holes.Exercise) -> None:
    """Of every mistake of crosscheck's catalogue that concerns attention and not what it receives."""
    stage, text = "encoder.layer.0.attention.output", TEXTS[0]
    assert text == holes.SENTENCE
    case = next(case for case in exercise.cases["attention"] if case.stage == stage)
    tried = 0
    for mistake in known_mistakes("attention", exercise.checkpoint.config):
        of_norm = any(field in ("layer_norm_eps", "unbiased_variance") for field, _ in mistake.change)
        if mistake.name not in CATALOGUE or of_norm or mistake.name in ELSEWHERE or "-layer-" in mistake.name:
            continue
        expected = simulator().run(mistake.apply(Variant()), [text], [[0]], [stage]).stages[stage][0]
        made = holes.run(case, holes.variant_of((mistake,)))
        # Measured: 0.4 tolerances, the float32 errors of crosscheck's run. The elements of some mistakes are larger.
        assert np.abs(made - expected).max() <= tolerance(stage) * max(1.0, float(np.abs(expected).max()) / 10)
        tried += 1
    assert tried >= 20


# --- the student's process ---------------------------------------------------------------------


def folder_with(tmp_path: Path, source: str) -> Path:
    (tmp_path / "encoder.py").write_text(source, encoding="utf-8")
    return tmp_path


def test_model_answer_passes(tmp_path: Path, weights_folder: Path) -> None:
    results = check_all(folder_with(tmp_path, SOLUTION))
    assert [one.name for one in results] == [*holes.HOLES, "whole"]
    assert all(one == HoleResult(one.name, "right", None, None, "right") for one in results)


def test_wrong_holes_do_not_make_others_wrong(tmp_path: Path, weights_folder: Path) -> None:
    source = changed(("1e-12", "1e-5"), (" / math.sqrt(32)", ""), ("range(6)", "range(5)"))
    results = {one.name: one for one in check_all(folder_with(tmp_path, source))}
    assert {name: one.mistake for name, one in results.items() if one.verdict != "right"} == {
        "layer_norm": "layer-norm-eps-1e-05",
        "attention": "attention-unscaled",
        "encode": "last-layer-dropped",
        "whole": None,
    }
    assert results["encode"].first_wrong_stage == "encoder.layer.5.attention.output"
    assert results["whole"].first_wrong_stage == "embeddings"


def test_own_arguments_of_a_right_layer_norm_are_passed_on(tmp_path: Path, weights_folder: Path) -> None:
    source = changed(
        ("weight: Array, bias: Array)", "weight: Array, bias: Array, eps: float = 1e-12)"),
        ("variance + 1e-12", "variance + eps"),
        (NORM_OF_OUTPUT, NORM_OF_OUTPUT.replace("bias)", "bias, eps=1e-5)")),
    )
    wrong = [one for one in check_all(folder_with(tmp_path, source)) if one.verdict != "right"]
    assert [(one.name, one.mistake) for one in wrong[:1]] == [("feed_forward", "layer-norm-eps-1e-05")]


MISBEHAVING = """
import os, sys, threading

def embeddings(params, token_ids, token_type_ids):
    print("x" * 100_000)
    os.write(1, b"x" * 100_000)
    while True:
        pass

def layer_norm(x, weight, bias):
    return (x - x.mean(-1)) / x.std(-1)

def attention(params, layer, hidden_states):
    sys.exit(3)

def feed_forward(params, layer, attention_output):
    os._exit(1)

def pooling(hidden_states):
    return list(hidden_states.mean(0))

def encode(params, token_ids, token_type_ids):
    hidden_states = embeddings(params, token_ids, token_type_ids)
    for layer in range(7):
        hidden_states = feed_forward(params, layer, attention(params, layer, hidden_states))
    return pooling(hidden_states)
"""


def test_whatever_an_answer_does_is_one_line(tmp_path: Path, weights_folder: Path) -> None:
    results = {one.name: one for one in check_all(folder_with(tmp_path, MISBEHAVING), seconds=2.0)}
    assert {one.verdict for one in results.values()} == {"wrong"}
    assert all("\n" not in one.message for one in results.values())
    for name, says in (
        ("embeddings", "not finished after 2 seconds, in line 7: while True:"),
        ("layer_norm", "raises ValueError: operands could not be broadcast together"),
        ("layer_norm", "in line 11: return (x - x.mean(-1)) / x.std(-1)"),
        ("attention", "ends the program (sys.exit or exit) in line 14: sys.exit(3)"),
        ("feed_forward", "ends the process"),
        ("pooling", "expected an array of float32 or float64 (384,), got list"),
        ("encode", "raises KeyError: 'encoder.layer.6.attention.self.query.weight', in line 25"),
    ):
        assert says in results[name].message


ODD_RESULTS = """
def embeddings(params, token_ids, token_type_ids):
    return params["embeddings.word_embeddings.weight"][token_ids].astype("float16")

def layer_norm(x, weight, bias):
    return x * float("nan")

def attention(params, layer, hidden_states):
    pass

def feed_forward(params, layer, attention_output):
    return attention_output @ params[f"encoder.layer.{layer}.intermediate.dense.weight"]

def pooling(hidden_states):
    return hidden_states.mean(0, keepdims=True)
"""


def test_odd_results_are_one_line(tmp_path: Path, weights_folder: Path) -> None:
    results = {one.name: one for one in check_all(folder_with(tmp_path, ODD_RESULTS))}
    for name, verdict, says in (
        ("feed_forward", "wrong", "weight-transposed-intermediate-all-layers: raises ValueError"),
        ("embeddings", "wrong", "expected an array of float32 or float64 (11, 384), got float16 (11, 384)"),
        ("layer_norm", "wrong", "got nan"),
        ("attention", "wrong", "got None: is there a return?"),
        ("feed_forward", "wrong", "x @ weight.T"),
        ("pooling", "wrong", "expected shape (384,), got (1, 384)"),
        ("encode", "not written", "encoder.py has no function encode"),
        ("whole", "not written", "encode not written yet"),
    ):
        assert results[name].verdict == verdict and says in results[name].message


@pytest.mark.parametrize("multiply", ["x @ {}", "np.dot(x, {})"])
@pytest.mark.parametrize("module", ["intermediate", "output"])
def test_untransposed_weight_that_numpy_refuses_is_named(exercise: holes.Exercise, module: str, multiply: str) -> None:
    weight = 'params[f"{name}.weight"]'
    shape = (2, 384) if module == "intermediate" else (2, 1536)
    params = exercise.checkpoint.params
    scope = {"np": np, "x": np.ones(shape), "params": params, "name": f"encoder.layer.0.{module}.dense"}
    with pytest.raises(ValueError) as error:
        eval(multiply.format(weight), scope)
    result = judge_hole("feed_forward", Answer("raised", f"raises ValueError: {error.value}"), exercise)
    assert result.mistake == f"weight-transposed-{module}-all-layers" and result.mistake in CATALOGUE
    assert result.first_wrong_stage == f"encoder.layer.0.{module}"


def test_right_holes_that_are_wrong_together_are_reported(tmp_path: Path, weights_folder: Path) -> None:
    """The fourth call of pooling, the first in the whole model, returns the opposite vector."""
    source = changed(
        ("def pooling(", "calls = 0\n\n\ndef pooling("),
        ("    pooled = hidden", "    global calls\n    calls += 1\n    pooled = hidden"),
        ("return pooled / np.linalg.norm(pooled)", "return pooled / np.linalg.norm(pooled) * (-1 if calls > 3 else 1)"),
    )
    *rest, whole = check_exercise(folder_with(tmp_path, source))
    assert {one.verdict for one in rest} == {"right"} and len(rest) == 6
    assert (whole.name, whole.verdict, whole.first_wrong_stage) == ("whole", "wrong", "sentence_embedding")
    assert "Each hole alone is right" in whole.message


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def embeddings(:", "SyntaxError"),
        ("import sys\nsys.exit()", "ends the program"),
        ("raise RuntimeError('no')", "raises RuntimeError: no, in line 1"),
        ("while True: pass", "not finished after 1 seconds, in line 1"),
    ],
)
def test_file_that_cannot_be_imported_raises(tmp_path: Path, weights_folder: Path, source: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"encoder\.py: cannot be imported") as error:
        check_exercise(folder_with(tmp_path, source), seconds=1.0)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_folder_and_time_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the folder of an exercise, got"):
        check_exercise(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"found no encoder\.py"):
        check_exercise(tmp_path)
    with pytest.raises(ValueError, match="seconds: expected above 0"):
        check_exercise(folder_with(tmp_path, SOLUTION), seconds=0)


def test_exercise_is_written_to_a_new_or_empty_folder_only(tmp_path: Path) -> None:
    folder = write_exercise(tmp_path / "a" / "exercise")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "encoder.py"]
    module = ModuleType("encoder")
    exec((folder / "encoder.py").read_text(encoding="utf-8"), module.__dict__)
    assert all(callable(getattr(module, hole)) and getattr(module, hole).__doc__ for hole in holes.HOLES)
    before = (folder / "encoder.py").read_bytes()
    with pytest.raises(ValueError, match="which has files"):
        write_exercise(folder)
    with pytest.raises(ValueError, match="got the file"):
        write_exercise(folder / "encoder.py")
    assert (folder / "encoder.py").read_bytes() == before


def test_command(tmp_path: Path, weights_folder: Path) -> None:
    folder = tmp_path / "exercise"
    written = run("exercise", str(folder))
    assert written.returncode == 0 and b"six holes" in written.stdout
    checked = run("exercise", "--check", str(folder))
    assert checked.returncode == 1 and checked.stdout.count(b"not written yet\n") == 7
    folder_with(folder, SOLUTION)
    checked = run("exercise", "--check", str(folder))
    assert checked.returncode == 0 and checked.stderr == b""
    assert checked.stdout.decode().split("\n")[-2].split() == ["whole", "model", "right"]
    assert_fails(run("exercise", str(folder)), "expected a new or empty folder")
    assert_fails(run("exercise", "--check", str(tmp_path)), "found no encoder.py in it")


def test_check_leaves_sys_modules_and_path_alone(tmp_path: Path, weights_folder: Path) -> None:
    path = list(sys.path)
    check_exercise(folder_with(tmp_path, MISBEHAVING), seconds=0.5)
    assert sys.path == path and "encoder" not in sys.modules


def test_change_of_an_argument_is_reported_if_it_makes_the_model_wrong(tmp_path: Path, weights_folder: Path) -> None:
    """feed_forward doubles its argument, which encode uses afterwards."""
    source = changed(
        (NORM_OF_OUTPUT, f"result = {NORM_OF_OUTPUT[7:]}\n    attention_output *= 2\n    return result"),
        (
            f"hidden_states = {LOOP}",
            "middle = attention(params, layer, hidden_states)\n        before = middle[0, 0]\n        "
            "hidden_states = feed_forward(params, layer, middle) * (middle[0, 0] / before)",
        ),
    )
    whole = check_exercise(folder_with(tmp_path, source))[-1]
    assert (whole.name, whole.verdict) == ("whole", "wrong")
    assert whole.message.endswith("These do: feed_forward (attention_output)")
