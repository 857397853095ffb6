"""The Numba op set: each operation against ops.py in float64, then the contracts of the whole.

The first half also runs with NUMBA_DISABLE_JIT=1, on the NumPy twins of simd.py; the second half needs the JIT.
"""

from __future__ import annotations

import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fidelity import kind, our_stages
from generate import polynomials
from hypothesis import given, settings
from hypothesis import strategies as st
from support.texts import TEXTS
from support.tolerances import FLOAT32, assert_close

from minilm_np import SentenceTransformer, encoder, kernels, ops
from minilm_np.encoder import _cut_by_tokens
from minilm_np.kernels import simd
from minilm_np.kernels.linear import PANEL
from minilm_np.kernels.team import Team, worker_loop
from minilm_np.kernels.team import team as team_of
from minilm_np.threads import available_cpus

Array = npt.NDArray[Any]
W = simd.WIDTH
needs_jit = pytest.mark.skipif(simd.WITHOUT_JIT, reason="the whole model is slow without the JIT")


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def check(found: Array, wanted: Array, ulps: float) -> None:
    """Every element within so many float32 rounding steps of the largest wanted magnitude."""
    assert found.dtype == np.float32
    assert_close(found, wanted, ulps * 6e-8 * max(1.0, float(np.abs(wanted).max())), "kernel")


# --- operations, with and without the JIT


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 19])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, PANEL), (95, PANEL + 1), (97, 2 * PANEL), (200, 3 * PANEL - 5)])
@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
def test_linear(rows: int, inputs: int, outputs: int, activation: str | None) -> None:
    x, weight, bias = normal(rows, inputs), normal(outputs, inputs), normal(outputs)
    wanted = ops.linear(x.astype("f8"), ops.Dense(weight.astype("f8"), bias.astype("f8")), activation)
    check(kernels.linear(x, kernels.prepare_dense(weight, bias), activation), wanted, ulps=24)


@pytest.mark.parametrize("hidden", [W, 3 * W])
def test_add_layer_norm(hidden: int) -> None:
    x, residual, norm = normal(9, hidden), normal(9, hidden) + 3, (normal(hidden), normal(hidden + 1)[1:])
    wanted = ops.add_layer_norm(x.astype("f8"), residual, norm, 1e-12)
    check(kernels.add_layer_norm(x, residual, norm, 1e-12), wanted, ulps=16)
    constant = kernels.add_layer_norm(np.ones((1, hidden), np.float32), residual[:1] * 0, norm, 4.0)
    assert_close(constant[0], norm[1], 0, "a constant row is its bias")


def test_embed() -> None:
    rng = np.random.default_rng(0)
    tables = (normal(50, 2 * W), normal(2, 2 * W), normal(11, 2 * W))
    ids, types, positions = rng.integers(0, 50, 17), rng.integers(0, 2, 17), rng.integers(0, 11, 17)
    norm = (normal(2 * W), normal(2 * W))
    wanted = ops.embed(ids, types, positions, tuple(t.astype("f8") for t in tables), norm, 1e-12)  # type: ignore[arg-type]
    check(kernels.embed(ids, types, positions, tables, norm, 1e-12), wanted, ulps=16)


@pytest.mark.parametrize("vectors", [1, 2, 3])
def test_attention(vectors: int) -> None:
    lengths, heads, size = [1, 7, 8, 9, 2 * W + 3], 2, vectors * W
    offsets = np.cumsum([0, *lengths])
    qkv = 2 * normal(int(offsets[-1]), 3 * heads * size)
    check(kernels.attention(qkv, offsets, heads), ops.attention(qkv.astype("f8"), offsets, heads), ulps=32)
    found, wanted = (s.attention_probs(qkv, offsets, heads) for s in (kernels, ops))
    for a, b in zip(found, wanted, strict=True):
        check(a, b, ulps=64)
    before = kernels.attention(qkv, offsets, heads)
    qkv[offsets[1] : offsets[2]] = 1e3  # a sentence's neighbours do not see it
    changed = (kernels.attention(qkv, offsets, heads) != before).any(axis=1)
    assert changed.nonzero()[0].tolist() == list(range(offsets[1], offsets[2]))


