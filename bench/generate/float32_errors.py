"""Write minilm_np/crosscheck/float32_errors.json: the error of float32 at every stage, from which tolerances follow.

`python bench/generate/float32_errors.py` measures, for every stage, the largest absolute error of an element over the
probe texts against the float64 reference. It runs this package's float32 on NumPy (once with each OpenBLAS kernel that
this CPU runs) and on Numba, and PyTorch's float32. Needs the parity extra.
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

FILE = Path(__file__).parents[2] / "minilm_np" / "crosscheck" / "float32_errors.json"
OPENBLAS_KERNELS = ("Katmai", "Sandybridge", "Haswell", "SkylakeX")  # no vectors, AVX, AVX2, AVX-512
STAGES_OF_EVERY_PROBE = ("pooled", "sentence_embedding")  # the others are compared on the probes with stages only


def measure(run: str) -> dict[str, float]:
    """Return the largest error at each stage. `run` is "numpy", "numba" or "pytorch"."""
    folder = weights.find_or_fetch().folder
    float64 = SentenceTransformer(folder, backend="numpy", dtype="float64")
    float32 = float64 if run == "pytorch" else SentenceTransformer(folder, backend=run)
    bert = load_bert(folder, "float32") if run == "pytorch" else None
    errors: dict[str, float] = {}
    for probe in PROBES:
        actual = pytorch_stages(bert, float64.tokens([probe.text])) if bert else our_stages(float32, probe.text)
        for stage, expected in our_stages(float64, probe.text).items():
            if probe.stages or stage in STAGES_OF_EVERY_PROBE:
                error = np.abs(actual[stage] - expected).max()
                errors[stage] = float(np.maximum(errors.get(stage, 0.0), error))
    return errors


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    largest: dict[str, dict[str, float]] = {}
    for run, kernels in (("numpy", OPENBLAS_KERNELS), ("numba", ("",)), ("pytorch", ("",))):
        for kernel in kernels:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
            environment |= {"OPENBLAS_CORETYPE": kernel} if kernel else {}
            command = [sys.executable, __file__, run]
            output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            errors = json.loads(output.splitlines()[-1])
            print(f"{run} {kernel}: sentence_embedding {errors['sentence_embedding']:.1e}")
            earlier = largest.setdefault(run, errors)
            largest[run] = {stage: max(error, earlier[stage]) for stage, error in errors.items()}
    table = {
        stage: {run: float(f"{errors[stage]:.2e}") for run, errors in largest.items()} for stage in largest["numpy"]
    }
    FILE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
