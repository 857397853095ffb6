"""Check the steps of a port's AdamW, on a few small arrays: which parameter is wrong, and why?

The truth is `minilm_np.training.AdamW` in float64. The same steps are computed with each known mistake; the first that
returns the port's parameters is the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minilm_np.crosscheck.causes import MAX_REMAINING, Cause
from minilm_np.crosscheck.compare import CannotCompareError, call, numbers
from minilm_np.crosscheck.report import GradientReport, StageResult, Worst
from minilm_np.crosscheck.truth import TOLERANCE_FACTOR
from minilm_np.model import Array
from minilm_np.training import AdamW
from minilm_np.training.optimizer import has_decay

Params = dict[str, Array]
TOLERANCE = TOLERANCE_FACTOR * 3.6e-6
"""Of an element after all steps, relative to the parameter's largest change; the largest error of AdamW in float32 is
3.6e-6, on NumPy and in PyTorch 2.13."""
WEIGHT_DECAY = 0.1  # larger than usual, so that its mistakes show
LEARNING_RATES = [0.01, 0.02, 0.02, 0.015, 0.01, 0.005]


def problem() -> tuple[Params, list[Params]]:
    """Return the parameters and the gradients of each step; the gradients of one row are as small as eps."""
    random = np.random.default_rng(7)
    shapes = {"dense.weight": (4, 3), "dense.bias": (4,), "LayerNorm.weight": (4,), "LayerNorm.bias": (4,)}
    params = {name: random.normal(size=shape) for name, shape in shapes.items()}
    gradients = [{name: random.normal(size=shape) for name, shape in shapes.items()} for _ in LEARNING_RATES]
    for step in gradients:
        step["dense.weight"][0] *= 1e-8
        step["dense.weight"][1] *= 30
    return params, gradients


@dataclass(frozen=True)
class Decisions:
    """The decisions of AdamW, with their right values. An expression of t is of the step, 1, 2, ..."""

    corrected: tuple[bool, bool] = (True, True)  # whether the means are divided by 1 - b1^t and 1 - b2^t
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_inside: bool = False  # sqrt(v + eps) instead of sqrt(v) + eps
    eps_before_correction: bool = False  # eps is added before the division by sqrt(1 - b2^t)
    first_step: int = 1  # t of the first step
    decay: str = "decoupled"  # decoupled, gradient (Adam with L2), none, unscaled (without the learning rate), after
    decay_all: bool = False  # biases and LayerNorm, too
    squared: bool = True  # v is the mean of g^2, not of |g|
    root: bool = True  # the divisor is sqrt(v), not v
    mean_weight: bool = True  # the new gradient has the weight 1 - b1
    nesterov: bool = False
    amsgrad: bool = False
    sign: float = -1.0
    rate: int | None = None  # the step whose learning rate all steps use; None: each its own


RIGHT = Decisions()
MISTAKES: dict[str, tuple[str, Decisions]] = {
    "bias-correction-missing": ("no bias correction", replace(RIGHT, corrected=(False, False))),
    "bias-correction-missing-first": ("no bias correction of the mean", replace(RIGHT, corrected=(False, True))),
    "bias-correction-missing-second": ("no bias correction of the squares", replace(RIGHT, corrected=(True, False))),
    "decay-in-gradient": ("weight decay is added to the gradient: Adam with L2", replace(RIGHT, decay="gradient")),
    "decay-in-gradient-of-all": (
        "weight decay is added to the gradient, and to that of biases and LayerNorm",
        replace(RIGHT, decay="gradient", decay_all=True),
    ),
    "decay-missing": ("no weight decay", replace(RIGHT, decay="none")),
    "decay-of-biases-and-layer-norm": ("biases and LayerNorm decay, too", replace(RIGHT, decay_all=True)),
    "decay-without-learning-rate": ("decay is not multiplied by the learning rate", replace(RIGHT, decay="unscaled")),
    "decay-after-step": ("decay is applied after the step, not before", replace(RIGHT, decay="after")),
    "eps-inside-root": ("eps is inside the square root", replace(RIGHT, eps_inside=True)),
    "eps-before-correction": ("eps is added before the bias correction", replace(RIGHT, eps_before_correction=True)),
    "eps-missing": ("no eps", replace(RIGHT, eps=0.0)),
    **{f"eps-{eps:g}": (f"eps is {eps:g}, not 1e-8", replace(RIGHT, eps=eps)) for eps in (1e-6, 1e-7, 1e-5, 1e-12)},
    "betas-swapped": ("the betas are swapped", replace(RIGHT, betas=(0.999, 0.9))),
    **{
        f"beta2-{beta:g}": (f"b2 is {beta:g}, not 0.999", replace(RIGHT, betas=(0.9, beta)))
        for beta in (0.99, 0.98, 0.95)
    },
    "step-counted-from-0": ("steps are counted from 0", replace(RIGHT, first_step=0)),
    "step-counted-from-2": ("the step is counted twice before the first", replace(RIGHT, first_step=2)),
    "squares-not-squared": ("the second mean is that of |g|, not of g^2", replace(RIGHT, squared=False)),
    "square-root-missing": ("the divisor is v, not sqrt(v)", replace(RIGHT, root=False)),
    "mean-without-weight": ("the new gradient has the weight 1 instead of 1 - b1", replace(RIGHT, mean_weight=False)),
    "nesterov": ("NAdam: the mean looks one step ahead", replace(RIGHT, nesterov=True)),
    "amsgrad": ("AMSGrad: the largest second mean so far is used", replace(RIGHT, amsgrad=True)),
    "sign": ("parameters move along the gradient, not against it", replace(RIGHT, sign=1.0)),
    "learning-rate-of-first-step": ("all steps use the first learning rate", replace(RIGHT, rate=0)),
    "learning-rate-of-last-step": ("all steps use the last learning rate", replace(RIGHT, rate=-1)),
}


def steps(d: Decisions) -> Params:
    """Return the parameters after all steps, with these decisions, in float64."""
    params, gradients = problem()
    b1, b2 = d.betas
    for name, p in params.items():
        m, v, largest = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
        for number, step in enumerate(gradients):
            t, g = number + d.first_step, step[name]
            rate = LEARNING_RATES[number if d.rate is None else d.rate]
            decay = WEIGHT_DECAY if (d.decay_all or has_decay(name)) and d.decay != "none" else 0.0
            if d.decay == "gradient":
                g = g + decay * p
            elif d.decay in ("decoupled", "unscaled"):
                p -= (rate if d.decay == "decoupled" else 1) * decay * p
            m = b1 * m + (1 - b1 if d.mean_weight else 1) * g
            v = b2 * v + (1 - b2) * (g * g if d.squared else np.abs(g))
            largest = np.maximum(largest, v)
            first = 1 - b1**t if d.corrected[0] else 1.0
            second = 1 - b2**t if d.corrected[1] else 1.0
            with np.errstate(all="ignore"):  # 0 / 0 if steps are counted from 0
                mean = (b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / first) if d.nesterov else np.divide(m, first)
                square = np.divide(largest if d.amsgrad else v, second)
                if d.eps_before_correction:
                    divisor = (np.sqrt(v) + d.eps) / np.sqrt(second)
                elif d.eps_inside:
                    divisor = np.sqrt(square + d.eps)
                else:
                    divisor = (np.sqrt(square) if d.root else square) + d.eps
                p += d.sign * rate * mean / divisor
            if d.decay == "after":
                p -= rate * decay * p
        params[name] = p
    return params


def check_optimizer(optimizer: Callable[..., Mapping[str, Any]], *, causes: bool = True) -> GradientReport:
    """Compare a port's steps of AdamW with the truth. Arguments and errors as in `crosscheck`, which calls it."""
    params, gradients = problem()
    adam = AdamW(params, weight_decay=WEIGHT_DECAY)
    for step, rate in zip(gradients, LEARNING_RATES, strict=True):
        adam.step(step, rate)
    given, given_gradients = problem()  # copies, which the port may change
    returned = call("optimizer", optimizer, given, given_gradients, list(LEARNING_RATES), WEIGHT_DECAY)
    if not isinstance(returned, Mapping) or set(returned) != set(params):
        what = ", ".join(map(str, returned)) if isinstance(returned, Mapping) else type(returned).__name__
        raise CannotCompareError(f"optimizer: expected a mapping with {', '.join(params)}, got {what}")
    got = {name: numbers(f"optimizer[{name!r}]", returned[name]) for name in params}
    sizes = {name: float(np.abs(adam.params[name] - params[name]).max()) for name in params}
    results = []
    for name, value in got.items():
        expected = adam.params[name]
        if value.shape != expected.shape:
            problem_says = f"expected shape {expected.shape}, got {value.shape}"
            results.append(StageResult(name, np.inf, TOLERANCE, None, problem_says))
            continue
        errors = np.nan_to_num(np.abs(value - expected) / sizes[name], nan=np.inf)
        place = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(errors)), errors.shape))
        worst = Worst("element", "", place, None, float(value[place]), float(expected[place]))
        results.append(StageResult(name, float(errors[place]), TOLERANCE, worst))
    report = GradientReport(results, searched=causes)
    if report.ok or not causes or any(result.problem for result in results):
        return report
    if all(np.array_equal(value, params[name]) for name, value in got.items()):
        return report.with_causes([Cause("unchanged", 1.0, "the parameters did not change", 0.0)])
    return report.with_causes(_causes(got, sizes))


def _causes(got: Params, sizes: Mapping[str, float]) -> list[Cause]:
    """Return the mistakes that return the port's parameters; those that agree less well than another are left out."""
    fitting = []
    for name, (says, decisions) in MISTAKES.items():
        simulated = steps(decisions)
        remaining = 0.0
        for key, value in got.items():
            if not np.array_equal(np.isfinite(value), np.isfinite(simulated[key])):
                remaining = np.inf
                break
            size = max(sizes[key], float(np.nan_to_num(np.abs(simulated[key]).max())) * 0.01)
            with np.errstate(invalid="ignore"):
                difference = np.nan_to_num(np.abs(value - simulated[key]), nan=0.0, posinf=0.0)
            remaining = max(remaining, float(difference.max()) / size / TOLERANCE)
        if remaining <= MAX_REMAINING:
            fitting.append(Cause(name, 1.0, says, remaining))
    limit = 1.5 * min((cause.remaining for cause in fitting), default=0.0) + 0.01
    return [cause for cause in fitting if cause.remaining <= limit]
