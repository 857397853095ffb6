"""One short text on several threads: they share the pieces of each operation.

The problem. Many texts are divided into chunks (encoder.py). Each thread computes whole chunks, and the threads never
wait for each other. A single query is only one chunk. For a query of 20 tokens, the six layers run 30 operations (four
dense layers and attention each) of about 50 microseconds, and read 42 MB of weights. One core of an AMD Zen 3 reads
15 GB/s, so it needs 2.8 ms for the memory traffic and 5 ms for the arithmetic: both have to be shared. A thread pool is
too slow for operations this short: handing 30 of them to Python's ThreadPoolExecutor costs 0.9 ms. So the threads
communicate from compiled code, without the GIL, through a small array that they all see, the box.

Pieces. instructions.py describes an operation by a row of numbers, and divides it into pieces that can be computed at
the same time. The thread that calls `encode` (the caller) posts one instruction of its program after the other. It and
the workers, which poll the box, take one piece at a time until none is left.

The box is an array of int64:

    index   name              contents                                                 written by
    0       UNTAKEN_PIECES    operation number << 32 | first << 16 | last              caller and workers, atomically
    8       PIECES_DONE       number of pieces that are finished                       caller and workers, atomically
    16      INSTRUCTION       address of the instruction                               caller

The three groups lie a cache line (8 numbers) apart. If they shared one, every finished piece would take the line with
the arguments away from the other cores. UNTAKEN_PIECES keeps three numbers in one word so that a single atomic
instruction changes all three: pieces first to last - 1 of the operation have not been taken yet. The caller takes the
first of them and workers take the last. So the caller knows its next panel, a worker can guess its own (with W workers,
W panels lower), and `linear` can prefetch that panel.

One operation, step by step:

    1. The caller writes INSTRUCTION and sets PIECES_DONE to 0. It then publishes the operation by setting
       UNTAKEN_PIECES to (previous operation number + 1, 0, number of pieces).
    2. A thread takes a piece: it loads UNTAKEN_PIECES and replaces it by compare-and-swap, with first + 1 or last - 1.
    3. It reads INSTRUCTION, computes the piece, and adds 1 to PIECES_DONE.
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
    - INSTRUCTION and the reset of PIECES_DONE need no atomic instructions: the caller writes them only when
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

from minilm_np import kernels
from minilm_np.kernels.instructions import (
    FUNCTION,
    INSTRUCTION_SIZE,
    PIECES,
    PieceFunction,
    address_of,
    call_piece,
    int64_pointer,
)
from minilm_np.kernels.program import Program, SharedOps
from minilm_np.kernels.simd import I64, WITHOUT_JIT, inline, jit, operation

Array = npt.NDArray[Any]

UNTAKEN_PIECES, PIECES_DONE, INSTRUCTION = 0, 8, 16  # indices into the box
BOX_SIZE = 24

MAX_THREADS = 8  # the narrowest dense layer (384 outputs) has 8 panels with AVX-512: more threads would find no piece
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
def run_posted_piece(box, piece, ahead):
    """Compute a piece that this thread has taken, and count it."""
    call_piece(carray(int64_pointer(box[INSTRUCTION]), 1)[FUNCTION], box[INSTRUCTION], piece, ahead)
    increment(box, PIECES_DONE)


@jit
def worker_loop(box, polls):
    """Run posted pieces; return after `polls` consecutive polls without a piece. Return whether any piece was run.

    Nothing here allocates memory or raises, so a piece that a worker has taken is always finished.
    """
    polls_left, was_useful = polls, False
    while polls_left > 0:
        piece = take_piece(box, False)
        if piece >= 0:
            run_posted_piece(box, piece, -1)
            polls_left, was_useful = polls, True
        polls_left -= 1
    return was_useful


@inline
def run_shared(box, instruction, pieces):
    """Post an instruction, run pieces of it until all are taken, and wait until all are done."""
    box[INSTRUCTION] = instruction
    box[PIECES_DONE] = 0
    before = box[UNTAKEN_PIECES]  # first == last: no other thread changes it now
    compare_and_swap(box, UNTAKEN_PIECES, before, (((before >> 32) + 1) << 32) + pieces)
    first, last = 0, pieces
    while first < last:
        piece = take_piece(box, True)
        if piece >= 0:
            run_posted_piece(box, piece, 1)
        word = load_acquire(box, UNTAKEN_PIECES)
        first, last = (word >> 16) & 0xFFFF, word & 0xFFFF
    while load_acquire(box, PIECES_DONE) != pieces:
        pass


@jit
def run_program(box, address, count, shared):
    """Run the `count` instructions at an address in order; share their pieces if `shared`. For the caller only."""
    instructions = carray(int64_pointer(address), (count, INSTRUCTION_SIZE))
    for i in range(count):
        pieces = instructions[i, PIECES]
        if shared and pieces > 1:
            run_shared(box, address + 8 * INSTRUCTION_SIZE * i, pieces)
        else:
            for piece in range(pieces):
                call_piece(instructions[i, FUNCTION], address + 8 * INSTRUCTION_SIZE * i, piece, 1)


class Team(SharedOps):
    """The op set of minilm_np.kernels with `linear` and `attention` shared among the calling thread and workers.

    threads: the number of threads including the caller; at most MAX_THREADS are used.

    The other operations take too little time to share.
    """

    embed = staticmethod(kernels.embed)
    add_layer_norm = staticmethod(kernels.add_layer_norm)
    attention_probs = staticmethod(kernels.attention_probs)
    pool = staticmethod(kernels.pool)
    l2_normalize = staticmethod(kernels.l2_normalize)
    prepare_dense = staticmethod(kernels.prepare_dense)

    def __init__(self, threads: int):
        self.threads = min(threads, MAX_THREADS)
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
            was_useful = worker_loop(self._box, POLLS_BEFORE_YIELD)
            idle_yields = 0 if was_useful else idle_yields + 1
            _yield_core()
        self._workers.pop()

    def add(self, function: PieceFunction, pieces: int, *numbers: int) -> None:
        """Run an instruction now."""
        instruction = np.zeros(INSTRUCTION_SIZE, np.int64)
        instruction[: 2 + len(numbers)] = function.address, pieces, *numbers
        run_program(self._box, address_of(instruction), 1, self.threads > 1)

    def run(self, program: Program, token_ids: Array, token_type_ids: Array) -> Array:
        """Return the sentence embeddings (B, H) of a chunk with the program's offsets; the next run changes them."""
        program.token_ids[:], program.token_type_ids[:] = token_ids, token_type_ids
        run_program(self._box, address_of(program.instructions), len(program.instructions), self.threads > 1)
        return program.result


_teams: dict[tuple[int, int], Team] = {}  # by process id and number of threads
_in_use = threading.Lock()


@contextmanager
def team(threads: int) -> Iterator[Team | None]:
    """Lend the team of `threads` threads, or None while another call uses it: two teams would compete for the cores.

    Without the JIT there is no team, because no thread runs without the GIL.
    """
    if WITHOUT_JIT or not _in_use.acquire(blocking=False):
        yield None
        return
    try:
        key = os.getpid(), threads
        if key not in _teams:
            _teams[key] = Team(threads)
        result = _teams[key]
        result.start_workers()
        yield result
    finally:
        _in_use.release()
