"""Vector instructions (SIMD) for Numba kernels.

A CPU core has 16 or 32 vector registers. A register holds WIDTH numbers of 32 bits, its lanes, and one instruction adds
or multiplies all lanes at once. Numba compiles Python functions to machine code with the compiler LLVM. In a Python
loop over single numbers, LLVM's auto-vectorizer decides whether vector instructions are used. But LLVM also has vector
types, and this file makes them available: `load` returns a vector that stays in a register, and each operation on
vectors compiles to one instruction or a few. The kernels remain ordinary Python loops, and their machine code does not
depend on the auto-vectorizer.

In terms of NumPy a vector is an array (WIDTH,) of float32 or int32; the arrays in memory have the same two types. They
are flat and C-contiguous; `i` counts elements; no bounds are checked:

    load(x, i)         x[i : i + WIDTH]
    store(v, x, i)     x[i : i + WIDTH] = v
    splat(a)           np.full(WIDTH, a)
    fma(a, b, c)       a * b + c, rounded once: a "fused multiply-add", one instruction

A tile is a block of a matrix product that stays in registers while it is summed: R rows of C vectors, in terms of NumPy
an array (R, C, WIDTH), which holds R x (C * WIDTH) numbers of the product. Each step of the sum (`rank_1_update`) loads
C vectors and R single numbers and does R x C fma with them. A core can start two fma but only two or three loads per
cycle, so a product that loads both operands of every fma is limited by its loads. The 8 x 3 tile of linear.py does 24
fma for 11 loads.

Smaller numbers. A lane of 32 bits also holds two bfloat16 numbers or four of 8 bits. Such a lane is a word, and vectors
of words are int32 vectors. If p is words, `rank_1_update` adds several products in each lane, and the type of the tile
says which numbers the words hold:

    tile       words of p               one step adds, in each lane
    float32    two bfloat16 numbers     two products, each by an fma
    int32      four of 8 bits, signed   four products with numbers in 0 to 255 of x, exactly

Newer CPUs have one instruction for each row: vdpbf16ps (AVX512-BF16) and vpdpbusd (VNNI). There x is words, too. On
others a few instructions give the same bits, one half of the word after the other. There x has two elements for each
word, HALVES = 16 elements apart, because it is faster to divide its words once, in memory, than in the inner loop.

How to read an operation. The argument of `@operation` is its NumPy twin, a line or two that compute the same: read only
this and the docstring to understand the kernels. The decorated function runs when Numba compiles a kernel. Its
parameters are Numba's typing context and the types of the arguments. It returns the signature, such as VECTOR(array,
types.intp) with the type of the result first, and the function `generate`, which appends LLVM instructions to the
kernel through `builder`.

NUMBA_DISABLE_JIT=1 selects the twins. Then vectors and tiles are NumPy arrays, and a debugger can step through every
kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from minilm_np.kernels.cache import KernelCache, check_target, lanes, target_features
from minilm_np.ops import TAIL_COEFFICIENTS, TAIL_SCALE

WITHOUT_JIT = bool(config.DISABLE_JIT)  # type: ignore[attr-defined]  # $NUMBA_DISABLE_JIT
if not WITHOUT_JIT:
    check_target()
# Lanes of a vector: 16 with AVX-512, else 8, which is one AVX2 register or, split by LLVM, two of SSE or NEON.
WIDTH = lanes()


def jit(function: Any) -> Any:
    """Compile a kernel at its first call, to run without the GIL, and keep the code on disk (cache.py).

    `fastmath` is off: LLVM may not reorder a sum, so a row's result has the same bits in every position of a tile.
    """
    compiled: Any = njit(nogil=True, error_model="numpy")(function)
    if not WITHOUT_JIT:
        compiled._cache = KernelCache(function)
    return compiled


def inline(function: Any) -> Any:
    """Compile a part of a kernel. It is always inlined, so that vectors stay in registers."""
    return njit(nogil=True, error_model="numpy", forceinline=True)(function)


def empty(size: int) -> Any:
    """Return np.empty(size, np.float32) at an address divisible by 64, the size of a cache line.

    A vector that lies in two cache lines takes two memory accesses.
    """
    array = np.empty(size + 15, np.float32)
    start = -(array.ctypes.data // 4) % 16
    return array[start : start + size]


# --- Numba types -------------------------------------------------------------------------------


F32, I16, I32, I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
LLVM_FLOATS, LLVM_INTS = ir.VectorType(F32, WIDTH), ir.VectorType(I32, WIDTH)


class Vector(types.Type):
    """The Numba type of a vector: WIDTH numbers of one type, float32 or int32."""

    def __init__(self, element: Any) -> None:
        super().__init__(name=f"{element}x{WIDTH}")
        self.llvm = LLVM_FLOATS if element == types.float32 else LLVM_INTS


FLOATS, INTS = Vector(types.float32), Vector(types.int32)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


def vector_of(element: Any) -> Vector:
    """Return the Numba type of a vector of float32 or int32 numbers."""
    return FLOATS if element == types.float32 else INTS


def tile_type(rows: int, vectors: int, vector: Vector = FLOATS) -> Any:
    """Return the Numba type of a tile: a tuple of `rows` tuples of `vectors` vectors."""
    return types.UniTuple(types.UniTuple(vector, vectors), rows)


def operation(twin: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Turn a function that emits LLVM code into an operation for kernels. Without the JIT, return its NumPy twin."""
    return lambda emit: twin if WITHOUT_JIT else intrinsic(prefer_literal=True)(emit)


