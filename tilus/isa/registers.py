"""Tiles in registers: making them, overwriting them, reading their bits anew (`view`)."""

import numpy as np

from tilus.dtypes import DType, f16, f32, floating, i32, sint, u8, u32, uint
from tilus.errors import TilusError
from tilus.ir import Register
from tilus.isa.base import Block, Effect, Inst, Known, Tile, Writer, every, instruction
from tilus.isa.spelling import kind, literal
from tilus.layout import Layout, column_spatial, local, narrow, spatial

ATOM = spatial(8, 4) * local(1, 2)
FRAGMENT = local(2, 1) * column_spatial(4, 8) * local(2, 1)  # B of mma m16n8k16


@instruction
class AllocateRegister(Inst):
    """A new tile of `dtype` in `layout`, each element `init`."""

    dtype: DType
    layout: Layout
    init: float = 0

    def result(self) -> Register:
        return Register("", self.dtype, self.layout)

    def run(self, block: Block) -> Tile:
        return np.full(self.layout.shape, self.dtype.carry(np.float64(self.init)))

    def cuda(self, cu: Writer, out: Register) -> None:
        number = literal(self.dtype, self.init)
        for r in range(self.layout.registers) if self.init else ():
            cu.line(f"set<{kind(self.dtype)}, {r}>({cu.words(out)}, {number});")

    @classmethod
    def samples(cls) -> list[Inst]:
        three_words = FRAGMENT * local(1, 8)  # of 3 bits: some elements straddle words
        return [cls(f32, ATOM, 1.5), cls(f16, ATOM, 0), cls(i32, ATOM, 7), cls(uint(4), FRAGMENT),
                cls(sint(3), three_words, -2), cls(floating(3, 2), FRAGMENT, 2.7),
                cls(f32, ATOM, -np.inf), cls(u32, ATOM, 4e9),
                cls(uint(4), FRAGMENT, 99)]  # fmt: skip


@instruction
class Assign(Inst):
    """Overwrite the tile `dst` with `src`: same dtype, same layout."""

    dst: Register
    src: Register
    effect = Effect.WRITES

    def result(self) -> None:
        open_alike = self.undecided and self.dst.shape == self.src.shape
        if self.dst.dtype != self.src.dtype or not (
            open_alike or self.dst.layout == self.src.layout
        ):
            raise TilusError(
                f"assign: {self.src.dtype} in {self.src.layout} over {self.dst.dtype} in"
                f" {self.dst.layout}: dtype and layout must be the same"
            )

    def relates(self, known: Known) -> Known:
        names = (self.dst.name, self.src.name)
        return {a: known[b] for a, b in (names, names[::-1]) if b in known}

    def run(self, block: Block, dst: Tile, src: Tile) -> None:
        dst[...] = src

    def cuda(self, cu: Writer, out: None) -> None:
        for w in range(-(-self.src.bits_held // 32)):
            cu.line(f"{cu.words(self.dst)}[{w}] = {cu.words(self.src)}[{w}];")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(Register("r0", f16, ATOM), Register("r1", f16, ATOM))]


@instruction
class View(Inst):
    """Read the bits in `src`'s registers as a tile of `dtype` in `layout`. No bit moves.

    Each thread's registers, joined low bits first, are cut anew into elements of `dtype`; so both
    layouts have the same threads, and the same bits in each thread.
    """

    src: Register
    dtype: DType
    layout: Layout
    renames = True

    def result(self) -> Register:
        if self.undecided:
            return Register("", self.dtype, self.layout)
        asked = self.layout.registers * self.dtype.bits
        if (self.src.layout.threads, self.src.bits_held) != (self.layout.threads, asked):
            raise TilusError(
                f"view: {self.src.layout.threads} threads hold {self.src.bits_held} bits of"
                f" {self.src.dtype} each, but the view as {self.dtype} asks for {asked} bits of"
                f" {self.layout.threads} threads"
            )
        return Register("", self.dtype, self.layout)

    def run(self, block: Block, src: Tile) -> Tile:
        return from_bits(to_bits(src, self.src.dtype, self.src.layout), self.dtype, self.layout)

    def cuda(self, cu: Writer, out: Register) -> None:
        cu.alias(out, self.src)

    @classmethod
    def samples(cls) -> list[Inst]:
        three = Register("r0", u8, local(3) * spatial(32))  # 24 bits a thread
        pair = Register("r0", u8, ATOM)
        return [cls(three, sint(6), FRAGMENT), cls(three, floating(3, 2), FRAGMENT),
                cls(pair, uint(4), spatial(8, 4) * local(2, 2)),
                cls(pair, f16, spatial(8, 4))]  # fmt: skip


@instruction
class Slice(Inst):
    """The part of `src` from `start` on that is `extent` long in dimension `dim`. No bit moves
    between threads: where the part begins must be a matter of registers alone.
    """

    src: Register
    dim: int
    start: int
    extent: int

    def result(self) -> Register:
        inside = 0 <= self.dim < self.src.layout.rank and self.extent > 0 <= self.start
        if (
            not inside
            or self.start % self.extent
            or self.start + self.extent > self.src.shape[self.dim]
        ):
            raise TilusError(
                f"slice: {self.extent} from {self.start} on of dimension {self.dim} of a tile"
                f" {self.src.shape}: the start must be a multiple of the extent, and inside"
            )
        return Register("", self.src.dtype, narrow(self.src.layout, self.dim, self.extent))

    def relates(self, known: Known) -> Known:
        name = self.src.name
        return {"": narrow(known[name], self.dim, self.extent)} if name in known else {}

    def run(self, block: Block, src: Tile) -> Tile:
        return np.take(src, range(self.start, self.start + self.extent), self.dim)

    def cuda(self, cu: Writer, out: Register) -> None:
        bits, new, old = out.dtype.bits, cu.words(out), cu.words(self.src)
        parts = [self.src.layout.register_part(r) for r in range(self.src.layout.registers)]
        for r in range(out.layout.registers):
            wanted = list(out.layout.register_part(r))
            wanted[self.dim] += self.start
            source = parts.index(tuple(wanted))
            cu.line(
                f"set_bits<{bits * r}, {bits}>({new}, get_bits<{bits * source}, {bits}>({old}));"
            )

    @classmethod
    def samples(cls) -> list[Inst]:
        tall = Register("r0", f16, local(4, 1) * FRAGMENT)
        return [cls(tall, 0, 32, 16), cls(tall, 0, 32, 32),
                cls(Register("r0", f32, local(2, 3) * ATOM), 1, 8, 8)]  # fmt: skip


def to_bits(tile: Tile, dtype: DType, layout: Layout) -> Tile:
    """(threads, bits held) bits, low bits first, of a whole tile."""
    held = np.ascontiguousarray(tile[every(layout)])
    as_bytes = held.view(np.uint8).reshape(*held.shape, -1)
    bits = np.unpackbits(as_bytes, axis=-1, bitorder="little")[..., : dtype.bits]
    return bits.reshape(len(held), -1)


def from_bits(bits: Tile, dtype: DType, layout: Layout) -> Tile:
    """The tile whose threads hold these (threads, bits held) bits."""
    size = np.dtype(dtype.carrier).itemsize
    padded = np.zeros((layout.threads, layout.registers, 8 * size), np.uint8)
    padded[..., : dtype.bits] = bits.reshape(layout.threads, layout.registers, dtype.bits)
    held = np.packbits(padded, axis=-1, bitorder="little").view(dtype.carrier)[..., 0]
    tile = np.empty(layout.shape, dtype.carrier)
    tile[every(layout)] = held
    return tile
