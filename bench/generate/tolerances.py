"""How far may a right float32 backend be from the truth? `python bench/generate/tolerances.py` measures it.

Writes minilm_np/crosscheck/tolerances.json: for every stage the largest error of any element over the probes, of this
package's float32 (NumPy with each of OpenBLAS' kernels that run here, Numba) and of PyTorch's, against float64. What
cross-checking allows is K times the largest of these. Needs the parity extra.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from fidelity import load_bert, our_stages, pytorch_stages

from minilm_np import SentenceTransformer, weights
from minilm_np.crosscheck.probes import PROBES

FILE = Path(__file__).parents[2] / "minilm_np" / "crosscheck" / "tolerances.json"
KERNELS = ("Katmai", "Sandybridge", "Haswell", "SkylakeX")  # no vectors, AVX, AVX2, AVX-512
OF_ALL = ("pooled", "sentence_embedding")  # asked of every probe, other stages of some


def measure(who: str) -> dict[str, float]:
    """The largest error at each stage of one run: "numpy", "numba" or "pytorch"."""
    folder = weights.find_or_fetch().folder
    oracle = SentenceTransformer(folder, backend="numpy", dtype="float64")
    ours = oracle if who == "pytorch" else SentenceTransformer(folder, backend=who)
    bert = load_bert(folder, "float32") if who == "pytorch" else None
    errors: dict[str, float] = {}
    for probe in PROBES:
        found = pytorch_stages(bert, oracle.tokens([probe.text])) if bert else our_stages(ours, probe.text)
        for stage, wanted in our_stages(oracle, probe.text).items():
            if probe.stages or stage in OF_ALL:
                error = np.abs(found[stage] - wanted).max()
                errors[stage] = float(np.maximum(errors.get(stage, 0.0), error))
    return errors


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    runs: dict[str, dict[str, float]] = {}
    for who, kernels in (("numpy", KERNELS), ("numba", ("",)), ("pytorch", ("",))):
        for kernel in kernels:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
            environment |= {"OPENBLAS_CORETYPE": kernel} if kernel else {}
            command = [sys.executable, __file__, who]
            output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(output.splitlines()[-1])
            print(f"{who} {kernel}: sentence_embedding {found['sentence_embedding']:.1e}")
            earlier = runs.setdefault(who, found)
            runs[who] = {stage: max(error, earlier[stage]) for stage, error in found.items()}
    table = {stage: {who: float(f"{run[stage]:.2e}") for who, run in runs.items()} for stage in runs["numpy"]}
    FILE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