# --- helpers that emit LLVM code ---------------------------------------------------------------


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _load(builder: Any, address: Any) -> Any:
    vector = builder.load(builder.bitcast(address, ir.VectorType(address.type.pointee, WIDTH).as_pointer()))
    vector.align = 4
    return vector


def _store(builder: Any, vector: Any, address: Any) -> None:
    builder.store(vector, builder.bitcast(address, vector.type.as_pointer())).align = 4


def _splat(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, WIDTH), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(LLVM_INTS, [0] * WIDTH))


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call an LLVM intrinsic, such as llvm.fma.v16f32."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _elementwise(name: str) -> Callable[..., Any]:
    """Return the emitter of an LLVM instruction for vectors or, if `name` begins with "llvm.", of an intrinsic."""

    def emit(typing: Any, *vectors: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if name.startswith("llvm."):
                return _call(builder, f"{name}.v{WIDTH}f32", LLVM_FLOATS, *arguments)
            return getattr(builder, name)(*arguments)

        return FLOATS(*vectors), generate

    return emit


def _float64(a: Any) -> Any:
    return np.asarray(a, np.float64)


# --- memory ------------------------------------------------------------------------------------


@operation(lambda array, i: array[i : i + WIDTH].copy())
def load(typing: Any, array: Any, i: Any) -> Any:
    """Return the vector array[i : i + WIDTH]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(builder, _address(context, builder, signature.args[0], *arguments))

    return vector_of(array.dtype)(array, types.intp), generate


def _store_twin(vector: Any, array: Any, i: int) -> None:
    array[i : i + WIDTH] = vector


@operation(_store_twin)
def store(typing: Any, vector: Any, array: Any, i: Any) -> Any:
    """Set array[i : i + WIDTH] to the vector."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, array, i = arguments
        _store(builder, vector, _address(context, builder, signature.args[1], array, i))
        return context.get_dummy_value()

    return types.none(vector, array, types.intp), generate


@operation(lambda x: np.full(WIDTH, x))
def splat(typing: Any, x: Any) -> Any:
    """Return the vector with x in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0])

    return vector_of(x)(x), generate


@operation(lambda array, i: None)
def prefetch(typing: Any, array: Any, i: Any) -> Any:
    """Start to load the cache line of array[i] into the first-level cache. i may be out of bounds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = builder.bitcast(_address(context, builder, signature.args[0], *arguments), ir.IntType(8).as_pointer())
        read, near, data = (ir.Constant(I32, n) for n in (0, 3, 1))
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), byte, read, near, data)
        return context.get_dummy_value()

    return types.none(array, types.intp), generate


