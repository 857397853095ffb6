"""The 95 rows of the model card: what each is, what the card says, and what data it needs.

card.json has for each row its type, its data set on the Hugging Face hub, the card's measures in points ("card"), and
the main measure that a later mteb has stored for the same model ("stored", "stored_by": the version).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

MAIN = {  # the measure that stands for a task of this type
    "STS": "cos_sim_spearman",
    "PairClassification": "cos_sim_ap",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "Reranking": "map",
    "Retrieval": "ndcg_at_10",
    "Summarization": "cos_sim_spearman",
}
FORMATS = {  # the files of a task called NAME, each plain or .gz; .tsv has a line of column names first
    "STS": ("NAME.tsv: sentence1, sentence2, score",),
    "PairClassification": ("NAME.tsv: sentence1, sentence2, label (0 or 1)",),
    "Classification": ('NAME.train.jsonl: {"text": str, "label": int or str}', "NAME.test.jsonl: the same"),
    "Clustering": ('NAME.jsonl, a line a set: {"sentences": [str], "labels": [int or str]}',),
    "Reranking": ('NAME.jsonl: {"query": str or [str], "positive": [str], "negative": [str]}',),
    "Retrieval": (
        'NAME/corpus.jsonl: {"_id": str, "title": str (optional), "text": str}',
        'NAME/queries.jsonl: {"_id": str, "text": str}',
        "NAME/qrels.tsv: query-id, corpus-id, score",
    ),
    "Summarization": ('NAME.jsonl: {"human_summaries": [str], "machine_summaries": [str], "relevance": [number]}',),
}
PARTS_OF = "CQADupstackRetrieval"  # the mean of twelve other rows, which are named after it


@dataclass(frozen=True)
class Task:
    """One row of the card."""

    name: str
    type: str
    card: dict[str, float]  # points, by measure
    stored: float  # the main measure, by a later mteb
    stored_by: str
    dataset: str | None = None  # on the Hugging Face hub; None if the row is the mean of others
    revision: str | None = None
    subset: str | None = None
    split: str = "test"
    samples_per_label: int = 8
    parts: tuple[str, ...] = field(default=())  # the rows that this one is the mean of

    @property
    def main(self) -> str:
        return MAIN[self.type]


@cache
def all_tasks() -> dict[str, Task]:
    """All rows by name, in the card's order."""
    card = json.loads((files("minilm_np.evaluate") / "card.json").read_text(encoding="utf-8"))
    found = {name: Task(name, **row) for name, row in card.items()}
    stem, end = PARTS_OF[: -len("Retrieval")], "Retrieval"
    parts = tuple(name for name in found if name.startswith(stem) and name.endswith(end) and name != PARTS_OF)
    found[PARTS_OF] = Task(PARTS_OF, **card[PARTS_OF], parts=parts)
    return found


def task_named(name: str) -> Task:
    """The row of this name. Raises ValueError with the names that are most like it."""
    if name in all_tasks():
        return all_tasks()[name]
    from difflib import get_close_matches

    near = get_close_matches(name, all_tasks(), n=3) or ["one that --list shows"]
    raise ValueError(f"TASK: found {name!r}, wanted {' or '.join(near)}")
