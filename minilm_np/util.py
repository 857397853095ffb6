"""What is done with embeddings: similarity, search, mining, communities, quantisation; in NumPy.

The names, parameters, defaults and results of sentence_transformers.util 6.2, on BLAS and in bounded memory. An
argument may be an array, a list or a tensor of PyTorch, which is never imported. What differs, on purpose:

| here | sentence_transformers.util |
|---|---|
| NumPy arrays are returned | tensors |
| equal scores: lowest id first, and equal rows score equally (cos_sim, dot_score) | any order |
| a row whose score is NaN comes after all others | before all others |
| integers are taken as float32, mixed float types as the wider, float16 as float32 everywhere | RuntimeError; half |
| an array of shape (0,), which is what encode([]) returns, is no rows | one row of no dimensions, or an error |
| ValueError or TypeError that names the argument | RuntimeError, IndexError, Exception, or no error |
| euclidean_sim of equal or nearly equal rows is exact | off by up to 3e-4 of their norm |
| pairwise_angle_sim takes single vectors as the other pairwise functions do | IndexError |
| top_k, min_community_size, truncate_dim and chunk sizes below 1 are errors | empty, or cut from the end |
| pairs of paraphrase_mining with equal scores: lowest ids first | any order |
| the memory for scores is bounded even if chunk sizes are not; they only ever lower it | chunk sizes decide |
| semantic_search_quantized: one function, without an index; ranges are never guessed from the queries | two |
| SimilarityFunction has no MaxSim: that needs many vectors a text | it has |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "SimilarityFunction",
    "community_detection",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "manhattan_sim",
    "normalize_embeddings",
    "pairwise_angle_sim",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "pytorch_cos_sim",
    "quantize_embeddings",
    "semantic_search",
    "semantic_search_quantized",
    "truncate_embeddings",
]

Array = npt.NDArray[Any]
ArrayLike = Any  # an array, a (nested) list of numbers, a list of arrays, a tensor
ScoreFunction = Callable[[Any, Any], Any]  # (q, d), (c, d) -> (q, c), higher is nearer
Results = list[list[dict[str, int | float]]]

EPS = 1e-12  # a norm counts as at least so much: a zero vector is similar to nothing
BLOCK_BYTES = 3 << 19  # of the corpus at once: stays in the second-level cache between its norms and its dot products
SCORES_AT_ONCE = 1 << 26  # 256 MB of float32
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")

logger = logging.getLogger(__name__)


# --- similarity --------------------------------------------------------------------------------


def cos_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Cosines (n, m) of rows a (n, d) and b (m, d); a vector (d,) is one row; 0 where either is zero.

    Raises TypeError or ValueError naming a or b, as all functions here do.
    """
    a, b = _pair("a", a, "b", b)
    return _cosines(a, b)


def pytorch_cos_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """cos_sim by its old name."""
    return cos_sim(a, b)


def dot_score(a: ArrayLike, b: ArrayLike) -> Array:
    """Dot products (n, m) of rows a (n, d) and b (m, d)."""
    a, b = _pair("a", a, "b", b)
    return _dots(a, b)


def euclidean_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Negative Euclidean distances (n, m) of rows a (n, d) and b (m, d)."""
    a, b = _pair("a", a, "b", b)
    out = np.empty((len(a), len(b)), _float_type(a, b))
    with np.errstate(all="ignore"):
        for i in _blocks(len(a), _block_rows(a)):
            x = np.asarray(a[i], np.float64)
            xx = np.einsum("nd,nd->n", x, x)
            for j in _blocks(len(b), _block_rows(b)):
                y = np.asarray(b[j], np.float64)
                size = xx[:, None] + np.einsum("nd,nd->n", y, y)
                squares = size - 2 * (x @ y.T)
                # Near 0 the subtraction cancels what it should leave: there, the difference itself.
                rows, columns = np.nonzero(squares < 1e-6 * size)
                for near in _blocks(len(rows), len(x)):
                    difference = x[rows[near]] - y[columns[near]]
                    squares[rows[near], columns[near]] = np.einsum("nd,nd->n", difference, difference)
                out[i, j] = np.sqrt(squares)
    return np.negative(out, out=out)


def manhattan_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Negative Manhattan distances (n, m) of rows a (n, d) and b (m, d)."""
    a, b = _pair("a", a, "b", b)
    out = np.empty((len(a), len(b)), _float_type(a, b))
    with np.errstate(all="ignore"):
        for j in _blocks(len(b), _block_rows(b)):
            y = np.asarray(b[j], out.dtype)
            difference = np.empty_like(y)
            for i in range(len(a)):
                np.subtract(y, a[i].astype(out.dtype), out=difference)
                np.abs(difference, out=difference)
                difference.sum(axis=1, out=out[i, j])
    return np.negative(out, out=out)


