"""One short text on several cores: the op set again, with dense layers and attention split among a team of threads.

A query of 20 word pieces is 30 operations of about 50 microseconds, and 42 MB of weights that one core cannot read any
faster: both have to be shared, and handing each operation to a thread pool would cost more than it saves. So the
helpers look into a box, in a loop and without the GIL: it says what is to be done, in how many pieces (panels, heads),
and every thread takes the next piece. The caller takes pieces too, and waits only for what a helper has begun: where
the other cores are busy it does everything itself. Every number is computed as it is alone: the same bits.
"""

from __future__ import annotations

import _thread
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils

from minilm_np import kernels, ops
from minilm_np.kernels.attention import LANES, attention, scratch_size
from minilm_np.kernels.linear import Packed, linear, panels_of
from minilm_np.kernels.simd import F32, I64, WITHOUT_JIT, empty, inline, jit, operation

Array = npt.NDArray[Any]

# The box: an int64 array. What several threads write lies a cache line (8 numbers) apart.
OPEN, DONE, WHAT, ARGUMENTS = 0, 8, 16, 17
SIZE = ARGUMENTS + 9
# OPEN: number of the operation << 32 | first << 16 | last: of its pieces (panels, heads) nobody has taken those from
# first to last - 1 yet. The caller takes them from below and helpers from above, so each knows which panel it will
# want next.
LINEAR, ATTENTION = 1, 2  # WHAT
LARGEST = 8  # members: the narrowest dense layer has eight panels
ALONE = 32  # tokens: the attention of fewer takes less time than asking for help
# Looks at the box, some 0.5 ms, before a helper without work lets others have its core; and how often it does so before
# it ends. Queries in a row find it awake, which saves each the 0.2 ms that waking a core takes.
PATIENCE, LINGER = 20_000, 4

_let_others_run = getattr(os, "sched_yield", lambda: time.sleep(0))


# --- memory that two threads look at -----------------------------------------------------------


def _box_address(context: Any, builder: Any, box_type: Any, box: Any, i: Any) -> Any:
    return builder.gep(context.make_array(box_type)(context, builder, box).data, [i])


@operation(lambda box, i: int(box[i]))
def look(typing: Any, box: Any, i: Any) -> Any:
    """box[i], and all that was written before it was set"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):  # a hint: this is a waiting loop
            pause = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, pause, "llvm.x86.sse2.pause"), [])
        return builder.load_atomic(_box_address(context, builder, signature.args[0], *arguments), "acquire", 8)

    return types.int64(box, types.intp), generate


def _swap_twin(box: Array, i: int, old: int, new: int) -> bool:
    same = bool(box[i] == old)
    if same:
        box[i] = new
    return same


@operation(_swap_twin)
def swap(typing: Any, box: Any, i: Any, old: Any, new: Any) -> Any:
    """box[i] = new if it is still old; whether it was"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        box, i, old, new = arguments
        address = _box_address(context, builder, signature.args[0], box, i)
        return builder.extract_value(builder.cmpxchg(address, old, new, "acq_rel", "acquire"), 1)

    return types.boolean(box, types.intp, types.int64, types.int64), generate


def _increase_twin(box: Array, i: int) -> None:
    box[i] += 1


@operation(_increase_twin)
def increase(typing: Any, box: Any, i: Any) -> Any:
    """box[i] += 1, seen by others only after all that was written before"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _box_address(context, builder, signature.args[0], *arguments)
        builder.atomic_rmw("add", address, ir.Constant(I64, 1), "acq_rel")
        return context.get_dummy_value()

    return types.none(box, types.intp), generate


@operation(lambda address: address)
def _floats_at(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], F32.as_pointer())

    return types.CPointer(types.float32)(types.int64), generate


@operation(lambda address: address)
def _integers_at(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], I64.as_pointer())

    return types.CPointer(types.int64)(types.int64), generate


# --- the work ----------------------------------------------------------------------------------


@inline
def take(box, from_below):
    """A piece of the posted operation that is now this thread's, or -1 if there is none or another was quicker."""
    seen = look(box, OPEN)
    first, last = (seen >> 16) & 0xFFFF, seen & 0xFFFF
    if first == last:
        return -1
    if from_below:
        return first if swap(box, OPEN, seen, seen + 0x10000) else -1
    return last - 1 if swap(box, OPEN, seen, seen - 1) else -1


