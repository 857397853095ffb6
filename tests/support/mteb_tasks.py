"""Tasks of the real MTEB with invented data; call these functions only where mteb is installed."""

from __future__ import annotations

from typing import Any


def metadata(kind: str, main_score: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=f"Tiny{kind}",
        dataset={"path": "nowhere/none", "revision": "0"},
        description="invented",
        type=kind,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        reference="https://example.org",
        date=("2024-01-01", "2024-01-02"),
        domains=[],
        task_subtypes=[],
        license="mit",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
    )


SUBJECTS = ["The cat", "A dog", "My neighbour", "The committee", "A small child", "The stock market", "An old ship"]
VERBS = ["sleeps", "eats breakfast", "falls", "is late again", "sails home", "writes a letter", "sings", "grows"]
SENTENCES = [f"{subject} {verb}." for subject in SUBJECTS for verb in VERBS]
FIRST, SECOND = SENTENCES[:40], SENTENCES[7:47]
HALVES = [int(text.split()[-1] in ("sleeps.", "falls.", "again.", "letter.")) for text in SENTENCES]
SUMMARIES = [
    {
        "text": subject,
        "human_summaries": SENTENCES[i : i + 3],
        "machine_summaries": SENTENCES[i + 10 : i + 16],
        "relevance": [1.0, 4.0, 2.0, 5.0, 3.0, 2.5],
    }
    for i, subject in enumerate(SUBJECTS)
]


def mteb_task(kind: str) -> Any:
    """Return a task of the real MTEB with invented data."""
    from datasets import Dataset

    def columns(**values: Any) -> Any:
        return {"test": Dataset.from_dict(values)}

    if kind == "STS":
        from mteb.abstasks.sts import AbsTaskSTS as Base

        data = columns(sentence1=FIRST, sentence2=SECOND, score=[float(i % 6) for i in range(40)])
        more = {"min_score": 0, "max_score": 5}
        main_score = "cosine_spearman"
    elif kind == "PairClassification":
        from mteb.abstasks.pair_classification import AbsTaskPairClassification as Base

        data, more = columns(sentence1=FIRST, sentence2=SECOND, labels=HALVES[:40]), {}
        main_score = "max_ap"
    elif kind == "Classification":
        from mteb.abstasks.classification import AbsTaskClassification as Base

        data, more = columns(text=SENTENCES[40:], label=HALVES[40:]), {}
        data["train"] = Dataset.from_dict({"text": SENTENCES[:40], "label": HALVES[:40]})
        main_score = "accuracy"
    elif kind == "Clustering":
        from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy as Base

        labels = [text.split()[1] for text in SENTENCES]
        data, more = columns(sentences=[SENTENCES, SENTENCES[:30]], labels=[labels, labels[:30]]), {}
        main_score = "v_measure"
    elif kind == "Summarization":
        from mteb._evaluators.text.summarization_evaluator import DeprecatedSummarizationEvaluator
        from mteb.abstasks.text.summarization import AbsTaskSummarization as Base

        data = {"test": Dataset.from_list(SUMMARIES)}
        more = {"min_score": 0, "max_score": 5, "evaluator": DeprecatedSummarizationEvaluator}
        main_score = "cosine_spearman"
    else:
        from mteb.abstasks.retrieval import AbsTaskRetrieval as Base

        corpus = [{"id": f"d{i}", "title": "", "text": text} for i, text in enumerate(SENTENCES)]
        queries = [{"id": f"q{i}", "text": text} for i, text in enumerate(FIRST[::5])]
        split = {
            "corpus": Dataset.from_list(corpus),
            "queries": Dataset.from_list(queries),
            "relevant_docs": {f"q{i}": {f"d{(7 * i + j) % 56}": 1 + j % 2 for j in range(6)} for i in range(8)},
            "top_ranked": None,
        }
        data, more = {"default": {"test": split}}, {}
        main_score = "ndcg_at_10"

    def load_data(self: Any, *_: Any, **__: Any) -> None:
        self.dataset, self.data_loaded = data, True

    body = {"metadata": metadata(kind, main_score), "load_data": load_data, **more}
    return type(f"Tiny{kind}", (Base,), body)()
