"""A SIMD vector as a Numba value, and a register tile of vectors.

Numba compiles scalar Python; LLVM, below it, has vector types. This file joins the two: `load` gives a value that
is one hardware register of WIDTH float32 numbers, and each operation on it is one instruction or a few. Kernels
written with these stay ordinary Python loops, and what they compile to does not depend on an auto-vectoriser.

Every operation has a NumPy twin of a line or two. With NUMBA_DISABLE_JIT=1 the twins are used instead: a vector is
then an array (WIDTH,), a tile an array (R, C, WIDTH), and a debugger can step through every kernel.

    WIDTH   16 with AVX-512, else 8 (one AVX2 register; LLVM makes two of it on SSE and NEON)
    tile    R rows x C vectors, all in registers: a block of a matrix product while it is being summed
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from minilm_np import ops
from minilm_np.ops import TAIL_COEFFICIENTS, TAIL_SCALE

WITHOUT_JIT = bool(config.DISABLE_JIT)  # type: ignore[attr-defined]  # $NUMBA_DISABLE_JIT
WIDTH = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8

# Numba recompiles a cached kernel when the kernel's own file changes, but does not notice changes in the functions and
# constants that the kernel takes from other files. So the stamp of each cached kernel covers all of these files.
SOURCES = tuple(
    (path.name, path.stat().st_mtime, path.stat().st_size)
    for path in (Path(ops.__file__), *sorted(Path(__file__).parent.glob("*.py")))
)


def jit(function: Any) -> Any:
    """The one place for compiler options: compiled at the first call, without the GIL, kept in the on-disk cache.

    No fastmath: LLVM may not reorder a sum, so a row's result is the same bits wherever the row falls in a tile.
    Where Numba finds no folder to keep compiled code in, it raises at once; then the code is compiled every time.
    """
    try:
        compiled = njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:
        return njit(nogil=True, error_model="numpy")(function)
    if cache_file := getattr(getattr(compiled, "_cache", None), "_cache_file", None):
        cache_file._source_stamp = (cache_file._source_stamp, SOURCES)
    return compiled


def inline(function: Any) -> Any:
    """`jit` for the pieces of a kernel: always inlined, so that vectors stay in registers."""
    return njit(nogil=True, error_model="numpy", forceinline=True)(function)


def empty(size: int) -> Any:
    """np.empty(size, np.float32) at an address divisible by 64: other vectors lie in two cache lines and cost two."""
    array = np.empty(size + 15, np.float32)
    start = -(array.ctypes.data // 4) % 16
    return array[start : start + size]


# --- the types ---------------------------------------------------------------------------------


class Vector(types.Type):
    """WIDTH float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{WIDTH}")


VECTOR = Vector()
F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
LLVM_VECTOR = ir.VectorType(F32, WIDTH)
LLVM_INTS = ir.VectorType(I32, WIDTH)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, LLVM_VECTOR)


def tile_type(rows: int, vectors: int) -> Any:
    return types.UniTuple(types.UniTuple(VECTOR, vectors), rows)