# --- arithmetic --------------------------------------------------------------------------------

# Elementwise operations; most are a single LLVM instruction or intrinsic (a function built into LLVM).


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
    """Return a * b + c, rounded once. (The twin computes in float64, where the product is exact.)"""
    return _elementwise("llvm.fma")(typing, a, b, c)


def _choose_b_if(comparison: str) -> Callable[..., Any]:
    """Return the emitter of "b where b < a, else a" (or with >): one instruction on x86. A NaN in a stays NaN."""

    def emit(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, b = arguments
            return builder.select(builder.fcmp_ordered(comparison, b, a), b, a)

        return FLOATS(a, b), generate

    return emit


@operation(lambda a, b: np.where(b < a, b, a))
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """Return the smaller of a and b in each lane; NaN where a is NaN, and a where b is."""
    return _choose_b_if("<")(typing, a, b)


@operation(lambda a, b: np.where(b > a, b, a))
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """Return the larger of a and b in each lane; NaN where a is NaN, and a where b is."""
    return _choose_b_if(">")(typing, a, b)


@operation(np.rint)
def rint(typing: Any, a: Any) -> Any:
    """Return a rounded to the nearest integer, as float32."""
    return _elementwise("llvm.rint")(typing, a)


@operation(np.abs)
def fabs(typing: Any, a: Any) -> Any:
    return _elementwise("llvm.fabs")(typing, a)


@operation(lambda a, n: np.ldexp(a, np.nan_to_num(n).astype(np.int32)))
def scale_by_power_of_2(typing: Any, a: Any, n: Any) -> Any:
    """Return a * 2^n, for integers n stored as float32. Neither a nor the result may be subnormal.

    n is added to the exponent, which is stored in bits 23 to 30 of a float32.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        exponent = builder.shl(builder.fptosi(arguments[1], LLVM_INTS), ir.Constant(LLVM_INTS, [23] * WIDTH))
        return builder.bitcast(builder.add(builder.bitcast(arguments[0], LLVM_INTS), exponent), LLVM_FLOATS)

    return FLOATS(a, n), generate


def _fold_twin(combine: Callable[..., Any]) -> Callable[..., Any]:
    def twin(x: Any) -> Any:
        while len(x) > 1:
            x = combine(x[: len(x) // 2], x[len(x) // 2 :])
        return x[0]

    return twin


def _fold(x: Any, combine: Callable[..., Any]) -> Any:
    """Return the emitter that combines the upper half of the lanes with the lower half until one number is left."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x = arguments[0]
        half = WIDTH // 2
        while half:
            lanes = [*range(half, 2 * half), *range(half)] + [0] * (WIDTH - 2 * half)
            moved = builder.shuffle_vector(x, ir.Constant(LLVM_FLOATS, ir.Undefined), ir.Constant(LLVM_INTS, lanes))
            x = combine(builder, x, moved)
            half //= 2
        return builder.extract_element(x, ir.Constant(I32, 0))

    return types.float32(x), generate


@operation(_fold_twin(np.add))
def sum_of(typing: Any, x: Any) -> Any:
    """Return the sum of the lanes: the upper half is added to the lower half until one number is left."""
    return _fold(x, lambda builder, a, b: builder.fadd(a, b))


@operation(_fold_twin(lambda a, b: np.where(b > a, b, a)))
def largest_of(typing: Any, x: Any) -> Any:
    """Return the largest lane."""
    return _fold(x, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", b, a), b, a))


# --- 2^x and the normal distribution ----------------------------------------------------------


# The polynomial P in 2^r = 1 + r P(r), |r| <= 1/2, from the highest power down. bench/generate/polynomials.py computes
# these numbers.
EXP2_COEFFICIENTS = (0.000153533613, 0.00133988745, 0.00961843736, 0.0555033247, 0.240226479, 0.693147203)


@inline
def exp2(x):
    """Return 2^x for x <= 127, with an error of at most 1 ulp (measured over [-126, 127]). NaN gives NaN.

    For x < -126 the result is 2^-126, the smallest normal float32. x is split into n + r with an integer n and
    |r| <= 1/2: 2^n sets the exponent, and a polynomial gives 2^r with a relative error of 2e-9 before rounding.
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
def normal_tail(magnitude):
    """Return Phi(-a) and exp(-a^2 / 2) for 0 <= a <= 13, with the formula and the coefficients of ops.gelu."""
    t = div(splat(np.float32(1)), fma(magnitude, splat(np.float32(TAIL_SCALE)), splat(np.float32(1))))
    p = splat(np.float32(TAIL_COEFFICIENTS[0]))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[1])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[2])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[3])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[4])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[5])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[6])))
    p = fma(p, t, splat(np.float32(TAIL_COEFFICIENTS[7])))
    half_square = mul(mul(magnitude, splat(np.float32(-0.5 / math.log(2)))), magnitude)  # exp2 of it is exp(-a^2 / 2)
    exponential = exp2(half_square)
    return mul(mul(p, t), exponential), exponential


@inline
def gelu(x):
    """Return x * Phi(x). Phi is the normal distribution function."""
    magnitude = minimum(fabs(x), splat(np.float32(13)))  # Phi(-13) = 6e-39; the argument of exp2 stays above -126
    tail, _ = normal_tail(magnitude)
    return sub(maximum(x, splat(np.float32(0))), mul(magnitude, tail))


# --- words: two bfloat16 or four 8-bit numbers in a lane --------------------------------------


def has(feature: str) -> bool:
    """Return whether Numba compiles for a CPU with this feature, such as "avx2"."""
    return f"+{feature}" in target_features().split(",")


class _Bfloat16(ir.FloatType):
    """LLVM's type bfloat, which llvmlite lacks."""

    def __str__(self) -> str:
        return "bfloat"


_Bfloat16._create_instance()  # llvmlite has one instance of each type of floating-point numbers


def _operands(builder: Any, words: tuple[Any, ...], element: Any, bits: int, since: int) -> list[Any]:
    """Return vectors of words as the type of an intrinsic's operands: smaller numbers since an LLVM version."""
    if llvmlite.binding.llvm_version_info[0] < since:
        return list(words)
    kind = ir.VectorType(element, WIDTH * 32 // bits)
    return [builder.bitcast(vector, kind) for vector in words]


def _whole(builder: Any, vector: Any) -> Any:
    return vector


def _fma(builder: Any, a: Any, b: Any, total: Any) -> Any:
    return _call(builder, f"llvm.fma.v{WIDTH}f32", LLVM_FLOATS, a, b, total)


def _upper_half(builder: Any, words: Any) -> Any:
    """The bfloat16 numbers in the upper halves, as float32: a bfloat16 is the upper half of a float32."""
    return builder.bitcast(builder.and_(words, ir.Constant(LLVM_INTS, [-65536] * WIDTH)), LLVM_FLOATS)


def _lower_half(builder: Any, words: Any) -> Any:
    return builder.bitcast(builder.shl(words, ir.Constant(LLVM_INTS, [16] * WIDTH)), LLVM_FLOATS)


def _dot_bfloat16(builder: Any, a: Any, b: Any, total: Any) -> Any:
    """Two fma in one instruction, the numbers in the upper halves first. (Intel's manual, VDPBF16PS.)"""
    operands = _operands(builder, (a, b), _Bfloat16(), 16, 18)
    return _call(builder, f"llvm.x86.avx512bf16.dpbf16ps.{32 * WIDTH}", LLVM_FLOATS, total, *operands)


PAIRS = ir.VectorType(I16, 2 * WIDTH)  # words as two numbers of 16 bits


def _even_bytes(builder: Any, words: Any) -> Any:
    """The bytes 0 and 2 of each word, as two numbers of 16 bits with their sign."""
    bits = ir.Constant(PAIRS, [8] * (2 * WIDTH))
    return builder.ashr(builder.shl(builder.bitcast(words, PAIRS), bits), bits)


def _odd_bytes(builder: Any, words: Any) -> Any:
    return builder.ashr(builder.bitcast(words, PAIRS), ir.Constant(PAIRS, [8] * (2 * WIDTH)))


def _dot_int8(builder: Any, a: Any, b: Any, total: Any) -> Any:
    operands = _operands(builder, (a, b), ir.IntType(8), 8, 21)
    return _call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * WIDTH}", LLVM_INTS, total, *operands)


def _dot_int16(builder: Any, a: Any, b: Any, total: Any) -> Any:
    """Add two products of 16-bit numbers, exactly. (vpmaddubsw takes 8-bit numbers, but its sums saturate at 32767.)"""
    if HAS_DOT_INT16:
        name = "llvm.x86.avx512.pmaddw.d.512" if WIDTH == 16 else "llvm.x86.avx2.pmadd.wd"
        return builder.add(total, _call(builder, name, LLVM_INTS, builder.bitcast(a, PAIRS), b))
    bits, b = ir.Constant(LLVM_INTS, [16] * WIDTH), builder.bitcast(b, LLVM_INTS)
    low, high = ([builder.ashr(f(x), bits) for x in (a, b)] for f in (lambda x: builder.shl(x, bits), lambda x: x))
    return builder.add(total, builder.add(builder.mul(*low), builder.mul(*high)))


# How rank_1_update multiplies: for each pass through the tile, where it takes the element of x, what it takes of the
# vector of p, and the multiplication. A second pass, because the operands of both would not fit into 16 registers.
HALVES = 16
HAS_DOT_BFLOAT16 = has("avx512bf16") and WIDTH == 16
HAS_DOT_INT16 = has("avx512bw" if WIDTH == 16 else "avx2")
HAS_DOT_INT8 = has("avx512vnni") if WIDTH == 16 else has("avxvnni")
Passes = tuple[tuple[int, Callable[..., Any], Callable[..., Any]], ...]
FLOAT32_PASSES: Passes = ((0, _whole, _fma),)
BFLOAT16_PASSES: Passes = ((HALVES, _upper_half, _fma), (0, _lower_half, _fma))
if HAS_DOT_BFLOAT16:
    BFLOAT16_PASSES = ((0, _whole, _dot_bfloat16),)
INT8_PASSES: Passes = ((0, _even_bytes, _dot_int16), (HALVES, _odd_bytes, _dot_int16))
if HAS_DOT_INT8:
    INT8_PASSES = ((0, _whole, _dot_int8),)
# Elements of x for each word of p.
X_PER_BFLOAT16_WORD, X_PER_INT8_WORD = len(BFLOAT16_PASSES), len(INT8_PASSES)

# Below this, numbers become 0 in bfloat16. So a product of two is a multiple of 2^-126, and no sum of such products is
# subnormal: vdpbf16ps, which counts subnormal numbers as 0, gives the bits of two fma.
SMALLEST_BFLOAT16 = 2.0**-56


def _round_twin(x: Any) -> Any:
    bits = np.where(np.abs(x) < SMALLEST_BFLOAT16, np.float32(0), x).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), np.float32(np.nan), rounded.view(np.float32))