def pairwise_cos_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Cosines (n,) of a[i] and b[i], both (n, d)."""
    a, b = _couple("a", a, "b", b)
    return pairwise_dot_score(_unit(a), _unit(b))


def pairwise_dot_score(a: ArrayLike, b: ArrayLike) -> Array:
    """Dot products (n,) of a[i] and b[i], both (n, d)."""
    a, b = _couple("a", a, "b", b)
    with np.errstate(all="ignore"):
        return np.asarray(np.einsum("...d,...d->...", a, b))


def pairwise_euclidean_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Negative Euclidean distances (n,) of a[i] and b[i], both (n, d)."""
    a, b = _couple("a", a, "b", b)
    with np.errstate(all="ignore"):
        return np.asarray(-np.sqrt(np.square(a - b).sum(axis=-1)))


def pairwise_manhattan_sim(a: ArrayLike, b: ArrayLike) -> Array:
    """Negative Manhattan distances (n,) of a[i] and b[i], both (n, d)."""
    a, b = _couple("a", a, "b", b)
    with np.errstate(all="ignore"):
        return np.asarray(-np.abs(a - b).sum(axis=-1))


def pairwise_angle_sim(x: ArrayLike, y: ArrayLike) -> Array:
    """|cosine + sine| (n,) of x[i] and y[i], both (n, d), as AnglE defines them (arXiv:2309.12871).

    Dimensions i and i + d/2 are the real and the imaginary part of one number; an odd d gets a zero more.
    """
    x, y = _couple("x", x, "y", y)
    half = (x.shape[-1] + 1) // 2
    x, y = _unit(x), _unit(y)
    paired = 2 * half - x.shape[-1]
    with np.errstate(all="ignore"):
        cosine = np.einsum("...d,...d->...", x, y)
        sine = np.einsum("...d,...d->...", x[..., half:], y[..., : half - paired])
        sine = sine - np.einsum("...d,...d->...", x[..., : half - paired], y[..., half:])
        return np.asarray(np.abs(cosine + sine))


class SimilarityFunction(Enum):
    """The similarities by name. DOT is DOT_PRODUCT."""

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        wanted = ", ".join(map(repr, cls.possible_values()))
        raise ValueError(f"similarity_function: found {value!r}, wanted one of {wanted}")

    @staticmethod
    def to_similarity_fn(similarity_function: str | SimilarityFunction) -> Callable[[ArrayLike, ArrayLike], Array]:
        """The function of all pairs: (n, d), (m, d) -> (n, m). Raises ValueError on an unknown name."""
        return {
            SimilarityFunction.COSINE: cos_sim,
            SimilarityFunction.DOT_PRODUCT: dot_score,
            SimilarityFunction.EUCLIDEAN: euclidean_sim,
            SimilarityFunction.MANHATTAN: manhattan_sim,
        }[SimilarityFunction(similarity_function)]

    @staticmethod
    def to_similarity_pairwise_fn(
        similarity_function: str | SimilarityFunction,
    ) -> Callable[[ArrayLike, ArrayLike], Array]:
        """The function of row i with row i: (n, d), (n, d) -> (n,). Raises ValueError on an unknown name."""
        return {
            SimilarityFunction.COSINE: pairwise_cos_sim,
            SimilarityFunction.DOT_PRODUCT: pairwise_dot_score,
            SimilarityFunction.EUCLIDEAN: pairwise_euclidean_sim,
            SimilarityFunction.MANHATTAN: pairwise_manhattan_sim,
        }[SimilarityFunction(similarity_function)]

    @staticmethod
    def possible_values() -> list[str]:
        """The names."""
        return [function.value for function in SimilarityFunction]


# --- vectors -----------------------------------------------------------------------------------


def normalize_embeddings(embeddings: ArrayLike) -> Array:
    """The same vectors (..., d) with length 1; zero stays zero. A copy."""
    array = _array("embeddings", embeddings)
    return _unit(array.astype(_float_type(array), copy=False))


