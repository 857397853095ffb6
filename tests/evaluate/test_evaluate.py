"""Evaluation: MTEB's rules against slow and obvious ones, data that is wrong, the cache, the command line."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import card
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import REPOSITORY
from support.tolerances import assert_close

from minilm_np import SentenceTransformer, cli
from minilm_np.evaluate import all_tasks, evaluate, protocols, table
from minilm_np.evaluate.cache import cached, fingerprint
from minilm_np.evaluate.data import Files
from minilm_np.evaluate.run import Result

for library in ("scipy", "sklearn", "pytrec_eval"):
    pytest.importorskip(library, reason="needs the eval extra")


ROUNDING = 1e-9  # points: float64 sums in another order; measured 1.5e-14


def vector(text: str, size: int = 8) -> Any:
    """A unit vector that depends on the text alone."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    found = np.random.default_rng(seed).standard_normal(size)
    return (found / np.linalg.norm(found)).astype(np.float32)


def encode(texts: Sequence[str]) -> Any:
    assert len(set(texts)) == len(texts), "a text is encoded once"
    return np.stack([vector(text) for text in texts])


def words(prefix: str, n: int) -> list[str]:
    return [f"{prefix} {i}" for i in range(n)]


# --- protocols: pairs


def test_sts() -> None:
    """Spearman as Pearson of average ranks, of 1 - |x - y|^2 / 2."""
    first, second = words("a", 30) + ["same"] * 2, words("b", 30) + ["same"] * 2
    gold = [float(i % 7) for i in range(32)]
    found = protocols.sts(encode, first, second, gold)
    cosine = [1 - sum((vector(a).astype(float) - vector(b)) ** 2) / 2 for a, b in zip(first, second, strict=True)]

    def ranks(values: list[float]) -> list[float]:
        return [sum(y < x for y in values) + (1 + sum(y == x for y in values)) / 2 for x in values]

    assert_close(found["cos_sim_spearman"], 100 * np.corrcoef(ranks(cosine), ranks(gold))[0, 1], 1e-6, "spearman")
    assert_close(found["cos_sim_pearson"], 100 * np.corrcoef(cosine, gold)[0, 1], 1e-4, "pearson")
    city = [-sum(abs(vector(a).astype(float) - vector(b))) for a, b in zip(first, second, strict=True)]
    assert_close(found["manhattan_spearman"], 100 * np.corrcoef(ranks(city), ranks(gold))[0, 1], 1e-6, "manhattan")
    assert set(found) == set(all_tasks()["STS12"].card)


def test_pairs_that_differ_by_rounding_tie() -> None:
    noise = iter(np.random.default_rng(20261125).standard_normal((40, 8)) * 1e-7)

    def noisy(texts: Sequence[str]) -> Any:
        return np.stack([vector(text.lower()) + next(noise) for text in texts]).astype(np.float32)

    first, second = words("a", 12), words("A", 6) + words("b", 6)  # the first six are equal but for rounding
    gold = [5.0] * 6 + [float(i % 4) for i in range(6)]
    exact = protocols.sts(lambda texts: np.stack([vector(t.lower()) for t in texts]), first, second, gold)
    assert protocols.sts(noisy, first, second, gold)["cos_sim_spearman"] == exact["cos_sim_spearman"]


