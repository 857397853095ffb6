"""The Numba op set as a whole, on the real model: errors per stage, and the same bits in any batch."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fidelity import our_stages
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import HANG_SECONDS
from support.kernels import needs_jit
from support.texts import TEXTS
from support.tolerances import FLOAT32, assert_close

from minilm_np import SentenceTransformer, encoder, kernels
from minilm_np.kernels.simd import WIDTH

Array = npt.NDArray[Any]


def test_unsupported_names_sizes_that_do_not_fit() -> None:
    assert kernels.unsupported(384, 12, 1536) is None
    assert "head size 12 is not a multiple of" in str(kernels.unsupported(60, 5, 37))
    assert "below" in str(kernels.unsupported(WIDTH, 1, 1536))


@needs_jit
@pytest.mark.parametrize("name", TEXTS)
def test_every_stage_is_within_tolerance_of_the_float64_reference(
    numba_model: SentenceTransformer, float64_model: SentenceTransformer, name: str
) -> None:
    expected = our_stages(float64_model, TEXTS[name])
    for stage, value in our_stages(numba_model, TEXTS[name]).items():
        assert_close(value, expected[stage], FLOAT32[stage], f"{name}: {stage}")


MANY_TEXTS = [f"{'word ' * (i * 7 % 90)}{i}" for i in range(40)] + ["", "x", "long " * 300]


@pytest.fixture(scope="module")
def one_by_one(numba_model: SentenceTransformer) -> Array:
    """MANY_TEXTS, each encoded in a call for itself."""
    return np.stack([numba_model.encode(text) for text in MANY_TEXTS])


@needs_jit
@settings(max_examples=30)
@given(st.lists(st.integers(0, len(MANY_TEXTS) - 1), min_size=1, max_size=60), st.integers(1, 40), st.integers(1, 4))
def test_same_bits_in_any_batch_order_and_number_of_threads(
    numba_model: SentenceTransformer, one_by_one: Array, rows: list[int], batch_size: int, threads: int
) -> None:
    before, numba_model.threads = numba_model.threads, threads
    actual = numba_model.encode([MANY_TEXTS[row] for row in rows], batch_size=batch_size)
    numba_model.threads = before
    assert np.array_equal(actual, one_by_one[rows])


@needs_jit
def test_eight_threads_can_call_encode_at_once(numba_model: SentenceTransformer, one_by_one: Array) -> None:
    with ThreadPoolExecutor(8) as pool:
        for actual in pool.map(lambda _: numba_model.encode(MANY_TEXTS), range(16)):
            assert np.array_equal(actual, one_by_one)


@needs_jit
def test_slices_of_texts_come_back_in_order(
    numba_model: SentenceTransformer, one_by_one: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encoder.TEXTS_AT_ONCE, "numba", 7)
    assert np.array_equal(numba_model.encode(MANY_TEXTS), one_by_one)


OTHER_WIDTH = """
import sys
import llvmlite.binding, numpy, pytest
features = llvmlite.binding.get_host_cpu_features()
if features.get("avx512f"):
    features.update({name: False for name in features if name.startswith("avx512")})
else:
    class WithAVX512(str):  # for simd.WIDTH only; LLVM still compiles for this CPU and splits each vector
        def split(self, *_):
            return ["+avx512f"]
    from numba.core import codegen
    flags = WithAVX512(codegen.get_host_cpu_features())
    codegen.get_host_cpu_features = lambda: flags
llvmlite.binding.get_host_cpu_features = lambda: features
vectors, texts, folder, *test_files = sys.argv[1:]
failed = pytest.main(["-q", "-p", "no:cacheprovider", *test_files])  # first, because pytest rewrites what it imports
from minilm_np import SentenceTransformer
from minilm_np.kernels import simd
numpy.save(vectors, SentenceTransformer(folder, backend="numba").encode(open(texts).read().split("|")))
print("width", simd.WIDTH)
sys.exit(failed)
"""


@needs_jit
def test_other_vector_width_gives_the_same_bits(weights_folder: Path, tmp_path: Path) -> None:
    """Run the kernels' tests and the model with vectors of 8 where the CPU has AVX-512, of 16 where it has not."""
    texts = ["Yes.", "", "A man is eating food. " * 3, "how do i reset my password", "long " * 300] * 3
    (tmp_path / "texts").write_text("|".join(texts))
    arguments = [str(tmp_path / name) for name in ("vectors.npy", "texts")] + [str(weights_folder)]
    test_files = ("test_linear.py", "test_attention.py", "test_layer_norm.py", "test_simd.py")
    arguments += [str(Path(__file__).with_name(name)) for name in test_files]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", OTHER_WIDTH, *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert f"width {24 - WIDTH}\n" in run.stdout and " passed" in run.stdout
    expected = SentenceTransformer(weights_folder, backend="numba").encode(texts, truncation="ignore")
    assert np.array_equal(np.load(tmp_path / "vectors.npy"), expected)
