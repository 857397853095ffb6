"""Results as a table."""

from __future__ import annotations

from minilm_np.evaluate import Result, all_tasks, table


def test_table_lists_every_measure_on_request() -> None:
    task = all_tasks()["SummEval"]
    text = table([Result(task, {**task.card, "cos_sim_spearman_v2": 25.9583})], all_measures=True)
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["exact"] * 4 + ["card"]
