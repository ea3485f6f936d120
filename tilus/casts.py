"""How one element type becomes another, many at once: rows of (from, to, order, function).

A thread's registers of a tile are one string of bits, element i at bits n*i .. n*i + n - 1. A fast
cast to a 16-bit type takes two elements at a time, which must lie at the same place in opposite
16-bit halves of words: elements i and i + `stride(n)` do, whatever n is. So a fast cast gives its
result in another order of registers than it takes them, which costs nothing: the layout of the
result says so. A row that needs a certain chip, because that converts by itself, gives the same
numbers in the same order as the row for all chips.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import gcd

import numpy as np

from tilus.dtypes import DType, bf16, f16, f32, floating
from tilus.layout import Layout, permute_registers
from tilus.target import OLDEST, Target


def stride(bits: int) -> int:
    """The smallest d for which elements i and i + d lie in opposite halves, equally far in.

    bits * d is then 16 modulo 32.
    """
    return 16 // gcd(bits, 16)


Arguments = Callable[[DType, DType, int], tuple[int, ...]]  # of source, target, word of the result


@dataclass(frozen=True)
class FastCast:
    """Two elements at once, by `function`<kind, template arguments...>(words).

    `lift`, where there is one, makes float16 numbers of which the values are multiples, apart from
    an offset that all share: `lift_factor` and `lift_offset`.
    """

    accepts: Callable[[DType], bool]
    target: DType
    function: str
    arguments: Arguments
    lift: str = ""
    lift_arguments: Arguments = lambda *_: ()
    needs: tuple[str, ...] = (OLDEST.name,)


def is_small_integer(t: DType) -> bool:
    return t.kind in ("uint", "int") and t.bits <= 8


def is_integer_below_byte(t: DType) -> bool:
    return is_small_integer(t) and t.bits < 8


def is_small_float(t: DType) -> bool:
    return t.kind == "float" and t.bits <= 8


def fits_in_f16(t: DType) -> bool:
    """A float of up to 8 bits whose every code is exponent and mantissa of a float16 too.

    With 5 exponent bits the largest exponent must mean infinity or NaN in the source as well.
    """
    if not is_small_float(t):
        return False
    return t.exponent < 5 or (t.exponent == 5 and (t.specials == "ieee" or t.mantissa == 0))


def pair_bits(source: DType, word: int) -> tuple[int, int]:
    """Where in the bit string the two elements lie that make `word` of a fast cast's result."""
    d = stride(source.bits)
    first = word // d * 2 * d + word % d
    return source.bits * first, source.bits * (first + d)


def place(source: DType, word: int) -> int:
    """How far in their halves the two lie; 0 for those that straddle halves, which are moved."""
    low, _ = pair_bits(source, word)
    return low % 16 if low % 16 + source.bits <= 16 else 0


def shift(source: DType, target: DType, word: int) -> int:
    """How far they are moved down to lie in the target's mantissa: by 8, if that does."""
    at = place(source, word)
    return at // 8 * 8 if at % 8 + source.bits <= target.mantissa else at


def pair(source: DType, target: DType, word: int) -> tuple[int, ...]:
    return pair_bits(source, word)


def shifted_pair(source: DType, target: DType, word: int) -> tuple[int, ...]:
    return (*pair_bits(source, word), shift(source, target, word))


def lifted_pair(source: DType, target: DType, word: int) -> tuple[int, ...]:
    return (*pair_bits(source, word), lift_place(source))


def one_of(*formats: tuple[int, int]) -> Callable[[DType], bool]:
    """Whether a type is a float of one of these (exponent, mantissa) bits."""
    types = [floating(*bits) for bits in formats]
    return lambda t: t in types


FAST = (
    FastCast(one_of((4, 3), (5, 2)), f16, "converted_to_f16", pair, needs=("sm_89",)),
    FastCast(
        one_of((2, 1), (3, 2), (2, 3)), f16, "converted_to_f16", pair, needs=("sm_100a", "sm_120a")
    ),
    FastCast(is_small_integer, f16, "integers_to_f16", shifted_pair, "lift_integers", lifted_pair),
    FastCast(fits_in_f16, f16, "floats_to_f16", pair, "lift_floats", pair),
    FastCast(one_of((5, 1)), f16, "floats_bounded_to_f16", pair, needs=("sm_86",)),
    FastCast(is_small_float, f16, "floats_through_bf16", pair),
    FastCast(is_integer_below_byte, bf16, "integers_to_bf16", shifted_pair),
    FastCast(is_small_integer, bf16, "bytes_to_bf16", pair),
    FastCast(is_small_float, bf16, "floats_to_bf16", pair),
)  # the first that accepts, and that the chip has, is taken

PACKING = {f16: "f32_to_f16_pair", bf16: "f32_to_bf16_pair"}  # two float32 registers to one word


def fast_row(source: DType, target: DType, chip: Target = OLDEST) -> FastCast | None:
    """The row that casts `source` to `target` on a chip, if there is one."""
    for row in FAST:
        if row.target == target and row.accepts(source) and any(map(chip.supports, row.needs)):
            return row
    return None


def fast_cast(
    source: DType, target: DType, registers: int, chip: Target = OLDEST
) -> FastCast | None:
    """The row that casts `registers` elements a thread; they must make pairs and whole words."""
    if registers % (2 * stride(source.bits)) or registers * source.bits % 32:
        return None
    return fast_row(source, target, chip)


@cache
def lift_place(source: DType) -> int:
    """Where in a float16 lifted integers lie: where most of them lie already.

    Below 2^11 a float16's bits count even steps; a single bit is a power of two anywhere below the
    sign. Moving up costs less than moving down, which only one of a GPU's pipes does.
    """
    lows = [pair_bits(source, word)[0] % 16 for word in range(stride(source.bits))]
    places = [low for low in lows if low + source.bits <= 16]  # the others are moved anyway

    def cost(at: int) -> float:
        return sum(0.5 if p < at else 1.0 for p in places if p != at)

    most = f16.mantissa + 1 - source.bits if source.bits > 1 else f16.bits - 2
    return min(range(most + 1), key=cost)


def lift_factor(source: DType) -> float:
    """value = lifted * lift_factor - lift_offset.

    A lifted integer is that integer times the float16 with the bit at its place; a lifted float
    keeps its own exponent bias.
    """
    if source.kind == "float":
        return 2.0 ** (f16.bias - source.bias)
    return 1 / float(np.uint16(1 << lift_place(source)).view(np.float16))


def lift_offset(source: DType) -> float:
    """What the flipped sign bit adds to signed integers."""
    return 2.0 ** (source.bits - 1) if source.kind == "int" else 0.0


def packing(source: DType, target: DType, registers: int) -> str | None:
    """The function that rounds two float32 registers to one word of `target`, if there is one."""
    return PACKING.get(target) if source == f32 and registers % 2 == 0 else None


def cast_layout(source: DType, target: DType, layout: Layout) -> Layout:
    """The layout of the result: pairs that the fast cast makes together become neighbours."""
    if layout.is_open or fast_cast(source, target, layout.registers) is None:
        return layout
    d = stride(source.bits)
    return permute_registers(layout, (layout.registers // (2 * d), 2, d), (0, 2, 1))


def source_layout(source: DType, target: DType, layout: Layout) -> Layout:
    """The layout whose `cast_layout` is `layout`."""
    if fast_cast(source, target, layout.registers) is None:
        return layout
    d = stride(source.bits)
    return permute_registers(layout, (layout.registers // (2 * d), d, 2), (0, 2, 1))
