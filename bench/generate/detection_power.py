"""Write minilm_np/crosscheck/detection.json: for each mistake of the catalogue, the probe text that shows it best."""

from __future__ import annotations

import json
from pathlib import Path

from minilm_np.crosscheck.goldens import detection_power

FILE = Path(__file__).parents[2] / "minilm_np" / "crosscheck" / "detection.json"

if __name__ == "__main__":
    table = detection_power()
    FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in table) + "\n]\n", encoding="utf-8")
    print(f"{len(table)} mistakes; the smallest, in tolerances:")
    for tolerances, mistake in sorted((row["tolerances"], row["mistake"]) for row in table)[:12]:
        print(f"  {tolerances:10.2g}  {mistake}")