def test_attention_to_scores_that_differ_by_hundreds() -> None:
    """exp would overflow without the largest score taken off, and not any other score instead."""
    size, S = W, 20
    qkv = np.zeros((S, 3 * size), np.float32)
    qkv[:, 0] = 100
    qkv[:, size] = np.linspace(-20, 40, S) * math.sqrt(size)
    qkv[:, 2 * size :] = normal(S, size)
    offsets = np.array([0, S])
    found = kernels.attention(qkv, offsets, 1)
    check(found, ops.attention(qkv.astype("f8"), offsets, 1), ulps=32)
    assert np.abs(found - qkv[-1, 2 * size :]).max() < 1e-6  # all attention is on the last


def test_memory_begins_at_a_cache_line() -> None:
    for size in (1, 15, 16, 1000):
        assert simd.empty(size).ctypes.data % 64 == 0 and simd.empty(size).shape == (size,)


def test_pool_and_l2_normalize() -> None:
    offsets = np.array([0, 1, 8, 19])
    x = normal(19, 2 * W)
    for mode in ("mean", "cls", "max", "mean_sqrt_len_tokens"):
        check(kernels.pool(x, offsets, mode), ops.pool(x.astype("f8"), offsets, mode), ulps=8)
    x[3] = 0
    check(kernels.l2_normalize(x), ops.l2_normalize(x.astype("f8")), ulps=4)


@simd.jit
def _apply_exp2(x: Array, y: Array) -> None:
    for i in range(0, len(x), W):
        simd.store(simd.exp2(simd.load(x, i)), y, i)


@simd.jit
def _apply_gelu(x: Array, y: Array) -> None:
    for i in range(0, len(x), W):
        simd.store(simd.gelu(simd.load(x, i)), y, i)


def test_exp2_and_gelu_are_as_exact_as_their_docstrings_say() -> None:
    x = np.linspace(-126, 126.9, W * (100 if simd.WITHOUT_JIT else 20_000)).astype(np.float32)
    y = np.empty_like(x)
    _apply_exp2(x, y)
    truth = np.exp2(x.astype("f8"))
    assert (np.abs(y - truth) / np.spacing(truth.astype("f4"))).max() <= 1.0
    for apply in (_apply_exp2, _apply_gelu):  # what is not a number does not become one
        apply(np.full(W, np.nan, np.float32), y)
        assert np.isnan(y[:W]).all()
    x = np.linspace(-30, 30, len(x)).astype(np.float32)
    _apply_gelu(x, y)
    error = np.abs(y - ops.gelu(x.astype("f8")))
    assert error[np.abs(x) < 4].max() <= 1.4e-7 and (error / np.maximum(1, np.abs(x))).max() <= 1.4e-7


def test_exp2_coefficients_come_from_the_fit() -> None:
    coefficients, error = polynomials.fit_exp2()
    np.testing.assert_allclose(coefficients, simd.EXP2_COEFFICIENTS, rtol=1e-5)
    assert error < 2.1e-9


@needs_jit
def test_compiled_code_is_stamped_with_all_the_files_it_comes_from() -> None:
    """Numba alone would run old code after a change in simd.py, which every kernel inlines."""
    from minilm_np.kernels.linear import linear

    _, stamp = linear._cache._cache_file._source_stamp
    kernel_files = Path(simd.__file__).parent.glob("*.py")
    assert {name for name, *_ in stamp} == {"ops.py", *(path.name for path in kernel_files)}


def test_sizes_that_do_not_fit_are_named() -> None:
    assert kernels.unsupported(384, 12, 1536) is None
    assert "head size 12 is not a multiple of" in str(kernels.unsupported(60, 5, 37))
    assert "below" in str(kernels.unsupported(W, 1, 1536))


# --- the whole model


@needs_jit
@pytest.mark.parametrize("name", TEXTS)
def test_every_stage_is_within_tolerance_of_the_oracle(
    numba_model: SentenceTransformer, oracle: SentenceTransformer, name: str
) -> None:
    truth = our_stages(oracle, TEXTS[name])
    for stage, value in our_stages(numba_model, TEXTS[name]).items():
        assert_close(value, truth[stage], FLOAT32[kind(stage)].atol, f"{name}: {stage}")


POOL = [f"{'word ' * (i * 7 % 90)}{i}" for i in range(40)] + ["", "x", "long " * 300]


