"""Op set for one short text: the dense layers and attention run on several threads at once.

The problem. Many texts are divided into chunks (encoder.py). Each thread computes whole chunks, and the threads never
wait for each other. A single query is only one chunk. For a query of 20 tokens, the six layers run 30 operations (four
dense layers and attention each) of about 50 microseconds, and read 42 MB of weights. One core of an AMD Zen 3 reads
15 GB/s, so it needs 2.8 ms for the memory traffic and 5 ms for the arithmetic: both have to be shared. A thread pool is
too slow for operations this short: handing 30 of them to Python's ThreadPoolExecutor costs 0.9 ms. So the threads
communicate from compiled code, without the GIL, through a small array that they all see, the box.

Pieces. An operation is cut into pieces that can be computed independently: a dense layer into the panels of its weight
(linear.py), attention into its heads. A piece writes its own columns of the result and nothing else. (If PANEL does not
divide the number of columns, the last two panels overlap, so they are one piece.) The thread that calls `encode` (the
caller) posts the operation. It and the workers, which poll the box, then take one piece at a time until none is left.

The box is an array of int64:

    index   name              contents                                                 written by
    0       UNTAKEN_PIECES    operation number << 32 | first << 16 | last              caller and workers, atomically
    8       PIECES_DONE       number of pieces that are finished                       caller and workers, atomically
    16      OPERATION         LINEAR or ATTENTION                                      caller
    17-25   ARGUMENTS         addresses of the operation's arrays, and their sizes     caller

The three groups lie a cache line (8 numbers) apart. If they shared one, every finished piece would take the line with
the arguments away from the other cores. UNTAKEN_PIECES keeps three numbers in one word so that a single atomic
instruction changes all three: pieces first to last - 1 of the operation have not been taken yet. The caller takes the
first of them and workers take the last. So the caller knows its next panel, a worker can guess its own (with W workers,
W panels lower), and `linear` can prefetch that panel.

One operation, step by step:

    1. The caller writes ARGUMENTS and OPERATION and sets PIECES_DONE to 0. It then publishes the operation by setting
       UNTAKEN_PIECES to (previous operation number + 1, 0, number of pieces).
    2. A thread takes a piece: it loads UNTAKEN_PIECES and replaces it by compare-and-swap, with first + 1 or last - 1.
    3. It reads OPERATION and ARGUMENTS, computes the piece, and adds 1 to PIECES_DONE.
    4. When first == last, the caller waits until PIECES_DONE equals the number of pieces, then returns. The arrays
       belong to the caller and stay alive until then.

Why this is safe. All accesses to UNTAKEN_PIECES and PIECES_DONE by which threads synchronize are atomic. Loads have
acquire order and read-modify-write operations have acquire and release order: a thread that sees a value also sees
everything that was written before that value was stored.

    - A worker that takes a piece sees the arguments and the reset PIECES_DONE, because the caller wrote them before
      publishing (release) and the worker loaded the published word or one derived from it (acquire).
    - The caller sees the results, because each thread wrote its piece before it increased PIECES_DONE (release) and the
      caller loaded the final count (acquire).
    - No two threads take the same piece. Between the load and the swap another thread may have taken a piece; then the
      word differs, the compare-and-swap fails, and the thread loads the word again.
    - A worker that was suspended between the load and the swap cannot take a piece of a later operation. Without the
      operation number it could: the word would hold the old value again if the next operation had as many pieces (the
      ABA problem). Within one operation first only rises and last only falls, and each operation has a new number, so
      a word comes back only after 2**32 operations.
    - ARGUMENTS, OPERATION and the reset of PIECES_DONE need no atomic instructions: the caller writes them only when
      all pieces of the previous operation are done, and other threads read them only while they hold a piece.
    - Only one thread at a time is the caller: `team` holds a lock.

The life of a worker. `team` starts the missing workers. `worker_loop` polls the box. After POLLS_BEFORE_YIELD polls
without a piece (0.5 ms) the worker yields its core to other threads, and after IDLE_YIELDS_BEFORE_EXIT idle rounds it
ends. Queries in quick succession find it awake, which saves each of them the 0.2 ms that waking a core takes. No worker
polls for longer than about 2 ms after the last query. Workers are daemonic: the interpreter does not wait for
them at exit. They do not survive a fork, so teams are kept per process id; the child starts workers for a new box.
If the parent forks while another of its threads holds the lock, the lock stays held in the child, and single queries
there run on one thread.

If no worker comes, because the cores are busy or the system allows no more threads, the caller takes every piece
itself. It waits only for pieces that a worker has begun, never for a worker to begin.

Same bits. Every element is computed by the same kernel, from the same inputs, in the same order as on one thread. It
makes no difference which thread computes it.
"""

from __future__ import annotations

import _thread
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils

from minilm_np import kernels, ops
from minilm_np.kernels.attention import LANES, attention, scratch_size
from minilm_np.kernels.linear import PANEL, Packed, linear
from minilm_np.kernels.simd import F32, I64, WITHOUT_JIT, empty, inline, jit, operation

