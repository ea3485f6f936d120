"""What every code means, which code a number gets, and where codes lie in memory."""

import math
import pickle
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from tilus.dtypes import (
    ALL,
    SMALL_FLOATS,
    DType,
    bf16,
    boolean,
    dtype,
    f16,
    f32,
    floating,
    i8,
    i32,
    i64,
    sint,
    tf32,
    u8,
    u16,
    u32,
    u64,
    uint,
)
from tilus.errors import TilusError

ORACLE = {
    "uint2": ml_dtypes.uint2,
    "uint4": ml_dtypes.uint4,
    "int2": ml_dtypes.int2,
    "int4": ml_dtypes.int4,
    "float4_e2m1": ml_dtypes.float4_e2m1fn,
    "float6_e2m3": ml_dtypes.float6_e2m3fn,
    "float6_e3m2": ml_dtypes.float6_e3m2fn,
    "float8_e4m3": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}
FLOAT_ORACLE = [name for name in ORACLE if "float" in name]
INTEGERS = [each for each in ALL if each.kind != "float" and each != boolean]
HALVES = np.arange(1 << 16).astype(np.uint16).view(np.float16)
FINITE_HALVES = HALVES[np.isfinite(HALVES)].astype(np.float64)


def every_code(each: DType) -> np.ndarray:
    """All codes of a type up to 16 bits; of a wider one the extremes and a random sample."""
    if each.bits <= 16:
        return np.arange(1 << each.bits).astype(each.code_type)
    draw = np.random.default_rng(0).integers
    sample = draw(0, (1 << each.bits) - 1, 5000, np.uint64, endpoint=True)
    edges = [0, 1, (1 << (each.bits - 1)) - 1, 1 << (each.bits - 1), (1 << each.bits) - 1]
    return np.concatenate([np.array(edges, np.uint64), sample]).astype(each.code_type)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal as float64 bits, -0.0 apart from 0.0, any NaN equal to any NaN."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    alike = (a.view(np.uint64) == b.view(np.uint64)) | (np.isnan(a) & np.isnan(b))
    return a.shape == b.shape and bool(alike.all())


def float_by_definition(each: DType, code: int) -> float:
    """Sign, exponent and mantissa read as the text of the format says."""
    sign, rest = divmod(code, 1 << (each.bits - 1))
    exponent, mantissa = divmod(rest, 1 << each.mantissa)
    bias = 2 ** (each.exponent - 1) - 1
    if each.name == "float8_e4m3" and rest == 0b1111111:
        return math.nan
    if each.name == "float8_e5m2" and exponent == 31:
        return (-1) ** sign * math.inf if mantissa == 0 else math.nan
    fraction = Fraction(mantissa, 2**each.mantissa)
    if exponent == 0:
        size = fraction * Fraction(2) ** (1 - bias)
    else:
        size = (1 + fraction) * Fraction(2) ** (exponent - bias)
    return math.copysign(float(size), -1 if sign else 1)


@pytest.mark.parametrize("each", SMALL_FLOATS, ids=repr)
def test_every_code_of_a_small_float_means_what_the_format_says(each):
    codes = every_code(each)
    expected = np.array([float_by_definition(each, int(code)) for code in codes])
    assert same(each.decode(codes), expected)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("f3e1m1", [0, 1, 2, 3]),
        ("f3e2m0", [0, 1, 2, 4]),
        ("f4e2m1", [0, 0.5, 1, 1.5, 2, 3, 4, 6]),
        ("int1", [0, -1]),
        ("int3", [0, 1, 2, 3, -4, -3, -2, -1]),
        ("uint3", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_short_tables(name, values):
    assert dtype(name).decode(np.arange(len(values))).tolist() == values


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("f6e3m2", 28), ("f6e2m3", 7.5), ("f7e3m3", 30), ("f7e4m2", 448), ("f7e2m4", 7.75),
        ("f6e4m1", 384), ("f5e3m1", 24), ("f5e2m2", 7), ("f7e5m1", 98304), ("f8e4m3", 448),
        ("f8e5m2", 57344), ("f8e7m0", 2.0**64), ("f16", 65504), ("bf16", 2.0**128 - 2.0**120),
        ("f32", 2.0**128 - 2.0**104), ("tf32", 2.0**128 - 2.0**117), ("u5", 31), ("bool", 1),
    ],
)  # fmt: skip
def test_largest_value(name, largest):
    each = dtype(name)
    assert each.max == largest
    assert each.min == (-largest if each.kind == "float" else 0)