@operation(_round_twin)
def round_to_bfloat16(typing: Any, x: Any) -> Any:
    """Return x rounded to the nearest bfloat16, as float32; ties go to the even number.

    Magnitudes below SMALLEST_BFLOAT16 become 0. Every NaN becomes the same one.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def constant(number: int) -> Any:
            return ir.Constant(LLVM_INTS, [number] * WIDTH)

        x = arguments[0]
        magnitude = _call(builder, f"llvm.fabs.v{WIDTH}f32", LLVM_FLOATS, x)
        is_small = builder.fcmp_ordered("<", magnitude, ir.Constant(LLVM_FLOATS, [SMALLEST_BFLOAT16] * WIDTH))
        bits = builder.bitcast(builder.select(is_small, ir.Constant(LLVM_FLOATS, None), x), LLVM_INTS)
        last_bit = builder.and_(builder.lshr(bits, constant(16)), constant(1))
        rounded = builder.and_(builder.add(builder.add(bits, constant(0x7FFF)), last_bit), constant(-65536))
        is_nan = builder.fcmp_unordered("uno", x, x)
        return builder.bitcast(builder.select(is_nan, constant(0x7FC00000), rounded), LLVM_FLOATS)

    return FLOATS(x), generate


@operation(lambda low, high: (low.view(np.uint32) >> np.uint32(16) | high.view(np.uint32)).view(np.int32))
def pack_bfloat16(typing: Any, low: Any, high: Any) -> Any:
    """Return words with `low` in their lower and `high` in their upper halves; both are already rounded."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        low, high = (builder.bitcast(x, LLVM_INTS) for x in arguments)
        return builder.or_(builder.lshr(low, ir.Constant(LLVM_INTS, [16] * WIDTH)), high)

    return INTS(low, high), generate


