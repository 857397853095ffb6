"""Operations as rows of numbers, which compiled code can run without Python.

An instruction is a row of INSTRUCTION_SIZE int64: the address of a function, the number of pieces that the operation
can be divided into, and the addresses and sizes that the function needs. The functions below call the kernels for one
piece. team.py hands pieces to threads; program.py makes the instructions. The functions are called by address, so each
is compiled only if a model needs it, and team.py is compiled without the kernels.

A piece writes its own columns of the result and nothing else, so pieces can be computed at the same time. A dense layer
has a piece for each panel of its weight. (If the panel's columns do not divide those of the result, the last two panels
overlap, so they are one piece.) Attention has a piece for each head. Other operations take too little time to share.

The arrays at the addresses must stay alive until the instruction is done.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import sigutils
from numba.core.ccallback import CFunc

from minilm_np.kernels.attention import LANES, attention
from minilm_np.kernels.bfloat16 import round_all, round_and_pack
from minilm_np.kernels.cache import KernelCache
from minilm_np.kernels.int8 import PANEL as INT8_PANEL
from minilm_np.kernels.int8 import linear_int8, quantize_rows
from minilm_np.kernels.layer_norm import add_layer_norm, embed, l2_normalize, mean_pool
from minilm_np.kernels.linear import PANEL, linear
from minilm_np.kernels.simd import (
    F32,
    I32,
    I64,
    X_PER_BFLOAT16_WORD,
    X_PER_INT8_WORD,
    inline,
    operation,
)

Array = npt.NDArray[Any]

# The first two numbers of an instruction: the function, and the number of pieces. The others begin at A.
FUNCTION, PIECES, A = 0, 1, 2
OPTIONS = {"error_model": "numpy"}  # as in simd.jit: integer division raises no exceptions
INSTRUCTION_SIZE = 16


def address_of(array: Array) -> int:
    """Return the address of an array's first element."""
    address: int = array.__array_interface__["data"][0]
    return address


def _pointer(element: Any, llvm: Any) -> Any:
    """Return the operation that turns an address into a pointer to numbers of a type."""

    @operation(lambda address: address)
    def pointer(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], llvm.as_pointer())

        return types.CPointer(element)(types.int64), generate

    return pointer


_float32, _float64 = _pointer(types.float32, F32), _pointer(types.float64, ir.DoubleType())
_int32, int64_pointer = _pointer(types.int32, I32), _pointer(types.int64, I64)
_bfloat16_operand = _int32 if X_PER_BFLOAT16_WORD == 1 else _float32


@inline
def floats(address, size):
    """Return the array of `size` float32 numbers at an address."""
    return carray(_float32(address), size)


@inline
def ints(address, size):
    return carray(_int32(address), size)


@inline
def end_of_piece(piece, N, panel):
    """Return the panel after those of a piece of a dense layer with N outputs; the last piece may have two panels."""
    return piece + 1 if piece + 1 < N // panel else (N + panel - 1) // panel


class PieceFunction:
    """A function of (address of an instruction, piece, how many pieces further on the thread's next one probably is).

    It is compiled, or loaded from the cache, when its address is first asked for.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._compiled: Any = None

    @property
    def address(self) -> int:
        if self._compiled is None:
            compiled: Any = CFunc(
                self._function, sigutils.normalize_signature("void(int64, int64, int64)"), {}, OPTIONS
            )
            compiled._cache = KernelCache(self._function)
            compiled.compile()
            self._compiled = compiled
        address: int = self._compiled.address
        return address


@operation(lambda function, instruction, piece, ahead: None)
def call_piece(typing: Any, function: Any, instruction: Any, piece: Any, ahead: Any) -> Any:
    """Call the function at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64, types.int64), generate


@inline
def numbers_of(instruction):
    """Return the numbers of the instruction at an address, from A on."""
    return carray(int64_pointer(instruction), INSTRUCTION_SIZE)[A:]


@PieceFunction
def linear_piece(instruction, piece, ahead):
    a = numbers_of(instruction)
    T, K, N = a[4], a[5], a[6]
    x, panels, bias, y = floats(a[0], T * K), floats(a[1], N * K), floats(a[2], N), floats(a[3], T * N)
    stop = end_of_piece(piece, N, PANEL)
    linear(x, T, 1, K, panels, bias, N, a[7] == 1, y, piece, stop, ahead)