@inline
def do(box, piece, step):
    """The piece taken. Its arrays stay: the caller waits until every piece that was taken is done."""
    a = box[ARGUMENTS:]
    if box[WHAT] == LINEAR:
        T, K, N = a[4], a[5], a[6]
        x, panels = carray(_floats_at(a[0]), T * K), carray(_floats_at(a[1]), N * K)
        bias, y = carray(_floats_at(a[2]), N), carray(_floats_at(a[3]), T * N)
        linear(x, T, K, panels, bias, N, a[7] == 1, y, piece, piece + 1, step)
    else:
        T, H, num_heads = a[4], a[5], a[6]
        qkv, context = carray(_floats_at(a[0]), T * 3 * H), carray(_floats_at(a[1]), T * H)
        size = (H // num_heads + a[8]) * LANES  # scratch_size
        scratch = carray(_floats_at(a[7] + 4 * size * piece), size)
        attention(qkv, carray(_integers_at(a[2]), a[3]), H, num_heads, context, piece, piece + 1, scratch)
    increase(box, DONE)


@jit
def serve(box, helpers, looks):
    """A helper: do pieces of what is posted, until `looks` at the box in a row found none. Returns whether any did.

    A piece that it has taken it does: nothing here allocates memory or raises.
    """
    patience, useful = looks, False
    while patience > 0:
        piece = take(box, False)
        if piece >= 0:
            do(box, piece, -helpers)
            patience, useful = looks, True
        patience -= 1
    return useful


@jit
def lead(box, what, pieces, a0, a1, a2, a3, a4, a5, a6, a7, a8):
    """The caller: post an operation, do pieces of it until all are taken, and wait until they are done."""
    a = box[ARGUMENTS:]
    a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8] = a0, a1, a2, a3, a4, a5, a6, a7, a8
    box[WHAT] = what
    box[DONE] = 0
    before = box[OPEN]
    swap(box, OPEN, before, (((before >> 32) + 1) << 32) + pieces)
    first, last = 0, pieces
    while first < last:
        piece = take(box, True)
        if piece >= 0:
            do(box, piece, 1)
        open_ = look(box, OPEN)
        first, last = (open_ >> 16) & 0xFFFF, open_ & 0xFFFF
    while look(box, DONE) != pieces:
        pass


class Team:
    """The op set of minilm_np.kernels on several threads; the caller is one and does alone what takes no time."""

    embed = staticmethod(kernels.embed)
    add_layer_norm = staticmethod(kernels.add_layer_norm)
    attention_probs = staticmethod(kernels.attention_probs)
    pool = staticmethod(kernels.pool)
    l2_normalize = staticmethod(kernels.l2_normalize)
    prepare_dense = staticmethod(kernels.prepare_dense)

    def __init__(self, threads: int):
        self.members = 1 if WITHOUT_JIT else min(threads, LARGEST)
        self._box = np.zeros(SIZE, np.int64)
        self._helpers: list[None] = []  # one for each; append and pop are atomic, which += and -= are not

    def assemble(self) -> None:
        """Start the helpers that are not there (any more); each ends by itself when there is nothing to do."""
        with suppress(RuntimeError):  # the system allows no more threads: who is there does it all
            while len(self._helpers) < self.members - 1:
                _thread.start_new_thread(self._help, ())  # threading.Thread waits for it: 0.1 ms
                self._helpers.append(None)

    def _help(self) -> None:
        idle = 0
        while idle < LINGER:
            idle = 0 if serve(self._box, self.members - 1, PATIENCE) else idle + 1
            _let_others_run()
        self._helpers.pop()

    def linear(self, x: Array, dense: Packed, activation: str | None) -> Array:  # (T, K) -> (T, N)
        if self.members == 1:
            return kernels.linear(x, dense, activation)
        (N, K), T = dense.shape, len(x)
        y: Array = empty(T * N).reshape(T, N)
        arrays = (_address(x), _address(dense.panels), _address(dense.bias), _address(y))
        lead(self._box, LINEAR, panels_of(N), *arrays, T, K, N, int(activation == "gelu"), 0)
        return y if activation in (None, "gelu") else ops.ACTIVATIONS[activation](y)

    def attention(self, qkv: Array, offsets: Array, num_heads: int) -> Array:  # (T, 3H) -> (T, H)
        T, H = len(qkv), qkv.shape[1] // 3
        if self.members == 1 or T < ALONE:
            return kernels.attention(qkv, offsets, num_heads)
        context: Array = empty(T * H).reshape(T, H)
        offsets = np.ascontiguousarray(offsets, np.int64)
        longest = int(np.diff(offsets).max())
        scratch = empty(num_heads * scratch_size(H // num_heads, longest))  # each head its own
        arrays = (_address(qkv), _address(context), _address(offsets))
        sizes = (len(offsets), T, H, num_heads)
        lead(self._box, ATTENTION, num_heads, *arrays, *sizes, _address(scratch), longest)
        return context


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


_teams: dict[tuple[int, int], Team] = {}
_in_use = threading.Lock()


@contextmanager
def team(threads: int) -> Iterator[Team | None]:
    """The team of so many threads; None while another call has it: two would keep each other from their cores."""
    if not _in_use.acquire(blocking=False):
        yield None
        return
    try:
        found = _teams.setdefault((os.getpid(), threads), Team(threads))  # threads do not survive a fork
        found.assemble()
        yield found
    finally:
        _in_use.release()
