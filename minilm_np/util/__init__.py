"""Similarity, search, paraphrase mining, communities and quantization of embeddings, in NumPy.

Names, parameters, defaults and results are those of sentence_transformers.util 6.2. The functions use BLAS and bounded
memory. They accept arrays, lists and PyTorch tensors, and never import PyTorch. The differences are deliberate:

| | minilm_np.util | sentence_transformers.util |
|---|---|---|
| results | arrays with the usual methods of tensors; tensors if an argument is one (similarities) | tensors |
| equal scores | ordered by id; equal rows score equally (cos_sim, dot_score) | any order |
| scores that are NaN | come last | come first |
| integers | computed in float32 | RuntimeError |
| mixed float types | the wider type | RuntimeError |
| float16 | computed in float32 everywhere | computed in float16 in places |
| an array of shape (0,), as returned by encode([]) | no rows | one row without dimensions, or an error |
| invalid arguments | ValueError or TypeError that names the argument | another exception, or no error |
| euclidean_sim of equal or nearly equal rows | exact | off by up to 3e-4 of their norm |
| pairwise_angle_sim of single vectors | accepted, as in the other pairwise functions | IndexError |
| top_k, min_community_size, truncate_dim or chunk sizes below 1 | ValueError | empty result, or cut from the end |
| pairs with equal scores in paraphrase_mining | ordered by ids | any order |
| memory for scores | bounded; chunk sizes can only lower it | set by the chunk sizes |
| semantic_search_quantized | one function without an index; never guesses ranges from the queries | two functions |
| SimilarityFunction | no MaxSim, which needs many vectors per text | has MaxSim |

Examples
--------
>>> from minilm_np import util
>>> corpus = util.normalize_embeddings([[1, 0], [0, 1], [3, 4]])
>>> util.semantic_search([0, 2], corpus, top_k=1, score_function=util.dot_score)
[[{'corpus_id': 1, 'score': 2.0}]]
"""

from __future__ import annotations

from typing import Any

from minilm_np.absent import check_absent
from minilm_np.util._arrays import Array as Array
from minilm_np.util._arrays import ArrayLike as ArrayLike
from minilm_np.util.communities import community_detection
from minilm_np.util.helpers import LoggingHandler, batch_to_device, disable_logging
from minilm_np.util.mining import paraphrase_mining, paraphrase_mining_embeddings
from minilm_np.util.quantization import PRECISIONS as PRECISIONS
from minilm_np.util.quantization import quantize_embeddings, semantic_search_quantized
from minilm_np.util.search import Results as Results
from minilm_np.util.search import ScoreFunction as ScoreFunction
from minilm_np.util.search import semantic_search
from minilm_np.util.similarity import (
    SimilarityFunction,
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    pairwise_angle_sim,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
    pytorch_cos_sim,
)
from minilm_np.util.vectors import normalize_embeddings, truncate_embeddings

__all__ = [
    "LoggingHandler",
    "SimilarityFunction",
    "batch_to_device",
    "community_detection",
    "cos_sim",
    "disable_logging",
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


def __getattr__(name: str) -> Any:
    check_absent(__name__, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
