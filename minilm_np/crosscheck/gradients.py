"""Check the gradients of a port of training: which parameter is wrong first, from the loss backwards, and why?

The truth is `minilm_np.training.loss_and_gradients` in float64. If a gradient is wrong, first its numbers are looked
at (gradient_forms.py). Then the backward pass is computed with each known mistake (gradient_mistakes.py) and compared
with the port's gradients, from the loss backwards; at the first parameter that differs the mistake is rejected, so most
cost only a few milliseconds. A mistake that agrees in all parameters is the cause. If none does, those that agree
longest are tried together with every other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from minilm_np import SentenceTransformer
from minilm_np.crosscheck.causes import MAX_REMAINING, Cause
from minilm_np.crosscheck.compare import CannotCompareError, call, numbers
from minilm_np.crosscheck.examples import gradient_examples
from minilm_np.crosscheck.gradient_forms import constant_factor, recognize
from minilm_np.crosscheck.gradient_mistakes import GRADIENT_MISTAKES, GradientMistake, in_single_layers
from minilm_np.crosscheck.gradient_variant import RIGHT, Simulation
from minilm_np.crosscheck.report import GradientReport, StageResult, Worst
from minilm_np.crosscheck.truth import TOLERANCE_FACTOR
from minilm_np.model import Array
from minilm_np.training import loss_and_gradients

FLOAT32_ERROR = 9.1e-6
"""The largest error of an element of a gradient in float32, relative to its parameter's largest: PyTorch 2.13 with
sdpa attention; 5.1e-6 with eager attention, 5.6e-6 on NumPy. In float64 PyTorch's is 9.7e-15. The smallest error of a
mistake is 3.8e-3 (the derivative of tanh GELU), and at the first wrong parameter 6.7e-4."""
FLOAT32_LOSS_ERROR = 1.5e-6  # of the loss, which is 2.56; NumPy. PyTorch: 1.0e-6
TOLERANCE = TOLERANCE_FACTOR * FLOAT32_ERROR
LOSS_TOLERANCE = TOLERANCE_FACTOR * FLOAT32_LOSS_ERROR
WORD_TABLE = "embeddings.word_embeddings.weight"
IGNORED = ("pooler.", "position_ids", "token_type_ids")
PAIRED_MISTAKES = 3  # that agree longest and are combined with every other
MIN_AGREEING = 4  # wrong parameters that a mistake must explain to be a candidate
CPU_SECONDS = 60.0


class GradientTruth(NamedTuple):
    """The right loss and gradients of `gradient_examples`, in float64."""

    model: SentenceTransformer
    loss: float
    gradients: dict[str, Array]  # from the loss backwards; of a module the bias, which needs less, before the weight
    simulation: Simulation
    largest: dict[str, float]  # of each gradient

    def scale(self, name: str) -> float:
        """Return the size that a parameter's errors are relative to: its largest gradient.

        The gradient of a key's bias is 0, and its rounding has the size of the query bias's gradient.
        """
        return self.largest[name.replace("key.bias", "query.bias")]


@lru_cache(1)
def gradient_truth() -> GradientTruth:
    """Return the truth, computed once per process in about two seconds."""
    model = SentenceTransformer(backend="numpy", dtype="float64")
    examples = gradient_examples()
    loss, gradients = loss_and_gradients(model, examples)
    simulation = Simulation(model, examples)
    ordered = {name: gradients[name] for name in backwards(model.config.num_hidden_layers)}
    largest = {name: float(np.abs(gradient).max()) for name, gradient in ordered.items()}
    return GradientTruth(model, loss, ordered, simulation, largest)


def backwards(num_hidden_layers: int) -> list[str]:
    """Return the parameters' names in the order of the backward pass."""
    modules = ["output.LayerNorm", "output.dense", "intermediate.dense", "attention.output.LayerNorm"]
    modules += ["attention.output.dense", *(f"attention.self.{part}" for part in ("value", "query", "key"))]
    layers = [f"encoder.layer.{i}.{module}" for i in reversed(range(num_hidden_layers)) for module in modules]
    tables = [f"embeddings.{table}_embeddings.weight" for table in ("position", "token_type", "word")]
    return [f"{module}.{kind}" for module in (*layers, "embeddings.LayerNorm") for kind in ("bias", "weight")] + tables


