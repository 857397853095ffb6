"""What callers of sentence-transformers write, after its documentation, with only the import line changed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.texts import WEATHER, WEATHER_SIMILARITIES

from minilm_np import LoggingHandler, SentenceTransformer, SimilarityFunction, quantize_embeddings, util, weights

ANIMALS = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.",
           "A monkey is playing drums.", "Someone in a gorilla costume is playing a set of drums.",
           "A cheetah is running behind its prey."]  # fmt: skip
QUERIES = ["A man is eating pasta.", "Somebody plays the drums.", "A cheetah chases prey across a field."]
BEST = [0, 4, 5]  # the nearest of ANIMALS to each of QUERIES


def load(**options: Any) -> SentenceTransformer:
    return SentenceTransformer(weights.find_or_fetch().folder, **options)


def near(value: Any) -> Any:
    return pytest.approx(value, abs=5e-5)  # four printed digits


def hits(m: Any) -> Any:
    return util.semantic_search(m.encode(QUERIES), m.encode(ANIMALS), top_k=2)


def sorted_pairs(m: Any) -> list[tuple[int, int]]:
    """Every pair of texts, most similar first, in two loops over a matrix of scores."""
    scores = util.cos_sim(m.encode(ANIMALS), m.encode(ANIMALS))
    pairs = []
    for i in range(len(scores) - 1):
        for j in range(i + 1, len(scores)):
            pairs.append({"index": (i, j), "score": scores[i][j]})
    pairs = sorted(pairs, key=lambda pair: pair["score"], reverse=True)
    return [pair["index"] for pair in pairs[:2]]


def in_context(m: Any) -> tuple[int, ...]:
    with m.truncate_sentence_embeddings(truncate_dim=16):
        return tuple(m.encode("text").shape)


def pooled_by_hand(m: Any) -> float:
    tokens = m.encode(WEATHER[0], output_value="token_embeddings")
    mean = np.asarray(tokens).mean(axis=0)
    return float(mean / np.linalg.norm(mean) @ m.encode(WEATHER[0]))


def in_a_pool(m: Any) -> tuple[int, ...]:
    pool = m.start_multi_process_pool()
    vectors = m.encode(WEATHER, pool=pool)
    m.stop_multi_process_pool(pool)
    return tuple(vectors.shape)


def with_function(m: Any, name: Any) -> Any:
    other = load(backend="numpy", similarity_fn_name=name)
    return other.similarity(other.encode(WEATHER[0]), other.encode(WEATHER[1])).item()


def zero_shot(m: Any) -> str:
    labels = ["sports", "weather", "politics"]
    return labels[util.cos_sim(m.encode(WEATHER[0]), m.encode(labels)).argmax()]


def k_means(m: Any) -> bool:
    """Two rounds of k-means by hand: the loop of a clustering example, without scikit-learn."""
    vectors = m.encode(ANIMALS)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centers = vectors[[0, 3]]
    for _ in range(2):
        label = np.argmax(vectors @ centers.T, axis=1)
        centers = np.stack([vectors[label == k].mean(axis=0) for k in range(2)])
    return bool(label[0] == label[1] != label[3] == label[4])


def translated_pairs(m: Any) -> list[int]:
    """Match the texts of two lists, each with its best partner, as in bitext mining."""
    scores: Any = util.cos_sim(m.encode(QUERIES), m.encode(ANIMALS))
    scores = scores.cpu().numpy()
    return [int(best) for best in np.argmax(scores, axis=1)]


def max_marginal_relevance(m: Any) -> list[int]:
    """Choose two of ANIMALS that are near a query and far from each other."""
    query, corpus = m.encode(QUERIES[1]), m.encode(ANIMALS)
    relevance, between = util.cos_sim(query, corpus)[0], util.cos_sim(corpus, corpus)
    chosen = [int(np.argmax(relevance))]
    rest = [i for i in range(len(corpus)) if i not in chosen]
    scores = [0.7 * relevance[i] - 0.3 * max(between[i][j] for j in chosen) for i in rest]
    return [*chosen, rest[int(np.argmax(scores))]]


def quantized_shape(m: Any, precision: str) -> Any:
    vectors = m.encode(ANIMALS, precision=precision)
    return str(vectors.dtype), vectors.shape[1]


def best_by_topk(m: Any) -> str:
    scores: Any = util.cos_sim(m.encode(QUERIES[1]), m.encode(ANIMALS))[0]
    top = scores.topk(2)
    return [str(ANIMALS[i]) for _, i in zip(top.values, top.indices, strict=True)][0]  # noqa: RUF015, as callers write it


def centroid(m: Any) -> int:
    """The most central of several sentences, as in text summarization."""
    vectors = m.encode([*ANIMALS[:2], *ANIMALS[3:5]])
    scores = np.asarray(util.cos_sim(vectors, vectors))
    return int(np.argmax(scores.sum(axis=1)))


# By name: what a caller writes with a model, and its value
IDIOMS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    # encode
    "encode a list": (lambda m: m.encode(WEATHER).shape, (3, 384)),
    "encode one text": (lambda m: m.encode(WEATHER[0]).shape, (384,)),
    "print the shape": (lambda m: str(m.encode(sentences=WEATHER).shape), "(3, 384)"),
    "zip texts and vectors": (lambda m: [len(v) for _, v in zip(WEATHER, m.encode(WEATHER), strict=True)], [384] * 3),
    "batch size, progress bar": (lambda m: m.encode(WEATHER, batch_size=2, show_progress_bar=False).shape, (3, 384)),
    "normalized": (
        lambda m: np.linalg.norm(m.encode(WEATHER, normalize_embeddings=True), axis=1).tolist(), near([1, 1, 1])),
    "a list of arrays": (lambda m: [type(v) for v in m.encode(WEATHER, convert_to_numpy=False)], [np.ndarray] * 3),
    "token embeddings": (pooled_by_hand, near(1)),
    "everything of a text": (lambda m: "sentence_embedding" in m.encode(WEATHER[0], output_value=None), True),
    "a prompt": (lambda m: float(m.encode("pasta", prompt="A man is eating ") @ m.encode("A man is eating pasta")),
                 near(1)),
    "a query and documents": (
        lambda m: int(m.similarity(m.encode_query(QUERIES[0]), m.encode_document(ANIMALS)).argmax()), 0),
    "a device": (lambda m: m.encode(WEATHER, device="cpu").shape, (3, 384)),
    "a pool of processes": (in_a_pool, (3, 384)),
    "tolist for JSON": (lambda m: len(m.encode(WEATHER[0]).tolist()), 384),
    "longest first": (lambda m: m.encode(sorted(WEATHER, key=len, reverse=True)).shape, (3, 384)),
    "pairs of texts": (lambda m: m.encode([["a", "b"], ["c", "d"]]).shape, (2, 384)),
    # similarity
    "similarity": (lambda m: m.similarity(m.encode(WEATHER), m.encode(WEATHER)).tolist(),
                   [near([float(printed) for printed in row]) for row in WEATHER_SIMILARITIES]),
    "similarity, pairwise": (
        lambda m: m.similarity_pairwise(m.encode(WEATHER[:2]), m.encode(WEATHER[1:])).tolist(), near([0.6660, 0.1411])),
    "cos_sim": (lambda m: util.cos_sim(m.encode(WEATHER[0]), m.encode(WEATHER[1])).item(), near(0.6660)),
    "pytorch_cos_sim": (lambda m: float(util.pytorch_cos_sim(m.encode(WEATHER[0]), m.encode(WEATHER[2]))),
                        near(0.1046)),
    "dot_score": (lambda m: util.dot_score(m.encode(WEATHER[0]), m.encode(WEATHER[1]))[0][0].item(), near(0.6660)),
    "format a score": (lambda m: f"{m.similarity(m.encode(WEATHER), m.encode(WEATHER))[0][1]:.4f}", "0.6660"),
    "scores of a row": (
        lambda m: [round(s, 4) for s in m.similarity(m.encode(WEATHER[0]), m.encode(WEATHER[1:])).tolist()[0]],
        near([0.6660, 0.1046])),
    "a loop over pairs": (
        lambda m: [m.similarity(m.encode(a), m.encode(b)).item() for a, b in combinations(WEATHER, 2)],
        near([0.6660, 0.1046, 0.1411])),
    "the name of the function": (lambda m: m.similarity_fn_name, "cosine"),
    "a function by name": (lambda m: with_function(m, "dot"), near(0.6660)),
    "Euclidean distance": (
        lambda m: with_function(m, SimilarityFunction.EUCLIDEAN), pytest.approx(-math.sqrt(2 - 2 * 0.6660), abs=1e-4)),
    "the function itself": (
        lambda m: SimilarityFunction.to_similarity_fn("cosine")(m.encode(WEATHER[0]), m.encode(WEATHER[1])).item(),
        near(0.6660)),
    # search
    "semantic search": (lambda m: [of_query[0]["corpus_id"] for of_query in hits(m)], BEST),
    "a loop over hits": (lambda m: next(f"{ANIMALS[h['corpus_id']]} {h['score']:.2f}" for h in hits(m)[0])[:21],
                         ANIMALS[0]),
    "the hits of the first query": (lambda m: len(hits(m)[0]), 2),
    "topk": (lambda m: m.similarity(m.encode(QUERIES[0]), m.encode(ANIMALS))[0].topk(k=3)[1][0].item(), 0),
    "topk, scores and indices": (best_by_topk, ANIMALS[4]),
    "argsort": (lambda m: np.argsort(-util.cos_sim(m.encode(QUERIES[2]), m.encode(ANIMALS))[0].numpy())[0].item(), 5),
    "argmax": (lambda m: util.cos_sim(m.encode(QUERIES), m.encode(ANIMALS)).argmax(axis=1).tolist(), BEST),
    "scores in NumPy": (lambda m: (m.encode(QUERIES) @ m.encode(ANIMALS).T).argmax(axis=1).tolist(), BEST),
    "sorted pairs": (sorted_pairs, [(0, 1), (3, 4)]),
    "normalized search": (
        lambda m: util.semantic_search(
            util.normalize_embeddings(m.encode(QUERIES)), util.normalize_embeddings(m.encode(ANIMALS)),
            score_function=util.dot_score, top_k=1)[2][0]["corpus_id"], 5),
    "matching two lists": (translated_pairs, BEST),
    "diverse results": (max_marginal_relevance, [4, 3]),
    # mining, clusters, labels
    "paraphrase mining": (lambda m: util.paraphrase_mining(m, ANIMALS)[0][1:], [0, 1]),
    "a loop over paraphrases": (
        lambda m: [ANIMALS[int(i)] for _, i, j in util.paraphrase_mining(m, ANIMALS, top_k=1)[:1]], [ANIMALS[0]]),
    "communities": (lambda m: util.community_detection(
        m.encode(ANIMALS + ANIMALS[:1]), min_community_size=2, threshold=0.95), [[0, 6]]),
    "clusters": (k_means, True),
    "labels without training": (zero_shot, "weather"),
    "the central sentence": (centroid, 0),
    # fewer dimensions, fewer bits
    "truncate_dim": (lambda m: load(truncate_dim=64, backend="numpy").encode("text").shape,
                     (64,)),
    "truncate_dim of a call": (lambda m: m.encode(WEATHER, truncate_dim=8).shape, (3, 8)),
    "a slice": (lambda m: m.encode(WEATHER)[..., :32].shape, (3, 32)),
    "truncated in a context": (in_context, (16,)),
    "binary": (lambda m: quantized_shape(m, "binary"), ("int8", 48)),
    "ubinary": (lambda m: quantized_shape(m, "ubinary"), ("uint8", 48)),
    "quantized later": (lambda m: quantize_embeddings(m.encode(ANIMALS), precision="ubinary").shape, (6, 48)),
    "int8 with calibration": (
        lambda m: str(quantize_embeddings(m.encode(WEATHER), "int8", calibration_embeddings=m.encode(ANIMALS)).dtype),
        "int8"),
    # the model
    "dimension": (lambda m: m.get_sentence_embedding_dimension(), 384),
    "max_seq_length": (lambda m: m.max_seq_length, 256),
    "get_max_seq_length": (lambda m: m.get_max_seq_length(), 256),
    "device": (lambda m: m.device.type, "cpu"),
    "to, eval": (lambda m: m.to("cpu").eval() is m, True),
    "prompts": (lambda m: m.default_prompt_name, None),
    "an array of texts": (lambda m: m.encode(np.array(WEATHER)).shape, (3, 384)),
    "a list comprehension": (lambda m: m.encode([text for text in WEATHER if text]).shape, (3, 384)),
    "no texts": (lambda m: len(m.encode([])), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", IDIOMS)
def test_gives_the_right_value(model: SentenceTransformer, name: str) -> None:
    idiom, expected = IDIOMS[name]
    assert idiom(model) == expected


def test_save_and_load(model: SentenceTransformer, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path / "model"))
    loaded = SentenceTransformer(str(tmp_path / "model"), backend="numpy")
    assert np.abs(loaded.encode(WEATHER) - model.encode(WEATHER)).max() <= 3e-7  # measured 0


def test_logging_handler(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("idioms", level=logging.INFO)
    logger.addHandler(LoggingHandler())
    logger.info("encoded %d texts", 3)
    assert "encoded 3 texts" in "".join(capsys.readouterr())


# What has no counterpart fails with a line that says what to use
REFUSED: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "the first module": (lambda m: m[0], TypeError, "not subscriptable"),
    "fit": (lambda m: m.fit([]), AttributeError, "fit"),
    "train": (lambda m: m.train(), AttributeError, "train"),
    "parameters": (lambda m: m.parameters(), AttributeError, "parameters"),
    "half": (lambda m: m.half(), AttributeError, "half"),
    "push_to_hub": (lambda m: m.push_to_hub("name"), AttributeError, "push_to_hub"),
    "another device": (lambda m: m.encode("text", device="cuda"), ValueError, "cuda"),
    "another backend": (lambda m: load(backend="onnx"), ValueError, "onnx"),
    "cross-encoder": (lambda m: __import__("minilm_np", fromlist=["x"]).CrossEncoder, ImportError, "CrossEncoder"),
    "float16 on PyTorch": (
        lambda m: load(model_kwargs={"torch_dtype": "float16"}), ValueError, "model_kwargs"),
    "faiss": (lambda m: util.semantic_search_faiss, ImportError, "semantic_search_faiss"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_fails_with_a_line_that_names_it(model: SentenceTransformer, name: str) -> None:
    call, error, word = REFUSED[name]
    with pytest.raises(error, match=word) as raised:
        call(model)
    assert "\n" not in str(raised.value)