@operation(lambda x: np.rint(np.nan_to_num(x)).astype(np.int32))
def round_to_int(typing: Any, x: Any) -> Any:
    """Return x rounded to the nearest integer, as int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fptosi(_call(builder, f"llvm.rint.v{WIDTH}f32", LLVM_FLOATS, arguments[0]), LLVM_INTS)

    return INTS(x), generate


@operation(lambda low, high, n: low | high << n)
def pack_ints(typing: Any, low: Any, high: Any, n: Any) -> Any:
    """Return low | high << n: words that hold `low` in their first n bits and `high` above them."""
    bits = n.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.or_(arguments[0], builder.shl(arguments[1], ir.Constant(LLVM_INTS, [bits] * WIDTH)))

    return INTS(low, high, n), generate


# --- tiles -------------------------------------------------------------------------------------

# R and C are compile-time constants: a tile is a tuple of R tuples of C vectors, and the loops over them in `generate`
# run while a kernel is compiled. `stride` is the distance between two rows of a matrix in its flat array.


def _rows(array: Any, i: int, stride: int, rows: int) -> Any:
    return array[i : i + (rows - 1) * stride + 1 : stride]


@operation(lambda row, j, R, C: np.tile(row[j : j + C * WIDTH].reshape(1, C, WIDTH), (R, 1, 1)))
def tile_of(typing: Any, row: Any, j: Any, R: Any, C: Any) -> Any:
    """Return the tile (R, C) in which every row is row[j : j + C * WIDTH]."""
    rows, vectors = R.literal_value, C.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, j, _, _ = arguments
        starts = [builder.add(j, ir.Constant(I64, c * WIDTH)) for c in range(vectors)]
        loaded = [_load(builder, _address(context, builder, signature.args[0], row, start)) for start in starts]
        one = context.make_tuple(builder, signature.return_type.dtype, loaded)
        return context.make_tuple(builder, signature.return_type, [one] * rows)

    return tile_type(rows, vectors)(row, types.intp, R, C), generate


def _zeros(vector: Vector, R: Any, C: Any) -> Any:
    rows, vectors = R.literal_value, C.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(vector.llvm, None)
        one = context.make_tuple(builder, signature.return_type.dtype, [zero] * vectors)
        return context.make_tuple(builder, signature.return_type, [one] * rows)

    return tile_type(rows, vectors, vector)(R, C), generate


@operation(lambda R, C: np.zeros((R, C, WIDTH), np.float32))
def zero_tile(typing: Any, R: Any, C: Any) -> Any:
    """Return the tile (R, C) of float32 zeros."""
    return _zeros(FLOATS, R, C)


@operation(lambda R, C: np.zeros((R, C, WIDTH), np.int32))
def zero_int_tile(typing: Any, R: Any, C: Any) -> Any:
    """Return the tile (R, C) of int32 zeros."""
    return _zeros(INTS, R, C)


def _rank_1_twin(tile: Any, x: Any, i: int, stride: int, p: Any, j: int) -> Any:
    R, C, _ = tile.shape
    column, row = _rows(x, i, stride, R)[:, None, None], p[j : j + C * WIDTH].reshape(C, WIDTH)
    if p.dtype == np.float32:
        return (tile + _float64(column) * row).astype(np.float32)
    if tile.dtype == np.float32:
        if X_PER_BFLOAT16_WORD == 2:
            upper_and_lower = _rows(x, i + HALVES, stride, R)[:, None, None], column
        else:
            upper_and_lower = (column & -65536).view(np.float32), (column << 16).view(np.float32)
        for number, half in zip(upper_and_lower, (row & -65536, row << 16), strict=True):
            tile = (tile + _float64(number) * half.view(np.float32)).astype(np.float32)
        return tile
    if X_PER_INT8_WORD == 2:
        odd = _rows(x, i + HALVES, stride, R)[:, None, None]
        numbers = column & 0xFFFF, odd & 0xFFFF, column >> 16, odd >> 16
    else:
        numbers = tuple(column >> shift & 255 for shift in (0, 8, 16, 24))
    return sum((number * (row << 24 - 8 * n >> 24) for n, number in enumerate(numbers)), tile)


@operation(_rank_1_twin)
def rank_1_update(typing: Any, tile: Any, x: Any, i: Any, stride: Any, p: Any, j: Any) -> Any:
    """Return the tile plus the outer product of R numbers of x and C vectors of p: one step of a matrix product.

    tile[r, c] + x[i + r * stride] * p[j + c * WIDTH : j + (c + 1) * WIDTH]. Each vector of p is loaded once and used
    for R rows; each number of x is loaded once and used for C vectors. If p is words, see the docstring of this file.
    """
    vectors = tile.dtype.count
    of_words = BFLOAT16_PASSES if tile.dtype.dtype == FLOATS else INT8_PASSES
    passes = FLOAT32_PASSES if p.dtype == types.float32 else of_words

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tile, x, i, stride, p, j = arguments
        sums = [cgutils.unpack_tuple(builder, row) for row in cgutils.unpack_tuple(builder, tile)]
        starts = [builder.add(j, ir.Constant(I64, c * WIDTH)) for c in range(vectors)]
        for offset, of_p, multiply in passes:
            if offset != passes[0][0]:  # else LLVM keeps the operands of both passes in registers, and spills sums
                builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)
            loads = [_load(builder, _address(context, builder, signature.args[4], p, start)) for start in starts]
            factors = [of_p(builder, vector) for vector in loads]
            for r, row in enumerate(sums):
                at = builder.add(builder.add(i, ir.Constant(I64, offset)), builder.mul(stride, ir.Constant(I64, r)))
                number = _splat(builder, builder.load(_address(context, builder, signature.args[1], x, at)))
                sums[r] = [multiply(builder, number, factor, total) for factor, total in zip(factors, row, strict=True)]
        rows = [context.make_tuple(builder, signature.return_type.dtype, row) for row in sums]
        return context.make_tuple(builder, signature.return_type, rows)

    return tile(tile, x, types.intp, types.intp, p, types.intp), generate


def _add_rows_twin(tile: Any, y: Any, i: int, stride: int) -> Any:
    R, C, _ = tile.shape
    return np.stack([y[i + r * stride :][: C * WIDTH].reshape(C, WIDTH) for r in range(R)]) + tile


@operation(_add_rows_twin)
def add_rows(typing: Any, tile: Any, y: Any, i: Any, stride: Any) -> Any:
    """Return the tile whose row r is y[i + r * stride :][: C * WIDTH] + tile[r]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tile, y, i, stride = arguments
        result = []
        for r, row in enumerate(cgutils.unpack_tuple(builder, tile)):
            start = builder.add(i, builder.mul(stride, ir.Constant(I64, r)))
            sums = []
            for c, vector in enumerate(cgutils.unpack_tuple(builder, row)):
                at = builder.add(start, ir.Constant(I64, c * WIDTH))
                add = builder.fadd if vector.type == LLVM_FLOATS else builder.add
                sums.append(add(_load(builder, _address(context, builder, signature.args[1], y, at)), vector))
            result.append(context.make_tuple(builder, signature.return_type.dtype, sums))
        return context.make_tuple(builder, signature.return_type, result)

    return tile(tile, y, types.intp, types.intp), generate