# --- what the port returned --------------------------------------------------------------------


def _read(name: str, returned: Any, truth: GradientTruth) -> tuple[float | None, dict[str, Array]]:
    """Return a port's loss, if it has one, and its gradients under the checkpoint's names, float64."""
    loss = None
    if isinstance(returned, tuple) and len(returned) == 2:
        value = numbers(f"{name}: loss", returned[0])
        if value.size != 1:
            raise CannotCompareError(f"{name}: loss: expected one number, got shape {value.shape}")
        loss, returned = float(value.ravel()[0]), returned[1]
    if not isinstance(returned, Mapping) or not returned:
        got = "an empty one" if isinstance(returned, Mapping) else type(returned).__name__
        raise CannotCompareError(f"{name}: expected a mapping from parameter names to arrays, got {got}")
    read: dict[str, Array] = {}
    for given, value in returned.items():
        parts = str(given).split(".")
        known = next((end for i in range(len(parts)) if (end := ".".join(parts[i:])) in truth.gradients), None)
        if known is None:
            if any(part in str(given) for part in IGNORED):
                continue
            raise CannotCompareError(f"{name}: expected names such as {WORD_TABLE}, got {given!r}")
        if known in read:
            raise CannotCompareError(f"{name}: expected {known} once, got it again as {given!r}")
        if value is not None:  # a parameter without a gradient
            read[known] = numbers(f"{name}[{given!r}]", value)
    return loss, read


def _judge(name: str, value: Array | None, truth: GradientTruth) -> StageResult:
    expected = truth.gradients[name]
    if value is None or value.shape != expected.shape:
        got = "none" if value is None else f"{value.shape}"
        return StageResult(name, np.inf, TOLERANCE, None, f"expected shape {expected.shape}, got {got}")
    errors = np.abs(value - expected)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    place = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(errors)), errors.shape))
    piece = None
    if name == WORD_TABLE:
        from tokenizers import Tokenizer

        piece = str(Tokenizer.from_file(str(truth.model.place.folder / "tokenizer.json")).id_to_token(place[0]))
    worst = Worst("element", "", place, piece, float(value[place]), float(expected[place]))
    return StageResult(name, float(errors[place]) / truth.scale(name), TOLERANCE, worst)


# --- the search ----------------------------------------------------------------------------------


class Trial(NamedTuple):
    """How far a hypothesis agrees with the port."""

    mistakes: tuple[GradientMistake, ...]
    agreeing: int  # parameters that agree, from the loss backwards
    remaining: float  # largest difference of those that agree, in tolerances
    complete: bool  # whether all agree

    @property
    def name(self) -> str:
        """The mistakes' names."""
        return " + ".join(mistake.name for mistake in self.mistakes)

    @property
    def says(self) -> str:
        """The mistakes' descriptions."""
        return "; ".join(mistake.description for mistake in self.mistakes)