def naive_pairs(scores: list[float], labels: list[int]) -> dict[str, float]:
    """MTEB's loop over sorted pairs, whose last pair is never below a threshold."""
    rows = sorted(zip(scores, labels, strict=True), key=lambda row: row[0], reverse=True)
    best = {"accuracy": 0.0, "f1": 0.0, "precision": 0.0, "recall": 0.0}
    right, negatives = 0, labels.count(0)
    for said, (_, label) in enumerate(rows[:-1], 1):
        right += label
        negatives -= 1 - label
        best["accuracy"] = max(best["accuracy"], (right + negatives) / len(rows))
        if right:
            precision, recall = right / said, right / labels.count(1)
            f1 = 2 * precision * recall / (precision + recall)
            if f1 > best["f1"]:
                best.update(f1=f1, precision=precision, recall=recall)
    return best


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=3, max_size=30))
def test_pair_classification(pairs: list[tuple[int, int]]) -> None:
    """Pairs at five distances, so that many tie."""
    labels = [label for _, label in pairs]
    if len(set(labels)) < 2:
        return

    def on_a_circle(texts: Sequence[str]) -> Any:
        angles = np.asarray([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    second = [str(distance / 2) for distance, _ in pairs]
    found = protocols.pair_classification(on_a_circle, ["0"] * len(pairs), second, labels)
    for measure, value in naive_pairs([-float(text) for text in second], labels).items():
        for name in ("cos_sim", "dot", "euclidean", "manhattan"):
            if name != "manhattan":  # it is not in the angle's order
                assert_close(found[f"{name}_{measure}"], 100 * value, ROUNDING, f"{name} {measure}")
    assert found["max_ap"] == max(found[f"{name}_ap"] for name in ("cos_sim", "dot", "euclidean", "manhattan"))
    assert set(found) == set(all_tasks()["TwitterURLCorpus"].card)


# --- protocols: labels


def test_classification_draws_as_mteb() -> None:
    """The seed is set before each experiment, and the order shuffled on: MTEB's lines, as they are."""
    labels = [i % 3 for i in range(50)]
    found = list(protocols._draws(labels, 4))
    legacy: Any = np.random  # its global generator is what MTEB uses
    state = legacy.get_state()
    idxs = np.arange(50)
    for draw in found:
        legacy.seed(42)
        legacy.shuffle(idxs)
        seen: dict[int, int] = {}
        wanted = []
        for i in idxs:
            if seen.get(labels[i], 0) < 4:
                wanted.append(int(i))
                seen[labels[i]] = seen.get(labels[i], 0) + 1
        assert draw == wanted
    legacy.set_state(state)
    assert len(found) == 10 and found[0] != found[1]


def test_classification() -> None:
    train = (words("t", 60), [i % 3 for i in range(60)])
    test = ([*words("u", 40), "t 3"], [i % 3 for i in range(41)])
    legacy: Any = np.random
    before = legacy.get_state()[1].copy()
    scores, experiments = protocols.classification(encode, train, test, 8)
    assert np.array_equal(before, legacy.get_state()[1]), "the caller's generator is left alone"
    from sklearn.linear_model import LogisticRegression

    for draw, experiment in zip(protocols._draws(train[1], 8), experiments, strict=True):
        model = LogisticRegression(random_state=42, max_iter=100)
        model.fit(encode([train[0][i] for i in draw]), [train[1][i] for i in draw])
        right = model.predict(encode(test[0])) == test[1]
        assert_close(experiment["accuracy"], 100 * right.mean(), ROUNDING, "accuracy")
    assert_close(scores["accuracy"], np.mean([e["accuracy"] for e in experiments]), ROUNDING, "mean")
    assert "ap" not in scores
    two, _ = protocols.classification(
        encode, (train[0], [i % 2 for i in range(60)]), (test[0], [i % 2 for i in range(41)])
    )
    assert set(two) == {"accuracy", "f1", "ap"} == set(all_tasks()["ImdbClassification"].card)


def test_clustering() -> None:
    """Three clear clusters are found; random ones are not."""
    centres = np.eye(3, 8)

    def near_a_centre(texts: Sequence[str]) -> Any:
        return np.stack([centres[int(text[0])] + 0.01 * vector(text) for text in texts])

    clear = [f"{i % 3} {i}" for i in range(60)]
    scores, sets = protocols.clustering(
        near_a_centre, [(clear, [text[0] for text in clear]), (clear, [i // 20 for i in range(60)])]
    )
    assert sets[0]["v_measure"] == 100 and sets[1]["v_measure"] < 10
    assert scores["v_measure"] == (sets[0]["v_measure"] + sets[1]["v_measure"]) / 2
    again, _ = protocols.clustering(near_a_centre, [(clear, [i // 20 for i in range(60)])])
    assert again["v_measure"] == sets[1]["v_measure"]


# --- protocols: rankings


def test_reranking() -> None:
    samples: list[dict[str, Any]] = [
        {"query": "q 1", "positive": ["p 1", "p 2"], "negative": words("n", 14)},
        {"query": ["q 2", "q 3"], "positive": ["n 1"], "negative": ["p 1", "q 2"]},
        {"query": "q 4", "positive": [], "negative": ["p 1"]},
    ]
    found = protocols.reranking(encode, samples)
    precisions, reciprocals = [], []
    for sample in samples[:2]:
        queries = [sample["query"]] if isinstance(sample["query"], str) else sample["query"]
        documents = [*sample["positive"], *sample["negative"]]
        scores = [max(float(vector(q) @ vector(d)) for q in queries) for d in documents]
        ranked = sorted(range(len(documents)), key=lambda i: -scores[i])
        hits = [rank for rank, i in enumerate(ranked, 1) if i < len(sample["positive"])]
        precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(hits)]))
        reciprocals.append(1 / hits[0] if hits[0] <= 10 else 0)
    assert_close(found["map"], 100 * np.mean(precisions), ROUNDING, "map")
    assert_close(found["mrr"], 100 * np.mean(reciprocals), ROUNDING, "mrr")


def test_retrieval() -> None:
    """Of 1200 documents, with graded relevance; against a full sort."""
    corpus = [(f"d{i}", f"document {i}") for i in range(1200)]
    queries = {f"q{i}": f"query {i}" for i in range(5)} | {"d7": "document 7", "unasked": "x"}
    rng = np.random.default_rng(20261125)
    qrels = {
        q: {f"d{int(i)}": int(rng.integers(0, 3)) for i in rng.choice(1200, 30)} for q in queries if q != "unasked"
    }
    qrels["d7"]["d7"] = 2  # its own text, which may not be found
    found = protocols.retrieval(encode, iter(corpus), queries, qrels)
    wanted: dict[str, list[float]] = {}
    for query, relevant in qrels.items():
        others = [(d, text) for d, text in corpus if d != query]
        ranked = sorted(others, key=lambda d: -float(vector(queries[query]).astype(float) @ vector(d[1])))
        gains = [relevant.get(d, 0) for d, _ in ranked]
        ideal = sorted(relevant.values(), reverse=True)
        positives = sum(gain > 0 for gain in relevant.values())
        for k in (1, 3, 5, 10, 100, 1000):
            dcg, best = (sum(g / math.log2(i + 2) for i, g in enumerate(x[:k])) for x in (gains, ideal))
            hits = [i + 1 for i, gain in enumerate(gains[:k]) if gain > 0]
            wanted.setdefault(f"ndcg_at_{k}", []).append(dcg / best)
            wanted.setdefault(f"map_at_{k}", []).append(sum((n + 1) / r for n, r in enumerate(hits)) / positives)
            wanted.setdefault(f"recall_at_{k}", []).append(len(hits) / positives)
            wanted.setdefault(f"precision_at_{k}", []).append(len(hits) / k)
    assert set(found) == set(wanted) == set(all_tasks()["NFCorpus"].card)
    for name, values in wanted.items():
        assert_close(found[name], 100 * round(float(np.mean(values)), 5), ROUNDING, name)  # MTEB rounds


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=30),
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
    st.integers(1, 12),
)
def test_the_best_do_not_depend_on_the_blocks(columns: list[list[int]], sizes: list[int], k: int) -> None:
    scores = np.asarray(columns, np.float32).T
    best = protocols.TopK(5, k)
    start = 0
    while start < scores.shape[1]:
        size = sizes[start % len(sizes)]
        best.add(scores[:, start : start + size])
        start += size
    for query in range(5):
        wanted = np.argsort(-scores[query], kind="stable")[:k]
        assert best.rows[query].tolist() == wanted.tolist()
        assert best.scores[query].tolist() == scores[query, wanted].tolist()


def test_a_corpus_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """At no time are more documents alive than a block and the hits."""
    import weakref

    class Text(str):
        pass

    alive: set[int] = set()
    most = 0

    def corpus() -> Any:
        nonlocal most
        for i in range(4000):
            text = Text(f"document {i}")
            alive.add(i)
            weakref.finalize(text, alive.discard, i)
            most = max(most, len(alive))
            yield f"d{i}", text

    monkeypatch.setattr(protocols, "SCORES_AT_ONCE", 256)
    hits = protocols.nearest(encode, corpus(), {"q": "query"}, 10)
    assert len(hits["q"]) == 10 and most <= 3 * 256
    monkeypatch.setattr(protocols, "SCORES_AT_ONCE", 1 << 24)
    again = protocols.nearest(encode, ((f"d{i}", f"document {i}") for i in range(4000)), {"q": "query"}, 10)
    assert list(hits["q"]) == list(again["q"])


# --- protocols: summaries


def test_summarization() -> None:
    from scipy.stats import spearmanr

    samples: list[dict[str, Any]] = [
        {"human_summaries": words(f"h{i}", 3), "machine_summaries": words(f"m{i}", 6), "relevance": [1, 2, 3, 4, 5, i]}
        for i in range(4)
    ]
    samples.append({"human_summaries": ["x"], "machine_summaries": ["y", "z"], "relevance": [2, 2]})
    found = protocols.summarization(encode, samples)
    with_p, alone = [], []
    for sample in samples[:4]:
        scores = [
            max(float(vector(m).astype(float) @ vector(h)) for h in sample["human_summaries"])
            for m in sample["machine_summaries"]
        ]
        statistic, p = spearmanr(sample["relevance"], scores)
        with_p += [statistic, p]
        alone.append(statistic)
    assert_close(found["cos_sim_spearman"], 100 * np.mean(with_p), ROUNDING, "the card's, with p-values")
    assert_close(found["cos_sim_spearman_v2"], 100 * np.mean(alone), ROUNDING, "without")
    assert set(all_tasks()["SummEval"].card) <= set(found)


# --- the card


def test_the_card_has_95_rows() -> None:
    rows = all_tasks()
    kinds = [task.type for task in rows.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "STS": 37,
        "Retrieval": 27,
        "Classification": 12,
        "Clustering": 11,
        "Reranking": 4,
        "PairClassification": 3,
        "Summarization": 1,
    }
    assert all(task.main in task.card for task in rows.values())
    whole = rows["CQADupstackRetrieval"]
    assert len(whole.parts) == 12
    mean = np.mean([rows[part].card["ndcg_at_10"] for part in whole.parts])
    assert_close(whole.card["ndcg_at_10"], mean, 1e-5, "the mean of its parts")


@pytest.mark.parametrize(
    ("name", "measure", "off", "details", "verdict"),
    [
        ("STS12", None, 0.00099, [], "exact"),
        ("STS12", None, -0.0011, [], "differs"),
        ("STS12", "manhattan_pearson", 0.0011, [], "differs"),
        ("Banking77Classification", None, 0.292208, [79.0, 81.0], ".* has stored 80.0422 .*were drawn otherwise"),
        ("Banking77Classification", None, 1.9, [79.0, 81.0], "close: .* drawn otherwise; two .* are 2.00"),
        ("Banking77Classification", None, 2.1, [79.0, 81.0], "differs"),
        ("STS22.de-pl", None, -9.854114, [], "close: mteb 1.12.66 has stored -4.9271 .*lost its sign"),
        ("RedditClustering", None, 0.032779, [], "close: mteb 1.12.22 has stored 50.7025 .*k-means began otherwise"),
        ("TRECCOVID", None, -0.014, [], "close: mteb 1.12.75 has stored 47.2320 .*is not known"),
        ("RedditClustering", None, 0.05, [], "differs"),
    ],
)
def test_verdicts(name: str, measure: str | None, off: float, details: list[float], verdict: str) -> None:
    task = all_tasks()[name]
    measure = measure or task.main
    result = Result(task, {measure: task.card[measure] + off}, [{measure: x} for x in details])
    assert re.fullmatch(verdict, result.verdict(measure))


def test_a_result_without_its_experiments_has_a_verdict_and_json_has_no_nan() -> None:
    task = all_tasks()["Banking77Classification"]
    result = Result(task, {"accuracy": 80.05, "f1": float("nan")}, [{"accuracy": 80.05, "f1": float("nan")}])
    assert Result(task, {"accuracy": 80.05}).verdict() == "differs"
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["scores"] == {"accuracy": 80.05, "f1": None} == written["details"][0]


def test_the_cards_table() -> None:
    """bench/card.py's, of scores that are there; an experiment's spread gives the reason."""
    lines = [
        {"encoder": "Numba float32", "task": "STS12", "score": 72.36901, "details": []},
        {"encoder": "Numba float32", "task": "Banking77Classification", "score": 80.05, "details": [
            {"accuracy": 79.0}, {"accuracy": 81.0}]},
    ]  # fmt: skip
    banking, sts = card.markdown(lines).splitlines()[2:4]
    assert sts == "| STS12 | cos_sim_spearman | 72.3690 | - | 72.3690 | - | - | exact |"
    assert "| 79.7500 | - | 80.0500 | - | - | close: the card's training examples were drawn otherwise" in banking


# --- real data


QUICK = ["STS17.en-en", "STS17.es-en", "STSBenchmark", "STS13", "AmazonCounterfactualClassification"]
LONG = ["STS12", "STS14", "SICK-R", "NFCorpus"]


@pytest.fixture(scope="session")
def eval_data() -> Path:
    folder = Path(os.environ.get("MINILM_NP_EVAL_DATA") or REPOSITORY.parent / "shared" / "eval")
    if not folder.is_dir():
        pytest.skip(f"needs evaluation data, and {folder} is not there; $MINILM_NP_EVAL_DATA may name a folder")
    return folder


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", QUICK + LONG)
def test_the_card_is_reproduced(
    backend: str, name: str, eval_data: Path, model: SentenceTransformer, numba_model: SentenceTransformer
) -> None:
    """Every measure of the row, not only the main one; within 0.001 points, measured at most 4e-7."""
    if name in LONG and "MINILM_NP_EVAL_DATA" not in os.environ:
        pytest.skip("takes minutes; $MINILM_NP_EVAL_DATA asks for it")
    if not Files(eval_data).has(all_tasks()[name]):
        pytest.skip(f"{eval_data} has no data of {name}")
    result = evaluate(numba_model if backend == "numba" else model, name, eval_data)
    if result.task.type == "Classification":  # the card's draws are not known; mteb 1.12.75's are
        expected = json.loads((eval_data / "expected.json").read_text())[name]["repo_per_experiment"]
        assert_close([e["accuracy"] / 100 for e in result.details], expected, 1e-12, name)
        assert result.verdict().startswith("close: mteb 1.12.75 has stored 63.6418")
        return
    assert {measure: result.verdict(measure) for measure in result.task.card} == dict.fromkeys(
        result.task.card, "exact"
    )


# --- data


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


PAIRS = b"sentence1\tsentence2\tscore\na\tb\t1\nc\td\t2.5\ne\\tf\tg\\\\n\t3\n"
DOCUMENTS = lines({"_id": "1", "title": "T", "text": "one"}, {"_id": "2", "text": "two"})


def write(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def tiny(folder: Path) -> Path:
    """Data of one task of each type."""
    return write(
        folder,
        STS12_dot_tsv_dot_gz=gzip.compress(PAIRS),
        TwitterURLCorpus_dot_tsv=b"sentence1\tsentence2\tlabel\na\tb\t1\nc\td\t0\ne\tf\t1\n",
        ImdbClassification_dot_train_dot_jsonl=lines(*({"text": f"t{i}", "label": i % 2} for i in range(30))),
        ImdbClassification_dot_test_dot_jsonl=lines(*({"text": f"u{i}", "label": i % 2} for i in range(9))),
        RedditClustering_dot_jsonl=lines({"sentences": words("s", 20), "labels": [str(i % 2) for i in range(20)]}),
        SciDocsRR_dot_jsonl=lines({"query": "q", "positive": ["a"], "negative": ["b", "c"]}),
        NFCorpus__corpus_dot_jsonl=DOCUMENTS,
        NFCorpus__queries_dot_jsonl=lines({"_id": "q", "text": "one"}, {"_id": "r", "text": "no qrels"}),
        NFCorpus__qrels_dot_tsv=b"query-id\tcorpus-id\tscore\nq\t1\t2\n",
        SummEval_dot_jsonl=lines(
            {"human_summaries": ["h"], "machine_summaries": ["a", "b", "c"], "relevance": [1, 2, 4]},
        ),
    )


HAS = ["STS12", "TwitterURLCorpus", "ImdbClassification", "RedditClustering", "SciDocsRR", "NFCorpus", "SummEval"]


def test_every_type_of_task_is_read(tmp_path: Path) -> None:
    for name in HAS:
        result = evaluate(encode, name, tiny(tmp_path))
        assert set(result.task.card) <= set(result.scores) and result.texts > 0
        assert all(np.isfinite(value) for value in result.scores.values())


def test_escapes_in_tsv(tmp_path: Path) -> None:
    seen: list[str] = []

    def remember(texts: list[str]) -> Any:
        seen.extend(texts)
        return encode(texts)

    evaluate(remember, "STS12", tiny(tmp_path))
    assert seen == ["a", "c", "e\tf", "b", "d", "g\\n"]


def test_a_document_is_its_title_and_its_text(tmp_path: Path) -> None:
    seen: list[str] = []

    def remember(texts: list[str]) -> Any:
        seen.extend(texts)
        return encode(texts)

    evaluate(remember, "NFCorpus", tiny(tmp_path))
    assert seen == ["one", "T one", "two"]


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("STS12", {}, "STS12: no data in .*; wanted STS12.tsv: sentence1, sentence2, score"),
        ("STS12", {"STS12.tsv": PAIRS + b"a\tb\n"}, r"STS12.tsv, line 5: found 2 columns, wanted 3"),
        ("STS12", {"STS12.tsv": PAIRS + b"a\tb\tx\n"}, r"line 5: score: found 'x', wanted a number"),
        ("STS12", {"STS12.tsv": PAIRS + b"a\tb\tnan\n"}, r"line 5: score: found 'nan', wanted a number"),
        ("STS12", {"STS12.tsv": PAIRS + b"\xff\tb\t1\n"}, r"line 5: not UTF-8 at byte 0"),
        ("STS12", {"STS12.tsv": b"a\tb\tscore\nx\ty\t1\n"}, r"line 2: found a, b, score; wanted sentence1"),
        ("STS12", {"STS12.tsv": b""}, "STS12: found 0 rows, wanted two or more"),
        ("STS12", {"STS12.tsv.gz": gzip.compress(PAIRS + b"a\tb\t1\n" * 99)[:-20]}, r"after line \d+: broken gzip"),
        (
            "TwitterURLCorpus",
            {"TwitterURLCorpus.tsv": b"sentence1\tsentence2\tlabel\na\tb\t1\nc\td\t1\n"},
            "wanted 0 and 1",
        ),
        (
            "TwitterURLCorpus",
            {"TwitterURLCorpus.tsv": b"sentence1\tsentence2\tlabel\na\tb\t0.5\n"},
            "wanted a whole number",
        ),
        (
            "ImdbClassification",
            {"ImdbClassification.train.jsonl": b"{}\n"},
            "train.jsonl, line 1: found nothing; wanted text",
        ),
        ("ImdbClassification", {"ImdbClassification.train.jsonl": b'{"text": \n'}, "train.jsonl, line 1: not JSON"),
        ("ImdbClassification", {"ImdbClassification.train.jsonl": b"[" * 99999}, "train.jsonl, line 1: not JSON"),
        (
            "ImdbClassification",
            {"ImdbClassification.train.jsonl": b"[1]\n"},
            "line 1: found list, wanted a JSON object",
        ),
        (
            "ImdbClassification",
            {"ImdbClassification.test.jsonl": b'{"text": 5, "label": 1}\n'},
            "text: found 5, wanted a text",
        ),
        (
            "ImdbClassification",
            {"ImdbClassification.train.jsonl": lines({"text": "a", "label": 1}) * 2},
            "found one label",
        ),
        (
            "RedditClustering",
            {"RedditClustering.jsonl": lines({"sentences": ["a"], "labels": [1, 2]})},
            "found 1 sentences, 2 labels",
        ),
        ("RedditClustering", {"RedditClustering.jsonl": b""}, "RedditClustering: found no rows"),
        (
            "SciDocsRR",
            {"SciDocsRR.jsonl": lines({"query": 3, "positive": [], "negative": []})},
            "query: found 3, wanted a text or a list",
        ),
        ("SciDocsRR", {"SciDocsRR.jsonl": lines({"query": "q", "positive": [], "negative": ["a"]})}, "no query with"),
        ("NFCorpus", {"NFCorpus/qrels.tsv": b"query-id\tcorpus-id\tscore\nz\t1\t1\n"}, "no query has a line in qrels"),
        ("NFCorpus", {"NFCorpus/corpus.jsonl": b""}, "NFCorpus: the corpus has no documents"),
        (  # either of these two ends the interpreter in pytrec_eval
            "NFCorpus",
            {"NFCorpus/corpus.jsonl": lines({"_id": "\ud800", "text": "a"})},
            "corpus.jsonl, line 1: _id: found .*, wanted a text without half",
        ),
        (
            "NFCorpus",
            {"NFCorpus/qrels.tsv": b"query-id\tcorpus-id\tscore\nq\t1\t4611686018427387904\n"},
            "qrels.tsv, line 2: score: found '4611686018427387904', wanted a whole number below",
        ),
        (
            "ImdbClassification",
            {"ImdbClassification.test.jsonl": lines({"text": "a", "label": 1}, {"text": "b", "label": "0"})},
            "found labels that are int and str, wanted one",
        ),
        (
            "SummEval",
            {"SummEval.jsonl": lines({"human_summaries": ["h"], "machine_summaries": ["a"], "relevance": []})},
            "row 1: found 1 machine summaries, 0 relevances",
        ),
        ("STS99", {}, "TASK: found 'STS99', wanted STS"),
    ],
)
def test_wrong_data_is_named(tmp_path: Path, name: str, files: dict[str, bytes], message: str) -> None:
    folder = tmp_path if not files else tiny(tmp_path)
    for file, content in files.items():
        for old in folder.glob(file.removesuffix(".gz") + "*"):
            old.unlink()
        (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        evaluate(encode, name, folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda texts: np.zeros((1, 8), np.float32), r"encoder: found float32 of shape \(1, 8\), wanted .* \(6, D\)"),
        (lambda texts: np.zeros((len(texts), 8), int), "encoder: found int64"),
        (lambda texts: np.full((len(texts), 8), np.nan), "encoder: the vector of 'a' is not finite"),
        (lambda texts: np.zeros((len(texts), 0)), r"encoder: found float64 of shape \(6, 0\)"),
        (lambda texts: [[0.5] * len(text) for text in [*texts, "bb"]], "encoder: setting an array element"),
        (lambda texts: {"": 0}["no\nsuch key"], "encoder: raised KeyError: 'no.*such key'"),
    ],
)
def test_a_wrong_encoder_is_named(tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(wrong, "STS12", tiny(tmp_path))


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r"scipy.* is not installed; wanted minilm-np\[eval\]"):
        evaluate(encode, "STS12", tiny(tmp_path))


def test_the_mean_of_twelve(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    parts = all_tasks()["CQADupstackRetrieval"].parts
    for name in parts[:-1]:
        shutil.copytree(folder / "NFCorpus", folder / name)
    with pytest.raises(ValueError, match=f"{parts[-1]}: no data"):
        evaluate(encode, "CQADupstackRetrieval", folder)
    shutil.copytree(folder / "NFCorpus", folder / parts[-1])
    (folder / parts[-1] / "qrels.tsv").write_bytes(b"query-id\tcorpus-id\tscore\nq\t2\t2\n")
    found = evaluate(encode, "CQADupstackRetrieval", folder)
    of_parts = [evaluate(encode, name, folder).scores["ndcg_at_1"] for name in parts]
    assert len(set(of_parts)) == 2
    assert_close(found.scores["ndcg_at_1"], np.mean(of_parts), ROUNDING, "mean")


def test_average_precision_is_of_labels_0_and_1(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    assert "ap" in evaluate(encode, "ImdbClassification", folder).scores
    for part in ("train", "test"):
        path = folder / f"ImdbClassification.{part}.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"label": 1', b'"label": 2'))
    found = evaluate(encode, "ImdbClassification", folder).scores
    assert "ap" not in found and 0 <= found["accuracy"] <= 100


def test_a_mean_and_its_parts_are_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without names all that have data are computed: the row that is a mean, and its twelve parts."""
    folder = tmp_path / "data"
    for name in all_tasks()["CQADupstackRetrieval"].parts:
        shutil.copytree(tiny(tmp_path / "tiny") / "NFCorpus", folder / name)
    asked: list[str] = []

    def remember(texts: list[str]) -> Any:
        asked.extend(texts)
        return encode(texts)

    monkeypatch.setattr(cli, "_target", lambda *_: remember)
    code, out, _ = run(capsys, "--data", folder, "--encoder", "whatever")
    assert code == 1 and len(out.splitlines()) == 1 + 13
    assert len(asked) == 12 * 3  # one query and two documents


# --- the cache


def test_cache(tmp_path: Path) -> None:
    asked: list[str] = []

    def remember(texts: list[str]) -> Any:
        asked.extend(texts)
        return encode(texts)

    first = cached(remember, tmp_path, "a")(words("x", 700))
    again = cached(remember, tmp_path, "a")([*reversed(words("x", 700)), "new"])
    assert asked == [*words("x", 700), "new"]
    assert np.array_equal(first, again[699::-1]) and again.dtype == np.float32
    cached(remember, tmp_path, "b")(["x 1"])
    assert asked[-1] == "x 1", "another model does not read it"
    half = "half a pair \ud800"
    assert np.array_equal(cached(lambda texts: np.ones((1, 2)), tmp_path, "c")([half]), np.ones((1, 2)))


def test_a_broken_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"not a database at all, but long enough to be looked at" * 9)
    with pytest.raises(ValueError, match=r"a.sqlite: file is not a database; the embeddings there can be deleted"):
        cached(encode, tmp_path, "a")
    cached(encode, tmp_path, "b")(["x"])
    database = sqlite3.connect(tmp_path / "b.sqlite")
    with database:
        database.execute("UPDATE embeddings SET vector = ?", (b"<f4\0",))
    database.close()
    with pytest.raises(ValueError, match=r"b.sqlite: a vector is damaged; the embeddings there can be deleted"):
        cached(encode, tmp_path, "b")(["x"])


def test_an_encoder_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    cached(encode, tmp_path, "a")(["x"])

    def fails(texts: list[str]) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(fails, tmp_path, "a")(["x", "y"])
    assert np.array_equal(cached(fails, tmp_path, "a")(["x"]), encode(["x"]))


def test_the_fingerprint_changes_with_the_model(weights_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(weights_folder, folder)

    def of(**options: Any) -> str:
        model = SentenceTransformer(folder, **{"backend": "numpy", **options})
        return fingerprint(model)

    seen = [of(), of(dtype="float64"), of(truncate_dim=8), of(backend="numba")]
    seen.append(of(prompts={"p": "before: "}, default_prompt_name="p"))
    model = SentenceTransformer(folder, backend="numpy")
    model.max_seq_length = 100
    seen.append(fingerprint(model))
    assert seen[0] == of(), "the same model has the same"
    assert fingerprint(SentenceTransformer(weights_folder, backend="numpy")) == seen[0], "wherever it is"
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1  # the end is the pooler's, which is not used
    loaded = SentenceTransformer(folder, backend="numpy")
    weights.unlink()  # what is loaded is a memory map of it
    weights.write_bytes(content)
    assert fingerprint(loaded) == seen[0], "what is loaded counts, not what the file has become"
    seen.append(of())
    from minilm_np.evaluate import cache

    monkeypatch.setattr(cache, "version", lambda library: f"another {library}")
    seen.append(of())
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "package" / "evaluate" / "cache.py"))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "ops.py").write_text("# other code")
    seen.append(of())
    assert len(set(seen)) == len(seen)


# --- the command line


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["evaluate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, "--list", "--data", tiny(tmp_path))
    rows = [line.split() for line in out.split("\n\n")[0].splitlines()[1:]]
    assert code == 0 and len(rows) == 95
    assert [row[0] for row in rows if row[-1] == "yes"] == sorted(HAS, key=list(all_tasks()).index)
    assert ["STS12", "STS", "cos_sim_spearman", "72.3690", "yes"] in rows
    assert "NAME/qrels.tsv: query-id, corpus-id, score" in out
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    assert run(capsys, "--list")[1].splitlines()[1].endswith("64.1493")


def test_command(weights_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out_file = tiny(tmp_path / "data"), tmp_path / "out.json"
    options = ["--model", weights_folder, "--data", folder, "--backend", "numpy"]
    code, out, err = run(capsys, "STS12", "NFCorpus", *options, "--json", out_file, "--cache", tmp_path / "cache")
    assert (code, err) == (1, "")  # three pairs are not STS12
    header, *rows = out.splitlines()
    assert header.split() == ["task", "measure", "card", "ours", "difference", "verdict"]
    assert [row.split()[:3] for row in rows] == [
        ["STS12", "cos_sim_spearman", "72.3690"],
        ["NFCorpus", "ndcg_at_10", "31.5940"],
    ]
    assert [row.split()[-1] for row in rows] == ["differs", "differs"]
    found = json.loads(out_file.read_text())
    assert [result["task"] for result in found["results"]] == ["STS12", "NFCorpus"]
    assert found["encoder"]["backend"] == "numpy" and len(found["encoder"]["fingerprint"]) == 64
    assert (tmp_path / "cache" / f"{found['encoder']['fingerprint']}.sqlite").is_file()
    ours = found["results"][0]["scores"]["cos_sim_spearman"]
    assert f"{ours:.4f}" in rows[0]
    code, out, _ = run(capsys, "STS12", *options, "--json", "-", "--cache", tmp_path / "cache")
    assert json.loads(out)["results"][0]["scores"]["cos_sim_spearman"] == ours
    code, out, _ = run(capsys, *options, "--measures")
    assert len(out.splitlines()) == 1 + sum(len(all_tasks()[name].card) for name in HAS) + 2


def test_another_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text(
        "import numpy as np\n"
        "def embed(texts):\n"
        "    assert len(texts) <= 32\n"
        "    return np.stack([np.cos(np.arange(8) * sum(map(ord, t))) for t in texts])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, _ = run(capsys, "ImdbClassification", "--data", tiny(tmp_path / "d"), "--encoder", "stranger:embed")
    assert code in (0, 1) and "ImdbClassification" in out
    for options, message in (
        (["--cache", tmp_path], "--cache: found it with --encoder"),
        (["--encoder", "stranger:nothing"], "stranger:nothing: AttributeError"),
        (["--encoder", "nowhere"], "nowhere: wanted package.module:function"),
    ):
        code, out, err = run(capsys, "STS12", "--data", tmp_path / "d", "--encoder", "stranger:embed", *options)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["STS12", "--data", "/nowhere"], "--data: /nowhere is not a folder"),
        (["STS13", "--data", "."], "STS13: no data in .; wanted STS13.tsv"),
        (["--data", "."], "--data: . has no data of any task; see --list"),
        (["NFCorpse", "--data", "."], "TASK: found 'NFCorpse', wanted NFCorpus"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    weights_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments, "--model", weights_folder, "--backend", "numpy")
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_table_of_every_measure() -> None:
    task = all_tasks()["SummEval"]
    text = table([Result(task, {**task.card, "cos_sim_spearman_v2": 25.9583})], all_measures=True)
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["exact"] * 4 + ["card"]


# --- what must not be silent


def test_a_mean_of_twelve_needs_all_twelve(tmp_path: Path) -> None:
    """A row that is the mean of others has data if all of them have."""
    whole = all_tasks()["CQADupstackRetrieval"]
    for part in whole.parts:
        assert not Files(tmp_path).has(whole)
        for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / name).touch()
    assert len(whole.parts) == 12 and Files(tmp_path).has(whole)


def test_vectors_that_are_all_the_same_are_one_line(tmp_path: Path) -> None:
    """And no warning of scipy's beside it: warnings are errors here."""
    write(tmp_path, **{"STS12.tsv": PAIRS})
    with pytest.raises(ValueError, match=r"STS12: cos_sim_spearman is nan: are the encoder's vectors all"):
        evaluate(lambda texts: np.ones((len(texts), 2)), "STS12", tmp_path)


def test_missing_data_is_told_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, **{"STS12.tsv": PAIRS, "STS13.tsv": PAIRS + b"only one column\n"})
    calls = tmp_path / "calls"
    (tmp_path / "an_encoder_for_a_test.py").write_text(
        "import numpy as np\n"
        "def encode(texts):\n"
        f"    open({str(calls)!r}, 'a').close()\n"
        "    return np.array([[len(text) + 1.0, ord(text[0]) % 7] for text in texts])\n"
    )
    data, encoder = ["--data", str(tmp_path)], ["--encoder", "an_encoder_for_a_test:encode"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(sys, "path", list(sys.path))
        for arguments, message in (
            (["STS12", "STS14", *data], "STS14: no data in"),
            (["STS12", *data, "--json", str(tmp_path / "no" / "out.json")], "no is not a folder"),
            (["STS12", *data, "--json", str(tmp_path)], "is a folder, wanted a file"),
            (["STS12", *data, "--dtype", "float64"], "--dtype: found it with --encoder"),
            (["STS12", *data, "--timeout", "nan"], "--timeout: found nan, wanted seconds"),
        ):
            assert cli.main(["evaluate", *arguments, *encoder]) == 2
            captured = capsys.readouterr()
            assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
        assert not calls.exists()
        out_file = tmp_path / "out.json"  # the first is not lost
        assert cli.main(["evaluate", "STS12", "STS13", *data, *encoder, "--json", str(out_file)]) == 2
    captured = capsys.readouterr()
    assert [result["task"] for result in json.loads(out_file.read_text())["results"]] == ["STS12"]
    assert "STS13.tsv, line 5: found 1 columns" in captured.err
    assert "STS12" in captured.out and "differs" in captured.out and calls.exists()


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "SummEval",
            [{"human_summaries": ["h"], "machine_summaries": ["a"] * 3, "relevance": [1, 2, 3]}],
            "no row",
        ),
        ("SummEval", [{"human_summaries": ["h"], "machine_summaries": [], "relevance": []}], "row 1: found 0 machine"),
        ("SummEval", [{"human_summaries": [], "machine_summaries": [*"abc"], "relevance": [1, 2, 3]}], "no human"),
        (  # of two Spearman has no p-value
            "SummEval",
            [{"human_summaries": ["h"], "machine_summaries": ["a", "b"], "relevance": [1, 2]}],
            "found 2 machine summaries, 2 relevances, wanted three",
        ),
        ("SummEval", [{"human_summaries": ["h"], "machine_summaries": ["a"], "relevance": [10**400]}], "line 1: relev"),
        ("AskUbuntuDupQuestions", [{"query": [], "positive": ["a"], "negative": ["b"]}], "row 1: found an empty query"),
    ],
)
def test_rows_that_say_nothing_are_named(tmp_path: Path, name: str, rows: list[Any], message: str) -> None:
    write(tmp_path, **{f"{name}.jsonl": lines(*rows)})
    with pytest.raises(ValueError, match=message):
        evaluate(lambda texts: np.array([[len(text), 1.0] for text in texts]), name, tmp_path)


def test_evaluators_with_nothing_to_evaluate() -> None:
    from minilm_np.evaluate import (
        BinaryClassificationEvaluator,
        EmbeddingSimilarityEvaluator,
        InformationRetrievalEvaluator,
        RerankingEvaluator,
        TripletEvaluator,
    )

    with pytest.raises(ValueError, match="samples: found none with a positive and a negative"):
        RerankingEvaluator([{"query": "q", "positive": [], "negative": ["n"]}])
    for empty in (EmbeddingSimilarityEvaluator, BinaryClassificationEvaluator, TripletEvaluator):
        with pytest.raises(ValueError, match=": found none, wanted one or more"):
            empty([], [], [])
    wrong: list[dict[str, Any]] = [{"ndcg_at_k": []}, {"precision_recall_at_k": [1, 0]}]
    for cuts in wrong:
        with pytest.raises(ValueError, match=f"{next(iter(cuts))}: found .*, wanted 1 or more"):
            InformationRetrievalEvaluator({"1": "q"}, {"d": "text"}, {"1": {"d"}}, **cuts)
    with pytest.raises(ValueError, match="relevant_docs: found no query with relevant documents"):
        InformationRetrievalEvaluator({"1": "q"}, {"d": "text"}, {1: {"d"}})


def test_numbers_that_are_no_ranking_are_refused(tmp_path: Path) -> None:
    write(tmp_path, **{"STS12.tsv": b"sentence1\tsentence2\tscore\na\tb\t1\nc\td\t1\n", "STS13.tsv": PAIRS})
    with pytest.raises(ValueError, match="STS12: found the one score 1"):
        evaluate(lambda texts: np.ones((len(texts), 2)), "STS12", tmp_path)
    write(tmp_path, **{"STS14.tsv": PAIRS.replace(b"2.5", b"2_5")})
    with pytest.raises(ValueError, match=r"line 3: score: found '2_5', wanted a number"):
        evaluate(lambda texts: np.ones((len(texts), 2)), "STS14", tmp_path)


def test_documents_that_fall_out_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same hits, whether their ids are pruned after nearly every block or never."""
    corpus = [(f"d{i}", f"text {i}") for i in range(3000)]
    queries = {f"q{i}": f"question {i}" for i in range(3)}
    wanted = protocols.nearest(encode, corpus, queries, 5)
    monkeypatch.setattr(protocols, "KEPT", 8)
    monkeypatch.setattr(protocols, "SCORES_AT_ONCE", 1)  # blocks of 256
    assert protocols.nearest(encode, corpus, queries, 5) == wanted


def test_a_document_that_comes_twice_is_refused() -> None:
    corpus = [("d1", "one"), ("d2", "two"), ("d1", "three")]
    with pytest.raises(ValueError, match="corpus: the id 'd1' occurs twice"):
        protocols.nearest(lambda texts: np.array([[len(text), 1.0] for text in texts]), corpus, {"q": "query"}, 10)
