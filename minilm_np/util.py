"""sentence_transformers.util on NumPy: similarities, search, paraphrase mining, communities, quantisation.

Names, arguments, defaults and results are those of sentence-transformers 6.2, except:

    returned            NumPy arrays, where it returns Tensors; Tensors are accepted, PyTorch is never imported
    equal scores        the lowest id first, where its order is not defined
    integers            are taken as float32, where it raises
    scores that are NaN never come before a number
    memory              scores are computed a block at a time, whatever the chunk sizes say

Embeddings are (n, D) or one vector (D,); float16 and integers are computed in float32, float64 stays. All raise
ValueError naming the argument, what was found and what was wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Score = Callable[[Any, Any], Any]
logger = logging.getLogger(__name__)

BLOCK = 4_000_000  # numbers of a block of scores or of a corpus that are worked on at once: 16 MB
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


# --- similarities ------------------------------------------------------------------------------


def _floats(embeddings: Any, name: str) -> Array:
    if hasattr(embeddings, "detach"):  # a torch.Tensor
        embeddings = embeddings.detach().cpu()
        embeddings = (
            embeddings if embeddings.is_floating_point() and embeddings.element_size() > 2 else embeddings.float()
        ).numpy()
    elif isinstance(embeddings, list | tuple) and embeddings and hasattr(embeddings[0], "detach"):
        embeddings = np.stack([_floats(row, name) for row in embeddings])
    try:
        array = np.asarray(embeddings)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"dtype {array.dtype}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: found {type(embeddings).__name__} ({error}), wanted numbers (n, D)") from None
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _rows(embeddings: Any, name: str) -> Array:
    array = _floats(embeddings, name)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise ValueError(f"{name}: found shape {array.shape}, wanted (n, D) or (D,)")
    return array


def _two(a: Any, b: Any, read: Callable[[Any, str], Array]) -> tuple[Array, Array]:
    x, y = read(a, "a"), read(b, "b")
    if x.shape[-1:] != y.shape[-1:]:
        raise ValueError(f"b: found {y.shape[-1:]} dimensions, wanted {x.shape[-1:]} as in a")
    return x, y


def normalize_embeddings(embeddings: Any) -> Array:
    """Each row divided by its length, or by 1e-12 if it is shorter: rows of zeros stay. Shape as given."""
    x = _floats(embeddings, "embeddings")
    result: Array = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), x.dtype.type(1e-12))
    return result


def truncate_embeddings(embeddings: Any, truncate_dim: int | None) -> Any:
    """embeddings[..., :truncate_dim], not normalised again; None keeps all."""
    if truncate_dim is not None and truncate_dim < 1:
        raise ValueError(f"truncate_dim: found {truncate_dim}, wanted a positive integer or None")
    return embeddings[..., :truncate_dim]


def cos_sim(a: Any, b: Any) -> Array:
    """(n, D), (m, D) -> (n, m): a . b / (|a| |b|); with a row of zeros 0."""
    x, y = _two(a, b, _rows)
    result: Array = normalize_embeddings(x) @ normalize_embeddings(y).T
    return result


pytorch_cos_sim = cos_sim


def dot_score(a: Any, b: Any) -> Array:
    """(n, D), (m, D) -> (n, m): a . b"""
    x, y = _two(a, b, _rows)
    result: Array = x @ y.T
    return result


def _distances(a: Any, b: Any, distance: Callable[[Array], Array]) -> Array:
    """distance(a_i - b_j), from the differences themselves: |a|^2 - 2ab + |b|^2 would cancel for near neighbours."""
    x, y = _two(a, b, _rows)
    result = np.empty((len(x), len(y)), np.result_type(x, y))
    step = max(1, BLOCK // max(1, y.size))
    for start in range(0, len(x), step):
        result[start : start + step] = distance(x[start : start + step, None] - y)
    return result


def euclidean_sim(a: Any, b: Any) -> Array:
    """(n, D), (m, D) -> (n, m): minus the Euclidean distance"""
    return -_distances(a, b, lambda d: np.asarray(np.sqrt(np.einsum("...d,...d->...", d, d))))


def manhattan_sim(a: Any, b: Any) -> Array:
    """(n, D), (m, D) -> (n, m): minus the sum of absolute differences"""
    return -_distances(a, b, lambda d: np.asarray(np.abs(d).sum(axis=-1)))


def pairwise_cos_sim(a: Any, b: Any) -> Array:
    """(n, D), (n, D) -> (n,): the cosine of row i of a and row i of b"""
    return pairwise_dot_score(normalize_embeddings(a), normalize_embeddings(b))


def pairwise_dot_score(a: Any, b: Any) -> Array:
    """(n, D), (n, D) -> (n,): the dot product of row i of a and row i of b"""
    x, y = _pairs(a, b)
    return np.asarray((x * y).sum(axis=-1))


def pairwise_euclidean_sim(a: Any, b: Any) -> Array:
    """(n, D), (n, D) -> (n,): minus the Euclidean distance of row i of a and row i of b"""
    x, y = _pairs(a, b)
    return np.asarray(-np.linalg.norm(x - y, axis=-1))


def pairwise_manhattan_sim(a: Any, b: Any) -> Array:
    """(n, D), (n, D) -> (n,): minus the sum of absolute differences of row i of a and row i of b"""
    x, y = _pairs(a, b)
    return np.asarray(-np.abs(x - y).sum(axis=-1))


def _pairs(a: Any, b: Any) -> tuple[Array, Array]:
    x, y = _two(a, b, _floats)
    if x.shape != y.shape and 1 not in (x.ndim, y.ndim):
        raise ValueError(f"b: found shape {y.shape}, wanted {x.shape} as a")
    return x, y


class SimilarityFunction(Enum):
    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    @staticmethod
    def to_similarity_fn(similarity_function: str | SimilarityFunction) -> Score:
        """(n, D), (m, D) -> (n, m)"""
        name = SimilarityFunction(similarity_function).value
        return {"cosine": cos_sim, "dot": dot_score, "euclidean": euclidean_sim, "manhattan": manhattan_sim}[name]

    @staticmethod
    def to_similarity_pairwise_fn(similarity_function: str | SimilarityFunction) -> Score:
        """(n, D), (n, D) -> (n,)"""
        return {
            "cosine": pairwise_cos_sim,
            "dot": pairwise_dot_score,
            "euclidean": pairwise_euclidean_sim,
            "manhattan": pairwise_manhattan_sim,
        }[SimilarityFunction(similarity_function).value]

    @staticmethod
    def possible_values() -> list[str]:
        return [member.value for member in SimilarityFunction]


# --- the nearest -------------------------------------------------------------------------------


def _positive(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: found {value!r}, wanted a positive integer")


def _top(scores: Array, ids: Array, k: int) -> tuple[Array, Array]:
    """Of each row of (q, n) scores the k largest, largest first and of equal ones the first; (q, n) or (n,) ids."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    ids = np.broadcast_to(ids, scores.shape)
    if scores.shape[1] > k:
        limit = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
        columns = np.stack([_first(row, k) for row in np.where(scores > limit, 2, scores == limit)])
        scores, ids = np.take_along_axis(scores, columns, 1), np.take_along_axis(ids, columns, 1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)