def _try(mistakes: tuple[GradientMistake, ...], loss: float | None, got: Mapping[str, Array], wrong: list[str],
         truth: GradientTruth) -> Trial:  # fmt: skip
    """Compute the backward pass with these mistakes until a parameter differs.

    got: as `_of_used_rows` returns it.
    """
    decisions, layers = RIGHT, None
    for mistake in mistakes:
        decisions = mistake.apply(decisions)
        layers = layers if mistake.layers is None else mistake.layers
    best = Trial(mistakes, 0, 0.0, False)
    if loss is not None:
        error = min(abs(loss - truth.loss), abs(loss - truth.simulation.loss(decisions)))
        if error > MAX_REMAINING * LOSS_TOLERANCE * max(1.0, abs(loss) / truth.loss):
            return best
    for apart in (False, True) if any(mistake.depends_on_batch for mistake in mistakes) else (False,):
        agreeing, remaining, ratios = 0, 0.0, [1.0]
        for name, simulated in truth.simulation.walk(decisions, layers, apart):
            if truth.simulation.is_right(simulated) and name not in wrong:
                agreeing, ratios = agreeing + 1, [*ratios, 1.0]
                continue
            if got[name].shape != simulated.shape:
                break
            largest = float(np.abs(simulated).max())
            ratios.append(largest / truth.scale(name))
            # a gradient that is 0 but for rounding has the rounding of those before it, such as a weight's of its bias
            size = max(largest, truth.scale(name) * max(1e-3, 0.1 * max(ratios[-3:])))
            difference = float(np.abs(got[name] - simulated).max()) / (size * TOLERANCE)
            if not difference <= MAX_REMAINING:
                break
            agreeing, remaining = agreeing + 1, max(remaining, difference)
        trial = Trial(mistakes, agreeing, remaining, agreeing == len(truth.gradients))
        best = max(best, trial, key=lambda trial: (trial.complete, trial.agreeing, -trial.remaining))
    return best


def _of_used_rows(got: Mapping[str, Array], truth: GradientTruth) -> dict[str, Array]:
    """Return the gradients with only those rows of the word table that the examples use.

    The others should be 0. If they are not, no backward pass explains them, and the table has no rows.
    """
    table, rows = got[WORD_TABLE], truth.simulation.rows
    if table.shape != truth.gradients[WORD_TABLE].shape:
        return dict(got)
    unused = np.ones(len(table), bool)
    unused[rows] = False
    is_zero = np.abs(table[unused]).max() <= TOLERANCE * truth.scale(WORD_TABLE)
    return {**got, WORD_TABLE: table[rows] if is_zero else table[:0]}


def _search(loss: float | None, got: Mapping[str, Array], wrong: list[str], truth: GradientTruth,
            tried: Callable[[str], None] | None, seconds: float) -> tuple[list[Cause], bool]:  # fmt: skip
    """Return the causes, or candidates, and whether the time was over before all were tried."""
    start, stopped, trials = time.process_time(), False, []
    got = _of_used_rows(got, truth)

    def attempt(mistakes: tuple[GradientMistake, ...]) -> None:
        nonlocal stopped
        if time.process_time() - start > seconds:
            stopped = True
            return
        if tried:
            tried(" + ".join(mistake.name for mistake in mistakes))
        trials.append(_try(mistakes, loss, got, wrong, truth))

    layer = int(wrong[0].split(".")[2]) if wrong[0].startswith("encoder.") else -1
    L = truth.simulation.num_hidden_layers
    in_tables = wrong[0].startswith("embeddings")
    for round_ in (GRADIENT_MISTAKES, in_single_layers([i for i in (layer, layer + 1) if 0 <= i < L])):
        for mistake in round_:
            if in_tables or not mistake.of_tables:
                attempt((mistake,))
        if any(trial.complete for trial in trials):
            return _best(trials), stopped
    right = _try((), None, got, wrong, truth).agreeing
    longest = sorted((t for t in trials if t.agreeing > right), key=lambda t: -t.agreeing)[:PAIRED_MISTAKES]
    for first in longest:
        if first.mistakes[0].layers is not None:
            continue
        for mistake in GRADIENT_MISTAKES:
            fields = {field for field, _ in mistake.change} & {field for field, _ in first.mistakes[0].change}
            if not fields:
                attempt((first.mistakes[0], mistake))
    if any(trial.complete for trial in trials):
        return _best(trials), stopped
    return [
        Cause(trial.name, min(0.99, (trial.agreeing - right) / len(wrong)),
              f"{trial.says}; it explains {trial.agreeing - right} more parameters from the loss backwards", np.inf)
        for trial in longest[:1] if trial.agreeing - right >= MIN_AGREEING
    ], stopped  # fmt: skip


