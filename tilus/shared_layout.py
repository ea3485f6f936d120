"""Layouts of shared memory: at which offset each element of a tensor lies, and who waits for whom.

A tensor in memory is numbered as a tile in the registers of one thread is: the offset of an element
is the register that would hold it. So the order of elements is a `Layout` over one thread, with
its products; swizzles permute the offsets afterwards.

    row_major(2, 3)            the last dimension fastest
    a * b                      every element of `a` becomes a copy of `b`
    a.swizzle(3, 6, 3)         bits 6, 7, 8 of the offset xored into bits 3, 4, 5
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from tilus.dtypes import DType
from tilus.errors import TilusError
from tilus.ir import Swizzle
from tilus.isa.addressing import WIDEST
from tilus.layout import Layout, column_local, contiguous, local, owner

BANKS = 32
BANK_BYTES = 4
WARP = 32


@dataclass(frozen=True)
class SharedLayout:
    """`order` numbers the elements; the swizzles then permute the numbers, the first one first."""

    order: Layout
    swizzles: tuple[Swizzle, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.order.shape

    @property
    def size(self) -> int:
        return self.order.registers

    def __call__(self, index: Sequence[Any]) -> Any:
        """The offset of the element at `index`, in elements."""
        _, offset = owner(self.order, index)
        for swizzle in self.swizzles:
            offset = swizzle(offset)
        return offset

    def __mul__(self, inner: "SharedLayout") -> "SharedLayout":
        """h(i) = self(i // S) * N + inner(i % S) for the shape S and the size N of `inner`."""
        shift = inner.size.bit_length() - 1
        if (self.swizzles or inner.swizzles) and inner.size != 1 << shift:
            raise TilusError(
                f"product: copies of {inner.size} elements cannot be swizzled, as {inner.size} is"
                " no power of two: multiply first, then swizzle"
            )
        outer = (replace(s, source=s.source + shift, target=s.target + shift)
                 for s in self.swizzles)  # fmt: skip
        return SharedLayout(self.order * inner.order, (*inner.swizzles, *outer))

    def swizzle(self, bits: int, source: int, target: int) -> "SharedLayout":
        """The offsets with `bits` of their bits, from `source` up, xored into those at `target`."""
        if min(bits, source, target) < 0:
            raise TilusError(f"swizzle({bits}, {source}, {target}): bits are counted from 0 up")
        there = max(0, (self.size - 1).bit_length() - source)  # higher bits are 0
        swizzle = Swizzle(min(bits, there), source, target)
        offsets = np.arange(self.size)
        if not np.array_equal(np.sort(swizzle(offsets)), offsets):  # type: ignore[arg-type]
            raise TilusError(
                f"swizzle({bits}, {source}, {target}) of {self.size} elements: some share an"
                " offset or leave the tensor: take source bits above the target bits, and target"
                " bits that all offsets have"
            )
        return replace(self, swizzles=(*self.swizzles, swizzle)) if swizzle.bits else self


def row_major(*shape: int) -> SharedLayout:
    """The last dimension varies fastest."""
    return SharedLayout(local(*shape))


def column_major(*shape: int) -> SharedLayout:
    """The first dimension varies fastest."""
    return SharedLayout(column_local(*shape))


class Access(NamedTuple):
    """One instruction of one warp, which moves `registers` registers from `register` on."""

    warp: int
    register: int
    registers: int
    wavefronts: int  # how many turns the banks take
    least: int  # how many they take at the least: one each time that they are asked


def access_width(shared: SharedLayout, held: Layout, dtype: DType) -> int:
    """How many registers one access moves: neighbours in memory, aligned, at most 16 bytes.

    For a row-major tensor that is what the code generator chooses (`isa.addressing.width`).
    """
    fastest = shared.order.register_modes[-1:]
    if not fastest:
        return 1
    size, dim, _ = fastest[0]
    run = contiguous(held, dim - len(shared.shape) + held.rank)
    aligned = [1 << s.target for s in shared.swizzles]
    return gcd(run, size, WIDEST * 8 // dtype.bits, *aligned)


def bank_conflicts(shared: SharedLayout, held: Layout, dtype: DType) -> tuple[Access, ...]:
    """What it takes each warp to move the tile at the corner of a tensor from or to registers.

    Shared memory is 32 banks of 4-byte words; in one turn, a wavefront, each bank gives one word to
    all that ask for it (CUDA C++ programming guide, "Shared Memory"). A warp asks at once with
    accesses of up to 4 bytes a thread, half by half with 8, and quarter by quarter with 16.
    """
    require_tile(shared, held, dtype)
    step = access_width(shared, held, dtype)
    threads, firsts = np.arange(held.threads)[:, None], np.arange(0, held.registers, step)
    lead = len(shared.shape) - held.rank
    index = (*[0] * lead, *held(threads, firsts))
    offsets = np.broadcast_to(shared(index), (held.threads, len(firsts))) * (dtype.bits // 8)
    bytes = step * dtype.bits // 8
    together = WARP * BANK_BYTES // bytes  # so many lanes ask at once, if there are as many
    found = []
    for warp in range(-(-held.threads // WARP)):
        lanes = offsets[warp * WARP : (warp + 1) * WARP]
        for place, register in enumerate(firsts):
            asked = [
                words_of(lanes[at : at + together, place], bytes)
                for at in range(0, len(lanes), together)
            ]
            turns = sum(map(wavefronts, asked))
            found.append(Access(warp, int(register), step, turns, len(asked)))
    return tuple(found)


def require_tile(shared: SharedLayout, held: Layout, dtype: DType) -> None:
    """The tile fits into the tensor, and its elements have addresses."""
    if dtype.bits % 8:
        raise TilusError(f"{dtype} has no byte address in shared memory: move its bytes as uint8")
    inside = shared.shape[len(shared.shape) - held.rank :]
    if held.rank > len(shared.shape) or any(
        a > b for a, b in zip(held.shape, inside, strict=True)
    ):  # fmt: skip
        raise TilusError(f"a tile {held.shape} does not fit into a tensor {shared.shape}")


def words_of(addresses: Any, bytes: int) -> set[int]:
    """The 4-byte words that accesses of so many bytes touch."""
    parts = range(0, bytes, BANK_BYTES)
    return {(int(address) + part) // BANK_BYTES for address in addresses for part in parts}


def wavefronts(words: set[int]) -> int:
    """As many turns as the busiest bank has words."""
    busy = [0] * BANKS
    for word in words:
        busy[word % BANKS] += 1
    return max(busy)