def _scale_tile_twin(tile: Any, a: Any, i: int, b: Any, j: int) -> Any:
    R, C, _ = tile.shape
    return tile.astype(np.float32) * (a[i : i + R, None, None] * b[j : j + C * WIDTH].reshape(C, WIDTH))


@operation(_scale_tile_twin)
def scale_tile(typing: Any, tile: Any, a: Any, i: Any, b: Any, j: Any) -> Any:
    """Return the int32 tile as float32, tile[r, c] multiplied by a[i + r] * b[j + c * WIDTH :][: WIDTH]."""
    rows, vectors = tile.count, tile.dtype.count

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tile, a, i, b, j = arguments
        starts = [builder.add(j, ir.Constant(I64, c * WIDTH)) for c in range(vectors)]
        factors = [_load(builder, _address(context, builder, signature.args[3], b, start)) for start in starts]
        result = []
        for r, row in enumerate(cgutils.unpack_tuple(builder, tile)):
            at = builder.add(i, ir.Constant(I64, r))
            factor = _splat(builder, builder.load(_address(context, builder, signature.args[1], a, at)))
            scaled = [
                builder.fmul(builder.sitofp(vector, LLVM_FLOATS), builder.fmul(factor, other))
                for vector, other in zip(cgutils.unpack_tuple(builder, row), factors, strict=True)
            ]
            result.append(context.make_tuple(builder, signature.return_type.dtype, scaled))
        return context.make_tuple(builder, signature.return_type, result)

    return tile_type(rows, vectors)(tile, a, types.intp, b, types.intp), generate


