"""The evaluators beside sentence-transformers' own; needs the parity and the eval extra."""

from __future__ import annotations

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

with warnings.catch_warnings():  # what PyTorch's and transformers' own imports warn of is not ours to mend
    warnings.simplefilter("ignore")
    pytest.importorskip("torch", reason="needs the parity extra")
    theirs: Any = pytest.importorskip(
        "sentence_transformers.sentence_transformer.evaluation", reason="needs the parity extra"
    )
    pytest.importorskip("sklearn", reason="needs the eval extra")

pytestmark = pytest.mark.parity

SUBJECTS = ["A man", "A woman", "The cat", "A dog", "My neighbour", "Nobody", "The committee", "Ma s\u0153ur"]
VERBS = ["is eating food", "plays the guitar", "sleeps on the sofa", "reads a newspaper", "is running", "s'en va"]
TEXTS = [f"{subject} {verb}." for subject in SUBJECTS for verb in VERBS]
RNG = np.random.default_rng(20261125)
PAIRS = [(a, b) for i, a in enumerate(TEXTS) for b in TEXTS[:i]]  # none twice, or both ways: no similarities are equal
FIRST, SECOND = map(list, zip(*(PAIRS[i] for i in RNG.permutation(len(PAIRS))[:80]), strict=True))
# not a text of the pair: where positive and negative are one text, rounding says which is nearer
THIRD = [next(t for t in TEXTS[i % 40 :] if t not in pair) for i, pair in enumerate(zip(FIRST, SECOND, strict=True))]
LABELS = [int(a.split()[-1] == b.split()[-1]) for a, b in zip(FIRST, SECOND, strict=True)]
SCORES = [5.0 * label + len(a) / 100 for a, label in zip(FIRST, LABELS, strict=True)]
ALL = ["cosine", "dot", "euclidean", "manhattan"]
SAMPLES = [
    {"query": TEXTS[i], "positive": TEXTS[i + 1] if i % 2 else TEXTS[i + 1 : i + 3], "negative": TEXTS[i + 3 : i + 20]}
    for i in range(0, 24, 3)
] + [{"query": "alone", "positive": [], "negative": ["x"]}]
CORPUS = {f"d{i:02}": text for i, text in enumerate(TEXTS)} | {"twin": TEXTS[3]}  # two of one text: a tie
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


# Which model our evaluator is given, beside theirs with theirs, and how far a metric may be off.
SAME_MODEL = {"theirs": 3e-7}  # float32 sums in another order; measured 6.0e-8, a threshold's
OWN_MODEL = {"ours": 8e-6}  # vectors that are 2e-7 apart; measured 1.9e-6, a Manhattan threshold's, near 15
QUANTISED = 2e-3  # an element at the edge of a step of int8 may be on the other side of it; measured 3.2e-4


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
@pytest.mark.parametrize("of", SAME_MODEL | OWN_MODEL)
def test_metrics_names_and_files(of: str, case: str, model: SentenceTransformer, peer: Any, tmp_path: Path) -> None:
    name, arguments, options = CASES[case]
    our_evaluator = build(ours, name, arguments, options)
    their_evaluator = build(theirs, name, arguments, options)
    evaluated = peer if of in SAME_MODEL else model
    atol = QUANTISED if of in OWN_MODEL and "int8" in case else {**SAME_MODEL, **OWN_MODEL}[of]
    found = our_evaluator(evaluated, str(tmp_path / "ours"))
    wanted = their_evaluator(peer, str(tmp_path / "theirs"))
    assert list(found) == list(wanted)
    assert our_evaluator.primary_metric == their_evaluator.primary_metric  # type: ignore[attr-defined]
    for metric, value in wanted.items():
        assert isinstance(found[metric], float)
        assert_close(found[metric], value, atol, f"{case}: {metric}")
    our_evaluator(evaluated, tmp_path / "ours", epoch=1, steps=5)
    their_evaluator(peer, str(tmp_path / "theirs"), epoch=1, steps=5)
    files = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == files
    for file in files:
        if file.endswith(".csv"):
            a, b = ((tmp_path / who / file).read_bytes().split(b"\n") for who in ("ours", "theirs"))
            assert a[0] == b[0] and len(a) == len(b) == 4
            assert [line.split(b",")[:2] for line in a] == [line.split(b",")[:2] for line in b]
            numbers = [[float(x) for x in line.split(b",")] for line in (a[1], b[1])]
            assert_close(numbers[0], numbers[1], atol, file)
        else:
            compare_predictions(*((tmp_path / who / file).read_text() for who in ("ours", "theirs")))


def compare_predictions(found: str, wanted: str) -> None:
    import json

    for a, b in zip(map(json.loads, found.splitlines()), map(json.loads, wanted.splitlines()), strict=True):
        assert (a["query_id"], a["query"]) == (b["query_id"], b["query"])
        assert {hit["corpus_id"] for hit in a["results"]} == {hit["corpus_id"] for hit in b["results"]}
        scores = {hit["corpus_id"]: hit["score"] for hit in a["results"]}
        for hit in b["results"]:
            # measured: 9e-7 of a Manhattan score; where a text is compared with itself, 3.5e-4, a root of rounding
            nothing = abs(hit["score"]) < 1e-3
            assert_close(scores[hit["corpus_id"]], hit["score"], 1e-3 if nothing else 2e-6, "score", rtol=4e-6)


def test_a_model_evaluates_itself(model: SentenceTransformer) -> None:
    result = model.evaluate(ours.TripletEvaluator(FIRST, SECOND, THIRD))
    assert 0 < result["cosine_accuracy"] < 1


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), max_size=20), st.booleans())
def test_best_thresholds(pairs: list[tuple[int, int]], nearer_is_more: bool) -> None:
    """On scores of which many are equal."""
    scores, labels = np.asarray([s for s, _ in pairs], np.float32), np.asarray([label for _, label in pairs], int)
    for method in ("find_best_acc_and_threshold", "find_best_f1_and_threshold"):
        found = getattr(ours.BinaryClassificationEvaluator, method)(scores, labels, nearer_is_more)
        wanted = getattr(theirs.BinaryClassificationEvaluator, method)(scores, labels, nearer_is_more)
        assert [float(x) for x in found] == [float(x) for x in wanted], method


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("EmbeddingSimilarityEvaluator", (["a"], ["b", "c"], [1]), "found 1 sentences1, 2 sentences2, 1 scores"),
        ("BinaryClassificationEvaluator", (["a"], ["b"], [2]), r"labels\[0\]: found 2, wanted 0 or 1"),
        ("TripletEvaluator", (["a"], ["b"], ["c"], None, "x"), "margin: found 'x', wanted a number"),
        ("TripletEvaluator", (["a"], ["b"], ["c"], None, {"x": 1}), "margin: found 'x', wanted of"),
        ("TripletEvaluator", (["a"], ["b"], ["c"], "x"), "found 'x'"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(ours, name)(*arguments)