@pytest.mark.parametrize("bits", [1, 2, 7, 8, 16, 32, 64])
def test_range_of_integers(bits):
    assert (uint(bits).min, uint(bits).max) == (0, 2**bits - 1)
    assert (sint(bits).min, sint(bits).max) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@pytest.mark.parametrize("name", ORACLE)
def test_every_code_means_what_the_oracle_says(name):
    codes = every_code(dtype(name))
    with np.errstate(invalid="ignore"):
        expected = codes.view(ORACLE[name]).astype(np.float64)
    assert same(dtype(name).decode(codes), expected)


@pytest.mark.parametrize("name", FLOAT_ORACLE)
def test_every_half_gets_the_code_of_the_oracle(name):
    each = dtype(name)
    halves = HALVES[~np.isnan(HALVES)] if each.specials == "none" else HALVES
    with np.errstate(over="ignore", invalid="ignore"):
        expected = halves.astype(ORACLE[name]).view(each.code_type)
    assert np.array_equal(each.encode(halves, "ieee"), expected)


@pytest.mark.parametrize("name", ["uint2", "uint4", "int2", "int4"])
def test_every_whole_half_in_range_gets_the_code_of_the_oracle(name):
    each = dtype(name)
    whole = FINITE_HALVES[FINITE_HALVES % 1 == 0]
    inside = whole[(whole >= each.min) & (whole <= each.max)]
    expected = inside.astype(ORACLE[name]).view(np.uint8) & (2**each.bits - 1)
    assert np.array_equal(each.encode(inside), expected)


