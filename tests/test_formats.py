"""Number formats: rounding, scales, and the way back to float32."""

from __future__ import annotations

import numpy as np
import pytest

from minilm_np import formats

pytestmark = pytest.mark.quick


def test_bf16_rounds_to_nearest_with_ties_to_even() -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -1.005, 3.0e38, np.inf, np.nan, 0.0], np.float32)
    expected = np.array([1.0, 1.0, 1.015625, -1.0078125, 3.0040553e38, np.inf, np.nan, 0.0], np.float32)
    np.testing.assert_allclose(formats.round_to_bf16(x), expected, rtol=1e-5)
    assert np.array_equal(formats.round_to_bf16(x)[:4], expected[:4])


def test_every_bf16_value_survives_the_round_trip() -> None:
    bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    values = formats.bf16_to_float32(bits)
    assert values.dtype == np.float32 and np.array_equal(values.view(np.uint32), bits.astype(np.uint32) << 16)
    finite = ~np.isnan(values)
    assert np.array_equal(formats.float32_to_bf16(values)[finite], bits[finite])
    assert np.isnan(formats.bf16_to_float32(formats.float32_to_bf16(values[~finite]))).all()


def test_bf16_keeps_nan_whatever_its_bits() -> None:
    """Rounding alone would turn a NaN of small bits into infinity, and one of large bits into zero."""
    nan = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(formats.round_to_bf16(nan)).all()


def test_fp16_rounds_to_nearest_with_ties_to_even() -> None:
    eps = formats.EPSILON["fp16"]
    x = np.array([1 + eps / 2, 1 + 3 * eps / 2, 1 + 0.6 * eps, 2**-26], np.float32)
    assert np.array_equal(formats.round_to_fp16(x), np.array([1, 1 + 2 * eps, 1 + eps, 0], np.float32))


def test_fp16_keeps_subnormals_and_overflows_to_infinity() -> None:
    smallest = 2.0**-24
    x = np.array([smallest, 3 * smallest, 1.6 * smallest, 2**-14 - smallest, 65504, 65519, 65520, -7e4], np.float32)
    expected = [smallest, 3 * smallest, 2 * smallest, 2**-14 - smallest, 65504, 65504, np.inf, -np.inf]
    with np.errstate(over="ignore"):
        assert formats.round_to_fp16(x).tolist() == expected


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_epsilon_is_the_distance_from_one_to_the_next_value(name: str) -> None:
    round_to = {"fp16": formats.round_to_fp16, "bf16": formats.round_to_bf16}[name]
    steps = round_to(np.array([1 + formats.EPSILON[name], 1 + 0.49 * formats.EPSILON[name]], np.float32))
    assert np.array_equal(steps, np.array([1 + formats.EPSILON[name], 1], np.float32))


@pytest.mark.parametrize("axis", [None, 1])
def test_int8_is_symmetric_and_within_half_a_step(axis: int | None) -> None:
    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32) * np.float32(3)
    weight[2] *= np.float32(0.01)
    codes, scale = formats.quantize_int8(weight, axis)
    assert codes.dtype == np.int8 and scale.dtype == np.float32 and scale.shape == ((1, 1) if axis is None else (5, 1))
    assert (np.abs(codes).max(axis=axis) == 127).all()
    assert np.array_equal(formats.round_to_int8(weight, axis), codes * scale)
    assert (np.abs(formats.round_to_int8(weight, axis) - weight) <= 0.5001 * scale).all()
    assert np.array_equal(formats.round_to_int8(-weight, axis), -formats.round_to_int8(weight, axis))


def test_uint8_covers_the_range_and_represents_zero_exactly() -> None:
    x = np.append(np.linspace(-1.5, 4, 1000), 0).astype(np.float32)
    codes, scale, zero_point = formats.quantize_uint8(x)
    assert codes.dtype == np.uint8 and (codes.min(), codes.max()) == (0, 255) and codes[-1] == zero_point
    rounded = formats.round_to_uint8(x)
    assert rounded.dtype == np.float32 and rounded[-1] == 0 and np.abs(rounded - x).max() <= 0.5001 * scale
    assert formats.quantize_uint8(x + np.float32(3)).zero_point == 0  # the range always includes 0
    assert formats.quantize_uint8(x - np.float32(9)).zero_point == 255
    assert (formats.quantize_uint8(x, dither=0.4).codes != codes).any()


def test_uint8_by_row_is_within_half_a_step_of_the_row() -> None:
    sizes = np.array([[1], [10], [0.1], [3], [0]], np.float32)
    x = np.random.default_rng(4).standard_normal((5, 33)).astype(np.float32) * sizes
    rounded = formats.round_rows_to_uint8(x + np.float32(2))
    step = (x.max(axis=1, keepdims=True) - x.min(axis=1, keepdims=True)) / 255
    assert rounded.dtype == np.float32
    assert (np.abs(rounded - x - 2) <= 0.5001 * step + 1e-6).all(), "each row has its own range"
    assert all(len(np.unique(row)) <= 256 for row in formats.round_rows_to_uint8(np.tile(x, 100)))
    assert (formats.round_rows_to_uint8(x[:1], dither=0.4) != formats.round_rows_to_uint8(x[:1])).any()


def test_uint8_does_not_wrap_around_at_the_end_of_the_range() -> None:
    x = np.array([-1.5, 0, 253.5], np.float32)  # scale 1; 253.5 and the zero point both round up, to 254 + 2
    codes, scale, zero_point = formats.quantize_uint8(x)
    assert codes.tolist() == [0, 2, 255] and scale == 1 and zero_point == 2


def test_all_zero_tensors_stay_zero() -> None:
    zeros = np.zeros((2, 3), np.float32)
    assert not formats.round_to_int8(zeros).any() and not formats.round_to_int8(zeros, 1).any()
    assert not formats.round_to_uint8(zeros).any()