def _best(trials: Sequence[Trial]) -> list[Cause]:
    """Return the hypotheses that agree in all parameters; those that agree less well than another are left out."""
    fitting = [trial for trial in trials if trial.complete]
    limit = 1.5 * min(trial.remaining for trial in fitting) + 0.01
    return [Cause(trial.name, 1.0, trial.says, trial.remaining) for trial in fitting if trial.remaining <= limit]


FEEDS = {  # the end of a parameter's name -> what is between it and what precedes it in the backward pass
    "intermediate.dense.bias": "the dx of output.dense, and the activation's derivative",
    "attention.output.LayerNorm.bias": "the sum of the residual's gradient and the dx of intermediate.dense",
    "output.LayerNorm.bias": "the sum of the residual's gradient and the dx of query, key and value of the layer above",
    "output.dense.bias": "the dx of the LayerNorm after it",
    "LayerNorm.weight": "dw = sum(dy z), because dy is right in the bias",
    "value.bias": "the dx of attention.output.dense, its division into heads, and P^T dy",
    "query.bias": "the softmax's gradient, 1 / sqrt(32), and dS K",
    "key.bias": "dS^T Q; the sum of each row of dS should be 0",
    "dense.weight": "dW = dy^T x, because dy is right in the bias",
    "value.weight": "dW = dy^T x, because dy is right in the bias",
    "query.weight": "dW = dy^T x, because dy is right in the bias",
    "key.weight": "dS^T Q, 1 / sqrt(32), and dW = dy^T x",
    "embeddings.LayerNorm.bias": "the sum of the residual's gradient and the dx of query, key and value in layer 0",
    "position_embeddings.weight": "the dx of embeddings.LayerNorm, and the sum over tokens of equal position",
    "token_type_embeddings.weight": "the dx of embeddings.LayerNorm, and the sum over tokens of equal type",
    "word_embeddings.weight": "the sum over tokens of equal id",
}


def _facts(loss: float | None, got: Mapping[str, Array], wrong: list[str], truth: GradientTruth) -> tuple[str, ...]:
    """Return what the numbers say, where no known mistake fits."""
    first, names = wrong[0], list(truth.gradients)
    if first == names[0]:
        feeds = "the loss, the normalization or the mean over tokens; its gradient is the sum of what they hand back"
    else:
        ends = sorted((end for end in FEEDS if first.endswith(end)), key=len)
        feeds = f"{FEEDS[ends[-1]]}; all before it, up to {names[names.index(first) - 1]}, is right"
    facts = [
        f"the first wrong parameter, from the loss backwards, is {first}",
        f"between it and what is right: {feeds}",
    ]
    c = constant_factor(got[first], truth.gradients[first], MAX_REMAINING * TOLERANCE)
    if c is not None:
        facts.append(f"its gradient is {c:.5g} times the right one")
    shaped = [name for name in names if got[name].shape == truth.gradients[name].shape]
    dot, square, right = (
        sum(float(np.vdot(a[name], b[name])) for name in shaped)
        for a, b in ((got, truth.gradients), (got, got), (truth.gradients, truth.gradients))
    )
    cosine = dot / np.sqrt(square * right) if square else 0.0
    hint = ": rounding of float16, bfloat16 or TF32?" if len(wrong) > 90 and cosine > 0.999 else ""
    facts.append(f"{len(wrong)} of {len(names)} parameters are wrong; cosine of all gradients {cosine:.6f}{hint}")
    if loss is not None and abs(loss - truth.loss) > LOSS_TOLERANCE:
        facts.append(f"the loss is wrong: expected {truth.loss:.6f}, got {loss:.6f}; check encode first")
    return tuple(facts)