def _store_tile_twin(tile: Any, y: Any, i: int, stride: int) -> None:
    for r, row in enumerate(tile):
        y[i + r * stride : i + r * stride + row.size] = row.ravel()


@operation(_store_tile_twin)
def store_tile(typing: Any, tile: Any, y: Any, i: Any, stride: Any) -> Any:
    """Set y[i + r * stride :][: C * WIDTH] to tile[r], for every row r."""

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
    """Return tile + X P, the product of a matrix X (R, depth) in x and a matrix P (depth, C * WIDTH) in p.

    X[r, k] is x[i + r * x_row + k * x_term], and row P[k] is p[j + k * p_term :][: C * WIDTH]. Strides for both axes of
    X let it be a transposed matrix. Each element is summed over k in order, so its bits do not depend on the tile's
    shape.
    """
    for k in range(depth):
        tile = rank_1_update(tile, x, i + k * x_term, x_row, p, j + k * p_term)
    return tile


def _transpose_twin(x: Any, i: int, x_row: int, y: Any, j: int, y_row: int) -> None:
    for lane in range(WIDTH):
        y[j + lane : j + (WIDTH - 1) * y_row + lane + 1 : y_row] = x[i + lane * x_row : i + lane * x_row + WIDTH]


@operation(_transpose_twin)
def transpose(typing: Any, x: Any, i: Any, x_row: Any, y: Any, j: Any, y_row: Any) -> Any:
    """Transpose a block of WIDTH x WIDTH numbers: y[j + c * y_row + r] = x[i + r * x_row + c].

    x_row and y_row are the strides of the rows. The block is transposed in log2(WIDTH) rounds, which swap blocks of
    1, 2, 4, ... rows and columns across the diagonal.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, i, x_row, y, j, y_row = arguments
        rows = []
        for r in range(WIDTH):
            at = builder.add(i, builder.mul(x_row, ir.Constant(I64, r)))
            rows.append(_load(builder, _address(context, builder, signature.args[0], x, at)))
        block = 1
        while block < WIDTH:
            # indices into the 2 * WIDTH lanes of a pair of rows; those of the second row begin at WIDTH
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
