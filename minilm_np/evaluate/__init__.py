"""Evaluation: reproduce the model card's MTEB rows with this model, or with any encoder.

tasks.py        the card's 95 rows, and what data each needs
data.py         rows out of plain files, or out of the cache of `datasets`
protocols.py    how MTEB scores, one function a task type
run.py          a task, an encoder, data: a Result with its verdict
report.py       Results as a table
cache.py        embeddings on disk
evaluators.py   the evaluators of sentence-transformers

Needs scipy, scikit-learn and pytrec_eval: the eval extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minilm_np.evaluate.cache import cached, fingerprint
    from minilm_np.evaluate.evaluators import (
        BinaryClassificationEvaluator,
        EmbeddingSimilarityEvaluator,
        InformationRetrievalEvaluator,
        RerankingEvaluator,
        TripletEvaluator,
    )
    from minilm_np.evaluate.report import table
    from minilm_np.evaluate.run import Result, evaluate
    from minilm_np.evaluate.tasks import Task, all_tasks

__all__ = [
    "BinaryClassificationEvaluator",
    "EmbeddingSimilarityEvaluator",
    "InformationRetrievalEvaluator",
    "RerankingEvaluator",
    "Result",
    "Task",
    "TripletEvaluator",
    "all_tasks",
    "cached",
    "evaluate",
    "fingerprint",
    "table",
]

_HOMES = {
    "Result": "run",
    "Task": "tasks",
    "cached": "cache",
    "evaluate": "run",
    "fingerprint": "cache",
    "table": "report",
    "all_tasks": "tasks",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'evaluators')}"), name)