def _of_two_calls(first: Mapping[str, Array], second: Mapping[str, Array], ok: bool, truth: GradientTruth
                  ) -> tuple[StageResult, Cause | None]:  # fmt: skip
    """Compare what two calls with the same examples returned."""
    errors, doubled = {}, True
    for name, value in first.items():
        again = second.get(name)
        if again is None or again.shape != value.shape:
            errors[name], doubled = np.inf, False
            continue
        largest = max(
            float(np.abs(value).max(initial=0)), 1e-3 * truth.scale(name), truth.scale(name) * name.endswith("key.bias")
        )
        errors[name] = float(np.nan_to_num(np.abs(again - value).max(initial=0) / largest, nan=np.inf))
        doubled = doubled and bool(np.abs(again - 2 * value).max(initial=0) <= 3 * TOLERANCE * largest)
    worst = max(errors, key=lambda name: errors[name], default="")
    error = errors.get(worst, 0.0)
    problem = f"{worst} differs by {error:.1e} between two calls with the same examples" if error > TOLERANCE else ""
    result = StageResult("second call", error, TOLERANCE, None, problem)
    if result.ok:
        return result, None
    if doubled:
        says = "the second call returns the sum of both: the gradients are not set to 0 in between"
        return result, Cause("gradients-accumulate", 1.0, says, 0.0)
    if ok:
        return result, Cause("gradients-change", 1.0, "the second call differs: the parameters were changed?", 0.0)
    says = "two calls with the same examples differ: dropout is on (no eval mode)"
    return result, Cause("dropout-on", 1.0, says, 0.0)


def check_gradients(
    gradients: Any, *, causes: bool = True, tried: Callable[[str], None] | None = None, seconds: float = CPU_SECONDS
) -> GradientReport:
    """Compare a port's gradients with the truth. Arguments and errors as in `crosscheck`, which calls it."""
    truth = gradient_truth()
    examples = gradient_examples()
    loss, read = _read("gradients", call("gradients", gradients, examples) if callable(gradients) else gradients, truth)
    results = []
    if loss is not None:
        error = abs(loss - truth.loss) if np.isfinite(loss) else np.inf
        worst = Worst("value", "", (), None, loss, truth.loss)
        results.append(StageResult("loss", error, LOSS_TOLERANCE, worst))
    results += [_judge(name, read.get(name), truth) for name in truth.gradients]
    wrong = [result.stage for result in results if not result.ok and result.stage != "loss"]
    of_calls = None
    if callable(gradients):
        _, second = _read("gradients, second call", call("gradients", gradients, gradient_examples()), truth)
        result, of_calls = _of_two_calls(read, second, not wrong, truth)
        results.append(result)
        del second
    report = GradientReport(results, searched=causes)
    if report.ok or not causes:
        return report
    if any(not np.isfinite(value).all() for value in read.values()):
        name = next(name for name in truth.gradients if name in read and not np.isfinite(read[name]).all())
        return report.with_causes([Cause("not-finite", 1.0, f"{name} contains NaN or infinity", 0.0)])
    if of_calls is not None:
        return report.with_causes([of_calls])
    got = {name: read.get(name, np.zeros_like(right)) for name, right in truth.gradients.items()}
    if not wrong:
        says = f"only the loss is wrong: {loss:.6g} instead of {truth.loss:.6g}; its gradients are right"
        return report.with_causes([Cause("loss-value", 1.0, says, 0.0)])
    weights = {name: np.asarray(value) for name, value in truth.model.weights.items()}
    form = recognize(got, truth.gradients, wrong, truth.scale, weights, TOLERANCE, len(examples))
    if form is not None:
        return report.with_causes([form])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # of values that are wrong by far
        found, stopped = _search(loss, got, wrong, truth, tried, seconds)
    fits = bool(found) and found[0].fits
    return report.with_causes(found, () if fits else _facts(loss, got, wrong, truth), stopped)
