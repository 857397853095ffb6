"""Find paraphrases: the most similar pairs within one set of embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm_np.util._arrays import ArrayLike, as_rows, blocks, check_positive
from minilm_np.util.search import ScoreFunction, nearest_rows
from minilm_np.util.similarity import cos_sim


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
    """Return `paraphrase_mining_embeddings` of model.encode(sentences).

    show_progress_bar, batch_size and those of truncate_dim, prompt_name and prompt that are not None are passed to
    model.encode.

    Examples
    --------
    >>> from minilm_np import util
    >>> class Letters:  # instead of a SentenceTransformer: counts the letters a and b
    ...     def encode(self, sentences, **options):
    ...         return [[text.count("a"), text.count("b")] for text in sentences]
    >>> util.paraphrase_mining(Letters(), ["ab", "bb", "abb"], score_function=util.dot_score)
    [[4.0, 1, 2], [3.0, 0, 2], [2.0, 0, 1]]
    """
    if isinstance(sentences, str):
        raise TypeError(f"sentences: expected a list of texts, got a single str {sentences!r:.60}")
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
    """Return the most similar pairs of rows (n, d) as [[score, i, j], ...] with i < j, best first.

    A pair counts if either row is in the other's top_k; at most max_pairs are returned. Pairs with equal scores are
    ordered by ids. score_function must be symmetric.
    Raises TypeError or ValueError that names the argument.

    Examples
    --------
    >>> from minilm_np import util
    >>> util.paraphrase_mining_embeddings([[1, 0], [0, 1], [3, 4]], top_k=1, score_function=util.dot_score)
    [[4.0, 1, 2], [3.0, 0, 2]]
    """
    for name, value in (
        ("query_chunk_size", query_chunk_size),
        ("corpus_chunk_size", corpus_chunk_size),
        ("max_pairs", max_pairs),
        ("top_k", top_k),
    ):
        check_positive(name, value)
    rows = as_rows("embeddings", embeddings)
    n = len(rows)
    keys, scores = np.empty(0, np.int64), np.empty(0, np.float64)  # the key of a pair is i * n + j
    for chunk in blocks(n, query_chunk_size):
        # One more than top_k, because a row may be among its own neighbors.
        nearest = nearest_rows(rows[chunk], rows, query_chunk_size, corpus_chunk_size, top_k + 1, score_function)
        new_keys, new_scores = [keys], [scores]
        for i, (ids, row_scores) in enumerate(nearest, chunk.start):
            others = np.flatnonzero(ids != i)[:top_k]
            ids = ids[others]
            new_keys.append(np.minimum(ids, i) * n + np.maximum(ids, i))
            new_scores.append(row_scores[others])
        keys, first = np.unique(np.concatenate(new_keys), return_index=True)
        scores = np.concatenate(new_scores)[first]
        best = np.argsort(-scores, kind="stable")[:max_pairs]
        keys, scores = keys[best], scores[best]
    return [[score, key // n, key % n] for score, key in zip(scores.tolist(), keys.tolist(), strict=True)]
