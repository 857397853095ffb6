"""From a batch of texts to the loss and the gradients of all parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minilm_np import backward, model, ops
from minilm_np.model import Array
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.training.losses import Loss, MultipleNegativesRankingLoss


def loss_and_gradients(
    model: SentenceTransformer,
    examples: Sequence[Sequence[Any]],
    *,
    loss: Loss | None = None,
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
        A loss of minilm_np.training.losses. None: MultipleNegativesRankingLoss().
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
    texts = [text for column in columns for text in column]
    bert = _prepare(model)
    lengths = np.diff(model.tokens(texts).offsets)
    order = np.argsort(lengths, kind="stable")  # sentences of equal length run together
    size = mini_batch_size or len(texts)
    parts = [order[start : start + size] for start in range(0, len(texts), size)]
    embeddings = np.empty((len(texts), model.config.hidden_size), model.dtype)
    recorded = None
    for part in parts:
        recorded = backward.forward(bert, *model.tokens([texts[i] for i in part]))
        embeddings[part] = recorded.embeddings
    wanted = None if labels is None else np.asarray(labels, model.dtype)
    value, dcolumns = (loss or MultipleNegativesRankingLoss()).value_and_gradients(
        np.split(embeddings, len(columns)), wanted
    )
    dembeddings = np.concatenate(dcolumns).astype(model.dtype, copy=False)
    total: dict[str, Array] = {}
    for part in parts:
        if len(parts) > 1 or recorded is None:
            recorded = backward.forward(bert, *model.tokens([texts[i] for i in part]))
        for name, gradient in backward.backward(recorded, dembeddings[part]).items():
            if name in total:
                total[name] += gradient
            else:
                total[name] = gradient
    return value, total


def _prepare(transformer: SentenceTransformer) -> model.Bert:
    return model.prepare(transformer.weights, transformer.config, ops)


def _columns(examples: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return the texts by column: all anchors, all positives, ..."""
    rows = list(_rows(examples))
    if not rows:
        raise ValueError("examples: expected at least one, got none")
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"examples[{i}]: expected {len(rows[0])} texts as in examples[0], got {len(row)}")
    return [list(column) for column in zip(*rows, strict=True)]


def _rows(examples: Sequence[Sequence[Any]]) -> Iterator[list[Any]]:
    for i, row in enumerate(examples):
        if isinstance(row, str) or not isinstance(row, Sequence):
            raise ValueError(f"examples[{i}]: expected a list of texts, got {type(row).__name__}")
        yield list(row)
