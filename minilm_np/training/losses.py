"""Losses: each returns its value and its gradient with respect to the embeddings of a batch.

Names, arguments and values are those of sentence_transformers.losses 6.2. A loss is an object with one method,
`value_and_gradients(embeddings, labels)`. `embeddings` has one array (B, H) for each column of the batch: anchors,
positives and further negatives. The gradients have the same shapes. A new loss needs nothing else.

B examples of a batch    H hidden size    M candidates of an anchor
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from minilm_np import ops
from minilm_np.backward import l2_normalize_backward
from minilm_np.model import Array

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
METRICS = ("cosine", "euclidean", "manhattan")


class Loss(Protocol):
    """What `loss_and_gradients` needs of a loss."""

    def value_and_gradients(
        self, embeddings: Sequence[Array], labels: Array | None = None
    ) -> tuple[float, list[Array]]:
        """Return the loss of a batch, and its gradient with respect to each column's embeddings (B, H)."""
        ...


@dataclass(frozen=True)
class MultipleNegativesRankingLoss:
    """Cross entropy of choosing an anchor's positive among all positives and negatives of the batch, by cosine.

    -mean(scale s_ii - log(sum over j of exp(scale s_ij))), where s_ij is the cosine of anchor i and candidate j.
    (Henderson et al. 2017; van den Oord et al. 2018, eq. 4.) The model card's symmetric form has
    directions=("query_to_doc", "doc_to_query") and partition_mode="per_direction".

    Parameters
    ----------
    scale
        The factor on cosines, 1 / temperature.
    directions
        Which similarities the sum contains besides those of anchors to candidates ("query_to_doc"): of anchors to
        other anchors, of positives to anchors, of positives to other examples' candidates.
    partition_mode
        "joint": one sum over all directions. "per_direction": one for each, and the mean of their logarithms.
    """

    scale: float = 20.0
    directions: tuple[str, ...] = ("query_to_doc",)
    partition_mode: str = "joint"

    def __post_init__(self) -> None:
        for direction in self.directions:
            if direction not in DIRECTIONS:
                raise ValueError(f"directions: expected {', '.join(DIRECTIONS)}, got {direction!r}")
        if self.partition_mode not in ("joint", "per_direction"):
            raise ValueError(f"partition_mode: expected 'joint' or 'per_direction', got {self.partition_mode!r}")
        for direction in self.directions if self.partition_mode == "per_direction" else ():
            if direction not in ("query_to_doc", "doc_to_query"):  # its sum would not contain the positive
                raise ValueError(
                    f"partition_mode: 'per_direction' expects directions between queries and docs, got {direction!r}"
                )

    def value_and_gradients(
        self, embeddings: Sequence[Array], labels: Array | None = None
    ) -> tuple[float, list[Array]]:
        """Return the loss and its gradients; labels are ignored, as each anchor's positive is the one next to it."""
        _check_columns(self, embeddings, 2, None)
        queries, *documents = (ops.l2_normalize(column) for column in embeddings)
        B, candidates = len(queries), np.concatenate(documents)
        own = np.eye(B, dtype=bool)
        pairs = {  # of each direction: rows (B, H), columns (M, H), and which similarities are left out
            "query_to_doc": (queries, candidates, None),
            "query_to_query": (queries, queries, own),
            "doc_to_query": (documents[0], queries, None),
            "doc_to_doc": (documents[0], candidates, np.tile(own, len(documents))),
        }
        chosen = [name for name in pairs if name == "query_to_doc" or name in self.directions]
        scores = []
        for rows, columns, left_out in (pairs[name] for name in chosen):
            scores.append(self.scale * (rows @ columns.T))
            if left_out is not None:
                scores[-1][left_out] = -np.inf
        groups = [np.concatenate(scores, axis=1)] if self.partition_mode == "joint" else scores
        log_sums = [_log_sum_exp(group) for group in groups]
        positive = np.diagonal(scores[0])
        value = float(np.mean(sum(log_sums) / len(groups) - positive))

        shares = [np.exp(group - log_sum[:, None]) for group, log_sum in zip(groups, log_sums, strict=True)]
        if self.partition_mode == "joint":
            shares = np.split(shares[0], np.cumsum([score.shape[1] for score in scores])[:-1], axis=1)
        dqueries, dcandidates = np.zeros_like(queries), np.zeros_like(candidates)
        for name, share in zip(chosen, shares, strict=True):
            rows, columns, _ = pairs[name]
            dscores = share / (len(groups) * B)
            if name == "query_to_doc":
                dscores[own.nonzero()] -= 1 / B
            drows = dqueries if rows is queries else dcandidates[:B]
            dcolumns = dqueries if columns is queries else dcandidates
            drows += self.scale * (dscores @ columns)
            dcolumns += self.scale * (dscores.T @ rows)
        gradients = [dqueries, *np.split(dcandidates, len(documents))]
        return value, [l2_normalize_backward(dy, x) for dy, x in zip(gradients, embeddings, strict=True)]