def _first(rank: Array, k: int) -> Array:
    """k columns in rising order: all of rank 2, and the first of rank 1."""
    above = np.flatnonzero(rank == 2)
    return np.sort(np.concatenate([above, np.flatnonzero(rank == 1)[: k - len(above)]]))


def _nearest(blocks: Iterator[tuple[int, Array]], queries: int, k: int) -> tuple[Array, Array]:
    """The k best over blocks (first id, scores (q, n)), which come in the order of the ids."""
    best, best_ids = np.empty((queries, 0)), np.empty((queries, 0), np.int64)
    for start, scores in blocks:
        found, ids = _top(scores, np.arange(start, start + scores.shape[1]), k)
        best, best_ids = _top(np.concatenate([best, found], 1), np.concatenate([best_ids, ids], 1), k)
    return best, best_ids


def _scored_blocks(queries: Array, corpus: Any, score: Score, largest: int) -> Iterator[tuple[int, Array]]:
    """score(queries, corpus), a block of the corpus at a time. A corpus for cosines is normalised by the block, and
    not as a whole: its rows' lengths are computed while they are in the cache."""
    if score is cos_sim:
        queries = normalize_embeddings(queries)
    step = max(1, min(largest, BLOCK // max(1, len(queries), corpus.shape[1])))
    for start in range(0, len(corpus), step):
        block = _floats(corpus[start : start + step], "corpus_embeddings")
        if score is cos_sim:
            lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
            yield start, (queries @ block.T) / np.maximum(lengths, block.dtype.type(1e-12))
        else:
            yield start, _floats(score(queries, block), "score_function")


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: Score = cos_sim,
) -> list[list[dict[str, int | float]]]:
    """For each query the top_k nearest of the corpus: [{"corpus_id": int, "score": float}, ...], best first.

    Equal scores: the lowest corpus_id first. The corpus may be a memory-mapped array: a block is read at a time.
    """
    _positive(query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size, top_k=top_k)
    queries = _rows(query_embeddings, "query_embeddings")
    corpus = (
        corpus_embeddings
        if isinstance(corpus_embeddings, np.ndarray)
        else _floats(corpus_embeddings, "corpus_embeddings")
    )
    if len(corpus) == 0:
        return [[] for _ in queries]
    if corpus.ndim != 2 or corpus.shape[1] != queries.shape[1]:
        raise ValueError(
            f"corpus_embeddings: found shape {corpus.shape}, wanted (n, {queries.shape[1]}) as the queries"
        )
    results: list[list[dict[str, int | float]]] = []
    for start in range(0, len(queries), query_chunk_size):
        some = queries[start : start + query_chunk_size]
        scores, ids = _nearest(_scored_blocks(some, corpus, score_function, corpus_chunk_size), len(some), top_k)
        results += _as_dicts(scores, ids)
    return results


information_retrieval = semantic_search


def _as_dicts(scores: Array, ids: Array) -> list[list[dict[str, int | float]]]:
    return [
        [{"corpus_id": i, "score": s} for i, s in zip(row_ids, row, strict=True)]
        for row_ids, row in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


def paraphrase_mining(
    model: Any,
    sentences: Sequence[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Score = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """`paraphrase_mining_embeddings` of the embeddings of `sentences`."""
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(
        embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


def paraphrase_mining_embeddings(
    embeddings: Any,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Score = cos_sim,
) -> list[list[float | int]]:
    """The pairs with the highest scores: [[score, i, j], ...] with i < j, best first, at most max_pairs.

    Of each row its top_k neighbours are candidates. Equal scores: the lowest i, then j, first.
    """
    _positive(query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size, max_pairs=max_pairs, top_k=top_k)
    x = _floats(embeddings, "embeddings")
    if len(x) == 0:
        return []
    x = _rows(x, "embeddings")
    n = len(x)
    scores, pairs = np.empty(0, x.dtype), np.empty(0, np.int64)
    step = max(1, min(query_chunk_size, BLOCK // 400))
    for start in range(0, n, step):
        some = x[start : start + step]
        best, ids = _nearest(_scored_blocks(some, x, score_function, corpus_chunk_size), len(some), top_k + 1)
        rows = np.broadcast_to(np.arange(start, start + len(some))[:, None], ids.shape)
        others = ids != rows
        others &= np.cumsum(others, axis=1) <= top_k
        low, high = np.minimum(rows, ids)[others], np.maximum(rows, ids)[others]
        scores, pairs = np.concatenate([scores, best[others]]), np.concatenate([pairs, low * n + high])
        if len(pairs) > 4 * max_pairs:
            scores, pairs = _best_pairs(scores, pairs, max_pairs)
    scores, pairs = _best_pairs(scores, pairs, max_pairs)
    return [[s, p // n, p % n] for s, p in zip(scores.tolist(), pairs.tolist(), strict=True)]


def _best_pairs(scores: Array, pairs: Array, k: int) -> tuple[Array, Array]:
    pairs, first = np.unique(pairs, return_index=True)
    order = np.argsort(-scores[first], kind="stable")[:k]
    return scores[first][order], pairs[order]


def community_detection(
    embeddings: Any,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Groups of rows whose cosine with a central row is at least `threshold`: lists of ids, the centre first, then by
    falling cosine; the largest group first; no row is in two.

    Never holds more than a block of the (n, n) cosines: they are computed once to count each row's neighbours, and
    again for the rows that can be centres, the one with the most neighbours first.
    """
    _positive(min_community_size=min_community_size, batch_size=batch_size)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number):
        raise ValueError(f"threshold: found {threshold!r}, wanted a number")
    if len(embeddings) == 0:
        return []
    x = normalize_embeddings(_rows(embeddings, "embeddings"))
    n = len(x)
    if n < min_community_size:
        return []
    limit = x.dtype.type(threshold)
    step = max(1, min(batch_size, 4 * BLOCK // n))
    counts = np.empty(n, np.int64)
    for start in _progress(range(0, n, step), show_progress_bar):
        counts[start : start + step] = np.count_nonzero(x[start : start + step] @ x.T >= limit, axis=1)
    centres = np.argsort(-counts, kind="stable")
    centres = centres[counts[centres] >= min_community_size]
    used = np.zeros(n, bool)
    communities = []
    while len(centres):
        some, centres = centres[:step], centres[step:]
        for centre, cosines in zip(some.tolist(), x[some] @ x.T, strict=True):
            if used[centre]:
                continue
            members = np.flatnonzero((cosines >= limit) & ~used)
            if len(members) < min_community_size:
                continue
            members = members[np.argsort(-cosines[members], kind="stable")]
            communities.append([centre, *members[members != centre].tolist()])
            used[communities[-1]] = True
        centres = centres[~used[centres]]
    return sorted(communities, key=len, reverse=True)


def _progress(steps: Any, show: bool) -> Any:
    if not show:
        return steps
    from tqdm import tqdm

    return tqdm(steps, desc="Finding clusters")


# --- fewer bits --------------------------------------------------------------------------------


def quantize_embeddings(
    embeddings: Any, precision: str, ranges: Any = None, calibration_embeddings: Any = None
) -> Array:
    """(n, D) floats as "float32", "int8", "uint8" (n, D), or "binary" (int8), "ubinary" (uint8): (n, ceil(D / 8)).

    int8 and uint8: 255 steps of each dimension between ranges[0] and ranges[1], which are those of
    `calibration_embeddings` or, failing that, of the embeddings themselves: one alone has none, a ValueError.
    binary: a bit for each dimension, 1 where it is above 0; as int8 the byte minus 128.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: found {precision!r}, wanted one of {PRECISIONS}")
    if np.asarray(embeddings).dtype in (np.int8, np.uint8) and not hasattr(embeddings, "detach"):
        raise ValueError(f"embeddings: found {np.asarray(embeddings).dtype}, wanted floats, which are to be quantised")
    x = _floats(embeddings, "embeddings")
    if precision == "float32":
        return x.astype(np.float32)
    if precision in ("binary", "ubinary"):
        bits: Array = np.packbits(x > 0, axis=-1)
        return (bits - np.uint8(128)).view(np.int8) if precision == "binary" else bits
    if ranges is None:
        of = x if calibration_embeddings is None else _rows(calibration_embeddings, "calibration_embeddings")
        if of.ndim == 1 or len(of) == 1:
            raise ValueError(
                f"precision: found {precision!r} for one embedding; wanted ranges or calibration_embeddings"
            )
        if len(of) == 0:
            return np.zeros(x.shape, precision)
        if len(of) < 100:
            logger.warning(
                "%d embeddings give the ranges for %s; more, such as 1000, give better ones", len(of), precision
            )
        ranges = np.stack([of.min(axis=0), of.max(axis=0)])
    ranges = np.asarray(ranges, np.float32)
    if ranges.shape != (2, x.shape[-1]):
        raise ValueError(f"ranges: found shape {ranges.shape}, wanted (2, {x.shape[-1]}): lowest and highest values")
    steps = (ranges[1] - ranges[0]) / 255
    codes = np.clip(np.floor((x - ranges[0]) / np.where(steps == 0, 1, steps)), 0, 255)
    result: Array = codes.astype(np.uint8) if precision == "uint8" else (codes - 128).astype(np.int8)
    return result


def semantic_search_quantized(
    query_embeddings: Any,
    corpus_embeddings: Array,
    corpus_precision: str,
    top_k: int = 10,
    rescore: bool = True,
    rescore_multiplier: int = 2,
) -> list[list[dict[str, int | float]]]:
    """`semantic_search` in a corpus that `quantize_embeddings` made: a quarter or a 32nd of the memory.

    int8, uint8: dot products of the float queries with the codes. binary, ubinary: top_k * rescore_multiplier
    candidates by how many bits agree, of which the float query then ranks the best by its dot product with the bits
    as -1 and 1; with rescore=False scores are the number of bits that agree, minus those that do not.
    """
    _positive(top_k=top_k, rescore_multiplier=rescore_multiplier)
    queries, corpus = _rows(query_embeddings, "query_embeddings"), np.asarray(corpus_embeddings)
    if corpus_precision not in PRECISIONS:
        raise ValueError(f"corpus_precision: found {corpus_precision!r}, wanted one of {PRECISIONS}")
    dtype, binary = (
        np.dtype(corpus_precision if "binary" not in corpus_precision else "uint8"),
        "binary" in corpus_precision,
    )
    wanted = np.dtype(np.int8) if corpus_precision == "binary" else dtype
    D = queries.shape[1]
    columns = -(-D // 8) if binary else D
    if corpus.dtype != wanted or corpus.ndim != 2 or corpus.shape[1] != columns:
        raise ValueError(f"corpus_embeddings: found {corpus.dtype} {corpus.shape}, wanted {wanted} (n, {columns})")
    if len(corpus) == 0:
        return [[] for _ in queries]
    if not binary:
        return semantic_search(queries, corpus, top_k=top_k, score_function=dot_score)
    codes = corpus.view(np.uint8) ^ np.uint8(128) if corpus_precision == "binary" else corpus
    query_codes = np.packbits(queries > 0, axis=1)
    found = []
    for query, code in zip(queries, query_codes, strict=True):
        k = top_k * rescore_multiplier if rescore else top_k
        scores, ids = _nearest(_agreeing_bits(code, codes, D), 1, k)
        if rescore:
            signs = np.unpackbits(codes[ids[0]], axis=1, count=D).astype(np.float32) * 2 - 1
            order = np.argsort(ids[0])
            scores, ids = _top((signs @ query)[None, order], ids[:, order], top_k)
        found += _as_dicts(scores, ids)
    return found


_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def _agreeing_bits(code: Array, codes: Array, D: int) -> Iterator[tuple[int, Array]]:
    step = max(1, BLOCK // codes.shape[1])
    for start in range(0, len(codes), step):
        differing = _BITS[codes[start : start + step] ^ code].sum(axis=1, dtype=np.int64)
        yield start, (D - 2 * differing)[None].astype(np.float64)