def operation(twin: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """An operation for kernels: what the decorated function emits or, without the JIT, its NumPy twin."""
    return lambda emit: twin if WITHOUT_JIT else intrinsic(prefer_literal=True)(emit)


# --- helpers that emit LLVM --------------------------------------------------------------------


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _load(builder: Any, address: Any) -> Any:
    vector = builder.load(builder.bitcast(address, LLVM_VECTOR.as_pointer()))
    vector.align = 4
    return vector


def _store(builder: Any, vector: Any, address: Any) -> None:
    builder.store(vector, builder.bitcast(address, LLVM_VECTOR.as_pointer())).align = 4


def _splat(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(LLVM_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(LLVM_INTS, [0] * WIDTH))


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """An LLVM intrinsic, such as llvm.fma.v16f32."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _elementwise(name: str) -> Callable[..., Any]:
    """The emitter of what LLVM has for vectors: an instruction, or an intrinsic (llvm. ...)."""

    def emit(typing: Any, *vectors: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if name.startswith("llvm."):
                return _call(builder, f"{name}.v{WIDTH}f32", LLVM_VECTOR, *arguments)
            return getattr(builder, name)(*arguments)

        return VECTOR(*vectors), generate

    return emit


def _float64(a: Any) -> Any:
    return np.asarray(a, np.float64)


# --- memory ------------------------------------------------------------------------------------


@operation(lambda array, i: array[i : i + WIDTH].copy())
def load(typing: Any, array: Any, i: Any) -> Any:
    """array[i : i + WIDTH]"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(builder, _address(context, builder, signature.args[0], *arguments))

    return VECTOR(array, types.intp), generate


def _store_twin(vector: Any, array: Any, i: int) -> None:
    array[i : i + WIDTH] = vector


@operation(_store_twin)
def store(typing: Any, vector: Any, array: Any, i: Any) -> Any:
    """array[i : i + WIDTH] = vector"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, array, i = arguments
        _store(builder, vector, _address(context, builder, signature.args[1], array, i))
        return context.get_dummy_value()

    return types.none(vector, array, types.intp), generate


@operation(lambda x: np.full(WIDTH, x, np.float32))
def splat(typing: Any, x: Any) -> Any:
    """WIDTH times the same number"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0])

    return VECTOR(types.float32), generate


@operation(lambda array, i: None)
def prefetch(typing: Any, array: Any, i: Any) -> Any:
    """Ask for the cache line of array[i]; i may lie outside."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = builder.bitcast(_address(context, builder, signature.args[0], *arguments), ir.IntType(8).as_pointer())
        read, near, data = (ir.Constant(I32, n) for n in (0, 3, 1))
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), byte, read, near, data)
        return context.get_dummy_value()

    return types.none(array, types.intp), generate


# --- arithmetic --------------------------------------------------------------------------------

# What LLVM has, by its LLVM name. The twin of fma rounds once, as the instruction does.


@operation(lambda a, b: a + b)
def add(typing: Any, a: Any, b: Any) -> Any:
    return _elementwise("fadd")(typing, a, b)


@operation(lambda a, b: a - b)
def sub(typing: Any, a: Any, b: Any) -> Any:
    return _elementwise("fsub")(typing, a, b)


@operation(lambda a, b: a * b)
def mul(typing: Any, a: Any, b: Any) -> Any:
    return _elementwise("fmul")(typing, a, b)


@operation(lambda a, b: a / b)
def div(typing: Any, a: Any, b: Any) -> Any:
    return _elementwise("fdiv")(typing, a, b)


@operation(lambda a, b, c: (_float64(a) * b + c).astype(np.float32))
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once"""
    return _elementwise("llvm.fma")(typing, a, b, c)


def _choose_b_if(comparison: str) -> Callable[..., Any]:
    """The emitter of: b where b < a (or b > a), else a, so that a NaN in a stays one. x86 has it in one instruction."""

    def emit(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, b = arguments
            return builder.select(builder.fcmp_ordered(comparison, b, a), b, a)

        return VECTOR(a, b), generate

    return emit


@operation(lambda a, b: np.where(b < a, b, a))
def minimum(typing: Any, a: Any, b: Any) -> Any:
    return _choose_b_if("<")(typing, a, b)


@operation(lambda a, b: np.where(b > a, b, a))
def maximum(typing: Any, a: Any, b: Any) -> Any:
    return _choose_b_if(">")(typing, a, b)


@operation(np.rint)
def rint(typing: Any, a: Any) -> Any:
    """the nearest integer, still as float32"""
    return _elementwise("llvm.rint")(typing, a)


@operation(np.abs)
def fabs(typing: Any, a: Any) -> Any:
    return _elementwise("llvm.fabs")(typing, a)


@operation(lambda a, n: np.ldexp(a, np.nan_to_num(n).astype(np.int32)))
def scale_by_power_of_2(typing: Any, a: Any, n: Any) -> Any:
    """a * 2^n for whole n, where neither a nor the result is subnormal: n is added to the exponent's bits"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        exponent = builder.shl(builder.fptosi(arguments[1], LLVM_INTS), ir.Constant(LLVM_INTS, [23] * WIDTH))
        return builder.bitcast(builder.add(builder.bitcast(arguments[0], LLVM_INTS), exponent), LLVM_VECTOR)

    return VECTOR(a, n), generate


def _sum_twin(x: Any) -> Any:
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return x[0]


@operation(_sum_twin)
def sum_of(typing: Any, x: Any) -> Any:
    """the sum of the WIDTH numbers: the upper half is added to the lower, and again, until one is left"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x = arguments[0]
        half = WIDTH // 2
        while half:
            lanes = [*range(half, 2 * half), *range(half)] + [0] * (WIDTH - 2 * half)
            moved = builder.shuffle_vector(x, ir.Constant(LLVM_VECTOR, ir.Undefined), ir.Constant(LLVM_INTS, lanes))
            x = builder.fadd(x, moved)
            half //= 2
        return builder.extract_element(x, ir.Constant(I32, 0))

    return types.float32(x), generate


# --- 2^x and the normal distribution ----------------------------------------------------------


# P in 2^r = 1 + r P(r), |r| <= 1/2, from the highest power down; bench/generate/polynomials.py computes these numbers.
EXP2_COEFFICIENTS = (0.000153533613, 0.00133988745, 0.00961843736, 0.0555033247, 0.240226479, 0.693147203)


@inline
def exp2(x):
    """2^x for x <= 127, at most 1 ulp off (measured over [-126, 127]); below -126 it stays at 2^-126. NaN gives NaN.

    x = n + r with |r| <= 1/2: 2^n by the exponent's bits, 2^r by a polynomial, 2e-9 off.
    """
    x = maximum(x, splat(np.float32(-126)))
    n = rint(x)
    r = sub(x, n)
    p = splat(np.float32(EXP2_COEFFICIENTS[0]))
    p = fma(p, r, splat(np.float32(EXP2_COEFFICIENTS[1])))
    p = fma(p, r, splat(np.float32(EXP2_COEFFICIENTS[2])))
    p = fma(p, r, splat(np.float32(EXP2_COEFFICIENTS[3])))
    p = fma(p, r, splat(np.float32(EXP2_COEFFICIENTS[4])))
    p = fma(p, r, splat(np.float32(EXP2_COEFFICIENTS[5])))
    p = fma(p, r, splat(np.float32(1)))
    return scale_by_power_of_2(p, n)


@inline
def gelu(x):
    """x Phi(x), by the formula and with the coefficients of minilm_np/ops.py."""
    magnitude = minimum(fabs(x), splat(np.float32(13)))
    t = div(splat(np.float32(1)), fma(magnitude, splat(np.float32(TAIL_SCALE)), splat(np.float32(1))))
    p = splat(np.float32(TAIL_COEFFICIENTS[0]))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[1])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[2])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[3])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[4])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[5])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[6])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[7])))
    half_square = mul(mul(magnitude, splat(np.float32(-0.5 / math.log(2)))), magnitude)  # e^(-x^2 / 2) is 2 to this
    tail = mul(mul(p, t), exp2(half_square))  # Phi(-|x|)
    return sub(maximum(x, splat(np.float32(0))), mul(magnitude, tail))


