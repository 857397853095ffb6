"""The Numba op set's vectors, bit for bit.

Every sum in the kernels has a fixed order and LLVM may not change it, so the vectors depend neither on the number of
threads and the batch nor on the CPU's instruction set (AVX-512, AVX2, or SSE without FMA) nor on the version of LLVM:
Numba 0.60 (LLVM 14) and 0.68 (LLVM 22) give the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import numpy.typing as npt
import pytest
from support.commands import HANG_SECONDS
from support.kernels import needs_jit

from minilm_np import SentenceTransformer

TEXTS: list[str | tuple[str, str]] = [
    "",
    "x",
    "hello",
    "A man is eating food.",
    "how do i reset my password",
    "The rain in Spain stays mainly in the plain. " * 6,
    "word " * 40,
    "Caf\u00e9 d\u00e9j\u00e0 vu, na\u00efve r\u00e9sum\u00e9",
    "\u4f60\u597d\u4e16\u754c\uff0c\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 and \u2764\ufe0f ok",
    ("How many people live in Berlin?", "Berlin has a population of 3,520,031."),
    ("only the first", ""),
]
SHA256 = {
    "float32": "276fe61a33a193ac104deba4435d6ec1eeb80f1e875620a427a195683c6f3748",
    "bfloat16": "7c2c769e0f3e6b81dc179d150798080a630a37c1888e178d29975c4449658d6e",
    "int8": "ba9f424bf556a0cd49d62b6355995ba577f60c33d811a9bdec21115e36f441d2",
}
MESSAGE = "The Numba op set gives other bits than before. A release that changes bits must say so in the CHANGELOG."


def sha256_of(vectors: npt.NDArray[Any]) -> str:
    assert vectors.dtype == np.float32
    return hashlib.sha256(vectors.astype("<f4").tobytes()).hexdigest()


@needs_jit
@pytest.mark.parametrize("dtype", SHA256)
@pytest.mark.parametrize("threads", [1, 2])
def test_vectors_have_the_recorded_bits(weights_folder: Path, threads: int, dtype: str) -> None:
    model = SentenceTransformer(weights_folder, backend="numba", threads=threads, dtype=dtype)
    assert sha256_of(model.encode(TEXTS)) == SHA256[dtype], MESSAGE
    one_at_a_time = np.concatenate([model.encode([text]) for text in TEXTS])  # with 2 threads, they share each text
    assert sha256_of(one_at_a_time) == SHA256[dtype], MESSAGE


ENCODE = """
import json, sys
import numpy
from minilm_np import SentenceTransformer
folder, vectors, dtypes = sys.argv[1:]
texts = json.load(sys.stdin)
models = [SentenceTransformer(folder, backend="numba", dtype=dtype) for dtype in dtypes.split()]
numpy.save(vectors, numpy.stack([model.encode(texts) for model in models]))
"""
HAS_AVX512 = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))


@needs_jit
@pytest.mark.parametrize(
    ("name", "features", "dtypes"),
    [
        pytest.param(
            "haswell",
            "+avx2,+fma",
            "float32 bfloat16 int8",
            marks=pytest.mark.skipif(not HAS_AVX512, reason="this CPU has no AVX-512: it runs AVX2 in the other tests"),
        ),
        pytest.param("nehalem", "+sse4.2", "float32 bfloat16", id="nehalem, which has no FMA"),
    ],
)
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="compiles for x86-64 CPUs")
def test_code_for_other_cpus_gives_the_recorded_bits(
    weights_folder: Path, tmp_path: Path, name: str, features: str, dtypes: str
) -> None:
    environment = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-c", ENCODE, str(weights_folder), str(tmp_path / "vectors.npy"), dtypes]
    subprocess.run(command, input=json.dumps(TEXTS), text=True, env=environment, check=True, timeout=HANG_SECONDS)
    for dtype, vectors in zip(dtypes.split(), np.load(tmp_path / "vectors.npy"), strict=True):
        assert sha256_of(vectors) == SHA256[dtype], MESSAGE
