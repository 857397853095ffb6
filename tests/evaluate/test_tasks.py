"""The rows of the model card."""

from __future__ import annotations

import numpy as np
import pytest
from support.tolerances import assert_close

from minilm_np.evaluate import all_tasks, evaluate


def test_card_has_95_rows() -> None:
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


def test_unknown_task_raises_value_error_that_suggests_names() -> None:
    with pytest.raises(ValueError, match=r"TASK: expected STS.*, got 'STS99'"):
        evaluate(lambda texts: np.ones((len(texts), 2)), "STS99")
