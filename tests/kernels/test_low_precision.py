"""Dense layers in bfloat16 and int8: exactly the formulas of their docstrings, on every CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.commands import HANG_SECONDS
from support.kernels import needs_jit, normal

from minilm_np import SentenceTransformer, kernels
from minilm_np.formats import bf16_to_float32, quantize_weight
from minilm_np.kernels import bfloat16, int8, simd
from minilm_np.kernels.linear import DEPTH, PANEL
from minilm_np.kernels.program import NotRecordable, Program, Recorder
from minilm_np.kernels.team import Team

Array = npt.NDArray[Any]
ROWS = (1, 3, 8, 21)


def rounded(x: Array) -> Array:
    """Return x rounded to bfloat16 by integer arithmetic; a magnitude below 2^-56 becomes 0."""
    bits = np.where(np.abs(x) < 2.0**-56, np.float32(0), x).view(np.uint32).astype(np.uint64)
    upper = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return bf16_to_float32(upper.astype(np.uint16))


def add_product(total: Array, a: Array, b: Array) -> Array:
    """Return total + a b, rounded once: the product of two bfloat16 numbers is exact in float64."""
    result: Array = (total + a.astype(np.float64) * b).astype(np.float32)
    return result


def bfloat16_product(x: Array, weight: Array, bias: Array) -> Array:
    """The sum in the order of bfloat16.py: words of terms k and k + 16, the latter first; sums of DEPTH words."""
    x, weight = rounded(x), rounded(weight)
    words = [block + k for block in range(0, x.shape[1], 32) for k in range(16)]
    y = np.broadcast_to(bias, (len(x), len(weight))).astype(np.float32)
    for start in range(0, len(words), DEPTH):
        total = y if start == 0 else np.zeros_like(y)
        for k in words[start : start + DEPTH]:
            for term in (k + 16, k):
                total = add_product(total, x[:, term, None], weight[None, :, term])
        y = total if start == 0 else y + total
    return y


def int8_product(x: Array, weight: Array, bias: Array) -> Array:
    """The formula of int8.py, with sums of integers in int64."""
    values, scales = quantize_weight(weight)
    scale = scales.reshape(-1)
    smallest = x.min(axis=1, keepdims=True)
    span = x.max(axis=1, keepdims=True) - smallest
    integers = np.rint((x - smallest) * (np.float32(255) / np.maximum(span, np.float32(1e-30)))).astype(np.int64)
    sums = (integers @ values.T.astype(np.int64)).astype(np.float32)
    y = sums * (span / np.float32(255) * scale)
    total = scale * values.sum(axis=1).astype(np.float32)
    return add_product(y, smallest, total[None]) + bias


PRODUCTS = {"bfloat16": (bfloat16, bfloat16_product), "int8": (int8, int8_product)}


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("inputs", "outputs"), [(64, PANEL), (448, 2 * PANEL - 8)])
def test_a_dense_layer_has_the_bits_of_its_formula(dtype: str, rows: int, inputs: int, outputs: int) -> None:
    module, product = PRODUCTS[dtype]
    x, weight, bias = normal(rows, inputs), normal(outputs, inputs) / 12, normal(outputs)
    actual = kernels.linear(x, module.prepare_dense(weight, bias), None)
    np.testing.assert_array_equal(actual, product(x, weight, bias))


@needs_jit
@pytest.mark.parametrize("dtype", PRODUCTS)
def test_a_long_sum_has_the_bits_of_its_formula(dtype: str) -> None:
    """1536 inputs: several partial sums also in int8."""
    module, product = PRODUCTS[dtype]
    x, weight, bias = normal(9, 1536), normal(2 * PANEL, 1536) / 12, normal(2 * PANEL)
    actual = kernels.linear(x, module.prepare_dense(weight, bias), None)
    np.testing.assert_array_equal(actual, product(x, weight, bias))


def test_bfloat16_rounds_to_even_and_drops_tiny_numbers() -> None:
    x = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8) - 2**-20, 2.0**-56, 2.0**-57, 1e-45, 3e38], np.float32)
    x = np.resize(x, 64)
    rows = np.empty_like(x)
    bfloat16.round_all(x, rows)
    np.testing.assert_array_equal(rows, rounded(x))
    np.testing.assert_array_equal(rows[:8], [1, 1, 1 + 2**-6, -(1 + 2**-7), 2.0**-56, 0, 0, rounded(x[7:])[0]])
    words = bfloat16.words_of(x).view(np.uint32)
    np.testing.assert_array_equal(bf16_to_float32((words & 0xFFFF).astype(np.uint16))[:16], rounded(x)[:16])
    np.testing.assert_array_equal(bf16_to_float32((words >> 16).astype(np.uint16))[:16], rounded(x)[16:32])


@pytest.mark.parametrize("dtype", PRODUCTS)
def test_a_row_that_is_not_finite_leaves_the_others_alone(dtype: str) -> None:
    module, _ = PRODUCTS[dtype]
    x, dense = normal(9, 64), module.prepare_dense(normal(PANEL, 64), normal(PANEL))
    expected = kernels.linear(x, dense, None)
    x[4, 7] = np.nan
    actual = kernels.linear(x, dense, None)
    assert np.isnan(actual[4]).all()
    np.testing.assert_array_equal(np.delete(actual, 4, 0), np.delete(expected, 4, 0))


@pytest.mark.parametrize("value", [0, 3.5, -1e-20])
def test_int8_of_equal_numbers_and_of_zeros_is_exact(value: float) -> None:
    x = np.full((3, 64), value, np.float32)
    weight, bias = np.zeros((PANEL, 64), np.float32), normal(PANEL)
    np.testing.assert_array_equal(kernels.linear(x, int8.prepare_dense(weight, bias), None), np.stack([bias] * 3))
    weight = normal(PANEL, 64)
    values, scales = quantize_weight(weight)
    exact = value * (values.astype(np.float64) * scales).sum(axis=1) + bias
    actual = kernels.linear(x, int8.prepare_dense(weight, bias), None)
    np.testing.assert_allclose(actual, np.stack([exact] * 3), rtol=0, atol=1e-6 * max(1.0, 64 * abs(value)))


def test_int8_integers_use_their_whole_range_and_are_quantized_only_once() -> None:
    weight = normal(40, 64) * np.float32(2.0) ** np.arange(-20, 20)[:, None]
    weight[3] = 0
    values, scale = quantize_weight(weight)
    assert (np.delete(np.abs(values).max(axis=1), 3) == 127).all()
    np.testing.assert_array_less(np.abs(values * scale - weight), np.broadcast_to(scale * 0.5001, weight.shape))
    again, scale_again = quantize_weight(values * scale)
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(scale_again[weight.any(axis=1)], scale[weight.any(axis=1)])


@needs_jit
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_team_computes_the_same_bits(dtype: str, threads: int) -> None:
    op_set, team = kernels.op_set(dtype), Team(threads)
    x, weight, bias = normal(44, 192), normal(9 * PANEL, 192) / 12, normal(9 * PANEL)
    dense = op_set.prepare_dense(weight, bias)
    for rows in (1, 7, 44):
        for activation in (None, "gelu", "relu"):
            team.start_workers()
            shared = team.linear(x[:rows], dense, activation)
            np.testing.assert_array_equal(shared, op_set.linear(x[:rows], dense, activation))


TEXTS = ["", "A man is eating food.", "word " * 40, "The rain in Spain stays mainly in the plain. " * 9, "x"]


@pytest.fixture(scope="module", params=["bfloat16", "int8"])
def low_model(request: pytest.FixtureRequest, weights_folder: Any) -> SentenceTransformer:
    return SentenceTransformer(weights_folder, dtype=request.param, threads=2)


@needs_jit
def test_same_bits_in_any_batch_order_and_number_of_threads(low_model: SentenceTransformer) -> None:
    alone = np.stack([low_model.encode(text) for text in TEXTS])
    again = np.stack([low_model.encode(text) for text in TEXTS])  # by the programs that were recorded before
    np.testing.assert_array_equal(again, alone)
    order = np.random.default_rng(0).permutation(np.resize(np.arange(len(TEXTS)), 150))
    for threads in (1, 2, 3):
        low_model.threads = threads
        np.testing.assert_array_equal(low_model.encode([TEXTS[row] for row in order]), alone[order])
        np.testing.assert_array_equal(np.stack([low_model.encode(text) for text in TEXTS]), alone)


@needs_jit
def test_errors_of_a_whole_model(low_model: SentenceTransformer, float64_model: SentenceTransformer) -> None:
    """Measured: 1.1e-3 and 1.6e-2. A float32 model has 1e-7."""
    error = np.abs(low_model.encode(TEXTS) - float64_model.encode(TEXTS)).max()
    least, most = {"bfloat16": (1e-4, 2.5e-3), "int8": (2e-3, 4e-2)}[low_model.compute_dtype]
    assert least < error < most
    assert low_model.dtype == np.float32


def test_low_precision_is_refused_where_it_cannot_be_computed(weights_folder: Any) -> None:
    with pytest.raises(ValueError, match="dtype: expected 'float32' or 'float64' with backend='numpy', got 'int8'"):
        SentenceTransformer(weights_folder, dtype="int8", backend="numpy")
    with pytest.raises(ValueError, match="dtype: expected 'float32', 'float64', 'bfloat16' or 'int8', got 'float16'"):
        SentenceTransformer(weights_folder, dtype="float16")
    assert "multiples of 64" in str(kernels.unsupported(320, 10, 1248, "int8"))
    assert kernels.unsupported(320, 10, 1280, "bfloat16") is None


# --- the instructions of other CPUs ------------------------------------------------------------

COMPILE = """
import sys
import llvmlite.binding as llvm
cpu, features = sys.argv[1:]
llvm.get_host_cpu_features = lambda: {feature[1:]: True for feature in features.split(",")}
llvm.get_host_cpu_name = lambda: cpu
from numba import types
from minilm_np.kernels import int8, simd
from minilm_np.kernels.linear import linear
floats, ints, n = types.float32[::1], types.int32[::1], types.int64
for kernel in (linear, int8.linear_int8):
    kernel._cache.disable()
