"""How the cosine of two texts changes with the embeddings of their tokens: gradients by backward.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minilm_np import backward, ops
from minilm_np import model as architecture
from minilm_np.model import Array, Bert
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.study.similarity import SPECIAL_TOKENS
from minilm_np.tape import Tape

METHODS = ("integrated_gradients", "gradient_x_input")
STEPS = 64  # of integrated gradients
TOKENS_AT_ONCE = 1024


@dataclass(frozen=True)
class Attributions:
    """What each token's embedding adds to the cosine of two texts, to first order.

    tokens: those of both texts. values: one array for each text, float64. cosine: of the two texts. baseline_cosine: of
    the two baselines, or None for gradient x input. Integrated gradients add up to the difference of the two cosines,
    but for the error of the numerical integral, `completeness_error`.

    Known limits: the values depend on the baseline, here the embeddings of [PAD] at the same positions; the path to it
    runs through embeddings that no text has; and tokens that act together share their effect in a way that only the
    path decides. (Sundararajan et al. 2017.) Gradient x input has no such sum: it looks at the texts' own point only.
    """

    method: str
    tokens: tuple[tuple[str, ...], tuple[str, ...]]
    values: tuple[Array, Array]
    cosine: float
    baseline_cosine: float | None = None

    @property
    def completeness_error(self) -> float | None:
        """The sum of all values minus the difference of the cosines."""
        if self.baseline_cosine is None:
            return None
        return float(sum(part.sum() for part in self.values)) - (self.cosine - self.baseline_cosine)


def attributions(
    model: SentenceTransformer, a: str, b: str, *, method: str = "integrated_gradients", steps: int = STEPS
) -> Attributions:
    """Attribute the cosine similarity of two texts to the tokens' embeddings.

    The embeddings are those after LayerNorm, the input of the first layer. All is computed in float64.

    Parameters
    ----------
    model
        The model.
    a, b
        The texts.
    method
        "gradient_x_input": the gradient of the cosine with respect to a token's embedding, times the embedding.
        "integrated_gradients": the mean of the gradients along the straight line from a baseline to the embeddings,
        times the difference of the two. The baseline has [PAD] in place of each token but [CLS] and [SEP].
    steps
        Points of the Gauss-Legendre rule for that mean. `completeness_error` says how exact it is: with the default at
        most 1e-4 (measured on short texts: 5e-11 to 1.1e-5; with 32 steps up to 1e-3, with 96 up to 4e-8).

    Raises
    ------
    ValueError
        If the method is unknown or there are no steps.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected 'integrated_gradients' or 'gradient_x_input', got {method!r}")
    if steps < 1:
        raise ValueError(f"steps: expected a number above 0, got {steps}")
    stages = model.stages([a, b], detail=True)
    first, second = (tuple(tokens) for tokens in stages["tokens"])
    ids, types, offsets = model.tokens([a, b])
    pieces = np.unique(np.append(ids, backward.PADDING_ID))  # the rows of the word table that are needed
    word = "embeddings.word_embeddings.weight"
    params = {
        name: (value[pieces] if name == word else value).astype(np.float64) for name, value in model.weights.items()
    }
    bert = architecture.prepare(params, model.config, ops)

    def embeddings(token_ids: Array) -> Array:
        recorder = Tape(bert)
        architecture.forward(bert._replace(ops=recorder), np.searchsorted(pieces, token_ids), types, offsets)
        return np.asarray(recorder.calls[0].output)

    x = embeddings(ids)
    special = np.array([token in SPECIAL_TOKENS for token in (*first, *second)])
    baseline = embeddings(np.where(special, ids, backward.PADDING_ID))
    (cosine, baseline_cosine), gradients = cosines_and_gradients(bert, np.stack([x, baseline]), types, offsets)
    if method == "gradient_x_input":
        values = np.sum(gradients[0] * x, axis=1)
        return Attributions(method, (first, second), _split(values, len(first)), cosine)
    points, weights = np.polynomial.legendre.leggauss(steps)
    mean = np.zeros_like(x)
    at_once = max(1, TOKENS_AT_ONCE // len(x))
    for start in range(0, steps, at_once):
        part = (points[start : start + at_once, None, None] + 1) / 2
        _, gradients = cosines_and_gradients(bert, baseline + part * (x - baseline), types, offsets)
        mean += np.tensordot(weights[start : start + at_once] / 2, gradients, axes=1)
    values = np.sum(mean * (x - baseline), axis=1)
    return Attributions(method, (first, second), _split(values, len(first)), cosine, baseline_cosine)


def _split(values: Array, at: int) -> tuple[Array, Array]:
    return values[:at], values[at:]


class _FromEmbeddings(Tape):
    """A tape whose first operation returns given hidden states (T, H)."""

    def __init__(self, bert: Bert, hidden_states: Array):
        super().__init__(bert)
        self._hidden_states = hidden_states

    def embed(self, *inputs: Any) -> Any:
        return self._keep("embed", self._hidden_states, *inputs)


def cosines_and_gradients(
    bert: Bert, hidden_states: Array, token_type_ids: Array, offsets: Array
) -> tuple[list[float], Array]:
    """Return the cosines of two texts for K choices of their embeddings, and the gradients with respect to these.

    hidden_states, gradients: (K, T, H). token_type_ids (T,), offsets (3,): of the two texts.
    """
    K, T, H = hidden_states.shape
    tape = _FromEmbeddings(bert, hidden_states.reshape(-1, H))
    starts = T * np.arange(K)[:, None]
    all_offsets = np.append((starts + offsets[:-1]).reshape(-1), K * T)
    recorded = backward.forward(bert, np.zeros(K * T, np.int32), np.tile(token_type_ids, K), all_offsets, tape)
    u, v = recorded.embeddings.reshape(K, 2, -1).swapaxes(0, 1)  # each (K, H)
    lengths = [np.linalg.norm(part, axis=1, keepdims=True) for part in (u, v)]
    cosines = np.sum(u * v, axis=1, keepdims=True) / (lengths[0] * lengths[1])
    du = (v / lengths[1] - cosines * u / lengths[0]) / lengths[0]
    dv = (u / lengths[0] - cosines * v / lengths[1]) / lengths[1]
    found: list[Array] = []

    def embed_backward(dy: Array, *inputs: Any) -> Any:
        found.append(dy)
        return (dy[:0],) * 3, (dy[:0],) * 2

    def linear_backward(dy: Array, x: Array, dense: ops.Dense) -> tuple[Array, ops.Dense]:
        """As in backward.py, but without the gradients of the parameters: a third of the time."""
        return dy @ dense.weight, ops.Dense(dy[:0], dy[:0])

    rules: dict[str, backward.Rule] = {**backward.RULES, "embed": embed_backward, "linear": linear_backward}
    for _ in backward.walk(recorded, np.stack([du, dv], axis=1).reshape(2 * K, -1), lambda op, _: rules[op]):
        pass
    return cosines[:, 0].tolist(), found[0].reshape(K, T, H)