@pytest.fixture(scope="module")
def alone(numba_model: SentenceTransformer) -> Array:
    return np.stack([numba_model.encode(text) for text in POOL])


@needs_jit
@settings(max_examples=30)
@given(st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=60), st.integers(1, 40), st.integers(1, 4))
def test_the_same_bits_in_any_batch_order_and_number_of_threads(
    numba_model: SentenceTransformer, alone: Array, rows: list[int], batch_size: int, threads: int
) -> None:
    before, numba_model.threads = numba_model.threads, threads
    found = numba_model.encode([POOL[row] for row in rows], batch_size=batch_size)
    numba_model.threads = before
    assert np.array_equal(found, alone[rows])


@needs_jit
def test_eight_threads_call_encode_at_once(numba_model: SentenceTransformer, alone: Array) -> None:
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: numba_model.encode(POOL), range(16)):
            assert np.array_equal(found, alone)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_a_team_computes_the_same_bits(threads: int) -> None:
    lengths = [1, 5, 8, 30]
    offsets = np.cumsum([0, *lengths])
    x, weight, bias = normal(44, 3 * PANEL), normal(9 * PANEL, 3 * PANEL) / 12, normal(9 * PANEL)
    dense = kernels.prepare_dense(weight, bias)
    with team_of(threads) as team:
        assert team
        for rows in (1, 7, 8, 44):
            for activation in (None, "gelu", "relu"):
                found = team.linear(x[:rows], dense, activation)
                assert np.array_equal(found, kernels.linear(x[:rows], dense, activation))
        qkv = team.linear(x, dense, None)
        assert np.array_equal(team.attention(qkv, offsets, 3), kernels.attention(qkv, offsets, 3))


@needs_jit
def test_only_one_call_has_the_team() -> None:
    with team_of(2) as first, team_of(2) as second:
        assert isinstance(first, Team) and second is None
    with team_of(2) as again:
        assert again is first


@needs_jit
def test_a_helper_that_never_works_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = threading.Event()
    monkeypatch.setattr(Team, "_work", lambda self: asleep.wait(60))
    team = Team(3)
    team.start_workers()
    x, dense = normal(9, PANEL), kernels.prepare_dense(normal(3 * PANEL, PANEL), normal(3 * PANEL))
    assert np.array_equal(team.linear(x, dense, None), kernels.linear(x, dense, None))
    asleep.set()


@needs_jit
def test_workers_end_by_themselves_and_are_started_again() -> None:
    team = Team(2)
    x, dense = normal(9, PANEL), kernels.prepare_dense(normal(3 * PANEL, PANEL), normal(3 * PANEL))
    for _ in range(2):
        team.start_workers()
        assert len(team._workers) == 1
        assert np.array_equal(team.linear(x, dense, None), kernels.linear(x, dense, None))
        deadline = time.monotonic() + 20
        while team._workers and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not team._workers


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@needs_jit
def test_workers_do_their_share() -> None:
    """A large product takes less time: half is the ideal. Once in 20 seconds is enough, for a busy machine."""
    if available_cpus() < 2:
        pytest.skip("one CPU")
    dense, x = kernels.prepare_dense(normal(8 * PANEL, 16 * PANEL), normal(8 * PANEL)), normal(2000, 16 * PANEL)
    team = Team(2)
    worker_loop(team._box, 1, 0)  # both compiled, or read: a helper does not stay as long as that takes
    team.linear(x, dense, None)
    alone = min(_seconds(lambda: kernels.linear(x, dense, None)) for _ in range(5))
    team.start_workers()
    shared, end = math.inf, time.monotonic() + 20
    while shared >= 0.85 * alone and time.monotonic() < end:
        shared = min(shared, _seconds(lambda: team.linear(x, dense, None)))
    assert shared < 0.85 * alone


@needs_jit
def test_no_more_threads_to_be_had_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import _thread

    start, started = _thread.start_new_thread, list[int]()

    def one_only(*arguments: Any) -> Any:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(start(*arguments))

    monkeypatch.setattr(_thread, "start_new_thread", one_only)
    x, dense = normal(9, PANEL), kernels.prepare_dense(normal(PANEL, PANEL), normal(PANEL))
    team = Team(3)
    team.start_workers()
    assert np.array_equal(team.linear(x, dense, None), kernels.linear(x, dense, None))
    assert len(started) == 1


