"""The code that moves a thread's registers: which accesses, each so wide and under which mask.

A thread's registers fall into groups that are neighbours in memory and whole bytes; the bytes of a
group are moved in pieces of 1, 2, 4, 8 or 16. What is no whole byte is read bit by bit.
"""

from math import gcd
from typing import NamedTuple

from tilus.errors import TilusError
from tilus.ir import Register, Scalar
from tilus.isa.addressing import (
    THREAD,
    WIDEST,
    Place,
    address,
    alignment,
    beside,
    bit_offset,
    corner,
    mask_of,
    threads_below,
    width,
)
from tilus.isa.base import Writer
from tilus.layout import Layout

Index = tuple[Scalar, ...]


class Group(NamedTuple):
    """`elements` neighbours, in so many `pieces` of `size` bytes; no pieces where they are less
    than a byte."""

    elements: int
    size: int
    pieces: int


def grouped(bits: int, elements: int) -> Group:
    """The widest group of which whole numbers make up `elements` neighbours of so many bits."""
    if bits >= 8:
        wide = gcd(elements, WIDEST * 8 // bits)
        return Group(wide, wide * bits // 8, 1)
    wide = gcd(elements, WIDEST * 8)
    bytes, rest = divmod(wide * bits, 8)
    if rest:
        return Group(1, 0, 0)
    size = gcd(bytes, WIDEST)
    return Group(wide, size, bytes // size)


def groups_of(
    layout: Layout, tensor: Place, at: Index, checked: frozenset[int], cu: Writer
) -> Group:
    """How the registers of `layout` meet `tensor`."""
    aligned = alignment(tensor, at, checked, cu)
    return grouped(tensor.dtype.bits, width(layout, tensor, aligned))


def plus(address: str, bytes: int) -> str:
    return f"{address} + {bytes}" if bytes else address


def load(
    cu: Writer,
    out: Register,
    src: Place,
    at: Index,
    checked: frozenset[int],
    function: str,
) -> None:
    """Code that fills `out` from the tile of `src` at `at`."""
    bits, (step, size, pieces) = out.dtype.bits, groups_of(out.layout, src, at, checked, cu)
    with cu.scope(threads_below(out.layout, cu)):
        first = corner(cu, "i", out.layout, at)
        for register in range(0, out.layout.registers, step):
            index = beside(first, out.layout, register)
            mask = mask_of(src, index, checked, cu)
            if not pieces:
                where, place = f"{cu.base(src)}, {bit_offset(src, index, cu)}", register * bits
                cu.line(f"load_bits<{bits}, {place}>({cu.words(out)}, {where}, {mask});")
            for piece in range(pieces):
                place = register * bits + 8 * size * piece
                where = plus(address(src, index, cu), size * piece)
                target = f"{cu.words(out)} + {place // 32}"
                cu.line(f"{function}<{size}, {place % 32}>({target}, {where}, {mask});")


def store(
    cu: Writer,
    src: Register,
    dst: Place,
    at: Index,
    checked: frozenset[int],
    function: str,
) -> None:
    """Code that writes one copy of each element of `src` to the tile of `dst` at `at`."""
    bits, (step, size, pieces) = src.dtype.bits, groups_of(src.layout, dst, at, checked, cu)
    if not pieces:
        raise TilusError(
            f"{function}: {src.dtype} of {src.layout} at {at} of {dst.name} {dst.shape}: threads do"
            f" not write whole bytes: let each hold {8 // gcd(bits, 8)} neighbours of the last"
            " dimension, at a multiple of that, in every row"
        )
    replica = src.layout.replica(THREAD)
    once = "" if replica == 0 else f" && {cu.expr(replica)} == 0"
    with cu.scope(threads_below(src.layout, cu)):
        first = corner(cu, "i", src.layout, at)
        for register in range(0, src.layout.registers, step):
            index = beside(first, src.layout, register)
            mask = mask_of(dst, index, checked, cu)
            for piece in range(pieces):
                place = register * bits + 8 * size * piece
                where = plus(address(dst, index, cu), size * piece)
                source = f"{cu.words(src)} + {place // 32}"
                cu.line(f"{function}<{size}, {place % 32}>({where}, {source}, {mask}{once});")