def default_loss(columns: int, labeled: bool, scale: float = 20.0) -> Loss:
    """Return the loss for a batch with so many texts in each example, and with labels or without.

    For pairs and triplets it is what all-MiniLM-L6-v2 was trained with: the mean of both directions for pairs, and only
    anchors to candidates with negatives. Labels only order the pairs, so that any scale of labels can be used.
    """
    if labeled:
        return CoSENTLoss(scale)
    if columns > 2:
        return MultipleNegativesRankingLoss(scale)
    return MultipleNegativesRankingLoss(scale, ("query_to_doc", "doc_to_query"), "per_direction")


@dataclass(frozen=True)
class CosineSimilarityLoss:
    """The mean of (cosine - label)^2 over pairs of texts. (Reimers & Gurevych 2019, section 3.)"""

    def value_and_gradients(
        self, embeddings: Sequence[Array], labels: Array | None = None
    ) -> tuple[float, list[Array]]:
        """Return the loss and its gradients. labels: (B,), the similarities wanted."""
        wanted = _check_columns(self, embeddings, 2, labels, exactly=True)
        cosines, cosines_backward = _pairwise_cosines(*embeddings)
        difference = cosines - wanted.astype(cosines.dtype)
        return float(np.mean(difference**2)), cosines_backward(2 * difference / len(difference))


@dataclass(frozen=True)
class CoSENTLoss:
    """log(1 + sum of exp(scale (s_i - s_j))) over examples i and j where i has the smaller label.

    s are cosines; only the order of the labels matters. (Su 2022, CoSENT.)
    """

    scale: float = 20.0

    def value_and_gradients(
        self, embeddings: Sequence[Array], labels: Array | None = None
    ) -> tuple[float, list[Array]]:
        """Return the loss and its gradients. labels: (B,), larger for more similar texts."""
        wanted = _check_columns(self, embeddings, 2, labels, exactly=True)
        cosines, cosines_backward = _pairwise_cosines(*embeddings)
        scores = self.scale * (cosines[:, None] - cosines[None, :])
        scores[wanted[:, None] >= wanted[None, :]] = -np.inf
        value = _log_sum_exp(np.append(scores.ravel(), scores.dtype.type(0))[None])[0]
        shares = np.exp(scores - value)
        return float(value), cosines_backward(self.scale * (shares.sum(axis=1) - shares.sum(axis=0)))


@dataclass(frozen=True)
class TripletLoss:
    """The mean of max(d(anchor, positive) - d(anchor, negative) + margin, 0). (Reimers & Gurevych 2019, section 3.)

    distance_metric: "euclidean", "cosine" (1 - cosine) or "manhattan". The Euclidean distance of equal vectors has the
    gradient 0 here; in PyTorch it is NaN.
    """

    distance_metric: str = "euclidean"
    triplet_margin: float = 5.0

    def __post_init__(self) -> None:
        if self.distance_metric not in METRICS:
            raise ValueError(f"distance_metric: expected {', '.join(METRICS)}, got {self.distance_metric!r}")

    def value_and_gradients(
        self, embeddings: Sequence[Array], labels: Array | None = None
    ) -> tuple[float, list[Array]]:
        """Return the loss and its gradients; labels are ignored."""
        _check_columns(self, embeddings, 3, None, exactly=True)
        anchor, positive, negative = embeddings
        near, (dnear_anchor, dpositive) = self._distances(anchor, positive)
        far, (dfar_anchor, dnegative) = self._distances(anchor, negative)
        losses = near - far + self.triplet_margin
        share = np.where(losses > 0, 1 / len(losses), 0).astype(anchor.dtype)[:, None]
        gradients = [share * (dnear_anchor - dfar_anchor), share * dpositive, -share * dnegative]
        return float(np.mean(np.maximum(losses, 0))), gradients

    def _distances(self, a: Array, b: Array) -> tuple[Array, list[Array]]:
        """Return the distances (B,), and the gradient of each with respect to its two vectors, (B, H) each."""
        if self.distance_metric == "cosine":
            cosines, cosines_backward = _pairwise_cosines(a, b)
            return 1 - cosines, cosines_backward(np.full_like(cosines, -1))
        difference = a - b
        if self.distance_metric == "manhattan":
            return np.abs(difference).sum(axis=1), [np.sign(difference), -np.sign(difference)]
        distances = np.linalg.norm(difference, axis=1)
        direction = difference / np.where(distances > 0, distances, 1)[:, None]
        return distances, [direction, -direction]


