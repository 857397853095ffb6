"""The evaluators against those of sentence-transformers; needs the parity and eval extras."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tolerances import assert_close

from minilm_np import SentenceTransformer
from minilm_np import evaluate as ours

with warnings.catch_warnings():  # importing PyTorch and transformers warns
    warnings.simplefilter("ignore")
    pytest.importorskip("torch", reason="needs the parity extra")
    theirs: Any = pytest.importorskip(
        "sentence_transformers.sentence_transformer.evaluation", reason="needs the parity extra"
    )

pytestmark = pytest.mark.parity

SUBJECTS = ["A man", "A woman", "The cat", "A dog", "My neighbour", "Nobody", "The committee", "Ma s\u0153ur"]
VERBS = ["is eating food", "plays the guitar", "sleeps on the sofa", "reads a newspaper", "is running", "s'en va"]
TEXTS = [f"{subject} {verb}." for subject in SUBJECTS for verb in VERBS]
RNG = np.random.default_rng(20261125)
PAIRS = [
    (a, b) for i, a in enumerate(TEXTS) for b in TEXTS[:i]
]  # each pair once and one way round, so that no two similarities tie
FIRST, SECOND = map(list, zip(*(PAIRS[i] for i in RNG.permutation(len(PAIRS))[:80]), strict=True))
# never a text of the pair: rounding would decide between an equal positive and negative
THIRD = [next(t for t in TEXTS[i % 40 :] if t not in pair) for i, pair in enumerate(zip(FIRST, SECOND, strict=True))]
LABELS = [int(a.split()[-1] == b.split()[-1]) for a, b in zip(FIRST, SECOND, strict=True)]
SCORES = [5.0 * label + len(a) / 100 for a, label in zip(FIRST, LABELS, strict=True)]
ALL = ["cosine", "dot", "euclidean", "manhattan"]
SAMPLES = [
    {"query": TEXTS[i], "positive": TEXTS[i + 1] if i % 2 else TEXTS[i + 1 : i + 3], "negative": TEXTS[i + 3 : i + 20]}
    for i in range(0, 24, 3)
] + [{"query": "alone", "positive": [], "negative": ["x"]}]
CORPUS = {f"d{i:02}": text for i, text in enumerate(TEXTS)} | {"twin": TEXTS[3]}  # two equal texts tie
QUERIES = {f"q{i}": text for i, text in enumerate(FIRST[:9])} | {"none": "nothing is relevant"}
RELEVANT = {
    q: {d for d, other in CORPUS.items() if other.split()[-1] == text.split()[-1]} for q, text in QUERIES.items()
}

CASES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "similarity": ("EmbeddingSimilarityEvaluator", (FIRST, SECOND, SCORES), {}),
    "similarity, all": (
        "EmbeddingSimilarityEvaluator",
        (FIRST, SECOND, SCORES),
        {"similarity_fn_names": ALL, "name": "n"},
    ),
    "similarity, main": ("EmbeddingSimilarityEvaluator", (FIRST, SECOND, SCORES), {"main_similarity": "manhattan"}),
    "similarity, cut": ("EmbeddingSimilarityEvaluator", (FIRST, SECOND, SCORES, 8), {"truncate_dim": 32}),
    **{
        f"similarity, {precision}": (
            "EmbeddingSimilarityEvaluator",
            (FIRST, SECOND, SCORES),
            {"precision": precision, "similarity_fn_names": ALL},
        )
        for precision in ("int8", "uint8", "binary", "ubinary")
    },
    "binary": ("BinaryClassificationEvaluator", (FIRST, SECOND, LABELS), {"name": "n"}),
    "binary, all": ("BinaryClassificationEvaluator", (FIRST, SECOND, LABELS), {"similarity_fn_names": ALL}),
    "binary, cut": ("BinaryClassificationEvaluator", (FIRST, SECOND, LABELS), {"truncate_dim": 16}),
    "triplet": ("TripletEvaluator", (FIRST, SECOND, THIRD), {}),
    "triplet, all": ("TripletEvaluator", (FIRST, SECOND, THIRD), {"similarity_fn_names": ALL, "name": "n"}),
    "triplet, margin": ("TripletEvaluator", (FIRST, SECOND, THIRD), {"margin": 0.1}),
    "triplet, margins": (
        "TripletEvaluator",
        (FIRST, SECOND, THIRD),
        {"margin": {"manhattan": 1.0}, "main_similarity_function": "manhattan"},
    ),
    "reranking": ("RerankingEvaluator", (SAMPLES,), {"name": "n"}),
    "reranking, at 3": ("RerankingEvaluator", (SAMPLES, 3), {"truncate_dim": 64}),
    "reranking, one by one": ("RerankingEvaluator", (dict(enumerate(SAMPLES)),), {"use_batched_encoding": False}),
    "retrieval": ("InformationRetrievalEvaluator", (QUERIES, CORPUS, RELEVANT), {"name": "n"}),
    "retrieval, in chunks": (
        "InformationRetrievalEvaluator",
        (QUERIES, CORPUS, RELEVANT, 7, [1, 5], [3, 20], [2], [4, 30], [2, 100]),
        {"query_prompt": "query: ", "corpus_prompt": "passage: ", "truncate_dim": 100},
    ),
    "retrieval, all": (
        "InformationRetrievalEvaluator",
        (QUERIES, CORPUS, RELEVANT),
        {"score_functions": ALL, "main_score_function": "dot", "write_predictions": True},
    ),
}


# Our evaluators run on both models and are compared with theirs on their model. Tolerances of the metrics:
METRIC_ATOL = {
    "theirs": 3e-7,  # float32 sums in a different order; measured 6.0e-8, for a cosine threshold
    "ours": 8e-6,  # vectors differ by 2e-7; measured 1.9e-6, for a Manhattan threshold near 15
}
# A threshold is the mean of two float32 scores, so its rounding error grows with its size. Measured on one CPU: 9.5e-7,
# one float32 step, for a Manhattan threshold of 15.8. All other metrics have no relative part.
THRESHOLD_RTOL = 2.0**-23
INT8_ATOL = 2e-3  # elements near a step of int8 may round differently; measured 3.2e-4


@pytest.fixture(scope="module")
def peer(weights_folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer as Peer

    return Peer(str(weights_folder), device="cpu")


def build(library: Any, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Callable[..., Any]:
    options = dict(options)
    if "score_functions" in options:
        from sentence_transformers import util as their_util

        from minilm_np import util as our_util

        util: Any = our_util if library is ours else their_util
        names = {"cosine": "cos_sim", "dot": "dot_score", "euclidean": "euclidean_sim", "manhattan": "manhattan_sim"}
        options["score_functions"] = {name: getattr(util, names[name]) for name in options["score_functions"]}
    evaluator: Callable[..., Any] = getattr(library, name)(*arguments, **options)
    return evaluator


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("whose_model", METRIC_ATOL)
def test_metrics_and_files_match(
    whose_model: str, case: str, model: SentenceTransformer, peer: Any, tmp_path: Path
) -> None:
    name, arguments, options = CASES[case]
    our_evaluator = build(ours, name, arguments, options)
    their_evaluator = build(theirs, name, arguments, options)
    evaluated = peer if whose_model == "theirs" else model
    atol = INT8_ATOL if whose_model == "ours" and "int8" in case else METRIC_ATOL[whose_model]
    metrics = our_evaluator(evaluated, str(tmp_path / "ours"))
    their_metrics = their_evaluator(peer, str(tmp_path / "theirs"))
    assert list(metrics) == list(their_metrics)
    assert our_evaluator.primary_metric == their_evaluator.primary_metric  # type: ignore[attr-defined]
    for metric, value in their_metrics.items():
        assert isinstance(metrics[metric], float)
        assert_close(metrics[metric], value, atol, f"{case}: {metric}", rtol=threshold_rtol(metric))
    our_evaluator(evaluated, tmp_path / "ours", epoch=1, steps=5)
    their_evaluator(peer, str(tmp_path / "theirs"), epoch=1, steps=5)
    files = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == files
    for file in files:
        if file.endswith(".csv"):
            a, b = ((tmp_path / who / file).read_bytes().split(b"\n") for who in ("ours", "theirs"))
            assert a[0] == b[0] and len(a) == len(b) == 4
            assert [line.split(b",")[:2] for line in a] == [line.split(b",")[:2] for line in b]
            for column, actual, expected in zip(
                *(line.decode().strip().split(",") for line in (a[0], a[1], b[1])), strict=True
            ):
                assert_close(float(actual), float(expected), atol, f"{file}: {column}", rtol=threshold_rtol(column))
        else:
            compare_predictions(*((tmp_path / who / file).read_text() for who in ("ours", "theirs")))


def threshold_rtol(metric: str) -> float:
    return THRESHOLD_RTOL if "threshold" in metric else 0.0


def compare_predictions(ours: str, theirs: str) -> None:
    for a, b in zip(map(json.loads, ours.splitlines()), map(json.loads, theirs.splitlines()), strict=True):
        assert (a["query_id"], a["query"]) == (b["query_id"], b["query"])
        assert {hit["corpus_id"] for hit in a["results"]} == {hit["corpus_id"] for hit in b["results"]}
        scores = {hit["corpus_id"]: hit["score"] for hit in a["results"]}
        for hit in b["results"]:
            # Measured 9e-7, for a Manhattan score; 3.5e-4 for a text and itself, the root of a rounding error.
            is_zero = abs(hit["score"]) < 1e-3
            assert_close(scores[hit["corpus_id"]], hit["score"], 1e-3 if is_zero else 2e-6, "score", rtol=4e-6)


def test_model_evaluate_calls_the_evaluator(model: SentenceTransformer) -> None:
    result = model.evaluate(ours.TripletEvaluator(FIRST, SECOND, THIRD))
    assert 0 < result["cosine_accuracy"] < 1


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), max_size=20), st.booleans())
def test_best_thresholds_match(pairs: list[tuple[int, int]], high_score_more_similar: bool) -> None:
    """Many of the scores are equal."""
    scores, labels = np.asarray([s for s, _ in pairs], np.float32), np.asarray([label for _, label in pairs], int)
    for method in ("find_best_acc_and_threshold", "find_best_f1_and_threshold"):
        best = getattr(ours.BinaryClassificationEvaluator, method)(scores, labels, high_score_more_similar)
        expected = getattr(theirs.BinaryClassificationEvaluator, method)(scores, labels, high_score_more_similar)
        assert [float(x) for x in best] == [float(x) for x in expected], method