x = ints if simd.X_PER_BFLOAT16_WORD == 1 else floats
linear.compile((x, n, n, n, ints, floats, n, types.boolean, floats, n, n, n))
weights = (ints, floats, floats, floats)
int8.linear_int8.compile((ints, floats, floats, n, n, *weights, n, types.boolean, floats, n, n, n))
for kernel in (linear, int8.linear_int8):
    code = "".join(kernel.inspect_asm().values())
    print(*(name for name in ("vdpbf16ps", "vpdpbusd", "vpmaddwd", "vfmadd231ps", "zmm") if name in code))
"""
AVX2 = "+avx2,+fma,+avx,+f16c,+sse4.2"
AVX512 = f"{AVX2},+avx512f,+avx512bw,+avx512dq,+avx512cd,+avx512vl"


@needs_jit
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compiles for x86")
@pytest.mark.parametrize(
    ("cpu", "features", "bfloat16_code", "int8_code"),
    [
        ("haswell", AVX2, "vfmadd231ps", "vpmaddwd"),
        ("alderlake", f"{AVX2},+avxvnni", "vfmadd231ps", "vpdpbusd"),
        ("skylake-avx512", AVX512, "vfmadd231ps zmm", "vpmaddwd"),
        ("sapphirerapids", f"{AVX512},+avx512vnni,+avx512bf16", "vdpbf16ps zmm", "vpdpbusd"),
    ],
)
def test_kernels_use_the_instructions_of_the_cpu(cpu: str, features: str, bfloat16_code: str, int8_code: str) -> None:
    """The code is compiled and read, not run: most machines lack some of these instructions."""
    pinned = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-c", COMPILE, cpu, features]
    done = subprocess.run(
        command, env=os.environ | pinned, capture_output=True, text=True, timeout=HANG_SECONDS, check=True
    )
    of_bfloat16, of_int8 = (set(line.split()) for line in done.stdout.splitlines())
    assert of_bfloat16 >= set(bfloat16_code.split()) and of_int8 >= set(int8_code.split())
    assert "vpdpbusd" in of_int8 or "vpdpbusd" not in int8_code
    assert ("vdpbf16ps" in of_bfloat16) == ("vdpbf16ps" in bfloat16_code)


INSTRUCTION_AND_FMA = """
import sys
import numpy
from minilm_np.kernels import bfloat16, linear, simd
rng = numpy.random.default_rng(0)
x = (rng.standard_normal((200, 384)) * 2.0 ** rng.integers(-70, 40, (200, 384))).astype(numpy.float32)
weight = (rng.standard_normal((96, 384)) * 2.0 ** rng.integers(-70, 40, (96, 384))).astype(numpy.float32)
from minilm_np import kernels
numpy.save(sys.argv[1], kernels.linear(x, bfloat16.prepare_dense(weight, weight[:, 0]), None))
print(simd.HAS_DOT_BFLOAT16)
"""


@needs_jit
@pytest.mark.skipif(not simd.HAS_DOT_BFLOAT16, reason="this CPU has no AVX512-BF16")
def test_the_bfloat16_instruction_has_the_bits_of_two_fma(tmp_path: Any) -> None:
    """Numbers of all magnitudes, subnormal ones included; the second process may not use the instruction."""
    from minilm_np.kernels.cache import target_features

    results = []
    for name, features in (("with", target_features()), ("without", f"{target_features()},-avx512bf16")):
        features = features.replace("+avx512bf16,", "") if name == "without" else features
        command = [sys.executable, "-c", INSTRUCTION_AND_FMA, str(tmp_path / f"{name}.npy")]
        environment = os.environ | {"NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS, check=True
        )
        assert done.stdout.strip() == str(name == "with")
        results.append(np.load(tmp_path / f"{name}.npy"))
    np.testing.assert_array_equal(results[0].view(np.uint32), results[1].view(np.uint32))


# --- programs ----------------------------------------------------------------------------------


@needs_jit
def test_a_program_gives_memory_back_and_computes_the_same_bits(numba_model: SentenceTransformer) -> None:
    tokens = numba_model.tokens("word " * 60)
    program = Program(numba_model._bert, tokens.offsets)
    T, config = len(tokens.token_ids), numba_model.config
    a_layer = T * (3 + 1 + 1 + 1 + 4 + 1 + 1) * config.hidden_size  # floats of its results if none were given back
    sizes = [flat.size for flat in program._memory if flat.ndim == 1 and flat.dtype == np.float32]
    assert T * config.intermediate_size <= sum(sizes) < 1.5 * a_layer
    team = Team(2)
    for ids in (tokens.token_ids, np.roll(tokens.token_ids, 3), tokens.token_ids):
        team.start_workers()
        actual = team.run(program, ids, tokens.token_type_ids).copy()
        expected = numba_model._forward(tokens._replace(token_ids=ids))
        np.testing.assert_array_equal(actual, expected)


def test_an_operation_without_a_kernel_is_not_recorded() -> None:
    recorder = Recorder()
    with pytest.raises(NotRecordable):
        recorder.pool(np.zeros((3, 384), np.float32), np.array([0, 3]), "max")
    dense = kernels.prepare_dense(normal(PANEL, 64), normal(PANEL))
    with pytest.raises(NotRecordable):
        recorder.linear(normal(3, 64), dense, "gelu_new")
