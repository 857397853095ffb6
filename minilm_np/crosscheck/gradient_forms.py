"""Right gradients in a wrong form: mistakes that show in the numbers, without another backward pass.

A form explains the port's gradients by the right ones: `recognize` tries zeros, transposed matrices, swapped names, a
constant factor, clipping and weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from minilm_np.crosscheck.causes import Cause
from minilm_np.model import Array
from minilm_np.training.optimizer import has_decay

Gradients = Mapping[str, Array]
Scale = Callable[[str], float]
RATIO_ERROR = 1e-4  # of two factors that are the same; float32 leaves 1e-5


def ratio(got: Array, right: Array) -> float:
    """Return the factor c that brings c * right nearest to got; 0 if right is 0."""
    square = float(np.vdot(right, right))
    return float(np.vdot(right, got)) / square if square else 0.0


def constant_factor(got: Array, right: Array, tolerance: float) -> float | None:
    """Return c if got is c * right up to rounding, else None; `tolerance` is relative to the largest of c * right."""
    if got.shape != right.shape or not right.any():
        return None
    c = ratio(got, right)
    error = float(np.abs(got - c * right).max())
    return c if c and error <= tolerance * abs(c) * float(np.abs(right).max()) else None


def listed(names: Iterable[str]) -> str:
    """Return names as text; a layer or a module of which all parameters are listed is one entry."""
    parts = list(names)
    layers = {name.split(".")[2] for name in parts if name.startswith("encoder.")}
    for layer in sorted(layers, key=int):
        own = [name for name in parts if name.startswith(f"encoder.layer.{layer}.")]
        if len(own) == 16:
            at = parts.index(own[0])
            parts = [name for name in parts if name not in own]
            parts.insert(at, f"encoder.layer.{layer} (all 16)")
    more = f" and {len(parts) - 4} more" if len(parts) > 5 else ""
    return ", ".join(parts[: 4 if more else 5]) + more


def recognize(got: Gradients, right: Gradients, wrong: list[str], scale: Scale, weights: Gradients, tolerance: float,
              examples: int) -> Cause | None:  # fmt: skip
    """Return the form of a port's gradients, or None.

    got: of all parameters; one that is missing is an array of zeros. wrong: the names of those that are wrong, from the
    loss backwards. scale: of each parameter, the size that errors are relative to. weights: the parameters.
    """

    def same(value: Array, name: str) -> bool:
        expected = right[name]
        return value.shape == expected.shape and bool(np.abs(value - expected).max() <= tolerance * scale(name))

    zeros = [name for name in wrong if not got[name].any()]
    nonzero = [name for name in right if not name.endswith("key.bias")]
    if zeros == wrong:
        if [name for name in zeros if name in nonzero] == nonzero:
            return Cause("gradients-missing", 1.0, "all gradients are missing or 0", 0.0)
        if set(list(right)[list(right).index(wrong[0]) :]) - set(wrong) <= set(right) - set(nonzero):
            says = f"the gradient stops before {wrong[0]}: what comes after it in the backward pass gets none"
            return Cause("gradient-stops", 1.0, says, 0.0)
        return Cause("gradient-missing", 1.0, f"missing or 0: {listed(wrong)}", 0.0)
    if all(got[name].ndim == 2 and same(got[name].T, name) for name in wrong):
        says = f"transposed, dW^T instead of dW: {listed(wrong)}"
        return Cause("weight-gradient-transposed", 1.0, says, 0.0)
    swapped = {}
    for name in wrong:
        small = got[name].shape == right[name].shape and np.abs(got[name]).max() <= tolerance * scale(name)
        equal = (other for other in right if other != name and right[other].shape == got[name].shape)
        found = next((other for other in equal if scale(other) and same(got[name], other)), None)
        if found is None or (small and not found.endswith("key.bias")):
            break
        swapped[name] = found
    if len(swapped) == len(wrong):
        says = "; ".join(f"{name} has the gradient of {other}" for name, other in list(swapped.items())[:3])
        return Cause("gradients-swapped", 1.0, says + " ..." * (len(swapped) > 3), 0.0)
    return _factor(got, right, nonzero, tolerance, examples) or _other_form(
        got, right, wrong, weights, scale, tolerance
    )


def _factor(got: Gradients, right: Gradients, nonzero: list[str], tolerance: float, examples: int) -> Cause | None:
    """Return the cause if all gradients are the right ones times one number."""
    factors: list[float] = []
    for name in nonzero:
        c = constant_factor(got[name], right[name], 3 * tolerance)
        if c is None or (factors and abs(c / factors[0] - 1) > RATIO_ERROR):
            return None
        factors.append(c)
    c = float(np.median(factors))
    norm = math.sqrt(math.fsum(float(np.vdot(g, g)) for g in right.values()))
    known = {
        examples: ("loss-sum", f"the loss is the sum over the {examples} anchors, not the mean"),
        1 / examples: ("loss-mean-twice", "the loss is divided twice by the number of anchors"),
        2: ("gradients-doubled", "every gradient is doubled: computed or added twice"),
        1 / 2: ("gradients-halved", "every gradient is halved"),
        -1: ("gradients-negative", "every gradient has the wrong sign"),
        1 / 20: ("loss-scale-gradient-missing", "the gradient lacks the loss's factor 20"),
        20: ("loss-scale-gradient-twice", "the gradient has the loss's factor 20 twice"),
        2 * examples: ("loss-sum-doubled", "the gradient is that of a sum over all texts"),
        1 / (2 * examples): ("loss-mean-over-texts", "the loss is divided by the number of texts and summed once more"),
    }
    for largest in (1.0, 0.1, 0.5, 2.0, 5.0, 10.0):
        known[largest / norm] = ("gradients-clipped", f"the gradients are clipped to a norm of {largest:g}")
    for value, (name, says) in known.items():
        if abs(c / value - 1) <= RATIO_ERROR:
            return Cause(name, 1.0, f"{says} (factor {c:.5g})", 0.0)
    power = math.log2(abs(c))
    if c > 0 and abs(power) >= 2 and abs(power - round(power)) <= RATIO_ERROR:
        says = f"every gradient is multiplied by 2^{round(power)}: a loss scale that was not divided out?"
        return Cause("gradients-scaled", 1.0, says, 0.0)
    return Cause("gradients-scaled", 1.0, f"every gradient is {c:.5g} times the right one", 0.0)


def _other_form(
    got: Gradients, right: Gradients, wrong: list[str], weights: Gradients, scale: Scale, tolerance: float
) -> Cause | None:
    """Return the cause if gradients are clipped one by one, or contain weight decay."""

    def all_are(value_of: Callable[[str], Array]) -> bool:
        for name in right:
            value = value_of(name)
            size = max(float(np.abs(value).max()), scale(name))
            if got[name].shape != value.shape or np.abs(got[name] - value).max() > tolerance * size:
                return False
        return True

    if all(name.endswith("key.bias") or got[name].shape == right[name].shape for name in right):
        if all_are(lambda name: right[name] * min(1.0, 1 / (float(np.linalg.norm(right[name])) + 1e-6))
                   if not name.endswith("key.bias") else got[name]):  # fmt: skip
            return Cause("gradients-clipped-one-by-one", 1.0, "each parameter's gradient is clipped to a norm of 1", 0)
        if all_are(lambda name: np.clip(right[name], -1, 1) if not name.endswith("key.bias") else got[name]):
            return Cause("gradients-clipped-by-value", 1.0, "each element is clipped to -1 ... 1", 0.0)
        name = max(wrong, key=lambda name: right[name].size)
        decay = ratio(got[name] - right[name], weights[name])
        if abs(decay) > 1e-12:
            for where, holds in (("all parameters", lambda name: True), ("weights, not biases", has_decay)):
                if all_are(lambda name, holds=holds: right[name] + decay * holds(name) * weights[name]):  # type: ignore[misc]
                    says = f"weight decay is in the gradient: {decay:.4g} times the parameter is added, to {where}"
                    return Cause("weight-decay-in-gradient", 1.0, says, 0.0)
    return None
