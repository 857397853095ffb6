"""bench/card.py: the table of the model card's scores."""

from __future__ import annotations

import card


def test_card_table_shows_scores_and_verdicts() -> None:
    """The spread of the experiments gives a verdict its reason."""
    lines = [
        {"encoder": "Numba float32", "task": "STS12", "score": 72.36901, "details": []},
        {"encoder": "Numba float32", "task": "Banking77Classification", "score": 80.05, "details": [
            {"accuracy": 79.0}, {"accuracy": 81.0}]},
    ]  # fmt: skip
    banking, sts = card.markdown(lines).splitlines()[2:4]
    assert sts == "| STS12 | cos_sim_spearman | 72.3690 | - | 72.3690 | - | - | exact |"
    assert "| 79.7500 | - | 80.0500 | - | - | close: the card sampled its training examples differently" in banking
