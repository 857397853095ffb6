"""AdamW, gradient clipping, and the learning rate's warm-up and decay."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from minilm_np.model import Array
from minilm_np.training.parameters import blocks, copy_of, empty_like
from minilm_np.training.workers import Workers


def learning_rate_at(step: int, learning_rate: float, warmup_steps: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0: up from 0 during warm-up, then down towards 0.

    The values are those of transformers' `get_linear_schedule_with_warmup`, whose first step has the rate 0.
    """
    if step < warmup_steps:
        return learning_rate * (step / max(1, warmup_steps))
    return learning_rate * max(0.0, (steps - step) / max(1, steps - warmup_steps))


def clip_gradients(gradients: Mapping[str, Array], max_norm: float = 1.0) -> tuple[float, dict[str, Array]]:
    """Return the norm of all gradients together, and the gradients scaled down so that it is at most `max_norm`.

    The factor is min(1, max_norm / (norm + 1e-6)), as in torch.nn.utils.clip_grad_norm_. (Pascanu et al. 2013,
    section 3.2.)
    """
    squares = [float(np.sum(np.square(gradient, dtype=np.float64))) for gradient in gradients.values()]
    norm = math.sqrt(math.fsum(squares))
    factor = min(1.0, max_norm / (norm + 1e-6))
    if factor == 1.0:
        return norm, dict(gradients)
    return norm, {name: np.asarray(g * g.dtype.type(factor)) for name, g in gradients.items()}


def clip_in_place(flat: Array, max_norm: float, workers: Workers) -> float:
    """Scale a vector (P,) of all gradients down as `clip_gradients` does, and return its norm before that."""
    parts = blocks(flat)
    squares = [0.0] * len(parts)

    def add_squares(_: int, i: int) -> None:
        squares[i] = float(np.sum(np.square(flat[parts[i]], dtype=np.float64)))

    def scale(_: int, part: slice) -> None:
        flat[part] *= flat.dtype.type(factor)

    workers.each(add_squares, range(len(parts)))
    norm = math.sqrt(math.fsum(squares))
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        workers.each(scale, parts)
    return norm


def has_decay(name: str) -> bool:
    """Whether weight decay applies to a parameter: not to biases and LayerNorm, as in HuggingFace's trainer."""
    return not name.endswith(".bias") and "LayerNorm" not in name


class AdamW:
    """Adam with decoupled weight decay. (Loshchilov & Hutter 2019, algorithm 2; Kingma & Ba 2015.)

    With m and v the running means of the gradient and of its square, at step t = 1, 2, ...:

        p = p - lr weight_decay p
        m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
        p = p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    The means start at 0, so without the divisors 1 - b^t the first steps would be too small (bias correction).

    Parameters
    ----------
    params
        The parameters by name, of one float dtype. Copied; the current ones are in `params`.
    betas, eps, weight_decay
        b1 and b2, eps, and the decay of the parameters for which `has_decay` holds. The model card's run had no decay.

    Raises
    ------
    ValueError
        If b1 or b2 is not from 0 to below 1.
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        for beta in betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas: expected numbers from 0 to below 1, got {beta!r}")
        self.parameters, self.means, self.squares = copy_of(params), empty_like(params), empty_like(params)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.steps = 0  # steps done

    @property
    def params(self) -> dict[str, Array]:
        """The current parameters by name; views of `parameters.flat`."""
        return self.parameters.views

    def step(self, gradients: Mapping[str, Array], learning_rate: float, workers: Workers | None = None) -> None:
        """Change the parameters by one step. The workers, if there are any, share the elements.

        Raises ValueError if `gradients` does not have exactly the parameters' names.
        """
        if gradients.keys() != self.params.keys():
            names = sorted(gradients.keys() ^ self.params.keys())
            raise ValueError(f"gradients: expected the names of the parameters, got a difference in {names[0]!r}")
        self.steps += 1

        def change(_: int, item: tuple[str, slice]) -> None:
            name, part = item
            of_all = (values[name] for values in (self.params, self.means.views, self.squares.views, gradients))
            param, mean, square, gradient = (values.reshape(-1)[part] for values in of_all)
            self._change(param, mean, square, gradient, learning_rate, has_decay(name))

        items = [(name, part) for name, view in self.params.items() for part in blocks(view.reshape(-1))]
        if workers:
            workers.each(change, items)
        else:
            for item in items:
                change(0, item)

    def _change(
        self, param: Array, mean: Array, square: Array, gradient: Array, learning_rate: float, decays: bool
    ) -> None:
        """Change some elements of the parameters and of the running means, in place. All arrays: (n,)."""
        b1, b2 = self.betas
        first, second = 1 - b1**self.steps, 1 - b2**self.steps
        if self.weight_decay and decays:
            param *= 1 - learning_rate * self.weight_decay
        mean += (1 - b1) * (gradient - mean)
        square *= b2
        square += (1 - b2) * gradient * gradient
        param -= (learning_rate / first) * mean / (np.sqrt(square) / math.sqrt(second) + self.eps)
