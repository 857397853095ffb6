"""From a batch of texts to the loss and the gradients of all parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minilm_np import backward, ops
from minilm_np.model import Array, prepare
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.training.losses import Loss, MultipleNegativesRankingLoss


def loss_and_gradients(
    model: SentenceTransformer,
    examples: Sequence[Sequence[Any]],
    *,
    loss: Loss = MultipleNegativesRankingLoss(),  # noqa: B008, it cannot change
    labels: Sequence[float] | None = None,
    mini_batch_size: int | None = None,
) -> tuple[float, dict[str, Array]]:
    """Return the loss of a batch and its gradient with respect to every parameter.

    Parameters
    ----------
    model
        The model; it is not changed. Computed in the model's dtype with the NumPy op set, whatever its own.
    examples
        Rows of [anchor, positive] or [anchor, positive, negative, ...], all of one length. A text is what
        `SentenceTransformer.encode` accepts.
    loss
        A loss of minilm_np.training.losses, or any object with its method.
    labels
        One number for each example, for losses that need them.
    mini_batch_size
        How many texts are kept in memory with all their intermediate values. None: all. The loss and the gradients are
        the same, but for rounding: the embeddings are computed first, then the loss, and then each part's forward pass
        again, with the loss's gradient for its embeddings. (Gao et al. 2021, gradient caching.)

    Returns
    -------
    loss, gradients
        The gradients have the names, shapes and dtype of `model.weights`. Those of key biases are 0 but for rounding,
        because the softmax does not depend on them.

    Raises
    ------
    ValueError
        If there are no examples, if they differ in length, or if the loss needs other columns or labels.
    """
    columns = _columns(examples)
    if mini_batch_size is not None and mini_batch_size < 1:
        raise ValueError(f"mini_batch_size: expected a number above 0, got {mini_batch_size}")
    tokens = model.tokens([text for column in columns for text in column])
    bert = prepare(model.weights, model.config, ops)
    n = len(tokens.offsets) - 1
    order = np.argsort(np.diff(tokens.offsets), kind="stable")  # attention computes texts of equal length together
    parts = [order[start : start + (mini_batch_size or n)] for start in range(0, n, mini_batch_size or n)]
    embeddings = np.empty((n, model.config.hidden_size), model.dtype)
    for part in parts:
        recorded = backward.forward(bert, *tokens.take(part))
        embeddings[part] = recorded.embeddings
    wanted = None if labels is None else np.asarray(labels, model.dtype)
    value, dcolumns = loss.value_and_gradients(np.split(embeddings, len(columns)), wanted)
    dembeddings = np.concatenate(dcolumns).astype(model.dtype, copy=False)
    gradients: dict[str, Array] = {}
    for part in parts:
        if len(parts) > 1:  # else the only part's values are still there
            recorded = backward.forward(bert, *tokens.take(part))
        for name, gradient in backward.backward(recorded, dembeddings[part]).items():
            gradients[name] = gradients[name] + gradient if name in gradients else gradient
    return value, gradients


def _columns(examples: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return the texts by column: all anchors, all positives, ..."""
    if not len(examples):
        raise ValueError("examples: expected at least one, got none")
    for i, row in enumerate(examples):
        if isinstance(row, str) or not isinstance(row, Sequence):
            raise ValueError(f"examples[{i}]: expected a list of texts, got {type(row).__name__}")
        if len(row) != len(examples[0]):
            raise ValueError(f"examples[{i}]: expected {len(examples[0])} texts as in examples[0], got {len(row)}")
    return [list(column) for column in zip(*examples, strict=True)]