@needs_jit
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_after_use_and_pickle(weights_folder: Path) -> None:
    code = f"""
import os, pickle, sys
from minilm_np import SentenceTransformer
model = SentenceTransformer({str(weights_folder)!r}, backend="numba", threads=2)
texts = ["a text of its own"] * 200
wanted = model.encode(texts)
child = os.fork()
if child == 0:
    os._exit(0 if (model.encode(texts) == wanted).all() else 1)
assert os.waitpid(child, 0)[1] == 0
data = pickle.dumps(model)
assert len(data) < 1000
assert (pickle.loads(data).encode(texts) == wanted).all()
"""
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=True, timeout=100)


@needs_jit
@pytest.mark.parametrize("which", [1, 40, 80])
def test_an_error_in_a_thread_reaches_the_caller_and_drops_the_rest(
    numba_model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    begun = []

    def interrupted(*_: Any, **__: Any) -> Array:
        begun.append(1)
        if len(begun) == which:
            raise KeyboardInterrupt
        time.sleep(0.01)
        return np.zeros((1, 384), np.float32)

    monkeypatch.setattr(numba_model, "_forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        numba_model.encode(["word " * 400] * 100)  # 80 chunks; when the 40th fails, the others wait
    assert len(begun) < which + 20


@needs_jit
def test_slices_come_back_in_order(
    numba_model: SentenceTransformer, alone: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encoder.TEXTS_AT_ONCE, "numba", 7)
    assert np.array_equal(numba_model.encode(POOL), alone)


@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_without_numba_numpy_computes_and_says_so_once(weights_folder: Path, fault: str) -> None:
    code = f"""
import sys, warnings
if {fault!r} == "missing":
    sys.modules["numba"] = None
else:
    import types
    sys.modules["numba"] = types.ModuleType("numba")
from minilm_np import SentenceTransformer
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    model = SentenceTransformer({str(weights_folder)!r})
assert model.backend == "numpy", model.backend
assert "Numba does not work" in model.backend_reason
assert [w.category for w in seen] == [RuntimeWarning], seen
model.encode("works")
try:
    SentenceTransformer({str(weights_folder)!r}, backend="numba")
except ImportError as error:
    assert "Numba does not work here" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_kernels_that_do_not_compile_are_no_error(weights_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("LLVM ERROR:\n  no such instruction")

    monkeypatch.setattr(SentenceTransformer, "_warm_up", broken)
    with pytest.warns(RuntimeWarning, match=r"NumPy computes: LLVM ERROR: no such instruction$") as seen:
        model = SentenceTransformer(weights_folder)
    assert len(seen) == 1 and seen[0].filename == __file__
    assert (model.backend, model.backend_reason) == ("numpy", "Numba does not work: LLVM ERROR: no such instruction")
    assert model.encode("works").shape == (384,)
    with pytest.raises(ImportError, match="backend: found 'numba', but Numba does not work here: LLVM ERROR"):
        SentenceTransformer(weights_folder, backend="numba")


@needs_jit
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_ends_a_long_encode(weights_folder: Path) -> None:
    code = f"""
from minilm_np import SentenceTransformer
model = SentenceTransformer({str(weights_folder)!r}, backend="numba", threads=2)
wanted = model.encode("again")
print("begin", flush=True)
try:
    model.encode(["a text " * 200] * 20_000)
except KeyboardInterrupt:
    assert (model.encode("again") == wanted).all()
    print("interrupted, and works again")
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout and run.stdout.readline() == "begin\n"
        time.sleep(0.5)
        before = time.monotonic()
        run.send_signal(signal.SIGINT)
        out, error = run.communicate(timeout=60)
    assert out == "interrupted, and works again\n", error
    assert time.monotonic() - before < 20  # all of it would take minutes


@needs_jit
def test_a_read_only_installation_without_home(weights_folder: Path, tmp_path: Path) -> None:
    """No folder can be written: what is compiled is not kept, and all works."""
    package = tmp_path / "minilm_np"
    shutil.copytree(Path(simd.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import os, sys
sys.path.insert(0, {str(tmp_path)!r})
from numba.core import caching
def nowhere(self): raise OSError("read-only file system")
for locator in (caching.InTreeCacheLocator, caching.UserWideCacheLocator):
    locator.ensure_cache_path = nowhere
import minilm_np
assert minilm_np.__file__.startswith({str(tmp_path)!r})
model = minilm_np.SentenceTransformer({str(weights_folder)!r}, backend="numba")
assert model.encode("works").shape == (384,)
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    run = subprocess.run(
        [sys.executable, "-B", "-c", code], env=environment, capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr
    assert not list(tmp_path.rglob("__pycache__"))


def test_no_folder_for_compiled_code_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def njit(cache: bool = False, **_: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(simd, "njit", njit)
    assert simd.jit(len) is len


def test_backend_auto_and_what_does_not_fit(weights_folder: Path) -> None:
    model = SentenceTransformer(weights_folder, dtype="float64")
    assert (model.backend, model.backend_reason) == ("numpy", "dtype float64: the Numba kernels compute in float32")
    with pytest.raises(ValueError, match="backend: found 'numba', wanted 'auto' or 'numpy': dtype float64"):
        SentenceTransformer(weights_folder, backend="numba", dtype="float64")
    for threads in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="threads: found"):
            SentenceTransformer(weights_folder, threads=threads)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("limit", [1, 50, 320])
def test_chunks_hold_every_text_once_and_are_about_equal(threads: int, limit: int) -> None:
    for lengths in ([5], [256] * 7, [256, 200, 100, 100, 50, 3, 2], [20] * 1000, list(range(256, 2, -1))):
        cuts = _cut_by_tokens(np.array(lengths), limit, threads)
        chunks = np.split(np.array(lengths), cuts)
        assert np.concatenate(chunks).tolist() == lengths
        sizes = [int(chunk.sum()) for chunk in chunks]
        assert min(len(chunk) for chunk in chunks) > 0
        assert max(sizes) < limit + max(lengths)
        if len(lengths) == 1000:
            assert max(sizes) - min(sizes) <= 20
            assert limit == 1 or len(chunks) % threads == 0


OTHER_WIDTH = """
import sys
import llvmlite.binding, numpy, pytest
have = llvmlite.binding.get_host_cpu_features()
if have.get("avx512f"):
    have.update({name: False for name in have if name.startswith("avx512")})
else:
    class Claims(type(have)):  # what is compiled for stays the same: LLVM makes two registers of one vector
        def get(self, name):
            return name == "avx512f"
    have = Claims(have)
llvmlite.binding.get_host_cpu_features = lambda: have
vectors, texts, folder, test, chosen = sys.argv[1:]
failed = pytest.main(["-q", "-p", "no:cacheprovider", "-k", chosen, test])  # first: it rewrites what it imports
from minilm_np import SentenceTransformer
from minilm_np.kernels import simd
numpy.save(vectors, SentenceTransformer(folder, backend="numba").encode(open(texts).read().split("|")))
print("width", simd.WIDTH)
sys.exit(failed)
"""


@needs_jit
def test_another_width_gives_the_same_bits(weights_folder: Path, tmp_path: Path) -> None:
    """What a CPU with AVX-512, or without, runs: a process that takes itself for one."""
    texts = ["Yes.", "", "A man is eating food. " * 3, "how do i reset my password", "long " * 300] * 3
    (tmp_path / "texts").write_text("|".join(texts))
    arguments = [str(tmp_path / name) for name in ("vectors.npy", "texts")]
    arguments += [str(weights_folder), __file__, "linear or layer_norm or attention or exact or pool"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", OTHER_WIDTH, *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert f"width {24 - W}\n" in run.stdout and " passed" in run.stdout
    ours = SentenceTransformer(weights_folder, backend="numba").encode(texts, truncation="ignore")
    assert np.array_equal(ours, np.load(tmp_path / "vectors.npy"))


# --- threads


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu.max": "nonsense"}, None),
    ],
)
def test_threads_obey_the_container(tmp_path: Path, files: dict[str, str], wanted: int | None) -> None:
    free = available_cpus(tmp_path / "nothing")
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert available_cpus(tmp_path) == (wanted or free)
    assert free >= 1


def test_a_pickled_model_is_its_arguments(weights_folder: Path) -> None:
    model = SentenceTransformer(weights_folder, backend="numpy", dtype="float64")
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.encode("same"), model.encode("same"))
