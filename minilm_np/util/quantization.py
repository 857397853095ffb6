"""Quantize embeddings, and search a quantized corpus.

"int8" and "uint8" divide the range of each dimension into 255 steps and store the number of a value's step. "binary"
and "ubinary" store one bit per dimension, packed into bytes. The signed formats store the unsigned code minus 128.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from minilm_np.util._arrays import (
    Array,
    ArrayLike,
    as_array,
    as_matrices,
    as_rows,
    block_rows,
    blocks,
    check_positive,
)
from minilm_np.util.search import Results, ScoreFunction, as_hits, nearest_rows, semantic_search
from minilm_np.util.similarity import dot_products, dot_score

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
HAS_BITWISE_COUNT = hasattr(np, "bitwise_count")  # NumPy 2
BITS_IN_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)

logger = logging.getLogger(__name__)


def quantize_embeddings(
    embeddings: ArrayLike,
    precision: str,
    ranges: ArrayLike | None = None,
    calibration_embeddings: ArrayLike | None = None,
) -> Any:
    """Return embeddings (n, d) or (d,) in fewer bits; a list of matrices returns a list with ranges in common.

    "float32": a copy in float32. "uint8": the step of each value, 0 to 255, where the range from ranges[0] to ranges[1]
    (2, d) has 255 steps; "int8": the same minus 128. Ranges default to those of calibration_embeddings (m, d), or else
    of the embeddings. "ubinary": one bit per dimension, 1 above 0, packed as uint8 (n, ceil(d / 8)); "binary": the same
    minus 128, as int8.
    Raises TypeError or ValueError that names the argument. A single embedding has no ranges: computing them raises
    ValueError.

    Examples
    --------
    >>> from minilm_np import util
    >>> util.quantize_embeddings([[1.0, -1.0, 0.5], [-2.0, 3.0, 4.0]], "ubinary")
    array([[160],
           [ 96]], dtype=uint8)
    >>> util.quantize_embeddings([[0.0, 3.0], [254.5, -1.0]], "uint8", ranges=[[0, 0], [255, 510]])
    array([[  0,   1],
           [254,   0]], dtype=uint8)
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if isinstance(embeddings, list | tuple):
        if not embeddings:
            return []
        if getattr(embeddings[0], "ndim", 1) == 2:
            matrices = [as_array(f"embeddings[{i}]", matrix) for i, matrix in enumerate(embeddings)]
            if precision.endswith("int8") and any(map(len, matrices)):
                ranges = _value_ranges(np.concatenate(matrices), precision, ranges, calibration_embeddings)
            return [quantize_embeddings(matrix, precision, ranges) for matrix in matrices]
    array = as_array("embeddings", embeddings)
    if array.dtype in (np.uint8, np.int8):
        raise TypeError(f"embeddings: expected floats that are not quantized yet, got {array.dtype}")
    if precision == "float32":
        return array.astype(np.float32)
    unsigned, binary = precision.startswith("u"), precision.endswith("binary")
    *shape, d = array.shape
    out = np.empty((*shape, (d + 7) // 8 if binary else d), np.uint8)
    if array.ndim > 1 and len(array) == 0:
        return out.view(np.uint8 if unsigned else np.int8)
    limits = np.empty((2, d)) if binary else _value_ranges(array, precision, ranges, calibration_embeddings)
    for block in [...] if array.ndim == 1 else blocks(len(array), block_rows(array)):
        if binary:
            out[block] = np.packbits(array[block] > 0, axis=-1)
        else:
            steps = np.floor((array[block] - limits[0]) / _step_sizes(limits))
            if np.isnan(steps).any():
                raise ValueError(f"embeddings: expected numbers, got NaN, which {precision} cannot represent")
            out[block] = np.clip(steps, 0, 255)
    return out if unsigned else (out ^ 0x80).view(np.int8)  # flipping the highest bit subtracts 128


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
    """Return for each query the top_k rows of a quantized corpus, in the format of `semantic_search`.

    Float queries are quantized like the corpus and compared with it: "ubinary" and "binary" by Hamming distance,
    "int8", "uint8" and "float32" by dot product. With rescore, the top_k * rescore_multiplier best rows are ranked
    again by the dot product of the float query with the dequantized row: bits 0 and 1, or the lower bounds of the steps
    of `ranges`. Without rescore, with quantized queries and with "float32", the score is that of the comparison; a
    Hamming distance is the number of different bits, lowest first.

    ranges (2, d) or calibration_embeddings (m, d) must be those that the corpus was quantized with; float queries for
    an "int8" or "uint8" corpus require one of them.
    Raises TypeError or ValueError that names the argument.

    Examples
    --------
    >>> from minilm_np import util
    >>> corpus = util.quantize_embeddings([[1.0, -1.0, 0.5], [-2.0, 3.0, 4.0]], "ubinary")
    >>> util.semantic_search_quantized([0.5, 0.25, 1.0], corpus)
    [[{'corpus_id': 0, 'score': 1.5}, {'corpus_id': 1, 'score': 1.25}]]
    >>> util.semantic_search_quantized([0.5, 0.25, 1.0], corpus, rescore=False)
    [[{'corpus_id': 0, 'score': 1.0}, {'corpus_id': 1, 'score': 1.0}]]
    """
    if corpus_precision not in PRECISIONS:
        raise ValueError(f"corpus_precision: expected one of {', '.join(PRECISIONS)}, got {corpus_precision!r}")
    check_positive("top_k", top_k)
    check_positive("rescore_multiplier", rescore_multiplier)
    queries = as_rows("query_embeddings", query_embeddings)
    codes = as_rows("corpus_embeddings", corpus_embeddings)
    if corpus_precision == "float32":
        return semantic_search(queries, codes, top_k=top_k, score_function=dot_score)
    code_type = np.dtype(np.uint8 if corpus_precision.startswith("u") else np.int8)
    if codes.dtype != code_type and codes.size:
        raise TypeError(f"corpus_embeddings: expected {code_type} for {corpus_precision!r}, got {codes.dtype}")
    binary, is_float = corpus_precision.endswith("binary"), queries.dtype not in (np.uint8, np.int8)
    d = queries.shape[1]
    if is_float and not binary:
        if ranges is None and calibration_embeddings is None:
            raise ValueError(
                f"ranges: expected those that the {corpus_precision} corpus was quantized with, "
                "or calibration_embeddings, got None"
            )
        ranges = _value_ranges(codes, corpus_precision, ranges, calibration_embeddings)
    elif not is_float and queries.dtype != code_type:
        raise TypeError(f"query_embeddings: expected floats or {code_type} like the corpus, got {queries.dtype}")
    quantized = quantize_embeddings(queries, corpus_precision, ranges) if is_float else queries
    quantized, codes = as_matrices("quantized query_embeddings", quantized, "corpus_embeddings", codes)
    rescore = rescore and is_float
    score: ScoreFunction = _negative_hamming if binary else _code_dots
    nearest = nearest_rows(quantized, codes, 100, 500000, top_k * rescore_multiplier if rescore else top_k, score)
    results = []
    for query, (ids, scores) in zip(queries, nearest, strict=True):
        if rescore:
            rows = codes[ids]
            if binary:
                values = np.unpackbits(_as_unsigned(rows), axis=1)[:, :d].astype(np.float64)
            else:
                values = _dequantize(rows, ranges)
            scores = np.einsum("nd,d->n", values, query.astype(np.float64))
            best = np.lexsort((ids, -scores))[:top_k]
            ids, scores = ids[best], scores[best]
        elif binary:
            scores = -scores
        results.append(as_hits(ids, scores))
    return results


# --- int8 and uint8 -----------------------------------------------------------------------------


def _value_ranges(array: Array, precision: str, ranges: ArrayLike | None, calibration: ArrayLike | None) -> Array:
    """Return the lowest and highest value of each dimension (2, d), float32.

    Takes them from ranges, else from the calibration embeddings, else from array.
    """
    d = array.shape[-1]
    if ranges is None:
        if calibration is not None:
            array = as_array("calibration_embeddings", calibration)
            if array.ndim != 2 or array.shape[1] != d or len(array) == 0:
                raise ValueError(f"calibration_embeddings: expected shape (m, {d}), m > 0, got {array.shape}")
        elif array.ndim == 1 or len(array) == 1:
            raise ValueError(
                "ranges: expected ranges or calibration_embeddings, got None: "
                f"a single embedding has no {precision} ranges"
            )
        elif len(array) < 100:
            logger.warning(
                "%s ranges are computed from only %d embeddings; pass ranges or more calibration_embeddings",
                precision,
                len(array),
            )
        name = "ranges" if calibration is None else "calibration_embeddings"
        limits = np.stack([array.min(axis=0), array.max(axis=0)])
    else:
        name, limits = "ranges", as_array("ranges", ranges)
        if limits.shape != (2, d):
            raise ValueError(f"ranges: expected shape {(2, d)}, got {limits.shape}")
    if not np.isfinite(limits).all():
        raise ValueError(f"{name}: expected finite ranges, got NaN or infinity")
    return limits.astype(np.float32)


def _step_sizes(ranges: Array) -> Array:
    """Return the size of a step of each dimension (d,), 1 for a constant dimension."""
    steps = (ranges[1] - ranges[0]) / 255
    return np.asarray(np.where(steps == 0, 1, steps))


def _dequantize(codes: Array, ranges: Any) -> Array:
    """Return the lower bounds of the steps that the codes (n, d) name, float64."""
    values = codes.astype(np.float64)
    if codes.dtype == np.int8:
        values += 128
    return np.asarray(values * _step_sizes(ranges) + ranges[0])


def _code_dots(queries: Array, codes: Array) -> Array:
    """Return the exact dot products (q, n) of int8 or uint8 codes: in float32 if its 24 bits can hold any sum."""
    largest = queries.shape[1] * (128 if codes.dtype == np.int8 else 255) ** 2
    return dot_products(queries.astype(np.float32 if largest < 1 << 24 else np.float64), codes)


# --- binary and ubinary -------------------------------------------------------------------------


def _as_unsigned(codes: Array) -> Array:
    """Return packed bits as uint8; "binary" stores the same bits minus 128."""
    return codes.view(np.uint8) ^ 0x80 if codes.dtype == np.int8 else codes


def _count_bits(words: Array) -> Array:
    """Return the number of ones in each word (n,)."""
    if HAS_BITWISE_COUNT:
        return np.asarray(np.bitwise_count(words))
    return np.asarray(BITS_IN_BYTE[words.view(np.uint8).reshape(len(words), -1)].sum(axis=1))


def _negative_hamming(queries: Array, codes: Array) -> Array:
    """Return minus the number of different bits (q, n), float32, of packed bits (q, w) and (n, w)."""
    out = np.zeros((len(queries), len(codes)), np.float32)
    words_by_query = _as_words(queries).T
    for block in blocks(len(codes), 8192):  # the words of a block stay in the cache for all queries
        words = _as_words(codes[block])
        for query, distances in zip(words_by_query, out, strict=True):
            for word, column in zip(query, words, strict=True):
                distances[block] -= _count_bits(column ^ word)
    return out


def _as_words(codes: Array) -> Array:
    """Return packed bits (n, w) as 8-byte words (ceil(w / 8), n), zero-padded.

    "binary" flips the highest bit of every byte, in queries and corpus alike, which leaves Hamming distances unchanged.
    """
    width = -(-codes.shape[1] // 8) * 8
    padded = np.zeros((len(codes), width), np.uint8)
    padded[:, : codes.shape[1]] = codes.view(np.uint8)
    return np.ascontiguousarray(padded.view(np.uint64).T)
