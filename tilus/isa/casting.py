"""Changing what elements are made of: `cast` keeps the numbers, `lift` most of them."""

from tilus.casts import (
    Arguments,
    FastCast,
    cast_layout,
    fast_cast,
    fast_row,
    lift_factor,
    lift_offset,
    packing,
    source_layout,
)
from tilus.dtypes import ALL, DType, bf16, f16, f32, floating, i32, sint, u8, u32, uint
from tilus.errors import TilusError
from tilus.ir import Register
from tilus.isa.base import Block, Inst, Known, Tile, Writer, instruction
from tilus.isa.registers import ATOM
from tilus.isa.spelling import kind
from tilus.layout import local, spatial


@instruction
class Cast(Inst):
    """Convert every element of `src` to `dtype`: to nearest even, beyond its range to its largest.

    Where the target has infinities (float16, bfloat16, float32, float8_e5m2) they are what lies
    beyond its range. NaN becomes NaN, the largest value of a float that has none, 0 of an integer;
    a number other than 0 is true (1) as a bool. The result may hold its elements in another order
    of registers: its layout says which.
    """

    src: Register
    dtype: DType

    def result(self) -> Register:
        layout = cast_layout(self.src.dtype, self.dtype, self.src.layout)
        return Register("", self.dtype, layout)

    def relates(self, known: Known) -> Known:
        return cast_relates(self.src, self.dtype, known)

    def run(self, block: Block, src: Tile) -> Tile:
        return convert(src, self.src.dtype, self.dtype)

    def cuda(self, cu: Writer, out: Register) -> None:
        registers, words, old = out.layout.registers, cu.words(out), cu.words(self.src)
        if row := fast_cast(self.src.dtype, self.dtype, registers, cu.target):
            write_pairs(cu, self.src, out, row.function, row.arguments)
            return
        if function := packing(self.src.dtype, self.dtype, registers):
            for w in range(registers // 2):
                cu.line(f"{words}[{w}] = {function}({old}[{2 * w}], {old}[{2 * w + 1}]);")
            return
        to, of = kind(self.dtype), kind(self.src.dtype)
        value = "to_odd(get<{}, {}>({}))" if rounds_twice(self) else "get<{}, {}>({})"
        for r in range(registers):
            cu.line(f"set<{to}, {r}>({words}, {value.format(of, r, old)});")

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
            *(cls(Register("r0", f32, odd), t) for t in small),
            cls(Register("r0", i32, ATOM), u8), cls(Register("r0", i32, ATOM), bf16),
            cls(Register("r0", u32, odd), sint(3)), cls(Register("r0", bf16, odd), floating(2, 3)),
            cls(Register("r0", sint(7), odd), floating(4, 1)),
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
        if self.undecided and lifted(fast_row(self.src.dtype, f16)):
            return Register("", f16, self.src.layout)
        registers = self.src.layout.registers
        row = fast_cast(self.src.dtype, f16, registers)
        if row is None or not row.lift:
            raise TilusError(
                f"lift: {registers} elements of {self.src.dtype} a thread cannot be lifted to"
                " float16: cast them"
            )
        return Register("", f16, cast_layout(self.src.dtype, f16, self.src.layout))

    def relates(self, known: Known) -> Known:
        return cast_relates(self.src, f16, known)

    def run(self, block: Block, src: Tile) -> Tile:
        of = self.src.dtype
        values = of.values(src) + lift_offset(of) if of.kind != "float" else of.values(src)
        return f16.carry(values / lift_factor(of))

    def cuda(self, cu: Writer, out: Register) -> None:
        row = fast_cast(self.src.dtype, f16, out.layout.registers)
        assert row is not None
        write_pairs(cu, self.src, out, row.lift, row.lift_arguments)

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = local(1, 4) * spatial(8, 4) * local(8, 1)
        rows = {t: fast_cast(t, f16, tile.registers) for t in ALL if t.bits <= 8}
        return [cls(Register("r0", t, tile)) for t, row in rows.items() if row and row.lift]


def lifted(row: FastCast | None) -> bool:
    """Whether a fast cast has a `lift`."""
    return row is not None and bool(row.lift)


def cast_relates(src: Register, dtype: DType, known: Known) -> Known:
    """Either layout of a cast follows from the other."""
    found: Known = {}
    if src.name in known:
        found[""] = cast_layout(src.dtype, dtype, known[src.name])
    elif "" in known:
        found[src.name] = source_layout(src.dtype, dtype, known[""])
    return found


def write_pairs(
    cu: Writer, src: Register, out: Register, function: str, arguments: Arguments
) -> None:
    """Code that makes each word of `out`, two elements, by a function of a fast cast."""
    for w in range(out.layout.registers // 2):
        given = ", ".join(map(str, arguments(src.dtype, out.dtype, w)))
        call = f"{function}<{kind(src.dtype)}, {given}>({cu.words(src)})"
        cu.line(f"{cu.words(out)}[{w}] = {call};")


def rounds_twice(cast: Cast) -> bool:
    """Whether elements take a float32 that may round them on the way to a smaller float."""
    return cast.src.dtype in (i32, u32) and cast.dtype.kind == "float" and cast.dtype != f32


def convert(tile: Tile, source: DType, target: DType) -> Tile:
    """The meaning of a cast, on carried arrays; the same values as the device's."""
    return target.carry(source.values(tile))
