"""MTEB's scoring rules against slow, obvious implementations."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evaluation import SCORE_ATOL, encode, numbered, unit_vector
from support.tolerances import assert_close

from minilm_np.evaluate import all_tasks, protocols


def test_sts_matches_correlations_computed_from_ranks() -> None:
    """Spearman's correlation is Pearson's of average ranks; the cosine is 1 - |x - y|^2 / 2."""
    first, second = numbered("a", 30) + ["same"] * 2, numbered("b", 30) + ["same"] * 2
    gold = [float(i % 7) for i in range(32)]
    ours = protocols.sts(encode, first, second, gold)
    cosine = [
        1 - sum((unit_vector(a).astype(float) - unit_vector(b)) ** 2) / 2 for a, b in zip(first, second, strict=True)
    ]

    def ranks(values: list[float]) -> list[float]:
        return [sum(y < x for y in values) + (1 + sum(y == x for y in values)) / 2 for x in values]

    assert_close(ours["cos_sim_spearman"], 100 * np.corrcoef(ranks(cosine), ranks(gold))[0, 1], 1e-6, "spearman")
    assert_close(ours["cos_sim_pearson"], 100 * np.corrcoef(cosine, gold)[0, 1], 1e-4, "pearson")
    city = [-sum(abs(unit_vector(a).astype(float) - unit_vector(b))) for a, b in zip(first, second, strict=True)]
    assert_close(ours["manhattan_spearman"], 100 * np.corrcoef(ranks(city), ranks(gold))[0, 1], 1e-6, "manhattan")
    assert set(ours) == set(all_tasks()["STS12"].card)


def test_pairs_that_differ_only_by_rounding_tie() -> None:
    noise = iter(np.random.default_rng(20261125).standard_normal((40, 8)) * 1e-7)

    def noisy(texts: Sequence[str]) -> Any:
        return np.stack([unit_vector(text.lower()) + next(noise) for text in texts]).astype(np.float32)

    first, second = (
        numbered("a", 12),
        numbered("A", 6) + numbered("b", 6),
    )  # the first six pairs are equal except for rounding
    gold = [5.0] * 6 + [float(i % 4) for i in range(6)]
    exact = protocols.sts(lambda texts: np.stack([unit_vector(t.lower()) for t in texts]), first, second, gold)
    assert protocols.sts(noisy, first, second, gold)["cos_sim_spearman"] == exact["cos_sim_spearman"]


def best_by_loop(scores: list[float], labels: list[int]) -> dict[str, float]:
    """Return the best values from MTEB's loop over the sorted pairs; no threshold lies below the last pair."""
    rows = sorted(zip(scores, labels, strict=True), key=lambda row: row[0], reverse=True)
    best = {"accuracy": 0.0, "f1": 0.0, "precision": 0.0, "recall": 0.0}
    true_positives, true_negatives = 0, labels.count(0)
    for predicted, (_, label) in enumerate(rows[:-1], 1):
        true_positives += label
        true_negatives -= 1 - label
        best["accuracy"] = max(best["accuracy"], (true_positives + true_negatives) / len(rows))
        if true_positives:
            precision, recall = true_positives / predicted, true_positives / labels.count(1)
            f1 = 2 * precision * recall / (precision + recall)
            if f1 > best["f1"]:
                best.update(f1=f1, precision=precision, recall=recall)
    return best


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=3, max_size=30))
def test_pair_classification_matches_a_loop_over_thresholds(pairs: list[tuple[int, int]]) -> None:
    """The pairs have only five distances, so many tie."""
    labels = [label for _, label in pairs]
    if len(set(labels)) < 2:
        return

    def on_a_circle(texts: Sequence[str]) -> Any:
        angles = np.asarray([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    second = [str(distance / 2) for distance, _ in pairs]
    ours = protocols.pair_classification(on_a_circle, ["0"] * len(pairs), second, labels)
    for measure, value in best_by_loop([-float(text) for text in second], labels).items():
        for name in ("cos_sim", "dot", "euclidean", "manhattan"):
            if name != "manhattan":  # its order is not that of the angle
                assert_close(ours[f"{name}_{measure}"], 100 * value, SCORE_ATOL, f"{name} {measure}")
    assert ours["max_ap"] == max(ours[f"{name}_ap"] for name in ("cos_sim", "dot", "euclidean", "manhattan"))
    assert set(ours) == set(all_tasks()["TwitterURLCorpus"].card)


def test_classification_draws_the_training_rows_of_mteb() -> None:
    """The loop is MTEB's: each experiment sets the seed again and shuffles the previous order."""
    labels = [i % 3 for i in range(50)]
    draws = list(protocols._draws(labels, 4))
    legacy: Any = np.random  # MTEB uses its global generator
    state = legacy.get_state()
    idxs = np.arange(50)
    for draw in draws:
        legacy.seed(42)
        legacy.shuffle(idxs)
        seen: dict[int, int] = {}
        expected = []
        for i in idxs:
            if seen.get(labels[i], 0) < 4:
                expected.append(int(i))
                seen[labels[i]] = seen.get(labels[i], 0) + 1
        assert draw == expected
    legacy.set_state(state)
    assert len(draws) == 10 and draws[0] != draws[1]


def test_classification_averages_ten_logistic_regressions() -> None:
    train = (numbered("t", 60), [i % 3 for i in range(60)])
    test = ([*numbered("u", 40), "t 3"], [i % 3 for i in range(41)])
    legacy: Any = np.random
    before = legacy.get_state()[1].copy()
    scores, experiments = protocols.classification(encode, train, test, 8)
    assert np.array_equal(before, legacy.get_state()[1]), "the caller's generator does not change"
    from sklearn.linear_model import LogisticRegression

    for draw, experiment in zip(protocols._draws(train[1], 8), experiments, strict=True):
        model = LogisticRegression(random_state=42, max_iter=100)
        model.fit(encode([train[0][i] for i in draw]), [train[1][i] for i in draw])
        is_correct = model.predict(encode(test[0])) == test[1]
        assert_close(experiment["accuracy"], 100 * is_correct.mean(), SCORE_ATOL, "accuracy")
    assert_close(scores["accuracy"], np.mean([e["accuracy"] for e in experiments]), SCORE_ATOL, "mean")
    assert "ap" not in scores
    two_labels, _ = protocols.classification(
        encode, (train[0], [i % 2 for i in range(60)]), (test[0], [i % 2 for i in range(41)])
    )
    assert set(two_labels) == {"accuracy", "f1", "ap"} == set(all_tasks()["ImdbClassification"].card)


def test_clustering_averages_v_measure_over_sets() -> None:
    """k-means recovers three separate clusters, but not random labels."""
    centers = np.eye(3, 8)

    def near_a_center(texts: Sequence[str]) -> Any:
        return np.stack([centers[int(text[0])] + 0.01 * unit_vector(text) for text in texts])

    clear = [f"{i % 3} {i}" for i in range(60)]
    scores, sets = protocols.clustering(
        near_a_center, [(clear, [text[0] for text in clear]), (clear, [i // 20 for i in range(60)])]
    )
    assert sets[0]["v_measure"] == 100 and sets[1]["v_measure"] < 10
    assert scores["v_measure"] == (sets[0]["v_measure"] + sets[1]["v_measure"]) / 2
    again, _ = protocols.clustering(near_a_center, [(clear, [i // 20 for i in range(60)])])
    assert again["v_measure"] == sets[1]["v_measure"]


def test_reranking_matches_a_loop_over_ranks() -> None:
    samples: list[dict[str, Any]] = [
        {"query": "q 1", "positive": ["p 1", "p 2"], "negative": numbered("n", 14)},
        {"query": ["q 2", "q 3"], "positive": ["n 1"], "negative": ["p 1", "q 2"]},
        {"query": "q 4", "positive": [], "negative": ["p 1"]},
    ]
    ours = protocols.reranking(encode, samples)
    precisions, reciprocals = [], []
    for sample in samples[:2]:
        queries = [sample["query"]] if isinstance(sample["query"], str) else sample["query"]
        documents = [*sample["positive"], *sample["negative"]]
        scores = [max(float(unit_vector(q) @ unit_vector(d)) for q in queries) for d in documents]
        ranked = sorted(range(len(documents)), key=lambda i: -scores[i])
        hits = [rank for rank, i in enumerate(ranked, 1) if i < len(sample["positive"])]
        precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(hits)]))
        reciprocals.append(1 / hits[0] if hits[0] <= 10 else 0)
    assert_close(ours["map"], 100 * np.mean(precisions), SCORE_ATOL, "map")
    assert_close(ours["mrr"], 100 * np.mean(reciprocals), SCORE_ATOL, "mrr")


def test_retrieval_matches_a_full_sort() -> None:
    """1200 documents with graded relevance."""
    corpus = [(f"d{i}", f"document {i}") for i in range(1200)]
    queries = {f"q{i}": f"query {i}" for i in range(5)} | {"d7": "document 7", "no qrels": "x"}
    rng = np.random.default_rng(20261125)
    qrels = {
        q: {f"d{int(i)}": int(rng.integers(0, 3)) for i in rng.choice(1200, 30)} for q in queries if q != "no qrels"
    }
    qrels["d7"]["d7"] = 2  # a document with the query's id is never a hit
    ours = protocols.retrieval(encode, iter(corpus), queries, qrels)
    expected: dict[str, list[float]] = {}
    for query, relevant in qrels.items():
        others = [(d, text) for d, text in corpus if d != query]
        ranked = sorted(others, key=lambda d: -float(unit_vector(queries[query]).astype(float) @ unit_vector(d[1])))
        gains = [relevant.get(d, 0) for d, _ in ranked]
        ideal = sorted(relevant.values(), reverse=True)
        positives = sum(gain > 0 for gain in relevant.values())
        for k in (1, 3, 5, 10, 100, 1000):
            dcg, best = (sum(g / math.log2(i + 2) for i, g in enumerate(x[:k])) for x in (gains, ideal))
            hits = [i + 1 for i, gain in enumerate(gains[:k]) if gain > 0]
            expected.setdefault(f"ndcg_at_{k}", []).append(dcg / best)
            expected.setdefault(f"map_at_{k}", []).append(sum((n + 1) / r for n, r in enumerate(hits)) / positives)
            expected.setdefault(f"recall_at_{k}", []).append(len(hits) / positives)
            expected.setdefault(f"precision_at_{k}", []).append(len(hits) / k)
    assert set(ours) == set(expected) == set(all_tasks()["NFCorpus"].card)
    for name, values in expected.items():
        assert_close(ours[name], 100 * round(float(np.mean(values)), 5), SCORE_ATOL, name)  # MTEB rounds


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=30),
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
    st.integers(1, 12),
)
def test_top_k_does_not_depend_on_the_block_size(columns: list[list[int]], sizes: list[int], k: int) -> None:
    scores = np.asarray(columns, np.float32).T
    best = protocols.TopK(5, k)
    start = 0
    while start < scores.shape[1]:
        size = sizes[start % len(sizes)]
        best.add(scores[:, start : start + size])
        start += size
    for query in range(5):
        rows = np.argsort(-scores[query], kind="stable")[:k]
        assert best.rows[query].tolist() == rows.tolist()
        assert best.scores[query].tolist() == scores[query, rows].tolist()


def test_corpus_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the current block and the hits are in memory."""

    class Text(str):
        pass

    alive: set[int] = set()
    max_alive = 0

    def corpus() -> Any:
        nonlocal max_alive
        for i in range(4000):
            text = Text(f"document {i}")
            alive.add(i)
            weakref.finalize(text, alive.discard, i)
            max_alive = max(max_alive, len(alive))
            yield f"d{i}", text

    monkeypatch.setattr(protocols, "SCORES_PER_BLOCK", 256)
    hits = protocols.nearest(encode, corpus(), {"q": "query"}, 10)
    assert len(hits["q"]) == 10 and max_alive <= 3 * 256
    monkeypatch.setattr(protocols, "SCORES_PER_BLOCK", 1 << 24)
    again = protocols.nearest(encode, ((f"d{i}", f"document {i}") for i in range(4000)), {"q": "query"}, 10)
    assert list(hits["q"]) == list(again["q"])


def test_hits_do_not_depend_on_when_ids_are_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning the ids after nearly every block gives the same hits as never pruning them."""
    corpus = [(f"d{i}", f"text {i}") for i in range(3000)]
    queries = {f"q{i}": f"question {i}" for i in range(3)}
    expected = protocols.nearest(encode, corpus, queries, 5)
    monkeypatch.setattr(protocols, "MIN_IDS_BETWEEN_PRUNING", 8)
    monkeypatch.setattr(protocols, "SCORES_PER_BLOCK", 1)  # blocks of 256
    assert protocols.nearest(encode, corpus, queries, 5) == expected


def test_rejects_duplicate_document_ids() -> None:
    corpus = [("d1", "one"), ("d2", "two"), ("d1", "three")]
    with pytest.raises(ValueError, match="corpus: the id 'd1' occurs twice"):
        protocols.nearest(lambda texts: np.array([[len(text), 1.0] for text in texts]), corpus, {"q": "query"}, 10)


def test_summarization_reproduces_the_p_value_error_and_its_fix() -> None:
    from scipy.stats import spearmanr

    samples: list[dict[str, Any]] = [
        {
            "human_summaries": numbered(f"h{i}", 3),
            "machine_summaries": numbered(f"m{i}", 6),
            "relevance": [1, 2, 3, 4, 5, i],
        }
        for i in range(4)
    ]
    samples.append({"human_summaries": ["x"], "machine_summaries": ["y", "z"], "relevance": [2, 2]})
    ours = protocols.summarization(encode, samples)
    with_p_values, correlations = [], []
    for sample in samples[:4]:
        scores = [
            max(float(unit_vector(m).astype(float) @ unit_vector(h)) for h in sample["human_summaries"])
            for m in sample["machine_summaries"]
        ]
        statistic, p = spearmanr(sample["relevance"], scores)
        with_p_values += [statistic, p]
        correlations.append(statistic)
    assert_close(ours["cos_sim_spearman"], 100 * np.mean(with_p_values), SCORE_ATOL, "the card's, with p-values")
    assert_close(ours["cos_sim_spearman_v2"], 100 * np.mean(correlations), SCORE_ATOL, "version 2, without p-values")
    assert set(all_tasks()["SummEval"].card) <= set(ours)
