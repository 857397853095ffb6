"""Number formats with fewer bits than float32: rounding, scales, and conversion back to float32.

| format | bits | stored values | scale |
|---|---|---|---|
| fp16 | 1 sign, 5 exponent, 10 fraction | IEEE 754 binary16 | none |
| bf16 | 1 sign, 8 exponent, 7 fraction | the upper half of a float32 | none |
| int8 | 8, signed | -127 to 127, symmetric: 0 is exact | one for a tensor, or one for each index of an axis |
| uint8 | 8, unsigned | 0 to 255, asymmetric: a zero point represents 0 exactly | one for a tensor, from its range |
| uint8 per row | 8, unsigned | 0 to 255; 0 stands for the smallest number | one for each row, from its range |

Every conversion rounds to the nearest value, ties to even. The `round_to_*` functions return float32 arrays of values
that the format can represent. They simulate inputs in that format for a computation that accumulates in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

EPSILON = {"fp16": 2**-10, "bf16": 2**-7}  # distance from 1 to the next larger value of the format


def round_to_fp16(x: Array) -> Array:
    """Round float32 to the nearest fp16 value and return it as float32; beyond 65504 the result is infinite."""
    return x.astype(np.float16).astype(np.float32)


def round_to_bf16(x: Array) -> Array:
    """Round float32 to the nearest bf16 value and return it as float32."""
    return bf16_to_float32(float32_to_bf16(x))


def float32_to_bf16(x: Array) -> Array:
    """Return the bf16 bits (uint16) nearest to float32 values, ties to even; NaN stays NaN.

    The upper 16 bits remain. Adding 0x7FFF, plus 1 if the last remaining bit is set, carries into them exactly if the
    lower 16 bits are more than half a unit, or equal to half a unit and the last remaining bit is set.
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).reshape(np.shape(x))
    last_bit = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + last_bit) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FC0), rounded).astype(np.uint16)


def bf16_to_float32(bits: Array) -> Array:
    """Return the float32 values of bf16 bits (uint16), exactly: the 16 bits become the upper half of a float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


class Int8(NamedTuple):
    """Symmetric int8: value = codes * scale."""

    codes: Array  # int8, the shape of the input
    scale: Array  # float32, broadcasts against codes


def quantize_int8(x: Array, axis: int | None = None) -> Int8:
    """Quantize float32 to int8, symmetric: scale = max |x| / 127, codes = round(x / scale).

    axis: the axis over which the maximum is taken; None for the whole tensor. For a dense weight (outputs, inputs),
        axis=1 gives one scale for each output channel. Where the maximum is 0, the scale is 1.
    """
    scale = np.abs(x).max(axis=axis, keepdims=True) / np.float32(127)
    scale = np.where(scale == 0, np.float32(1), scale)
    return Int8(np.rint(x / scale).astype(np.int8), scale)


def round_to_int8(x: Array, axis: int | None = None) -> Array:
    """Round float32 to int8 and return it as float32: codes * scale of `quantize_int8`."""
    codes, scale = quantize_int8(x, axis)
    return np.asarray(codes * scale, np.float32)


def quantize_weight(weight: Array) -> Int8:
    """Quantize a dense weight (outputs, inputs) to int8 with a scale (outputs, 1) for each output channel.

    As `quantize_int8`, but the scales are rounded up to 16 significant bits. So codes * scale is exact in float32, and
    quantizing that again gives the same codes and scales.
    """
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), np.float32(1e-30)) / np.float32(127)
    bits = np.asarray(scale, np.float32).view(np.uint32)
    scale = ((bits + np.uint32(0xFF)) & np.uint32(0xFFFFFF00)).view(np.float32)
    return Int8(np.rint(weight / scale).astype(np.int8), scale)


class Uint8(NamedTuple):
    """Asymmetric uint8: value = (codes - zero_point) * scale."""

    codes: Array  # uint8, the shape of the input
    scale: np.float32
    zero_point: np.float32  # a whole number from 0 to 255


def quantize_uint8(x: Array, dither: Array | float = 0.0) -> Uint8:
    """Quantize float32 activations to uint8 by the range of the whole tensor, extended to include 0.

    scale = (max - min) / 255, zero_point = round(-min / scale), codes = clip(round(x / scale + dither) + zero_point,
    0, 255). These are the formulas of ONNX's DynamicQuantizeLinear. If all of x is 0, the scale is 1. Expects
    finite values.

    dither: offsets, in steps, that move values near a tie to the other side; below 0.5.
    """
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((high - low) / 255) or np.float32(1)
    zero_point = np.float32(np.rint(-low / scale))
    codes = np.clip(np.rint(x / scale + dither) + zero_point, 0, 255)
    return Uint8(codes.astype(np.uint8), scale, zero_point)


def round_to_uint8(x: Array, dither: Array | float = 0.0) -> Array:
    """Round float32 to uint8 and return it as float32: (codes - zero_point) * scale of `quantize_uint8`."""
    codes, scale, zero_point = quantize_uint8(x, dither)
    return np.asarray((codes.astype(np.float32) - zero_point) * scale, np.float32)


def round_rows_to_uint8(x: Array, dither: Array | float = 0.0) -> Array:
    """Round each row of float32 x (T, K) to uint8 by its own range and return it as float32.

    A row becomes codes * scale + min, with scale = (max - min) / 255 and codes = round((x - min) / scale). The dense
    layers of SentenceTransformer(dtype="int8") quantize their inputs so.

    dither: offsets, in steps, that move values near a tie to the other side; below 0.5.
    """
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    steps = np.float32(255) / np.maximum(high - low, np.float32(1e-30))
    codes = np.clip(np.rint((x - low) * steps + dither), 0, 255)
    return np.asarray(codes * ((high - low) / np.float32(255)) + low, np.float32)
