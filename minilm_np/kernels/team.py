"""One short text on several cores: the op set again, with dense layers and attention split among a team of threads.

A query of 20 word pieces is 30 operations of about 50 microseconds, and 42 MB of weights that one core cannot read any
faster: both have to be shared, and handing each operation to a thread pool would cost more than it saves. So the
helpers wait in a loop, without the GIL, for the number in `box` to rise; the box says what is to be done, and each does
its share of columns or heads. Every number is computed as it is alone, so the result has the same bits.
"""

from __future__ import annotations

import _thread
import os
import platform
import time
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils

from minilm_np import kernels, ops
from minilm_np.kernels.attention import attention
from minilm_np.kernels.linear import Packed, linear
from minilm_np.kernels.simd import F32, I64, WITHOUT_JIT, empty, inline, jit, operation

Array = npt.NDArray[Any]

# The box: an int64 array, its fields a cache line (8 numbers) apart where different threads write.
POSTED, WHAT, ARGUMENTS, DONE = 0, 1, 8, 24  # DONE + 8 * part: the last operation that a helper has finished
STOP, LINEAR, ATTENTION = 0, 1, 2
GONE = 1 << 62  # as DONE: this helper has failed
LARGEST = 8  # members; the narrowest dense layer has eight panels
PATIENCE = 20_000  # looks at the box, about 0.1 ms, before a helper lets others have its core


_let_others_run = getattr(os, "sched_yield", lambda: time.sleep(0))


# --- memory that two threads look at -----------------------------------------------------------


def _box_address(context: Any, builder: Any, signature: Any, box: Any, i: Any) -> Any:
    return builder.gep(context.make_array(signature.args[-2])(context, builder, box).data, [i])


@operation(lambda box, i: int(box[i]))
def look(typing: Any, box: Any, i: Any) -> Any:
    """box[i], and all that was written before it was set"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):  # a hint: this is a waiting loop
            pause = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, pause, "llvm.x86.sse2.pause"), [])
        return builder.load_atomic(_box_address(context, builder, signature, *arguments), "acquire", 8)

    return types.int64(box, types.intp), generate


def _announce_twin(value: int, box: Array, i: int) -> None:
    box[i] = value


@operation(_announce_twin)
def announce(typing: Any, value: Any, box: Any, i: Any) -> Any:
    """box[i] = value, seen by others only after all that was written before"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, box, i = arguments
        builder.store_atomic(value, _box_address(context, builder, signature, box, i), "release", 8)
        return context.get_dummy_value()

    return types.none(types.int64, box, types.intp), generate


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


@jit
def serve(box, finished, part, parts):
    """Do this helper's share of whatever is posted, from operation number finished + 1 on, until STOP or patience ends.

    Returns the number of the last operation done, or -1 after STOP.
    """
    patience = PATIENCE
    while patience > 0:
        if look(box, POSTED) == finished:
            patience -= 1
            continue
        patience = PATIENCE
        finished += 1
        if box[WHAT] == STOP:
            announce(finished, box, DONE + 8 * part)
            return -1
        a = box[ARGUMENTS : ARGUMENTS + 8]
        if box[WHAT] == LINEAR:
            T, K, N = a[4], a[5], a[6]
            x, panels = carray(_floats_at(a[0]), T * K), carray(_floats_at(a[1]), N * K)
            bias, y = carray(_floats_at(a[2]), N), carray(_floats_at(a[3]), T * N)
            linear(x, T, K, panels, bias, N, a[7] == 1, y, part, parts)
        else:
            T, H = a[4], a[5]
            qkv, context = carray(_floats_at(a[0]), T * 3 * H), carray(_floats_at(a[1]), T * H)
            attention(qkv, carray(_integers_at(a[2]), a[3]), H, a[6], context, part, parts)
        announce(finished, box, DONE + 8 * part)
    return finished


@inline
def post(box, what):
    box[WHAT] = what
    announce(box[POSTED] + 1, box, POSTED)


@inline
def wait(box, parts):
    for part in range(1, parts):
        while look(box, DONE + 8 * part) < box[POSTED]:
            pass


@jit
def lead_linear(box, x, T, K, panels, bias, N, use_gelu, y, parts):
    a = box[ARGUMENTS : ARGUMENTS + 8]
    a[0], a[1], a[2], a[3] = x.ctypes.data, panels.ctypes.data, bias.ctypes.data, y.ctypes.data
    a[4], a[5], a[6], a[7] = T, K, N, use_gelu
    post(box, LINEAR)
    linear(x, T, K, panels, bias, N, use_gelu, y, 0, parts)
    wait(box, parts)


@jit
def lead_attention(box, qkv, offsets, T, H, num_heads, context, parts):
    a = box[ARGUMENTS : ARGUMENTS + 8]
    a[0], a[1], a[2], a[3] = qkv.ctypes.data, context.ctypes.data, offsets.ctypes.data, len(offsets)
    a[4], a[5], a[6] = T, H, num_heads
    post(box, ATTENTION)
    attention(qkv, offsets, H, num_heads, context, 0, parts)
    wait(box, parts)


@jit
def dismiss(box, parts):
    post(box, STOP)
    wait(box, parts)


class Team:
    """The op set of minilm_np.kernels on `threads` threads, from entering the context to leaving it.

    The caller is one of them; it alone does what takes a microsecond.
    """

    embed = staticmethod(kernels.embed)
    add_layer_norm = staticmethod(kernels.add_layer_norm)
    attention_probs = staticmethod(kernels.attention_probs)
    pool = staticmethod(kernels.pool)
    l2_normalize = staticmethod(kernels.l2_normalize)
    prepare_dense = staticmethod(kernels.prepare_dense)

    def __init__(self, threads: int):
        self.parts = 1 if WITHOUT_JIT else min(threads, LARGEST)
        self._box = np.zeros(DONE + 8 * LARGEST, np.int64)
        self._errors: list[BaseException] = []

    def __enter__(self) -> Team:
        for part in range(1, self.parts):
            try:
                _thread.start_new_thread(self._help, (part,))  # threading.Thread waits for it: 0.1 ms
            except RuntimeError:  # the system allows no more threads: the caller does it alone
                dismiss(self._box, part)
                self.parts = 1
                break
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        dismiss(self._box, self.parts)
        if self._errors and not error:
            raise self._errors[0]

    def _help(self, part: int) -> None:
        finished = 0
        try:
            while finished >= 0:
                finished = serve(self._box, finished, part, self.parts)
                _let_others_run()
        except BaseException as error:  # out of memory; nobody shall wait for this thread
            self._errors.append(error)
            self._box[DONE + 8 * part] = GONE

    def linear(self, x: Array, dense: Packed, activation: str | None) -> Array:
        (N, K), T = dense.shape, len(x)
        y: Array = empty(T * N).reshape(T, N)
        gelu = activation == "gelu"
        lead_linear(self._box, x.reshape(-1), T, K, dense.panels, dense.bias, N, gelu, y.reshape(-1), self.parts)
        return y if activation in (None, "gelu") else ops.ACTIVATIONS[activation](y)

    def attention(self, qkv: Array, offsets: Array, num_heads: int) -> Array:
        T, H = len(qkv), qkv.shape[1] // 3
        context: Array = empty(T * H).reshape(T, H)
        lead_attention(self._box, qkv.reshape(-1), offsets, T, H, num_heads, context.reshape(-1), self.parts)
        return context
