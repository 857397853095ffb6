"""The forward pass of one short chunk as a program: a list of instructions that compiled code runs at once.

Calling 50 operations from Python takes 0.3 ms, which is a fifth of a query's time on a fast CPU. A program is made once
for each shape of a chunk: `Recorder` is an op set that writes down what it is told to compute instead of computing it,
and model.forward tells it. So the architecture is not written a second time. Afterwards only the ids change.

A result that model.forward no longer holds gives its memory to a later one, as in any run.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from minilm_np import model, ops
from minilm_np.kernels import Dense
from minilm_np.kernels import instructions as functions
from minilm_np.kernels.attention import scratch_size
from minilm_np.kernels.bfloat16 import PackedBfloat16
from minilm_np.kernels.instructions import INSTRUCTION_SIZE, PieceFunction, address_of
from minilm_np.kernels.int8 import PANEL as INT8_PANEL
from minilm_np.kernels.int8 import PackedInt8
from minilm_np.kernels.linear import PANEL
from minilm_np.kernels.simd import X_PER_BFLOAT16_WORD, X_PER_INT8_WORD, empty

Array = npt.NDArray[Any]

MIN_TOKENS_TO_SHARE_ATTENTION = 32  # for fewer tokens, attention on one thread takes less time than sharing it
MOST_PROGRAMS = 16  # of one model; a program for 20 word pieces holds 0.3 MB


class NotRecordable(Exception):  # noqa: N818 (not an error: the operations are then run one by one)
    """Raised for an operation that has no kernel, such as max pooling."""


class SharedOps:
    """Dense layers and attention as instructions; a subclass says what becomes of an instruction, in `add`."""

    def add(self, function: PieceFunction, pieces: int, *numbers: int) -> None:
        raise NotImplementedError

    def empty(self, rows: int, columns: int) -> Array:
        """Return memory for a result (rows, columns)."""
        result: Array = empty(rows * columns).reshape(rows, columns)
        return result

    def linear(self, x: Array, dense: Dense, activation: str | None) -> Array:  # (T, K) -> (T, N)
        (N, K), T = dense.shape, len(x)
        y = self.empty(T, N)
        x_at, y_at = address_of(x), address_of(y)
        weights, use_gelu = (address_of(dense.panels), address_of(dense.bias)), int(activation == "gelu")
        if isinstance(dense, PackedBfloat16):
            words = self.empty(T, K // 2 * X_PER_BFLOAT16_WORD)
            self.add(functions.round_piece, 1, x_at, address_of(words), T * K)
            pieces = N // PANEL
            self.add(functions.linear_bfloat16_piece, pieces, address_of(words), *weights, y_at, T, K // 2, N, use_gelu)
        elif isinstance(dense, PackedInt8):
            words, scales = self.empty(T, K // 4 * X_PER_INT8_WORD), self.empty(2, T)
            rows = address_of(scales), address_of(scales) + 4 * T
            self.add(functions.quantize_piece, 1, x_at, address_of(words), *rows, T, K)
            columns = address_of(dense.scale), address_of(dense.total)
            sizes = T, K // 4, N, use_gelu
            self.add(
                functions.linear_int8_piece, N // INT8_PANEL, address_of(words), *weights, y_at, *sizes, *rows, *columns
            )
        else:
            self.add(functions.linear_piece, N // PANEL, x_at, *weights, y_at, T, K, N, use_gelu)
        return y if activation in (None, "gelu") else self.activate(y, activation)

    def activate(self, y: Array, activation: str) -> Array:
        return ops.ACTIVATIONS[activation](y)

    def attention(self, qkv: Array, offsets: Array, num_heads: int) -> Array:  # (T, 3H) -> (T, H)
        T, H = len(qkv), qkv.shape[1] // 3
        context = self.empty(T, H)
        longest = int(np.diff(offsets).max())
        pieces = num_heads if T >= MIN_TOKENS_TO_SHARE_ATTENTION else 1
        scratch = self.empty(pieces, scratch_size(H // num_heads, longest))  # a separate part for each piece
        arrays = address_of(qkv), address_of(context), address_of(offsets)
        sizes = len(offsets), T, H, num_heads
        self.add(functions.attention_piece, pieces, *arrays, *sizes, address_of(scratch), longest, pieces)
        return context


class Recorder(SharedOps):
    """An op set that computes nothing: it returns memory for each result and writes down the instructions."""

    def __init__(self) -> None:
        self.instructions: list[list[int]] = []
        self.memory: list[Array] = []  # everything that the instructions read or write
        self._unused: list[Array] = []
        self._references: list[Any] = []

    def add(self, function: PieceFunction, pieces: int, *numbers: int) -> None:
        row = [function.address, pieces, *numbers]
        self.instructions.append(row + [0] * (INSTRUCTION_SIZE - len(row)))

    def empty(self, rows: int, columns: int) -> Array:
        """Return memory for a result: some that is not used any more, if there is enough."""
        fitting = [flat for flat in self._unused if flat.size >= rows * columns]
        if fitting:
            flat = min(fitting, key=len)
            self._unused = [other for other in self._unused if other is not flat]
        else:
            flat = empty(rows * columns)
            self.memory.append(flat)
        result: Array = flat[: rows * columns].reshape(rows, columns)
        self._references.append(weakref.ref(result, lambda _: self._unused.append(flat)))
        return result

    def keep(self, array: Array, dtype: npt.DTypeLike) -> int:
        """Return the address of an array, which is copied if it has another dtype or layout."""
        self.memory.append(np.ascontiguousarray(array, dtype))
        return address_of(self.memory[-1])

    def embed(
        self,
        token_ids: Array,
        token_type_ids: Array,
        position_ids: Array,
        tables: ops.Tables,
        norm: ops.LayerNorm,
        eps: float,
    ) -> Array:
        T, H = len(token_ids), tables[0].shape[1]
        y = self.empty(T, H)
        ids = (self.keep(part, np.int32) for part in (token_ids, token_type_ids, position_ids))
        weights = (self.keep(part, np.float32) for part in (*tables, *norm))
        self.add(functions.embed_piece, 1, *ids, *weights, self.keep(np.array([eps]), np.float64), address_of(y), T, H)
        return y

    def activate(self, y: Array, activation: str) -> Array:
        raise NotRecordable(activation)

    def add_layer_norm(self, x: Array, residual: Array, norm: ops.LayerNorm, eps: float) -> Array:
        T, H = x.shape
        y = self.empty(T, H)
        weights = (self.keep(part, np.float32) for part in norm)
        arrays = address_of(x), address_of(residual), address_of(y)
        self.add(functions.add_layer_norm_piece, 1, *arrays, *weights, self.keep(np.array([eps]), np.float64), T, H)
        return y

    def pool(self, hidden_states: Array, offsets: Array, mode: str) -> Array:
        if mode != "mean":
            raise NotRecordable(mode)
        (T, H), B = hidden_states.shape, len(offsets) - 1
        y = self.empty(B, H)
        self.add(functions.mean_pool_piece, 1, address_of(hidden_states), address_of(offsets), address_of(y), T, B, H)
        return y

    def l2_normalize(self, x: Array) -> Array:
        B, H = x.shape
        y = self.empty(B, H)
        self.add(functions.l2_normalize_piece, 1, address_of(x), address_of(y), B, H)
        return y


class Program:
    """The instructions of the forward pass of chunks with the same offsets."""

    def __init__(self, bert: model.Bert, offsets: Array) -> None:
        self.offsets = np.array(offsets, np.int64)
        self.token_ids, self.token_type_ids = (np.zeros(int(offsets[-1]), np.int32) for _ in range(2))
        recorder: Any = Recorder()
        self.result = model.forward(bert._replace(ops=recorder), self.token_ids, self.token_type_ids, self.offsets)
        self.instructions = np.array(recorder.instructions, np.int64)
        self._memory = recorder.memory


class Programs:
    """The programs of a model that were used last, by the offsets of their chunks."""

    def __init__(self, bert: model.Bert) -> None:
        self._bert = bert
        self._programs: OrderedDict[bytes, Program] | None = OrderedDict()

    def program(self, offsets: Array) -> Program | None:
        """Return the program for chunks with these offsets, or None if the model has an operation without a kernel."""
        if self._programs is None:
            return None
        key = offsets.tobytes()
        if key not in self._programs:
            try:
                self._programs[key] = Program(self._bert, offsets)
            except NotRecordable:
                self._programs = None
                return None
            if len(self._programs) > MOST_PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]