Array = npt.NDArray[Any]

UNTAKEN_PIECES, PIECES_DONE, OPERATION, ARGUMENTS = 0, 8, 16, 17  # indices into the box
BOX_SIZE = ARGUMENTS + 9
LINEAR, ATTENTION = 1, 2  # values of OPERATION

MAX_THREADS = 8  # the narrowest dense layer (384 outputs) has 8 panels with AVX-512: more threads would find no piece
MIN_TOKENS_TO_SHARE_ATTENTION = 32  # for fewer tokens, attention on one thread takes less time than sharing it
POLLS_BEFORE_YIELD = 20_000  # about 0.5 ms
IDLE_YIELDS_BEFORE_EXIT = 4

_yield_core = getattr(os, "sched_yield", lambda: time.sleep(0))


# --- atomic access to the box ------------------------------------------------------------------


def _element_address(context: Any, builder: Any, box_type: Any, box: Any, i: Any) -> Any:
    return builder.gep(context.make_array(box_type)(context, builder, box).data, [i])


@operation(lambda box, i: int(box[i]))
def load_acquire(typing: Any, box: Any, i: Any) -> Any:
    """Return box[i]. Everything written before that value was released is visible afterwards."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):  # tells the CPU that this is a polling loop
            pause = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, pause, "llvm.x86.sse2.pause"), [])
        return builder.load_atomic(_element_address(context, builder, signature.args[0], *arguments), "acquire", 8)

    return types.int64(box, types.intp), generate


def _compare_and_swap_twin(box: Array, i: int, old: int, new: int) -> bool:
    same = bool(box[i] == old)
    if same:
        box[i] = new
    return same


@operation(_compare_and_swap_twin)
def compare_and_swap(typing: Any, box: Any, i: Any, old: Any, new: Any) -> Any:
    """Set box[i] to new if it equals old, in one atomic step. Return whether it did."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        box, i, old, new = arguments
        address = _element_address(context, builder, signature.args[0], box, i)
        return builder.extract_value(builder.cmpxchg(address, old, new, "acq_rel", "acquire"), 1)

    return types.boolean(box, types.intp, types.int64, types.int64), generate


def _increment_twin(box: Array, i: int) -> None:
    box[i] += 1


