"""minilm_np.util beside sentence_transformers.util on the same inputs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from test_util import clusters, normal
from tolerances import assert_close

from minilm_np import util

with warnings.catch_warnings():  # what its own imports warn of is not ours to mend
    warnings.simplefilter("ignore")
    theirs: Any = pytest.importorskip("sentence_transformers.util", reason="needs the parity extra")
    torch: Any = pytest.importorskip("torch", reason="needs the parity extra")

pytestmark = pytest.mark.parity
Array = npt.NDArray[Any]


@pytest.mark.parametrize("name", ["cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"])
@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "tensors", "list", "vector", "zeros"])
def test_similarities(name: str, kind: str) -> None:
    a, b = normal(5, 24), normal(5, 24) + 1
    if kind.startswith("float"):
        a, b = a.astype(kind), b.astype(kind)
    x: Any = {"tensors": torch.from_numpy(a), "list": list(a), "vector": a[0], "zeros": a * 0}.get(kind, a)
    y: Any = torch.from_numpy(b) if kind == "tensors" else b
    atol = 1e-12 if kind == "float64" else 3e-5 if name == "euclidean_sim" else 1e-5
    for function in (name, f"pairwise_{name}"):
        if function.startswith("pairwise") and kind == "vector":
            y = b[0]
        wanted = getattr(theirs, function)(x, y).numpy()
        found = getattr(util, function)(x, y)
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), function
        assert_close(found, wanted, atol, function)


@pytest.mark.parametrize("score", ["cos_sim", "dot_score"])
def test_semantic_search(score: str) -> None:
    queries, corpus = normal(7, 32), normal(300, 32)
    several: list[dict[str, Any]] = [{}, {"top_k": 400}, {"query_chunk_size": 2, "corpus_chunk_size": 7, "top_k": 3}]
    for options in several:
        found = util.semantic_search(queries, corpus, score_function=getattr(util, score), **options)
        wanted = theirs.semantic_search(queries, corpus, score_function=getattr(theirs, score), **options)
        assert [[h["corpus_id"] for h in hits] for hits in found] == [[h["corpus_id"] for h in hits] for hits in wanted]
        for a, b in zip(found, wanted, strict=True):
            assert_close([h["score"] for h in a], [h["score"] for h in b], 1e-5, "score")
    assert util.semantic_search(queries, corpus[:0]) == theirs.semantic_search(queries, corpus[:0])


def test_paraphrase_mining() -> None:
    x = clusters(8, 6)
    several: list[dict[str, Any]] = [
        {},
        {"top_k": 4},
        {"max_pairs": 30},
        {"query_chunk_size": 5, "corpus_chunk_size": 9, "top_k": 7},
    ]
    for options in several:
        found = util.paraphrase_mining_embeddings(x, **options)
        wanted = theirs.paraphrase_mining_embeddings(torch.from_numpy(x), **options)
        assert_close([s for s, _, _ in found], [s for s, _, _ in wanted], 2e-6, "scores")
        assert len({(i, j) for _, i, j in found} ^ {(i, j) for _, i, j in wanted}) <= 2  # equal scores at the end


@pytest.mark.parametrize("size", [1, 5, 10, 13])
@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.99])
def test_community_detection(size: int, threshold: float) -> None:
    x = np.concatenate([clusters(5, 12), clusters(3, 20, noise=0.3), normal(30, 16)])
    found = util.community_detection(x, threshold, size)
    wanted = theirs.community_detection(torch.from_numpy(x), threshold, size)
    assert [len(group) for group in found] == [len(group) for group in wanted]
    assert {frozenset(group) for group in found} == {frozenset(group) for group in wanted}


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_quantize_embeddings(precision: str) -> None:
    x = normal(200, 27)
    x[:, 3] = 2  # a dimension that is constant
    x[5, 4] = 0
    ranges = np.stack([x.min(axis=0) / 2, x.max(axis=0) / 2])
    for options in ({}, {"ranges": ranges}, {"calibration_embeddings": x[:120]}):
        found = util.quantize_embeddings(x[:150], precision, **options)
        wanted = theirs.quantize_embeddings(x[:150], precision, **options)
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted), options
    assert np.array_equal(
        util.quantize_embeddings(x[0], precision, ranges=ranges),
        theirs.quantize_embeddings(x[0], precision, ranges=ranges),
    )
