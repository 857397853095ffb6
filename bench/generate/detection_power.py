"""Which probe shows which mistake? Writes minilm_np/crosscheck/detection.json."""

from __future__ import annotations

import json
from pathlib import Path

from minilm_np.crosscheck.goldens import detection_power

FILE = Path(__file__).parents[2] / "minilm_np" / "crosscheck" / "detection.json"

if __name__ == "__main__":
    table = detection_power()
    FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in table) + "\n]\n", encoding="utf-8")
    weakest = sorted((row["tolerances"], row["mistake"]) for row in table)
    print(f"{len(table)} mistakes; the hardest to see, in tolerances:")
    for tolerances, mistake in weakest[:12]:
        print(f"  {tolerances:10.2g}  {mistake}")