@PieceFunction
def linear_bfloat16_piece(instruction, piece, ahead):
    a = numbers_of(instruction)
    T, K, N = a[4], a[5], a[6]
    x = carray(_bfloat16_operand(a[0]), T * K * X_PER_BFLOAT16_WORD)
    panels, bias, y = ints(a[1], N * K), floats(a[2], N), floats(a[3], T * N)
    stop = end_of_piece(piece, N, PANEL)
    linear(x, T, X_PER_BFLOAT16_WORD, K, panels, bias, N, a[7] == 1, y, piece, stop, ahead)


@PieceFunction
def linear_int8_piece(instruction, piece, ahead):
    a = numbers_of(instruction)
    T, K, N = a[4], a[5], a[6]
    x, panels, bias, y = ints(a[0], T * K * X_PER_INT8_WORD), ints(a[1], N * K), floats(a[2], N), floats(a[3], T * N)
    x_scale, x_smallest, scale, total = floats(a[8], T), floats(a[9], T), floats(a[10], N), floats(a[11], N)
    stop = end_of_piece(piece, N, INT8_PANEL)
    linear_int8(x, x_scale, x_smallest, T, K, panels, bias, scale, total, N, a[7] == 1, y, piece, stop, ahead)


@PieceFunction
def attention_piece(instruction, piece, ahead):
    """All heads of a whole operation (one piece), or one head."""
    a = numbers_of(instruction)
    T, H, num_heads, longest = a[4], a[5], a[6], a[8]
    qkv, context = floats(a[0], T * 3 * H), floats(a[1], T * H)
    size = (H // num_heads + longest) * LANES  # scratch_size
    scratch = floats(a[7] + 4 * size * piece, size)
    first, last = (piece, piece + 1) if a[9] > 1 else (0, num_heads)
    attention(qkv, carray(int64_pointer(a[2]), a[3]), H, num_heads, context, first, last, scratch)


@PieceFunction
def add_layer_norm_piece(instruction, piece, ahead):
    a = numbers_of(instruction)
    T, H = a[6], a[7]
    x, residual, y = floats(a[0], T * H), floats(a[1], T * H), floats(a[2], T * H)
    add_layer_norm(x, residual, T, H, floats(a[3], H), floats(a[4], H), carray(_float64(a[5]), 1)[0], y)


@PieceFunction
def embed_piece(instruction, piece, ahead):
    a = numbers_of(instruction)
    T, H = a[10], a[11]
    token_ids, type_ids, positions = ints(a[0], T), ints(a[1], T), ints(a[2], T)
    word, token_type, position = floats(a[3], H), floats(a[4], H), floats(a[5], H)
    weight, bias, eps, y = floats(a[6], H), floats(a[7], H), carray(_float64(a[8]), 1)[0], floats(a[9], T * H)
    embed(token_ids, type_ids, positions, word, token_type, position, H, weight, bias, eps, y)


@PieceFunction
def mean_pool_piece(instruction, piece, ahead):
    a = numbers_of(instruction)
    T, B, H = a[3], a[4], a[5]
    mean_pool(floats(a[0], T * H), carray(int64_pointer(a[1]), B + 1), H, floats(a[2], B * H))


@PieceFunction
def l2_normalize_piece(instruction, piece, ahead):
    a = numbers_of(instruction)
    B, H = a[2], a[3]
    l2_normalize(floats(a[0], B * H), B, H, floats(a[1], B * H))


@PieceFunction
def round_piece(instruction, piece, ahead):
    a = numbers_of(instruction)
    x, size = floats(a[0], a[2]), a[2]
    if X_PER_BFLOAT16_WORD == 1:
        round_and_pack(x, ints(a[1], size // 2))
    else:
        round_all(x, floats(a[1], size))


@PieceFunction
def quantize_piece(instruction, piece, ahead):
    a = numbers_of(instruction)
    T, K = a[4], a[5]
    words = ints(a[1], T * K // 4 * X_PER_INT8_WORD)
    quantize_rows(floats(a[0], T * K), K, words, floats(a[2], T), floats(a[3], T))