# --- the register tile -------------------------------------------------------------------------


def _rows(array: Any, i: int, stride: int, rows: int) -> Any:
    return array[i : i + (rows - 1) * stride + 1 : stride]


@operation(lambda row, j, R, C: np.tile(row[j : j + C * WIDTH].reshape(1, C, WIDTH), (R, 1, 1)))
def tile_of(typing: Any, row: Any, j: Any, R: Any, C: Any) -> Any:
    """The tile (R, C) whose every row is row[j : j + C * WIDTH]; R and C are constants."""
    rows, vectors = R.literal_value, C.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, j, _, _ = arguments
        starts = [builder.add(j, ir.Constant(I64, c * WIDTH)) for c in range(vectors)]
        loaded = [_load(builder, _address(context, builder, signature.args[0], row, start)) for start in starts]
        one = context.make_tuple(builder, signature.return_type.dtype, loaded)
        return context.make_tuple(builder, signature.return_type, [one] * rows)

    return tile_type(rows, vectors)(row, types.intp, R, C), generate


@operation(lambda R, C: np.zeros((R, C, WIDTH), np.float32))
def zero_tile(typing: Any, R: Any, C: Any) -> Any:
    """The tile (R, C) of zeros; R and C are constants."""
    rows, vectors = R.literal_value, C.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(LLVM_VECTOR, [0.0] * WIDTH)
        one = context.make_tuple(builder, signature.return_type.dtype, [zero] * vectors)
        return context.make_tuple(builder, signature.return_type, [one] * rows)

    return tile_type(rows, vectors)(R, C), generate


def _rank_1_twin(tile: Any, x: Any, i: int, stride: int, p: Any, j: int) -> Any:
    R, C, _ = tile.shape
    column, row = _rows(x, i, stride, R), p[j : j + C * WIDTH].reshape(C, WIDTH)
    return (tile + _float64(column)[:, None, None] * row).astype(np.float32)


@operation(_rank_1_twin)
def rank_1_update(typing: Any, tile: Any, x: Any, i: Any, stride: Any, p: Any, j: Any) -> Any:
    """tile[r, c] += x[i + r * stride] * p[j : j + C * WIDTH][c]: one step of a matrix product, R x C fma.

    Each number of a row of p is loaded once for R rows, each number of the column of x once for C vectors.
    """
    vectors = tile.dtype.count

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tile, x, i, stride, p, j = arguments
        starts = [builder.add(j, ir.Constant(I64, c * WIDTH)) for c in range(vectors)]
        row = [_load(builder, _address(context, builder, signature.args[4], p, start)) for start in starts]
        result = []
        for r, old in enumerate(cgutils.unpack_tuple(builder, tile)):
            at = builder.add(i, builder.mul(stride, ir.Constant(I64, r)))
            number = _splat(builder, builder.load(_address(context, builder, signature.args[1], x, at)))
            sums = [
                _call(builder, f"llvm.fma.v{WIDTH}f32", LLVM_VECTOR, number, factor, total)
                for factor, total in zip(row, cgutils.unpack_tuple(builder, old), strict=True)
            ]
            result.append(context.make_tuple(builder, signature.return_type.dtype, sums))
        return context.make_tuple(builder, signature.return_type, result)

    return tile(tile, x, types.intp, types.intp, p, types.intp), generate


