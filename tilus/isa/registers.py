"""Tiles in registers: making them, changing values (`cast`), reading bits anew (`view`)."""

import numpy as np

from tilus.casts import Arguments, cast_layout, fast_cast, lift_factor, lift_offset, packing
from tilus.dtypes import ALL, DType, bf16, f16, f32, floating, i32, sint, u8, u32, uint
from tilus.errors import TilusError
from tilus.ir import Register
from tilus.isa.base import Block, Effect, Inst, Tile, Writer, every, instruction
from tilus.isa.spelling import kind
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
        if self.dtype.bits < 8 and self.init:
            raise TilusError(
                f"allocate_register: a tile of {self.dtype} starts at 0, not {self.init}: cast one"
            )
        whole = self.dtype.kind != "float"
        if whole and (self.init % 1 or not self.dtype.min <= self.init <= self.dtype.max):
            raise TilusError(
                f"allocate_register: {self.init} is no {self.dtype}: want an integer from"
                f" {self.dtype.min} to {self.dtype.max}"
            )
        return Register("", self.dtype, self.layout)

    def run(self, block: Block) -> Tile:
        return np.full(self.layout.shape, self.dtype.carry(np.float64(self.init)))

    def cuda(self, cu: Writer, out: Register) -> None:
        for r in range(self.layout.registers) if self.init else ():
            cu.line(f"set<{kind(self.dtype)}, {r}>({cu.words(out)}, {self.init});")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(f32, ATOM, 1.5), cls(f16, ATOM, 0), cls(i32, ATOM, 7), cls(uint(4), FRAGMENT)]


@instruction
class Assign(Inst):
    """Overwrite the tile `dst` with `src`: same dtype, same layout."""

    dst: Register
    src: Register
    effect = Effect.WRITES

    def result(self) -> None:
        if (self.dst.dtype, self.dst.layout) != (self.src.dtype, self.src.layout):
            raise TilusError(
                f"assign: {self.src.dtype} in {self.src.layout} over {self.dst.dtype} in"
                f" {self.dst.layout}: dtype and layout must be the same"
            )

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

    def result(self) -> Register:
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


@instruction
class Cast(Inst):
    """Convert every element of `src` to `dtype`: to nearest even, beyond its range to its largest.

    Where the target has infinities (float16, bfloat16, float32) they are what lies beyond its
    range. The result may hold its elements in another order of registers: its layout says which.
    """

    src: Register
    dtype: DType

    def result(self) -> Register:
        layout = cast_layout(self.src.dtype, self.dtype, self.src.layout)
        if self.dtype.bits < 8:
            raise TilusError(f"cast to {self.dtype} is not there yet: cast to a type of 8 bits up")
        return Register("", self.dtype, layout)

    def run(self, block: Block, src: Tile) -> Tile:
        return convert(src, self.src.dtype, self.dtype)

    def cuda(self, cu: Writer, out: Register) -> None:
        registers, words, old = out.layout.registers, cu.words(out), cu.words(self.src)
        if row := fast_cast(self.src.dtype, self.dtype, registers):
            write_pairs(cu, self.src, out, row.function, row.arguments)
            return
        if function := packing(self.src.dtype, self.dtype, registers):
            for w in range(registers // 2):
                cu.line(f"{words}[{w}] = {function}({old}[{2 * w}], {old}[{2 * w + 1}]);")
            return
        to, of = kind(self.dtype), kind(self.src.dtype)
        for r in range(registers):
            cu.line(f"set<{to}, {r}>({words}, get<{of}, {r}>({old}));")

    @classmethod
    def samples(cls) -> list[Inst]:
        small = [t for t in ALL if t.bits <= 8]
        tile = local(1, 4) * spatial(8, 4) * local(8, 1)  # 32 registers: fast where there is a way
        few = local(1, 1) * spatial(8, 4) * local(8, 1)
        odd = local(1, 4) * spatial(8, 4) * local(1, 2)  # 8 registers: too few for most fast ways
        return [
            *(cls(Register("r0", t, tile), f16) for t in small),
            *(cls(Register("r0", t, few), f32) for t in small),
            *(cls(Register("r0", t, tile), bf16) for t in small),
            *(cls(Register("r0", t, odd), f16) for t in (uint(3), sint(8), floating(3, 2))),
            cls(Register("r0", f32, ATOM), f16), cls(Register("r0", f32, spatial(8, 4)), f16),
            cls(Register("r0", f16, ATOM), f32), cls(Register("r0", f32, ATOM), bf16),
            cls(Register("r0", bf16, ATOM), f32), cls(Register("r0", i32, ATOM), f32),
            cls(Register("r0", f32, ATOM), i32), cls(Register("r0", u8, ATOM), u32),
        ]  # fmt: skip


@instruction
class Lift(Inst):
    """Float16 numbers from which those of `src` follow: value = lifted * factor - offset.

    That is cheaper than a cast: integers become subnormal numbers, floats keep their exponent bias.
    Both are exact. What is left out can be made up for in sums: `tilus.casts` has `lift_factor` and
    `lift_offset` of a dtype.
    """

    src: Register

    def result(self) -> Register:
        registers = self.src.layout.registers
        row = fast_cast(self.src.dtype, f16, registers)
        if row is None or not row.lift:
            raise TilusError(
                f"lift: {registers} elements of {self.src.dtype} a thread cannot be lifted to"
                " float16: cast them"
            )
        return Register("", f16, cast_layout(self.src.dtype, f16, self.src.layout))

    def run(self, block: Block, src: Tile) -> Tile:
        of = self.src.dtype
        return f16.carry((of.values(src) + lift_offset(of)) / lift_factor(of))

    def cuda(self, cu: Writer, out: Register) -> None:
        row = fast_cast(self.src.dtype, f16, out.layout.registers)
        assert row is not None
        write_pairs(cu, self.src, out, row.lift, row.lift_arguments)

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = local(1, 4) * spatial(8, 4) * local(8, 1)
        rows = {t: fast_cast(t, f16, tile.registers) for t in ALL if t.bits <= 8}
        return [cls(Register("r0", t, tile)) for t, row in rows.items() if row and row.lift]


def write_pairs(
    cu: Writer, src: Register, out: Register, function: str, arguments: Arguments
) -> None:
    """Code that makes each word of `out`, two elements, by a function of a fast cast."""
    for w in range(out.layout.registers // 2):
        given = ", ".join(map(str, arguments(src.dtype, out.dtype, w)))
        call = f"{function}<{kind(src.dtype)}, {given}>({cu.words(src)})"
        cu.line(f"{cu.words(out)}[{w}] = {call};")


def convert(tile: Tile, source: DType, target: DType) -> Tile:
    """The meaning of a cast, on carried arrays; the same values as the device's."""
    return target.carry(source.values(tile))


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
