"""Evaluation: reproduce the model card's MTEB rows with this model or with any other encoder.

tasks.py        the 95 rows of the card, and the data that each row needs
data.py         read a task's rows from plain files or from the cache of `datasets`
protocols.py    MTEB's scoring rules, one function for each task type
run.py          evaluate an encoder on a task: a Result with scores and a verdict
report.py       format Results as a table
cache.py        store embeddings on disk
evaluators.py   the evaluators of sentence-transformers

Scoring needs scipy, scikit-learn and pytrec_eval: install the extra `eval`.
"""

from __future__ import annotations

from typing import Any

import lazy_loader as lazy

from minilm_np.absent import check_absent

_load, __dir__, __all__ = lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    check_absent(__name__, name)
    return _load(name)