def _add_rows_twin(tile: Any, y: Any, i: int, stride: int) -> Any:
    R, C, _ = tile.shape
    return np.stack([y[i + r * stride :][: C * WIDTH].reshape(C, WIDTH) for r in range(R)]) + tile


@operation(_add_rows_twin)
def add_rows(typing: Any, tile: Any, y: Any, i: Any, stride: Any) -> Any:
    """y[i + r * stride :][: C * WIDTH] + tile[r], for every row r"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tile, y, i, stride = arguments
        result = []
        for r, row in enumerate(cgutils.unpack_tuple(builder, tile)):
            start = builder.add(i, builder.mul(stride, ir.Constant(I64, r)))
            sums = []
            for c, vector in enumerate(cgutils.unpack_tuple(builder, row)):
                at = builder.add(start, ir.Constant(I64, c * WIDTH))
                sums.append(builder.fadd(_load(builder, _address(context, builder, signature.args[1], y, at)), vector))
            result.append(context.make_tuple(builder, signature.return_type.dtype, sums))
        return context.make_tuple(builder, signature.return_type, result)

    return tile(tile, y, types.intp, types.intp), generate


def _store_tile_twin(tile: Any, y: Any, i: int, stride: int) -> None:
    for r, row in enumerate(tile):
        y[i + r * stride : i + r * stride + row.size] = row.ravel()


@operation(_store_tile_twin)
def store_tile(typing: Any, tile: Any, y: Any, i: Any, stride: Any) -> Any:
    """y[i + r * stride :][: C * WIDTH] = tile[r], for every row r"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tile, y, i, stride = arguments
        for r, row in enumerate(cgutils.unpack_tuple(builder, tile)):
            start = builder.add(i, builder.mul(stride, ir.Constant(I64, r)))
            for c, vector in enumerate(cgutils.unpack_tuple(builder, row)):
                at = builder.add(start, ir.Constant(I64, c * WIDTH))
                _store(builder, vector, _address(context, builder, signature.args[1], y, at))
        return context.get_dummy_value()

    return types.none(tile, y, types.intp, types.intp), generate


@inline
def accumulate(tile, x, i, x_row, x_term, p, j, p_term, depth):
    """tile + X P: element (r, k) of X is x[i + r * x_row + k * x_term], row k of P is p[j + k * p_term :].

    The sum runs over k < depth in order, each element by itself: its bits do not depend on the tile's shape.
    """
    for k in range(depth):
        tile = rank_1_update(tile, x, i + k * x_term, x_row, p, j + k * p_term)
    return tile


def _transpose_twin(x: Any, i: int, x_row: int, y: Any, j: int, y_row: int) -> None:
    for lane in range(WIDTH):
        y[j + lane : j + (WIDTH - 1) * y_row + lane + 1 : y_row] = x[i + lane * x_row : i + lane * x_row + WIDTH]


@operation(_transpose_twin)
def transpose(typing: Any, x: Any, i: Any, x_row: Any, y: Any, j: Any, y_row: Any) -> Any:
    """y[j + c * y_row + r] = x[i + r * x_row + c] for all r, c < WIDTH

    In log2(WIDTH) rounds: each exchanges blocks across the diagonal, of 1, then of 2, 4, ... rows and columns.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, i, x_row, y, j, y_row = arguments
        rows = []
        for r in range(WIDTH):
            at = builder.add(i, builder.mul(x_row, ir.Constant(I64, r)))
            rows.append(_load(builder, _address(context, builder, signature.args[0], x, at)))
        block = 1
        while block < WIDTH:
            upper = [lane + (WIDTH - block if lane & block else 0) for lane in range(WIDTH)]
            lower = [lane + (WIDTH if lane & block else block) for lane in range(WIDTH)]
            for r in (r for r in range(WIDTH) if not r & block):
                pair = rows[r], rows[r + block]
                rows[r] = builder.shuffle_vector(*pair, ir.Constant(LLVM_INTS, upper))
                rows[r + block] = builder.shuffle_vector(*pair, ir.Constant(LLVM_INTS, lower))
            block *= 2
        for r, row in enumerate(rows):
            at = builder.add(j, builder.mul(y_row, ir.Constant(I64, r)))
            _store(builder, row, _address(context, builder, signature.args[3], y, at))
        return context.get_dummy_value()

    return types.none(x, types.intp, types.intp, y, types.intp, types.intp), generate
