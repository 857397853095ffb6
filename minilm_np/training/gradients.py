"""From a batch of texts to the loss and the gradients of all parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minilm_np import backward, ops
from minilm_np.encoder import cut_by_tokens
from minilm_np.model import Array, Bert, prepare
from minilm_np.model import forward as model_forward
from minilm_np.sentence_transformer import SentenceTransformer
from minilm_np.tokenizer import Tokens
from minilm_np.training.dropout import Dropout, DropoutTape
from minilm_np.training.losses import Loss, MultipleNegativesRankingLoss
from minilm_np.training.parameters import Parameters, blocks, empty_like
from minilm_np.training.workers import Workers

# A token's intermediate values take 150 KB in float32. Above this number of tokens they are computed twice instead.
TOKENS_IN_MEMORY = 8192
TOKENS_PER_PART = 1024
TOKENS_PER_REPEATED_PART = 512


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
        One number for each example (B,), for losses that need them.
    mini_batch_size
        How many texts are kept in memory with all their intermediate values (at least one for each thread). None: all
        of a batch of up to 8192 tokens, else about 1000 tokens. The loss and the gradients are the same, but for
        rounding: the embeddings are computed first, then the loss, and then each part's forward pass again, with the
        loss's gradient for its embeddings. (Gao et al. 2021, gradient caching.)

    Returns
    -------
    loss, gradients
        The gradients have the names, shapes and dtype of `model.weights`. Those of key biases are 0 but for rounding,
        because the softmax does not depend on them. If the loss is not finite, all gradients are NaN.

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
    with Workers() as workers:
        gradients = [empty_like(model.weights) for _ in range(workers.count)]
        wanted = None if labels is None else np.asarray(labels, np.float64)
        value = add_gradients(bert, tokens, len(columns), loss, wanted, gradients, workers, mini_batch_size)
        add_up(gradients, workers)
    if not math.isfinite(value):
        gradients[0].flat.fill(np.nan)
    return value, gradients[0].views


def add_gradients(
    bert: Bert,
    tokens: Tokens,
    columns: int,
    loss: Loss,
    labels: Array | None,
    gradients: Sequence[Parameters],
    workers: Workers,
    mini_batch_size: int | None = None,
    dropout: Dropout | None = None,
) -> float:
    """Return the loss of a batch; add each worker's share of the gradients to its own of `gradients`.

    tokens: of all anchors, then of all positives, and so on for each of the columns. labels: (B,), float64. Texts are
    computed in parts, on one worker each, and a part's worker depends only on the number of workers. If the batch is
    too large for the values of all its texts to stay in memory, the embeddings are computed first and each part's
    forward pass is repeated. If the loss is not finite, nothing is added.
    """
    lengths = np.diff(tokens.offsets)
    order = np.argsort(lengths, kind="stable")  # attention computes texts of equal length together
    if mini_batch_size is not None:
        size = -(-mini_batch_size // workers.count)
        parts = np.split(order, np.arange(size, len(order), size))
        keep = len(parts) <= workers.count
    else:
        keep = int(lengths.sum()) <= TOKENS_IN_MEMORY
        limit = TOKENS_PER_PART if keep else TOKENS_PER_REPEATED_PART
        parts = np.split(order, cut_by_tokens(lengths[order], limit, workers.count))
    kept: dict[int, backward.Recorded] = {}
    embeddings = np.empty((len(lengths), bert.config.hidden_size), bert.weights["embeddings"][0].dtype)

    def recorded(part: Array) -> backward.Recorded:
        packed = tokens.take(part)
        tape = None if dropout is None else DropoutTape(bert, dropout, part, packed.offsets)
        return backward.forward(bert, *packed, tape)

    def forward(_: int, number: int) -> None:
        part = parts[number]
        if keep:
            kept[number] = recorded(part)
            embeddings[part] = kept[number].embeddings
        elif dropout is None:
            embeddings[part] = model_forward(bert, *tokens.take(part))
        else:
            embeddings[part] = recorded(part).embeddings

    def add(worker: int, number: int) -> None:
        record = kept.pop(number) if keep else recorded(parts[number])
        backward.backward(record, dembeddings[parts[number]], gradients[worker].views)

    workers.each(forward, range(len(parts)))
    value, dcolumns = loss.value_and_gradients(np.split(embeddings, columns), labels)
    dembeddings = np.concatenate(dcolumns).astype(embeddings.dtype, copy=False)
    if math.isfinite(value):
        workers.each(add, range(len(parts)))
    return value


def add_up(gradients: Sequence[Parameters], workers: Workers) -> None:
    """Add the gradients of all workers to the first's, always in the same order."""

    def add(_: int, part: slice) -> None:
        for other in gradients[1:]:
            gradients[0].flat[part] += other.flat[part]

    workers.each(add, blocks(gradients[0].flat))


def _columns(examples: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return the texts by column: all anchors, all positives, ..."""
    if not len(examples):
        raise ValueError("examples: expected at least one, got none")
    if not len(examples[0]):
        raise ValueError("examples[0]: expected texts, got none")
    for i, row in enumerate(examples):
        if isinstance(row, str) or not isinstance(row, Sequence):
            raise ValueError(f"examples[{i}]: expected a list of texts, got {type(row).__name__}")
        if len(row) != len(examples[0]):
            raise ValueError(f"examples[{i}]: expected {len(examples[0])} texts as in examples[0], got {len(row)}")
    return [list(column) for column in zip(*examples, strict=True)]