@pytest.mark.parametrize("each", [*SMALL_FLOATS, f16, bf16, tf32], ids=repr)
def test_encoding_takes_the_nearest_value_ties_to_the_even_code(each):
    largest = int(each.encode(each.max))
    step = 1 << 13 if each == tf32 else 1
    ladder = np.arange(0, largest + 1, step * (1 if each.bits <= 8 else 37)).astype(each.code_type)
    lower = each.decode(ladder[:-1])
    codes = ladder[:-1].astype(np.int64)
    upper = each.decode((codes + step).astype(each.code_type))
    middle = (lower + upper) / 2
    even = np.where(codes // step % 2 == 0, codes, codes + step)
    for numbers, expected in [
        (lower, codes),
        (middle, even),
        (np.nextafter(middle, 0), codes),
        (np.nextafter(middle, np.inf), codes + step),
    ]:
        assert np.array_equal(each.encode(numbers), expected)
        negative = 1 << (each.bits - 1)
        assert np.array_equal(each.encode(-numbers).astype(np.int64), expected | negative)


@pytest.mark.parametrize("each", ALL, ids=repr)
def test_encoding_undoes_decoding(each):
    codes = every_code(each)
    if each == boolean:
        codes = codes[:2]
    if each == tf32:
        codes = codes >> 13 << 13
    if each.bits == 64:
        codes = codes >> 11  # what float64 holds exactly
    numbers = each.decode(codes)
    known = ~np.isnan(numbers)
    assert np.array_equal(each.encode(numbers[known], "ieee"), codes[known])


@pytest.mark.parametrize("each", [e for e in ALL if e.kind == "float"], ids=repr)
def test_beyond_the_range_is_the_largest_value_unless_asked_otherwise(each):
    beyond = np.array([4 * each.max, np.inf, -4 * each.max, -np.inf])
    signs = np.array([1, 1, -1, -1])
    assert same(each.decode(each.encode(beyond)), each.max * signs)
    last = {"none": each.max, "fn": np.nan, "ieee": np.inf}[each.specials]
    assert same(each.decode(each.encode(beyond, "ieee")), last * signs)
    cast = np.inf if each.specials == "ieee" else each.max
    assert same(each.values(each.carry(beyond)), cast * signs)


@pytest.mark.parametrize("each", [e for e in ALL if e != boolean], ids=repr)
def test_nan_is_kept_refused_or_cast(each):
    numbers = np.array([1.0, np.nan])
    if each.specials != "none":
        assert np.isnan(each.decode(each.encode(numbers))).tolist() == [False, True]
        return
    with pytest.raises(TilusError, match=f"{each} has no NaN, but 1 of 2 numbers are NaN"):
        each.encode(numbers)
    expected = each.max if each.kind == "float" else 0
    assert each.values(each.carry([np.nan, -np.nan])).tolist() == [expected] * 2


@pytest.mark.parametrize("each", INTEGERS, ids=repr)
def test_integers_are_twos_complement(each):
    codes = every_code(each)
    half, full = 1 << (each.bits - 1), 1 << each.bits
    signed = each.kind == "int"
    expected = [int(c) - full if signed and c >= half else int(c) for c in codes]
    assert each.values(codes.view(each.carrier)).tolist() == expected
    assert each.decode(codes).tolist() == list(map(float, expected))


@pytest.mark.parametrize("each", INTEGERS, ids=repr)
@pytest.mark.parametrize("given", [np.int8, np.uint8, np.int64, np.uint64, np.float64])
def test_integers_saturate_whatever_holds_the_number(each, given):
    kind = np.iinfo(given) if given != np.float64 else np.finfo(given)
    numbers = np.array([kind.min, 0, 1, 5, 100, kind.max], given)
    expected = [min(max(int(n), int(each.min)), int(each.max)) for n in numbers.tolist()]
    assert each.encode(numbers).tolist() == [n % 2**each.bits for n in expected]


def test_floats_at_the_edge_of_64_bits_saturate():
    edges = [2.0**64, 2.0**64 - 2.0**11, 2.0**63, 2.0**63 - 2.0**10, -(2.0**63), -(2.0**64)]
    assert u64.carry(edges).tolist() == [2**64 - 1, 2**64 - 2**11, 2**63, 2**63 - 2**10, 0, 0]
    assert i64.carry(edges).tolist() == [2**63 - 1] * 3 + [2**63 - 2**10] + [-(2**63)] * 2


def test_integers_round_to_even():
    halves = [0.5, 1.5, 2.5, 2.500001, -0.5, -1.5, -2.5]
    assert i8.values(i8.carry(halves)).tolist() == [0, 2, 2, 3, 0, -2, -2]
    assert i32.carry(np.float32(halves)).tolist() == [0, 2, 2, 3, 0, -2, -2]


@pytest.mark.parametrize("given", [[0, 2, -3], [False, True, True], [-0.0, 0.25, np.nan]])
def test_a_truth_value_is_whether_the_number_is_not_zero(given):
    assert boolean.encode(given).tolist() == [0, 1, 1]


@pytest.mark.parametrize("each", ALL, ids=repr)
@pytest.mark.parametrize("count", [0, 1, 3, 8, 17])
def test_packed_codes_are_one_number_least_significant_code_first(each, count):
    codes = np.random.default_rng(count).choice(every_code(each), count)
    codes[:1] = (1 << each.bits) - 1
    stored = each.pack(codes)
    assert stored.dtype == np.uint8
    assert stored.size == -(-count * each.bits // 8)
    number = sum(int(code) << (each.bits * k) for k, code in enumerate(codes))
    assert int.from_bytes(stored.tobytes(), "little") == number
    unpacked = each.unpack(stored, count)
    assert unpacked.dtype == each.code_type
    assert np.array_equal(unpacked, codes)


def test_packing_flattens_row_by_row_and_unpacking_ignores_what_follows():
    codes = np.arange(12).reshape(3, 4)
    assert uint(4).pack(codes).tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA]
    buffer = np.array([0x10, 0x32, 0xFF, 0xFF], np.uint8)
    assert uint(4).unpack(buffer, 3).tolist() == [0, 1, 2]
    assert u16.unpack(buffer, 1).tolist() == [0x3210]


def test_too_short_a_buffer_is_refused():
    with pytest.raises(TilusError, match="9 elements of uint6 need 7 bytes, but the buffer has 6"):
        uint(6).unpack(np.zeros(6, np.uint8), 9)


@pytest.mark.parametrize("codes", [[3, 16], [-1, 2], [0.0, 1.0], np.array([16], np.uint8)])
@pytest.mark.parametrize("what", [uint(4).pack, uint(4).decode, sint(4).decode])
def test_what_is_no_code_is_refused(codes, what):
    with pytest.raises(TilusError, match="int4: codes are integers from 0 to 15, but these are"):
        what(codes)


def test_a_negative_number_is_no_code_of_a_byte():
    with pytest.raises(TilusError, match="from -1 to 3"):
        u8.pack([-1, 3])


@pytest.mark.parametrize(
    ("each", "carrier"),
    [(f16, "f2"), (f32, "f4"), (tf32, "f4"), (bf16, "u2"), (i32, "i4"), (u32, "u4"), (u64, "u8"),
     (i64, "i8"), (u8, "u1"), (i8, "u1"), (uint(1), "u1"), (floating(3, 2), "u1"), (boolean, "u1")],
    ids=repr,
)  # fmt: skip
def test_carriers(each, carrier):
    assert each.carrier == np.dtype(carrier)


@pytest.mark.parametrize("each", ALL, ids=repr)
def test_a_carried_element_has_the_bits_of_its_code(each):
    codes = every_code(each)
    carried = codes.view(each.carrier)
    assert np.array_equal(each.codes(carried), codes)
    assert same(each.values(carried), each.decode(codes))


@pytest.mark.parametrize("each", ALL, ids=repr)
def test_carrying_keeps_shape_and_value(each):
    numbers = np.array([[0, 1], [1, 0], [0, 0]]) * (-1 if each == sint(1) else 1)
    carried = each.carry(numbers)
    assert carried.dtype == each.carrier
    assert np.array_equal(each.values(carried), numbers)


@pytest.mark.parametrize("kind", [float, np.float16, np.float32])
def test_what_float16_rounds_is_what_numpy_rounds(kind):
    numbers = (np.random.default_rng(1).standard_normal(1000) * 1e3).astype(kind)
    assert np.array_equal(f16.carry(numbers), numbers.astype(np.float16))
    assert np.array_equal(f32.carry(numbers), numbers.astype(np.float32))


def test_tfloat32_means_only_its_upper_19_bits():
    code = np.array([0x3F801FFF, 0x3F802000], np.uint32)
    assert tf32.decode(code).tolist() == [1.0, 1.0 + 2.0**-10]
    assert tf32.values(code.view(np.float32)).tolist() == [1.0, 1.0 + 2.0**-10]


def test_there_are_as_many_types_as_the_specification_says():
    assert len(SMALL_FLOATS) == 2 + 3 + 4 + 5 + 6 + 7
    assert len(set(ALL)) == len(ALL) == 11 + 11 + 27 + 4 + 1


@pytest.mark.parametrize("each", ALL, ids=repr)
def test_a_type_is_found_by_its_names_and_by_itself(each):
    assert dtype(each.name) is dtype(each.short) is each
    assert dtype(each) is each
    assert repr(each) == each.name
    assert pickle.loads(pickle.dumps(each)) == each


@pytest.mark.parametrize(
    ("short", "long"),
    [("u4", "uint4"), ("i4", "int4"), ("f6e3m2", "float6_e3m2"), ("bf16", "bfloat16"),
     ("tf32", "tfloat32"), ("f16", "float16"), ("u64", "uint64"), ("bool", "bool")],
)  # fmt: skip
def test_short_names(short, long):
    assert dtype(short).name == long
    assert dtype(long).short == short


def test_constructors_name_their_types():
    assert floating(3, 2) == dtype("f6e3m2")
    assert hash(floating(3, 2)) == hash(dtype("f6e3m2"))
    assert floating(3, 2) != floating(2, 3)
    assert (uint(4).name, sint(4).name) == ("uint4", "int4")


@pytest.mark.parametrize("name", ["u9", "int0", "f6e3m3", "f9e5m3", "f3e0m2", "f2e1m0", "half", ""])
def test_an_unknown_name_is_told_what_there_is(name):
    with pytest.raises(TilusError, match=f"no dtype '{name}': there are uintN .* tfloat32"):
        dtype(name)


@pytest.mark.parametrize("exponent, mantissa", [(0, 3), (1, 0), (5, 3), (4, -1), (5, 10)])
def test_an_illegal_float_is_told_what_there_is(exponent, mantissa):
    with pytest.raises(
        TilusError, match=f"{exponent} exponent and {mantissa} mantissa bits: there"
    ):
        floating(exponent, mantissa)


@pytest.mark.parametrize("bits", [0, 9, 24, 128])
@pytest.mark.parametrize("constructor", [uint, sint])
def test_an_illegal_integer_is_told_what_there_is(bits, constructor):
    with pytest.raises(TilusError, match=f"no integer of {bits} bits: there are"):
        constructor(bits)
