"""The scalar types: what every code of every type means, and how codes lie in memory.

A code is the unsigned integer whose bits are an element's bits. `decode` and `encode` go between
codes and numbers, `pack` and `unpack` between codes and bytes. In the interpreter the `carrier` of
a type holds its elements: the NumPy type of the same bits, or the code where NumPy has none.

DTypes are values: they compare and hash by content.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from tilus.errors import TilusError

Codes = npt.NDArray[np.unsignedinteger]
Numbers = npt.NDArray[np.number]
Kind = Literal["uint", "int", "float"]
Specials = Literal["none", "fn", "ieee"]
Overflow = Literal["saturate", "ieee", "cast"]

NATIVE: dict[str, type[np.number]] = {
    "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "float16": np.float16, "float32": np.float32, "tfloat32": np.float32,
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class DType:
    """A scalar type of `bits` bits.

    A float has `exponent` and `mantissa` bits, bias 2^(exponent - 1) - 1 and subnormals, and by its
    `specials` no infinity and no NaN (none), NaN at the largest code only (fn), or both (ieee).
    """

    name: str
    bits: int
    kind: Kind
    exponent: int = 0
    mantissa: int = 0
    specials: Specials = "none"

    def __repr__(self) -> str:
        return self.name

    @property
    def short(self) -> str:
        """The name in programs and kernel names: u4, i4, f6e3m2, f16, bf16."""
        spelled = self.name.replace("float", "f").replace("uint", "u").replace("int", "i")
        return spelled.replace("_", "")

    @property
    def bias(self) -> int:
        return (1 << self.exponent >> 1) - 1

    @cached_property
    def carrier(self) -> np.dtype[np.number]:
        """The NumPy type in which the interpreter holds an element."""
        return np.dtype(NATIVE[self.name]) if self.name in NATIVE else self.code_type

    @cached_property
    def code_type(self) -> np.dtype[np.unsignedinteger]:
        """The smallest unsigned NumPy type that holds a code."""
        return np.dtype(f"u{max(1, self.bits // 8)}")

    @cached_property
    def max(self) -> float:
        """The largest finite value; an int for integers."""
        if self.kind == "float":
            return float(self.decode(self._largest))
        if self == boolean:
            return 1
        return (1 << (self.bits - (self.kind == "int"))) - 1

    @cached_property
    def min(self) -> float:
        """The smallest finite value; an int for integers."""
        if self.kind == "float":
            return -self.max
        return -(1 << (self.bits - 1)) if self.kind == "int" else 0

    def decode(self, codes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The numbers that `codes` mean, exactly (64-bit integers beyond 2^53 are rounded)."""
        return self._numbers(self._codes(codes)).astype(np.float64)

    def encode(self, numbers: npt.ArrayLike, overflow: Overflow = "saturate") -> Codes:
        """The codes nearest to `numbers`, ties to the even code.

        Out of range, infinities too, is the largest finite value (saturate); infinity, else NaN,
        where the type has them (ieee); infinity where the type has it (cast). A NaN for a type
        without NaN is a TilusError, but under cast what a device makes of it: the largest value of
        a float type, 0 of an integer type.
        """
        given = np.asarray(numbers)
        if self == boolean:
            truth: npt.NDArray[np.bool_] = np.not_equal(given, 0)
            return truth.astype(self.code_type)
        if self.carrier.kind == "f" and not self._unused:
            return self._encode_native(given.astype(np.float64), overflow)
        if self.kind == "float":
            return self._encode_float(given.astype(np.float64), overflow)
        if given.dtype.kind == "f":
            return self._encode_rounded(given, overflow)
        bounds = np.iinfo(given.dtype if given.dtype.kind in "iu" else np.uint8)
        inside = given.clip(max(self.min, bounds.min), min(self.max, bounds.max))
        return self._low_bits(inside)

    def pack(self, codes: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """The bytes of `codes`: code k in bits n*k .. n*k + n-1, least significant bit first."""
        flat = self._codes(codes).ravel()
        if self.bits >= 8:
            return flat.astype(flat.dtype.newbyteorder("<")).view(np.uint8)
        # eight codes fill `bits` bytes, the low ones of a 64-bit word
        groups = np.zeros((-(-flat.size // 8), 8), np.uint8)
        groups.ravel()[: flat.size] = flat
        words = np.zeros(len(groups), "<u8")
        for k in range(8):
            words |= groups[:, k].astype("<u8") << np.uint64(self.bits * k)
        held = words.view(np.uint8).reshape(-1, 8)[:, : self.bits]
        return held.ravel()[: self._bytes(flat.size)]

    def unpack(self, buffer: npt.NDArray[np.uint8], count: int) -> Codes:
        """The first `count` codes of `buffer`: unpack(pack(codes), codes.size) == codes.ravel()."""
        if buffer.size < self._bytes(count):
            raise TilusError(
                f"unpack: {count} elements of {self} need {self._bytes(count)} bytes, but the "
                f"buffer has {buffer.size}"
            )
        stored = np.ascontiguousarray(buffer).view(np.uint8).ravel()[: self._bytes(count)]
        if self.bits >= 8:
            return stored.view(self.code_type.newbyteorder("<")).astype(self.code_type)
        groups = -(-count // 8)
        padded = np.zeros(groups * self.bits, np.uint8)
        padded[: stored.size] = stored
        held = np.zeros((groups, 8), np.uint8)
        held[:, : self.bits] = padded.reshape(groups, self.bits)
        words = held.view("<u8")[:, 0]
        codes = np.empty((groups, 8), np.uint8)
        for k in range(8):
            codes[:, k] = (words >> np.uint64(self.bits * k)) & np.uint64(self._mask)
        return codes.ravel()[:count]

    def codes(self, carried: Numbers) -> Codes:
        """The codes of elements held in `carrier`: the same bits."""
        return carried.view(self.code_type)

    def values(self, carried: Numbers) -> Numbers:
        """The numbers of elements held in `carrier`: float64, int64 or, of uint64, uint64."""
        return self._numbers(self.codes(carried))

    def carry(self, numbers: npt.ArrayLike) -> Numbers:
        """`numbers` as a device's cast leaves them, held in `carrier`."""
        return self.encode(numbers, "cast").view(self.carrier)

    @property
    def _mask(self) -> int:
        return (1 << self.bits) - 1

    @property
    def _unused(self) -> int:
        """How many low bits mean nothing: only tfloat32 has such."""
        return self.bits - 1 - self.exponent - self.mantissa

    @property
    def _largest(self) -> int:
        """The code of the largest finite value of a float type."""
        everything = (1 << (self.exponent + self.mantissa)) - 1
        beyond = {"none": 0, "fn": 1, "ieee": 1 << self.mantissa}[self.specials]
        return (everything - beyond) << self._unused

    def _bytes(self, count: int) -> int:
        return (count * self.bits + 7) // 8

    def _codes(self, codes: npt.ArrayLike) -> Codes:
        given = np.asarray(codes)
        if given.size and (given.dtype.kind not in "iu" or not self._in_range(given)):
            raise TilusError(
                f"{self}: codes are integers from 0 to {self._mask}, but these are {given.dtype} "
                f"from {given.min()} to {given.max()}"
            )
        return given.astype(self.code_type, copy=False)

    def _in_range(self, given: Numbers) -> bool:
        if given.dtype == self.code_type and self.bits >= 8:
            return True
        return bool(given.min() >= 0 and given.max() <= self._mask)

    def _numbers(self, codes: Codes) -> Numbers:
        return self._table[codes] if self.bits <= 8 else self._meaning(codes)

    @cached_property
    def _table(self) -> Numbers:
        return self._meaning(np.arange(1 << self.bits).astype(self.code_type))

    def _meaning(self, codes: Codes) -> Numbers:
        if self.kind == "float":
            return self._float_meaning(codes)
        if self.kind == "uint":
            return codes.astype(np.uint64 if self.bits == 64 else np.int64)
        sign = np.uint64(1 << (self.bits - 1))
        return ((codes.astype(np.uint64) ^ sign) - sign).view(np.int64)

    def _float_meaning(self, codes: Codes) -> npt.NDArray[np.float64]:
        if self.exponent == 8:
            # the leading bits of a float32
            upper = codes.astype(np.uint32) >> self._unused << (self._unused + 32 - self.bits)
            return _widened(upper.astype(np.uint32).view(np.float32))
        if self == f16:
            return _widened(codes.view(np.float16))
        wide = codes.astype(np.int64)
        fraction = wide & ((1 << self.mantissa) - 1)
        top = (1 << self.exponent) - 1
        exponent = (wide >> self.mantissa) & top
        significand = fraction + ((exponent > 0).astype(np.int64) << self.mantissa)
        scale = np.maximum(exponent, 1) - self.bias - self.mantissa
        size = np.ldexp(significand.astype(np.float64), scale)
        if self.specials == "ieee":
            size = np.where(exponent == top, np.where(fraction == 0, np.inf, np.nan), size)
        if self.specials == "fn":
            size = np.where(wide & self._mask >> 1 == self._mask >> 1, np.nan, size)
        negative = wide >> (self.exponent + self.mantissa) == 1
        numbers: npt.NDArray[np.float64] = np.where(negative, -size, size)
        return numbers

    def _encode_float(self, numbers: npt.NDArray[np.float64], overflow: Overflow) -> Codes:
        nan = np.isnan(numbers)
        if self.specials == "none" and overflow != "cast":
            self._refuse_nan(nan)
        # 4 * max is beyond the range, and unlike infinity it has an exponent
        size = np.where(nan, 0.0, np.minimum(np.abs(numbers), 4 * self.max))
        lowest = 1 - self.bias
        exponent = np.where(size == 0, lowest, np.maximum(np.frexp(size)[1] - 1, lowest))
        scaled = np.ldexp(size, self.mantissa - exponent)
        below = (exponent - lowest).astype(np.int64) << self.mantissa
        # without mantissa bits, which of two powers of two has the even code depends on `below`
        steps = np.where(below & 1, np.ceil(scaled - 0.5), np.rint(scaled)).astype(np.int64)
        # a significand rounded up to the next power of two carries into the exponent by itself
        code = (below + steps) << self._unused
        code = np.where(code > self._largest, self._beyond(overflow), code)
        code = np.where(nan, self._nan, code)
        negative = np.signbit(numbers) & ~(nan & (self.specials == "none"))
        signed = np.where(negative, code | 1 << (self.bits - 1), code)
        return signed.astype(self.code_type)

    def _encode_native(self, numbers: npt.NDArray[np.float64], overflow: Overflow) -> Codes:
        limited = numbers.clip(self.min, self.max) if overflow == "saturate" else numbers
        with np.errstate(over="ignore", invalid="ignore"):
            return self.codes(limited.astype(self.carrier))

    @property
    def _nan(self) -> int:
        """The code of NaN, or of the largest value where there is no NaN."""
        steps = {"none": 0, "fn": 1, "ieee": 1 + (1 << self.mantissa >> 1)}[self.specials]
        return self._largest + (steps << self._unused)

    def _beyond(self, overflow: Overflow) -> int:
        """The code of a number beyond the largest finite one: that, or infinity or NaN after it."""
        taken = {"saturate": (), "ieee": ("ieee", "fn"), "cast": ("ieee",)}[overflow]
        return self._largest + ((self.specials in taken) << self._unused)

    def _encode_rounded(self, numbers: npt.NDArray[np.floating], overflow: Overflow) -> Codes:
        nan = np.isnan(numbers)
        if overflow != "cast":
            self._refuse_nan(nan)
        rounded = np.rint(np.where(nan, 0, numbers)).astype(np.float64)
        # float(max) of a 64-bit type is max + 1, which no integer array holds
        above, below = rounded >= float(self.max), rounded <= float(self.min)
        whole = np.where(above | below, 0, rounded)
        wide = whole.astype(np.uint64 if self.kind == "uint" else np.int64)
        return self._low_bits(np.where(above, self.max, np.where(below, self.min, wide)))

    def _refuse_nan(self, nan: npt.NDArray[np.bool_]) -> None:
        if nan.any():
            raise TilusError(
                f"{self} has no NaN, but {np.count_nonzero(nan)} of {nan.size} numbers are NaN: "
                "replace them first"
            )

    def _low_bits(self, whole: Numbers) -> Codes:
        wide = whole.astype(np.int64 if self.kind == "int" else np.uint64)
        return (wide.view(np.uint64) & np.uint64(self._mask)).astype(self.code_type)


def _widened(numbers: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # signalling NaNs become quiet
        return numbers.astype(np.float64)


def uint(bits: int) -> DType:
    """The unsigned integer of 1 to 8, 16, 32 or 64 bits."""
    return _integer("uint", bits)


def sint(bits: int) -> DType:
    """The two's complement integer of 1 to 8, 16, 32 or 64 bits; of 1 bit it is -1 or 0."""
    return _integer("int", bits)


def floating(exponent: int, mantissa: int) -> DType:
    """The float of 3 to 8 bits with one sign bit, `exponent` >= 1 and `mantissa` >= 0 bits."""
    bits = 1 + exponent + mantissa
    if exponent < 1 or mantissa < 0 or not 3 <= bits <= 8:
        raise TilusError(f"no float of {exponent} exponent and {mantissa} mantissa bits: {LEGAL}")
    specials: dict[tuple[int, int], Specials] = {(5, 2): "ieee", (4, 3): "fn"}
    name = f"float{bits}_e{exponent}m{mantissa}"
    return DType(
        name, bits, "float", exponent, mantissa, specials.get((exponent, mantissa), "none")
    )


def dtype(name: str | DType) -> DType:
    """The type of that name, long (uint4, float6_e3m2) or short (u4, f6e3m2)."""
    match name:
        case DType():
            return name
        case str() if name in BY_NAME:
            return BY_NAME[name]
    raise TilusError(f"no dtype {name!r}: {LEGAL}")


def _integer(kind: Literal["uint", "int"], bits: int) -> DType:
    if bits not in WIDTHS:
        raise TilusError(f"no integer of {bits} bits: {LEGAL}")
    return DType(f"{kind}{bits}", bits, kind)


WIDTHS = (*range(1, 9), 16, 32, 64)
LEGAL = (
    "there are uintN and intN (uN, iN) with N of 1 to 8, 16, 32, 64; floatN_eXmY (fNeXmY) with "
    "N = 1 + X + Y of 3 to 8, X >= 1, Y >= 0; float16, bfloat16, float32, tfloat32 "
    "(f16, bf16, f32, tf32); bool"
)

boolean = DType("bool", 8, "uint")
u8, u16, u32, u64 = uint(8), uint(16), uint(32), uint(64)
i8, i16, i32, i64 = sint(8), sint(16), sint(32), sint(64)
f16 = DType("float16", 16, "float", 5, 10, "ieee")
bf16 = DType("bfloat16", 16, "float", 8, 7, "ieee")
f32 = DType("float32", 32, "float", 8, 23, "ieee")
tf32 = DType("tfloat32", 32, "float", 8, 10, "ieee")

SMALL_FLOATS = tuple(
    floating(exponent, bits - 1 - exponent) for bits in range(3, 9) for exponent in range(1, bits)
)
ALL = (
    *map(uint, WIDTHS), *map(sint, WIDTHS), *SMALL_FLOATS, f16, bf16, f32, tf32, boolean,
)  # fmt: skip
BY_NAME = {name: each for each in ALL for name in (each.name, each.short)}
