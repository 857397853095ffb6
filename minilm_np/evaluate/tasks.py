"""The 95 rows of the model card: task type, published scores and data.

card.json has for each row the task type, the data set on the Hugging Face hub, the card's measures in points ("card"),
and the main measure that a later version of mteb stored for the same model ("stored"; the version is "stored_by").
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

MAIN_MEASURES = {  # by task type
    "STS": "cos_sim_spearman",
    "PairClassification": "cos_sim_ap",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "Reranking": "map",
    "Retrieval": "ndcg_at_10",
    "Summarization": "cos_sim_spearman",
}
FORMATS = {  # files of a task called NAME, plain or with .gz appended; the first line of a .tsv names its columns
    "STS": ("NAME.tsv: sentence1, sentence2, score",),
    "PairClassification": ("NAME.tsv: sentence1, sentence2, label (0 or 1)",),
    "Classification": ('NAME.train.jsonl: {"text": str, "label": int or str}', "NAME.test.jsonl: the same"),
    "Clustering": ('NAME.jsonl, one set per line: {"sentences": [str], "labels": [int or str]}',),
    "Reranking": ('NAME.jsonl: {"query": str or [str], "positive": [str], "negative": [str]}',),
    "Retrieval": (
        'NAME/corpus.jsonl: {"_id": str, "title": str (optional), "text": str}',
        'NAME/queries.jsonl: {"_id": str, "text": str}',
        "NAME/qrels.tsv: query-id, corpus-id, score",
    ),
    "Summarization": ('NAME.jsonl: {"human_summaries": [str], "machine_summaries": [str], "relevance": [number]}',),
}
MEAN_ROW = "CQADupstackRetrieval"  # the mean of twelve other rows: CQADupstackAndroidRetrieval, ...


@dataclass(frozen=True)
class Task:
    """One row of the card."""

    name: str  # name of the task
    type: str  # task type, a key of MAIN_MEASURES
    card: dict[str, float]  # the card's scores in points, by measure
    stored: float  # score of the main measure, in points, that a later version of mteb stored for the same model
    stored_by: str  # the version of mteb that stored it
    dataset: str | None = None  # name of the data set on the Hugging Face hub; None if the row is a mean of other rows
    revision: str | None = None  # revision of the data set
    subset: str | None = None  # configuration of the data set; None is "default"
    split: str = "test"  # split of the data set
    samples_per_label: int = 8  # training texts per label, for classification
    parts: tuple[str, ...] = field(default=())  # names of the rows whose mean this row is

    @property
    def main(self) -> str:
        """The task's main measure, by which the card compares models."""
        return MAIN_MEASURES[self.type]


@cache
def all_tasks() -> dict[str, Task]:
    """Return all rows by name, in the card's order."""
    card = json.loads((files("minilm_np.evaluate") / "card.json").read_text(encoding="utf-8"))
    tasks = {name: Task(name, **row) for name, row in card.items()}
    stem, end = MEAN_ROW[: -len("Retrieval")], "Retrieval"
    parts = tuple(name for name in tasks if name.startswith(stem) and name.endswith(end) and name != MEAN_ROW)
    tasks[MEAN_ROW] = Task(MEAN_ROW, **card[MEAN_ROW], parts=parts)
    return tasks


def task_named(name: str) -> Task:
    """Return the row of this name. Raises a ValueError that suggests similar names if it does not exist."""
    if name in all_tasks():
        return all_tasks()[name]
    from difflib import get_close_matches

    similar = get_close_matches(name, all_tasks(), n=3) or ["a task that --list shows"]
    raise ValueError(f"TASK: expected {' or '.join(similar)}, got {name!r}")