def truncate_embeddings(embeddings: ArrayLike, truncate_dim: int | None) -> Array:
    """The first truncate_dim dimensions (..., min(d, truncate_dim)), not normalised anew; all if None. A view."""
    if truncate_dim is not None:
        _check_positive("truncate_dim", truncate_dim)
    return _array("embeddings", embeddings)[..., :truncate_dim]


# --- search ------------------------------------------------------------------------------------


def semantic_search(
    query_embeddings: ArrayLike,
    corpus_embeddings: ArrayLike,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> Results:
    """For each query (q, d) the top_k rows of the corpus (n, d): [{"corpus_id": id, "score": score}, ...], best first.

    Equal scores lowest id first, NaN last. Never a copy of the corpus: it is read a block at a time. A score_function
    of your own is called with chunks of queries and corpus, as they came, and returns (queries, corpus).
    Raises TypeError or ValueError naming the argument.
    """
    _check_positive("query_chunk_size", query_chunk_size)
    _check_positive("corpus_chunk_size", corpus_chunk_size)
    _check_positive("top_k", top_k)
    queries, corpus = _pair("query_embeddings", query_embeddings, "corpus_embeddings", corpus_embeddings)
    found = _search(queries, corpus, query_chunk_size, corpus_chunk_size, top_k, score_function)
    return [_as_dicts(ids, scores) for ids, scores in found]


def semantic_search_quantized(
    query_embeddings: ArrayLike,
    corpus_embeddings: ArrayLike,
    corpus_precision: str = "ubinary",
    top_k: int = 10,
    ranges: ArrayLike | None = None,
    calibration_embeddings: ArrayLike | None = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
) -> Results:
    """For each query the top_k rows of a quantised corpus, as `semantic_search` returns them.

    The queries are quantised as the corpus was and compared with it: "ubinary" and "binary" by Hamming distance,
    "int8", "uint8" and "float32" by dot product. With rescore, float queries then choose among the
    top_k * rescore_multiplier candidates by their dot product with the codes' values: bits 0 and 1, or the lower
    bounds of the steps of `ranges`. Without, or with queries that are quantised already, or with "float32", the score
    is that of the comparison; a Hamming distance is the number of different bits, lowest first.

    ranges (2, d) or calibration_embeddings (m, d): those that the corpus was quantised with; float queries for an
    "int8" or "uint8" corpus need them.
    Raises TypeError or ValueError naming the argument.
    """
    if corpus_precision not in PRECISIONS:
        raise ValueError(f"corpus_precision: found {corpus_precision!r}, wanted one of {', '.join(PRECISIONS)}")
    _check_positive("top_k", top_k)
    _check_positive("rescore_multiplier", rescore_multiplier)
    queries = _as_rows("query_embeddings", _array("query_embeddings", query_embeddings))
    codes = _as_rows("corpus_embeddings", _array("corpus_embeddings", corpus_embeddings))
    if corpus_precision == "float32":
        return semantic_search(queries, codes, top_k=top_k, score_function=dot_score)
    wanted = np.dtype(np.uint8 if corpus_precision.startswith("u") else np.int8)
    if codes.dtype != wanted and codes.size:
        raise TypeError(f"corpus_embeddings: found {codes.dtype}, wanted {wanted}, which {corpus_precision!r} is")
    binary, is_float = corpus_precision.endswith("binary"), queries.dtype not in (np.uint8, np.int8)
    d = queries.shape[1]
    if is_float and not binary:
        if ranges is None and calibration_embeddings is None:
            raise ValueError(
                f"ranges: found None, wanted those that the {corpus_precision} corpus was quantised with, "
                "or its calibration_embeddings"
            )
        ranges = _ranges(codes, corpus_precision, ranges, calibration_embeddings)
    elif not is_float and queries.dtype != wanted:
        raise TypeError(f"query_embeddings: found {queries.dtype}, wanted floats or {wanted}, as the corpus is")
    quantized = quantize_embeddings(queries, corpus_precision, ranges) if is_float else queries
    quantized, codes = _pair("query_embeddings, quantised,", quantized, "corpus_embeddings", codes)
    rescore = rescore and is_float
    score: ScoreFunction = _minus_hamming if binary else _code_dots
    found = _search(quantized, codes, 100, 500000, top_k * rescore_multiplier if rescore else top_k, score)
    results = []
    for query, (ids, scores) in zip(queries, found, strict=True):
        if rescore:
            rows = codes[ids]
            if binary:
                values = np.unpackbits(_bytes(rows), axis=1)[:, :d].astype(np.float64)
            else:
                values = _dequantize(rows, ranges)
            scores = np.einsum("nd,d->n", values, query.astype(np.float64))
            best = np.lexsort((ids, -scores))[:top_k]
            ids, scores = ids[best], scores[best]
        elif binary:
            scores = -scores
        results.append(_as_dicts(ids, scores))
    return results


def paraphrase_mining(
    model: Any,
    sentences: list[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """`paraphrase_mining_embeddings` of model.encode(sentences, ...); what is None is not passed on."""
    options = {"truncate_dim": truncate_dim, "prompt_name": prompt_name, "prompt": prompt}
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        **{name: value for name, value in options.items() if value is not None},
    )
    return paraphrase_mining_embeddings(
        embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


def paraphrase_mining_embeddings(
    embeddings: ArrayLike,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """The nearest pairs of rows (n, d): [[score, i, j], ...], i < j, best first; equal scores lowest ids first.

    A pair takes part if either row is among the other's top_k; at most max_pairs are returned. score_function is taken
    to be symmetric.
    Raises TypeError or ValueError naming the argument.
    """
    for name, value in (
        ("query_chunk_size", query_chunk_size),
        ("corpus_chunk_size", corpus_chunk_size),
        ("max_pairs", max_pairs),
        ("top_k", top_k),
    ):
        _check_positive(name, value)
    rows = _as_rows("embeddings", _array("embeddings", embeddings))
    n = len(rows)
    keys, scores = np.empty(0, np.int64), np.empty(0, np.float64)  # a pair's key is i * n + j
    for chunk in _blocks(n, query_chunk_size):
        # One neighbour more: the row itself may be among them
        found = _search(rows[chunk], rows, query_chunk_size, corpus_chunk_size, top_k + 1, score_function)
        for i, (ids, near) in enumerate(found, chunk.start):
            others = np.flatnonzero(ids != i)[:top_k]
            ids = ids[others]
            found[i - chunk.start] = (np.minimum(ids, i) * n + np.maximum(ids, i), near[others])
        new_keys, new_scores = zip(*found, strict=True)
        keys, scores = np.concatenate([keys, *new_keys]), np.concatenate([scores, *new_scores])
        keys, first = np.unique(keys, return_index=True)
        best = np.argsort(-scores[first], kind="stable")[:max_pairs]
        keys, scores = keys[best], scores[first[best]]
    return [[score, key // n, key % n] for score, key in zip(scores.tolist(), keys.tolist(), strict=True)]


def community_detection(
    embeddings: ArrayLike,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Communities of rows (n, d): lists of ids, the centre first, then by falling cosine with it; the largest first.

    A row's neighbours are the rows whose cosine with it is at least `threshold`, itself included. Rows with most
    neighbours are centres first; what they take is gone for others. No community has fewer than min_community_size.
    Raises TypeError or ValueError naming the argument.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or threshold != threshold:
        raise ValueError(f"threshold: found {threshold!r}, wanted a number")
    _check_positive("min_community_size", min_community_size)
    _check_positive("batch_size", batch_size)
    rows = _as_rows("embeddings", _array("embeddings", embeddings))
    n = len(rows)
    if n < min_community_size:
        return []
    vectors = np.ascontiguousarray(_unit(rows.astype(_float_type(rows), copy=False)))
    limit = np.float32(threshold)  # rounded as sentence-transformers rounds it
    with np.errstate(all="ignore"):
        counts = _count_neighbours(vectors, limit, min(batch_size, 4096), show_progress_bar)
        order = np.argsort(-counts, kind="stable")
        order = order[counts[order] >= min_community_size]
        return _take_communities(vectors, limit, min_community_size, order)


def _count_neighbours(vectors: Array, limit: np.float32, batch_size: int, show_progress_bar: bool) -> Array:
    """How many rows (n,) have a cosine of at least `limit` with each. A cosine counts for both rows: half the work."""
    n, wide = len(vectors), 4096
    counts = np.zeros(n, np.int64)
    # One buffer for all tiles: fresh memory costs a page fault every 4 KiB
    cosines, near = (np.empty(min(batch_size, n) * max(wide, batch_size), dtype) for dtype in (vectors.dtype, np.bool_))
    batches: Iterable[slice] = list(_blocks(n, batch_size))
    if show_progress_bar:
        from tqdm import tqdm

        batches = tqdm(batches, desc="Finding clusters", disable=None)  # None: only on a terminal
    for rows in batches:
        for columns in chain([rows], _blocks(n, wide, rows.stop)):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            tile = cosines[: height * width].reshape(height, width)
            np.matmul(vectors[rows], vectors[columns].T, out=tile)
            hits = np.flatnonzero(np.greater_equal(tile, limit, out=near[: tile.size].reshape(tile.shape)))
            ends = np.searchsorted(hits, width * np.arange(1, height + 1))
            counts[rows] += np.diff(ends, prepend=0)
            if columns is not rows:
                counts[columns] += np.bincount(hits % width, minlength=width)
    return counts


def _take_communities(vectors: Array, limit: np.float32, min_size: int, order: Array) -> list[list[int]]:
    """Communities around the rows of `order`, one after the other, of rows that no earlier one took.

    Neighbours are computed again, for centres only: to have kept them could have needed n x n.
    """
    used = np.zeros(len(vectors), bool)
    free, free_vectors = np.arange(len(vectors)), vectors  # at least those that are not used
    communities = []
    at_once = 1
    while len(order):
        centres, order = order[:at_once], order[at_once:]
        taken = False
        for centre, cosines in zip(centres, vectors[centres] @ free_vectors.T, strict=True):
            if used[centre]:
                continue
            members = free[cosines >= limit]
            members = members[~used[members]]
            if len(members) < min_size:
                continue
            falling = np.argsort(-_exact(vectors, members, vectors[centre]), kind="stable")
            members = members[falling]
            members = np.concatenate([[centre], members[members != centre]])
            used[members] = taken = True
            communities.append(members.tolist())
        if taken:  # the next centres are likely used up: one at a time
            order, at_once = order[~used[order]], 1
            left = ~used[free]
            if 2 * np.count_nonzero(left) < len(free):
                free, free_vectors = free[left], free_vectors[left]
        else:
            at_once = min(2 * at_once, 1024, max(1, SCORES_AT_ONCE // len(vectors)))
    return sorted(communities, key=len, reverse=True)


# --- quantisation ------------------------------------------------------------------------------


def quantize_embeddings(
    embeddings: ArrayLike,
    precision: str,
    ranges: ArrayLike | None = None,
    calibration_embeddings: ArrayLike | None = None,
) -> Any:
    """Embeddings (n, d) or (d,) in fewer bits; a list of matrices gives a list with ranges in common.

    "float32": as they are. "int8", "uint8": the number of the step, of 255 between ranges[0] and ranges[1] (2, d), that
    a value lies on; "int8" less 128. Without ranges, those of calibration_embeddings (m, d), else of the embeddings.
    "binary", "ubinary": a bit per dimension, 1 above 0, packed (n, ceil(d / 8)), as int8 less 128, or uint8.
    Raises TypeError, or ValueError naming the argument; ranges of a single embedding are an error.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: found {precision!r}, wanted one of {', '.join(PRECISIONS)}")
    if isinstance(embeddings, list | tuple):
        if not embeddings:
            return []
        if getattr(embeddings[0], "ndim", 1) == 2:
            matrices = [_array(f"embeddings[{i}]", matrix) for i, matrix in enumerate(embeddings)]
            if precision.endswith("int8") and any(map(len, matrices)):
                ranges = _ranges(np.concatenate(matrices), precision, ranges, calibration_embeddings)
            return [quantize_embeddings(matrix, precision, ranges) for matrix in matrices]
    array = _array("embeddings", embeddings)
    if array.dtype in (np.uint8, np.int8):
        raise TypeError(f"embeddings: found {array.dtype}, wanted floats that are not quantised yet")
    if precision == "float32":
        return array.astype(np.float32)
    unsigned, binary = precision.startswith("u"), precision.endswith("binary")
    *shape, d = array.shape
    out = np.empty((*shape, (d + 7) // 8 if binary else d), np.uint8)
    if array.ndim > 1 and len(array) == 0:
        return out.view(np.uint8 if unsigned else np.int8)
    limits = np.empty((2, d)) if binary else _ranges(array, precision, ranges, calibration_embeddings)
    for block in [...] if array.ndim == 1 else _blocks(len(array), _block_rows(array)):
        if binary:
            out[block] = np.packbits(array[block] > 0, axis=-1)
        else:
            steps = np.floor((array[block] - limits[0]) / _steps(limits))
            if np.isnan(steps).any():
                raise ValueError(f"embeddings: found NaN, wanted numbers: NaN is not on any step of {precision}")
            out[block] = np.clip(steps, 0, 255)
    return out if unsigned else (out ^ 0x80).view(np.int8)  # the highest bit flipped: less 128


def _ranges(array: Array, precision: str, ranges: ArrayLike | None, calibration: ArrayLike | None) -> Array:
    """Lowest and highest value of each dimension (2, d), float32: as given, or of what is to calibrate with."""
    d = array.shape[-1]
    if ranges is None:
        if calibration is not None:
            array = _array("calibration_embeddings", calibration)
            if array.ndim != 2 or array.shape[1] != d or len(array) == 0:
                raise ValueError(f"calibration_embeddings: found shape {array.shape}, wanted (m, {d})")
        elif array.ndim == 1 or len(array) == 1:
            raise ValueError(
                f"ranges: found None, wanted ranges or calibration_embeddings: a single embedding has no {precision} "
                "ranges"
            )
        elif len(array) < 100:
            logger.warning(
                "%s ranges of only %d embeddings: give ranges, or calibration_embeddings of more", precision, len(array)
            )
        name = "ranges" if calibration is None else "calibration_embeddings"
        found = np.stack([array.min(axis=0), array.max(axis=0)])
    else:
        name, found = "ranges", _array("ranges", ranges)
        if found.shape != (2, d):
            raise ValueError(f"ranges: found shape {found.shape}, wanted {(2, d)}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name}: found NaN or infinity in the ranges, wanted finite numbers")
    return found.astype(np.float32)


def _steps(ranges: Array) -> Array:
    steps = (ranges[1] - ranges[0]) / 255
    return np.asarray(np.where(steps == 0, 1, steps))  # a dimension that never varies


def _dequantize(codes: Array, ranges: Any) -> Array:
    """The lower bounds of the steps, float64."""
    values = codes.astype(np.float64)
    if codes.dtype == np.int8:
        values += 128
    return np.asarray(values * _steps(ranges) + ranges[0])


# --- how a search is done ----------------------------------------------------------------------


def _search(
    queries: Array, corpus: Array, query_chunk: int, corpus_chunk: int, k: int, score_function: ScoreFunction
) -> list[tuple[Array, Array]]:
    """For each query the ids and scores of its k best rows: (k,) and (k,), best first, or fewer.

    BLAS rounds a row's dot product by the row's place in the matrix. So it only chooses the candidates; cos_sim and
    dot_score are then computed alike for each of them: equal rows are equal, however they are cut into chunks.
    """
    if not callable(score_function):
        raise TypeError(f"score_function: found {score_function!r}, wanted a function of two arrays")
    cosine, dot = score_function in (cos_sim, pytorch_cos_sim), score_function is dot_score
    d, dtype = corpus.shape[1], _float_type(queries, corpus)
    if cosine or dot:
        queries = np.ascontiguousarray(queries, dtype)
        queries = _unit(queries) if cosine else queries
    best: list[tuple[Array, Array]] = [(np.empty(0, np.int64), np.empty(0, dtype))] * len(queries)
    corpus_chunk = min(corpus_chunk, max(1, SCORES_AT_ONCE // max(1, min(query_chunk, len(queries)))))
    for chunk in _blocks(len(corpus), corpus_chunk):
        rows = corpus[chunk]
        norms = np.zeros(len(rows), dtype)
        for some in _blocks(len(queries), query_chunk):
            if cosine:
                scores = _dots(queries[some], rows, norms)
            elif dot:
                scores = _dots(queries[some], rows)
            else:
                scores = _array("score_function's result", score_function(queries[some], rows))
                if scores.shape != (wanted := (some.stop - some.start, len(rows))):
                    raise ValueError(f"score_function: found a result of shape {scores.shape}, wanted {wanted}")
                scores = scores.astype(_float_type(scores), copy=False)
            for i, row in enumerate(scores, some.start):
                if cosine or dot:
                    size = 1.0 if cosine else _size(queries[i], rows[_candidates(row, k)[:k]].astype(dtype))
                    # BLAS and _exact may both be wrong by d/2 eps, for the k-th row and for another
                    ids = _candidates(row, k, (2 * d + 4) * float(np.finfo(dtype).eps) * size)
                    exact = _exact(rows, ids, queries[i], cosine)
                else:
                    ids = _candidates(row, k)
                    exact = row[ids]
                ids, exact = np.concatenate([best[i][0], ids + chunk.start]), np.concatenate([best[i][1], exact])
                falling = np.argsort(-exact, kind="stable")[:k]  # ids rise within and between chunks; NaN is last
                best[i] = ids[falling], exact[falling]
    return best


def _candidates(scores: Array, k: int, slack: float = 0.0) -> Array:
    """Rising ids of all scores (n,) that are at least the k-th highest less `slack`; all, if k reaches NaN."""
    n = len(scores)
    if k >= n:
        return np.arange(n)
    among, groups = scores, n // 64
    if groups >= 4 * k:  # the k-th highest of the maxima of any groups is a lower bound, and much faster to find
        tops = np.fmax.reduce(scores[: 64 * groups].reshape(64, groups), axis=0)
        among = scores[scores >= _kth_highest(tops, k)]
    if len(among) < k:
        return np.arange(n)
    ids = np.flatnonzero(scores >= _kth_highest(among, k) - slack)
    return ids if len(ids) >= k else np.arange(n)


def _kth_highest(scores: Array, k: int) -> Any:
    scores = np.where(np.isnan(scores), -np.inf, scores)
    scores.partition(len(scores) - k)
    return scores[len(scores) - k]


def _exact(rows: Array, ids: Array, query: Array, cosine: bool = False) -> Array:
    """Dot products or cosines (k,) of rows[ids], each summed in the same order wherever the row stands."""
    scores = np.empty(len(ids), query.dtype)
    with np.errstate(all="ignore"):
        for some in _blocks(len(ids), _block_rows(rows)):
            values = np.ascontiguousarray(rows[ids[some]], query.dtype)
            scores[some] = np.einsum("nd,d->n", values, query)
            if cosine:
                scores[some] /= _norms(values)
    return scores


def _size(query: Array, rows: Array) -> float:
    """The highest that a dot product with one of the rows (n, d) can be, NaN left out."""
    with np.errstate(all="ignore"):
        return float(_norms(query) * np.fmax.reduce(_norms(rows), initial=0))


def _dots(a: Array, b: Array, norms: Array | None = None) -> Array:
    """Dot products (n, m), divided by the norms of b if norms (m,) are given; those that are 0 are yet to be found."""
    out = np.empty((len(a), len(b)), _float_type(a, b))
    with np.errstate(all="ignore"):
        for i in _blocks(len(a), 4096):
            x = np.asarray(a[i], out.dtype)
            for j in _blocks(len(b), _block_rows(b) * (1 if len(x) < 16 else 16)):  # BLAS likes large matrices
                y = np.asarray(b[j], out.dtype)
                np.matmul(x, y.T, out=out[i, j])
                if norms is not None:
                    if not norms[j.start]:
                        norms[j] = _norms(y)
                    out[i, j] /= norms[j]
    return out


def _cosines(a: Array, b: Array) -> Array:
    out = np.empty((len(a), len(b)), _float_type(a, b))
    norms = np.zeros(len(b), out.dtype)
    for i in _blocks(len(a), 4096):
        out[i] = _dots(_unit(a[i].astype(out.dtype, copy=False)), b, norms)
    return out


def _norms(array: Array) -> Array:
    return np.asarray(np.maximum(np.sqrt(np.einsum("...d,...d->...", array, array)), array.dtype.type(EPS)))


def _unit(array: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(array / _norms(array)[..., None])


# --- codes -------------------------------------------------------------------------------------


def _bytes(codes: Array) -> Array:
    """Packed bits as uint8: "binary" is the same bits less 128."""
    return codes.view(np.uint8) ^ 0x80 if codes.dtype == np.int8 else codes


HAS_BITWISE_COUNT = hasattr(np, "bitwise_count")  # NumPy 2
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)  # in each byte


def _count_bits(words: Array) -> Array:
    """The number of ones in each word (n,)."""
    if HAS_BITWISE_COUNT:
        return np.asarray(np.bitwise_count(words))
    return np.asarray(BITS[words.view(np.uint8).reshape(len(words), -1)].sum(axis=1))


def _minus_hamming(queries: Array, codes: Array) -> Array:
    """Minus the number of different bits (q, n), float32, of packed bits (q, w) and (n, w)."""
    out = np.zeros((len(queries), len(codes)), np.float32)
    by_query = _as_words(queries).T
    for block in _blocks(len(codes), 8192):  # their words stay in the cache for all queries
        words = _as_words(codes[block])
        for query, distances in zip(by_query, out, strict=True):
            for word, column in zip(query, words, strict=True):
                distances[block] -= _count_bits(column ^ word)
    return out


def _as_words(codes: Array) -> Array:
    """Packed bits (n, w), either sign alike, as words of 8 bytes, by column. One sign bit flipped in both is none."""
    width = -(-codes.shape[1] // 8) * 8
    padded = np.zeros((len(codes), width), np.uint8)
    padded[:, : codes.shape[1]] = codes.view(np.uint8)
    return np.ascontiguousarray(padded.view(np.uint64).T)


def _code_dots(queries: Array, codes: Array) -> Array:
    """Dot products (q, n) of int8 or uint8 codes, exact: in float32 if its 24 bits hold any sum."""
    largest = queries.shape[1] * (128 if codes.dtype == np.int8 else 255) ** 2
    return _dots(queries.astype(np.float32 if largest < 1 << 24 else np.float64), codes)


# --- arguments ---------------------------------------------------------------------------------


def _as_dicts(ids: Array, scores: Array) -> list[dict[str, int | float]]:
    return [{"corpus_id": i, "score": s} for i, s in zip(ids.tolist(), scores.tolist(), strict=True)]


def _blocks(n: int, size: int, start: int = 0) -> Iterator[slice]:
    """range(start, n) in slices of at most `size`."""
    return (slice(s, min(s + size, n)) for s in range(start, n, size))


def _block_rows(array: Array) -> int:
    return max(16, BLOCK_BYTES // max(1, int(array.shape[-1]) * max(4, array.itemsize)))


def _float_type(*arrays: Array) -> np.dtype[Any]:
    """What is computed in: float64 if any is as wide, else float32."""
    wide = any(array.dtype.kind == "f" and array.itemsize >= 8 for array in arrays)
    return np.dtype(np.float64 if wide else np.float32)


def _array(name: str, value: ArrayLike) -> Array:
    """An array of real numbers (..., d), not copied if it is one. Python's floats are float32, as PyTorch has them."""
    array: Array
    if isinstance(value, list | tuple):
        leaf: Any = value
        while isinstance(leaf, list | tuple) and leaf:
            leaf = leaf[0]
        try:
            array = np.asarray([_of_tensor(item) for item in value])
        except ValueError:
            raise ValueError(f"{name}: found rows of different lengths, wanted one length") from None
        if array.dtype.kind in "biuf" and not hasattr(leaf, "dtype"):
            array = array.astype(np.float32)
    else:
        array = np.asarray(_of_tensor(value))
    if array.dtype.kind not in "biuf":
        found = type(value).__name__ if array.ndim == 0 else f"{type(value).__name__} of {array.dtype}"
        raise TypeError(f"{name}: found {found}, wanted an array of real numbers")
    if array.ndim == 0:
        raise ValueError(f"{name}: found a single number, wanted an array of at least one dimension")
    return array


def _of_tensor(value: Any) -> Any:
    """What NumPy can read of a tensor of PyTorch; anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach()
    if getattr(tensor, "is_sparse", False):
        tensor = tensor.to_dense()
    if str(tensor.dtype) == "torch.bfloat16":  # which NumPy has not
        tensor = tensor.float()
    return tensor.cpu().numpy()


def _as_rows(name: str, array: Array) -> Array:
    """(n, d): a vector is one row; an empty one is none."""
    if array.ndim == 1:
        return array[None] if len(array) else array.reshape(0, 0)
    if array.ndim != 2:
        raise ValueError(f"{name}: found shape {array.shape}, wanted (n, d)")
    return array


def _pair(name_a: str, a: ArrayLike, name_b: str, b: ArrayLike) -> tuple[Array, Array]:
    """Two matrices of the same width; no rows are of any width."""
    a, b = _as_rows(name_a, _array(name_a, a)), _as_rows(name_b, _array(name_b, b))
    if a.shape == (0, 0):
        a = a.reshape(0, b.shape[1])
    if b.shape == (0, 0):
        b = b.reshape(0, a.shape[1])
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{name_b}: found {b.shape[1]} dimensions, wanted {a.shape[1]} as {name_a} has")
    return a, b


def _couple(name_a: str, a: ArrayLike, name_b: str, b: ArrayLike) -> tuple[Array, Array]:
    """Two arrays (..., d) whose rows go together, in the float type that is computed in; one row goes with all."""
    a, b = _array(name_a, a), _array(name_b, b)
    try:
        np.broadcast_shapes(a.shape, b.shape)
        fits = a.shape[-1] == b.shape[-1]
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name_b}: found shape {b.shape}, wanted {a.shape} as {name_a} has")
    dtype = _float_type(a, b)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: found {value!r}, wanted a positive integer")