@operation(_increment_twin)
def increment(typing: Any, box: Any, i: Any) -> Any:
    """Add 1 to box[i] atomically. A thread that sees the new value sees everything written before it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _element_address(context, builder, signature.args[0], *arguments)
        builder.atomic_rmw("add", address, ir.Constant(I64, 1), "acq_rel")
        return context.get_dummy_value()

    return types.none(box, types.intp), generate


@operation(lambda address: address)
def _float32_pointer(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], F32.as_pointer())

    return types.CPointer(types.float32)(types.int64), generate


@operation(lambda address: address)
def _int64_pointer(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], I64.as_pointer())

    return types.CPointer(types.int64)(types.int64), generate


# --- the protocol ------------------------------------------------------------------------------


@inline
def take_piece(box, is_caller):
    """Take a piece of the posted operation. Return its number, or -1 if none is left or another thread was faster."""
    word = load_acquire(box, UNTAKEN_PIECES)
    first, last = (word >> 16) & 0xFFFF, word & 0xFFFF
    if first == last:
        return -1
    if is_caller:
        return first if compare_and_swap(box, UNTAKEN_PIECES, word, word + 0x10000) else -1
    return last - 1 if compare_and_swap(box, UNTAKEN_PIECES, word, word - 1) else -1


@inline
def run_piece(box, piece, panels_to_next):
    """Compute a piece that this thread has taken. Its next piece is probably `panels_to_next` panels further on.

    The arrays at the addresses in ARGUMENTS stay alive: the caller waits until every piece taken is done.
    """
    a = box[ARGUMENTS:]
    if box[OPERATION] == LINEAR:
        T, K, N = a[4], a[5], a[6]
        x, panels = carray(_float32_pointer(a[0]), T * K), carray(_float32_pointer(a[1]), N * K)
        bias, y = carray(_float32_pointer(a[2]), N), carray(_float32_pointer(a[3]), T * N)
        stop = piece + 1 if piece + 1 < N // PANEL else (N + PANEL - 1) // PANEL  # the last piece may have two panels
        linear(x, T, K, panels, bias, N, a[7] == 1, y, piece, stop, panels_to_next)
    else:
        T, H, num_heads = a[4], a[5], a[6]
        qkv, context = carray(_float32_pointer(a[0]), T * 3 * H), carray(_float32_pointer(a[1]), T * H)
        size = (H // num_heads + a[8]) * LANES  # scratch_size
        scratch = carray(_float32_pointer(a[7] + 4 * size * piece), size)
        attention(qkv, carray(_int64_pointer(a[2]), a[3]), H, num_heads, context, piece, piece + 1, scratch)
    increment(box, PIECES_DONE)


@jit
def worker_loop(box, workers, polls):
    """Run posted pieces; return after `polls` consecutive polls without a piece. Return whether any piece was run.

    Nothing here allocates memory or raises, so a piece that a worker has taken is always finished.
    """
    polls_left, was_useful = polls, False
    while polls_left > 0:
        piece = take_piece(box, False)
        if piece >= 0:
            run_piece(box, piece, -workers)
            polls_left, was_useful = polls, True
        polls_left -= 1
    return was_useful


@jit
def run_shared(box, operation, pieces, a0, a1, a2, a3, a4, a5, a6, a7, a8):
    """Post an operation, run pieces of it until all are taken, and wait until all are done. For the caller only."""
    a = box[ARGUMENTS:]
    a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8] = a0, a1, a2, a3, a4, a5, a6, a7, a8
    box[OPERATION] = operation
    box[PIECES_DONE] = 0
    before = box[UNTAKEN_PIECES]  # first == last: no other thread changes it now
    compare_and_swap(box, UNTAKEN_PIECES, before, (((before >> 32) + 1) << 32) + pieces)
    first, last = 0, pieces
    while first < last:
        piece = take_piece(box, True)
        if piece >= 0:
            run_piece(box, piece, 1)
        word = load_acquire(box, UNTAKEN_PIECES)
        first, last = (word >> 16) & 0xFFFF, word & 0xFFFF
    while load_acquire(box, PIECES_DONE) != pieces:
        pass


class Team:
    """The op set of minilm_np.kernels with `linear` and `attention` shared among the calling thread and workers.

    threads: the number of threads including the caller; at most MAX_THREADS are used, and 1 without the JIT.

    The other operations take too little time to share.
    """

    embed = staticmethod(kernels.embed)
    add_layer_norm = staticmethod(kernels.add_layer_norm)
    attention_probs = staticmethod(kernels.attention_probs)
    pool = staticmethod(kernels.pool)
    l2_normalize = staticmethod(kernels.l2_normalize)
    prepare_dense = staticmethod(kernels.prepare_dense)

    def __init__(self, threads: int):
        self.threads = 1 if WITHOUT_JIT else min(threads, MAX_THREADS)
        self._box = np.zeros(BOX_SIZE, np.int64)
        self._workers: list[None] = []  # one entry per running worker; append and pop are atomic, += and -= are not

    def start_workers(self) -> None:
        """Start the workers that are not running. Each ends by itself when it has been idle for about 2 ms."""
        try:
            for _ in range(self.threads - 1 - len(self._workers)):
                self._workers.append(None)  # before the start: the worker removes it when it ends
                _thread.start_new_thread(self._work, ())  # threading.Thread.start would wait for the thread: 0.1 ms
        except RuntimeError:  # the system allows no more threads; the caller and the workers that run share the pieces
            self._workers.pop()

    def _work(self) -> None:
        idle_yields = 0
        while idle_yields < IDLE_YIELDS_BEFORE_EXIT:
            was_useful = worker_loop(self._box, self.threads - 1, POLLS_BEFORE_YIELD)
            idle_yields = 0 if was_useful else idle_yields + 1
            _yield_core()
        self._workers.pop()

    def linear(self, x: Array, dense: Packed, activation: str | None) -> Array:  # (T, K) -> (T, N)
        if self.threads == 1:
            return kernels.linear(x, dense, activation)
        (N, K), T = dense.shape, len(x)
        y: Array = empty(T * N).reshape(T, N)
        arrays = (_address(x), _address(dense.panels), _address(dense.bias), _address(y))
        run_shared(self._box, LINEAR, N // PANEL, *arrays, T, K, N, int(activation == "gelu"), 0)
        return y if activation in (None, "gelu") else ops.ACTIVATIONS[activation](y)

    def attention(self, qkv: Array, offsets: Array, num_heads: int) -> Array:  # (T, 3H) -> (T, H)
        T, H = len(qkv), qkv.shape[1] // 3
        if self.threads == 1 or T < MIN_TOKENS_TO_SHARE_ATTENTION:
            return kernels.attention(qkv, offsets, num_heads)
        context: Array = empty(T * H).reshape(T, H)
        offsets = np.ascontiguousarray(offsets, np.int64)
        longest = int(np.diff(offsets).max())
        scratch = empty(num_heads * scratch_size(H // num_heads, longest))  # a separate part for each head
        arrays = (_address(qkv), _address(context), _address(offsets))
        sizes = (len(offsets), T, H, num_heads)
        run_shared(self._box, ATTENTION, num_heads, *arrays, *sizes, _address(scratch), longest)
        return context


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


_teams: dict[tuple[int, int], Team] = {}  # by process id and number of threads
_in_use = threading.Lock()


@contextmanager
def team(threads: int) -> Iterator[Team | None]:
    """Lend the team of `threads` threads, or None while another call uses it: two teams would compete for the cores."""
    if not _in_use.acquire(blocking=False):
        yield None
        return
    try:
        result = _teams.setdefault((os.getpid(), threads), Team(threads))
        result.start_workers()
        yield result
    finally:
        _in_use.release()
