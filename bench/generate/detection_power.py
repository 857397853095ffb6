"""Write minilm_np/crosscheck/detection.json: for each mistake of the catalogue, the probe text that shows it best."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minilm_np.crosscheck.mistakes import catalogue
from minilm_np.crosscheck.probes import PROBES, TEXTS
from minilm_np.crosscheck.truth import batches, tolerance, truth
from minilm_np.crosscheck.variant import Checkpoint, Simulator

FILE = Path(__file__).parents[2] / "minilm_np" / "crosscheck" / "detection.json"


def detection_power() -> Iterator[dict[str, Any]]:
    """Yield for each mistake the probe with the largest error, this error in tolerances, and how many probes show it.

    Errors are those of the final vectors; a vector that is not finite counts as 1e9 tolerances.
    """
    simulator = Simulator(Checkpoint.load())
    for mistake in catalogue(truth().checkpoint.config):
        vectors = simulator.run(mistake.apply(), TEXTS, batches()).embeddings
        errors = np.abs(vectors - truth().embeddings).max(axis=1) / tolerance("sentence_embedding")
        errors[~np.isfinite(errors)] = 1e9
        best = int(np.argmax(errors))
        yield {
            "mistake": mistake.name,
            "probe": PROBES[best].name,
            "tolerances": float(f"{errors[best]:.2g}"),
            "probes_that_show_it": int(np.sum(errors > 1)),
        }


if __name__ == "__main__":
    table = list(detection_power())
    FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in table) + "\n]\n", encoding="utf-8")
    print(f"{len(table)} mistakes; the smallest, in tolerances:")
    for tolerances, mistake in sorted((row["tolerances"], row["mistake"]) for row in table)[:12]:
        print(f"  {tolerances:10.2g}  {mistake}")