@dataclass(frozen=True)
class MatryoshkaLoss:
    """A weighted sum of another loss over the first dimensions of the embeddings, scaled to length 1.

    (Kusupati et al. 2022, eq. 1.) matryoshka_weights: one for each of matryoshka_dims; by default all 1.
    """

    loss: Loss
    matryoshka_dims: Sequence[int]
    matryoshka_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        weights = self.matryoshka_weights
        if not self.matryoshka_dims or min(self.matryoshka_dims) < 1:
            raise ValueError(f"matryoshka_dims: expected numbers above 0, got {self.matryoshka_dims!r}")
        if weights is not None and len(weights) != len(self.matryoshka_dims):
            raise ValueError(f"matryoshka_weights: expected {len(self.matryoshka_dims)} numbers, got {len(weights)}")

    def value_and_gradients(
        self, embeddings: Sequence[Array], labels: Array | None = None
    ) -> tuple[float, list[Array]]:
        """Return the loss and its gradients; labels as the other loss takes them."""
        value, gradients = 0.0, [np.zeros_like(column) for column in embeddings]
        for dim, weight in zip(
            self.matryoshka_dims, self.matryoshka_weights or [1.0] * len(self.matryoshka_dims), strict=True
        ):
            if dim > embeddings[0].shape[1]:
                raise ValueError(f"matryoshka_dims: expected at most {embeddings[0].shape[1]}, got {dim}")
            first = [column[:, :dim] for column in embeddings]
            part, dparts = self.loss.value_and_gradients([ops.l2_normalize(column) for column in first], labels)
            value += weight * part
            for gradient, dpart, column in zip(gradients, dparts, first, strict=True):
                gradient[:, :dim] += weight * l2_normalize_backward(dpart, column)
        return value, gradients


# --- shared steps ------------------------------------------------------------------------------


def _check_columns(
    loss: Loss, embeddings: Sequence[Array], least: int, labels: Array | None, *, exactly: bool = False
) -> Array:
    """Return the labels as a float64 array (B,), which keeps the order of large ones.

    Raises ValueError if the batch does not have what the loss needs.
    """
    name = type(loss).__name__
    if len(embeddings) < least or (exactly and len(embeddings) > least):
        expected = f"{least} texts" if exactly else f"{least} texts or more"
        raise ValueError(f"examples: {name} expects {expected} in each, got {len(embeddings)}")
    needs_labels = isinstance(loss, CosineSimilarityLoss | CoSENTLoss)
    if not needs_labels:
        return np.zeros(0)
    wanted = np.asarray([] if labels is None else labels, np.float64)
    if wanted.shape != (len(embeddings[0]),):
        got = "none" if labels is None else f"shape {wanted.shape}"
        raise ValueError(f"labels: {name} expects one number for each of {len(embeddings[0])} examples, got {got}")
    if not np.isfinite(wanted).all():
        row = int(np.flatnonzero(~np.isfinite(wanted))[0])
        raise ValueError(f"labels[{row}]: {name} expects a finite number, got {wanted[row]}")
    return wanted


def _log_sum_exp(scores: Array) -> Array:  # (B, M) -> (B,)
    largest = scores.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(scores - largest).sum(axis=1)) + largest[:, 0])


class _CosinesBackward:
    """The gradient of pairwise cosines (B,) with respect to both columns."""

    def __init__(self, a: Array, b: Array):
        self.columns = a, b
        self.normalized = ops.l2_normalize(a), ops.l2_normalize(b)

    def __call__(self, dcosines: Array) -> list[Array]:
        a, b = self.columns
        unit_a, unit_b = self.normalized
        dy = dcosines[:, None]
        return [l2_normalize_backward(dy * unit_b, a), l2_normalize_backward(dy * unit_a, b)]


def _pairwise_cosines(a: Array, b: Array) -> tuple[Array, _CosinesBackward]:
    """Return the cosines (B,) of rows a_i and b_i, and the function that computes their gradients."""
    back = _CosinesBackward(a, b)
    return np.asarray(np.sum(back.normalized[0] * back.normalized[1], axis=1)), back
