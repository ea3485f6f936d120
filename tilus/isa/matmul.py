"""Products of tiles on tensor cores. An atom is one hardware instruction, one row of `ATOMS`."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tilus.dtypes import DType, bf16, f16, f32, floating, i8, i32, u8
from tilus.errors import TilusError
from tilus.ir import Register
from tilus.isa.base import Block, Inst, Known, Tile, Writer, every, instruction
from tilus.layout import (
    Layout,
    column_local,
    column_spatial,
    local,
    permute_registers,
    reduce,
    replicate,
    spatial,
)
from tilus.target import OLDEST


@dataclass(frozen=True)
class Atom:
    """d = a * b + c by one warp: what it takes, how its operands lie, and the prelude's name."""

    types: tuple[DType, DType, DType]  # of a, b and c
    a: Layout
    b: Layout
    c: Layout
    function: str
    needs: str = OLDEST.name


# PTX ISA 9.7.14.5.8, figures of mma.m16n8k16 with 16-bit operands
M16N8K16 = (
    column_local(2, 2) * spatial(8, 4) * local(1, 2),
    local(2, 1) * column_spatial(4, 8) * local(2, 1),
    local(2, 1) * spatial(8, 4) * local(1, 2),
)
# PTX ISA 9.7.14.5.10, figures of mma.m16n8k32 with 8-bit operands: four bytes a word
M16N8K32 = (
    column_local(2, 2) * spatial(8, 4) * local(1, 4),
    local(2, 1) * column_spatial(4, 8) * local(4, 1),
    local(2, 1) * spatial(8, 4) * local(1, 2),
)
e4m3, e5m2 = floating(4, 3), floating(5, 2)
ATOMS = (
    Atom((f16, f16, f32), *M16N8K16, "mma_m16n8k16_f16"),
    Atom((bf16, bf16, f32), *M16N8K16, "mma_m16n8k16_bf16"),
    Atom((f16, f16, f16), *M16N8K16, "mma_m16n8k16_f16_f16"),
    Atom((i8, i8, i32), *M16N8K32, "mma_m16n8k32_s8_s8"),
    Atom((u8, u8, i32), *M16N8K32, "mma_m16n8k32_u8_u8"),
    Atom((u8, i8, i32), *M16N8K32, "mma_m16n8k32_u8_s8"),
    Atom((i8, u8, i32), *M16N8K32, "mma_m16n8k32_s8_u8"),
    Atom((e4m3, e4m3, f32), *M16N8K32, "mma_m16n8k32_e4m3_e4m3", "sm_89"),
    Atom((e5m2, e5m2, f32), *M16N8K32, "mma_m16n8k32_e5m2_e5m2", "sm_89"),
    Atom((e4m3, e5m2, f32), *M16N8K32, "mma_m16n8k32_e4m3_e5m2", "sm_89"),
    Atom((e5m2, e4m3, f32), *M16N8K32, "mma_m16n8k32_e5m2_e4m3", "sm_89"),
)


@instruction
class Dot(Inst):
    """`a` @ `b` + `c` for tiles [m, k], [k, n], [m, n].

    Products are exact; they are added in float32 and, where `c` is float16, rounded to it after
    each step of k (16). Integers wrap around. Of 8-bit floats chips may keep fewer bits of a sum
    than float32 has. Each warp multiplies what it holds: the layouts must be made of the fragments
    of one mma instruction, and a warp that holds a part of `c` must hold the rows of `a` and the
    columns of `b` that make it.
    """

    a: Register
    b: Register
    c: Register

    def result(self) -> Register:
        if not len(self.a.shape) == len(self.b.shape) == len(self.c.shape) == 2:
            raise TilusError(
                f"dot: {self.a.shape} @ {self.b.shape} + {self.c.shape}: want two dimensions each"
            )
        (m, k), (k2, n) = self.a.shape, self.b.shape
        if k != k2 or self.c.shape != (m, n):
            raise TilusError(
                f"dot: {self.a.shape} @ {self.b.shape} + {self.c.shape}: want [m, k] @ [k, n] +"
                " [m, n]"
            )
        atom = atom_of(self)
        if not self.undecided:
            steps(atom, self.a.layout, self.b.layout, self.c.layout)
        return Register("", self.c.dtype, self.c.layout)

    def demands(self, known: Known, threads: int) -> Known:
        """Fragments of an atom, where nothing is known: the warps make a grid over c."""
        if any(name in known for name in ("", self.a.name, self.b.name, self.c.name)):
            return {}
        atom, (m, n), k = atom_of(self), self.c.shape, self.a.shape[1]
        tile = (*atom.c.shape, atom.a.shape[1])
        if any(extent % step for extent, step in zip((m, n, k), tile, strict=True)):
            raise TilusError(
                f"dot: [{m}, {k}] @ [{k}, {n}] is not made of products [{tile[0]}, {tile[2]}] @"
                f" [{tile[2]}, {tile[1]}]: take tiles of multiples"
            )
        over = warp_grid(m // tile[0], n // tile[1], threads // 32)
        return {self.c.name: over * atom.c}

    def relates(self, known: Known) -> Known:
        """A warp that holds a part of c holds the rows of a and the columns of b that make it."""
        atom, a, b = atom_of(self), known.get(self.a.name), known.get(self.b.name)
        names = ("", self.c.name)
        found = {one: known[other] for one, other in (names, names[::-1]) if other in known}
        whole = next(iter(found.values()), None)
        if whole is None:
            return {self.c.name: self.beside(atom, a)} if a else {}
        if a and b and multiplies(atom, a, b, whole):
            return found
        over, depth = whole / atom.c, self.a.shape[1] // atom.a.shape[1]
        rows = reduce(over, (1,)) * local(1, depth) * atom.a
        columns = local(depth, 1) * reduce(over, (0,)) * atom.b
        if not (a and multiplies(atom, a, columns, whole)):
            found[self.a.name] = rows
        if not (b and multiplies(atom, rows, b, whole)):
            found[self.b.name] = columns
        return found

    def beside(self, atom: Atom, a: Layout) -> Layout:
        """The layout of c in which every warp makes whole rows, those that it holds of a."""
        over = reduce(a / atom.a, (1,))
        return over * local(1, self.c.shape[1] // atom.c.shape[1]) * atom.c

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (atom_of(self).needs,)

    def run(self, block: Block, a: Tile, b: Tile, c: Tile) -> Tile:
        left, right, sums = self.a.dtype.values(a), self.b.dtype.values(b), c
        step = left.shape[1] if self.c.dtype != f16 else atom_of(self).a.shape[1]
        for k in range(0, left.shape[1], step):
            with np.errstate(invalid="ignore"):  # an infinity less an infinity
                wide = left[:, k : k + step] @ right[k : k + step] + self.c.dtype.values(sums)
            exact = self.c.dtype.kind == "float"
            sums = self.c.dtype.carry(wide) if exact else wide.astype(self.c.dtype.carrier)
        return sums

    def cuda(self, cu: Writer, out: Register) -> None:
        atom = atom_of(self)
        a, b, c, d = (cu.words(t) for t in (self.a, self.b, self.c, out))
        for w in range(out.bits_held // 32):
            cu.line(f"{d}[{w}] = {c}[{w}];")
        bits = self.a.dtype.bits
        for c_first, in_a, in_b in steps(atom, self.a.layout, self.b.layout, self.c.layout):
            sums = f"{d} + {c_first * out.dtype.bits // 32}"
            cu.line(f"{atom.function}({sums}, {joined(a, in_a, bits)}, {joined(b, in_b, bits)});")

    @classmethod
    def samples(cls) -> list[Inst]:
        f16_atom, short_atom, byte_atom = (ATOMS[i] for i in (0, 2, 3))
        warps = spatial(2, 2)
        parts = (
            local(2, 2) * f16_atom.a, local(2, 3) * f16_atom.b, local(2, 3) * f16_atom.c,
        )  # fmt: skip
        shared_a = spatial(2, 1) * replicate(2, 2) * local(1, 2) * f16_atom.a
        shared_b = replicate(2, 2) * spatial(1, 2) * local(2, 2) * f16_atom.b
        return [
            *(cls(*operands(atom, atom.a, atom.b, atom.c)) for atom in ATOMS),
            cls(*operands(f16_atom, *parts)),
            cls(*operands(f16_atom, shared_a, shared_b, warps * local(1, 2) * f16_atom.c)),
            cls(*operands(short_atom, *parts)),
            cls(*operands(byte_atom, local(2, 2) * byte_atom.a, local(2, 3) * byte_atom.b,
                          local(2, 3) * byte_atom.c)),
            cls(*operands(byte_atom, permute_registers(byte_atom.a, (4, 4), (1, 0)),
                          permute_registers(byte_atom.b, (2, 4), (1, 0)), byte_atom.c)),
        ]  # fmt: skip


def operands(atom: Atom, a: Layout, b: Layout, c: Layout) -> tuple[Register, Register, Register]:
    """Three tiles to multiply by `atom`."""
    names = ("r0", "r1", "r2")
    left, right, sums = map(Register, names, atom.types, (a, b, c))
    return left, right, sums


def atom_of(dot: Dot) -> Atom:
    """The first atom whose types fit."""
    types = (dot.a.dtype, dot.b.dtype, dot.c.dtype)
    for atom in ATOMS:
        if types == atom.types:
            return atom
    raise TilusError(f"dot of {types}: there is {[atom.types for atom in ATOMS]}: cast first")


def warp_grid(rows: int, columns: int, warps: int) -> Layout:
    """So many fragments of c over the warps, as few of a and b for each as can be.

    Warps for which there are no fragments hold copies.
    """
    grids = [
        (i, j)
        for i in range(1, warps + 1)
        for j in range(1, warps // i + 1)
        if warps % (i * j) == 0 and rows % i == 0 and columns % j == 0
    ]
    # an atom has 16 rows of a, and 8 columns of b
    i, j = min(grids, key=lambda g: 2 * rows // g[0] + columns // g[1])
    part = spatial(i, j) * local(rows // i, columns // j)
    return replicate(warps // (i * j), 2) * part


def multiplies(atom: Atom, a: Layout, b: Layout, c: Layout) -> bool:
    """Whether `steps` finds its way through these layouts."""
    try:
        return bool(steps(atom, a, b, c))
    except TilusError:
        return False


@dataclass(frozen=True)
class Fragments:
    """A layout cut into fragments: `origin[warp, j]` is where fragment j of a warp lies, in
    fragments, and `registers[j]` which registers make it, in the atom's order."""

    origin: Tile
    registers: list[list[int]]


@lru_cache(maxsize=1024)
def fragments(name: str, layout: Layout, atom: Layout) -> Fragments:
    """`layout` as fragments of `atom`, whatever the order of its registers."""
    if layout.threads % 32:
        raise TilusError(f"dot: {name} has {layout.threads} threads, not whole warps: {layout}")
    index, inner = np.stack(every(layout), -1), np.stack(every(atom), -1)
    warps = index.reshape(-1, 32, layout.registers, 2)
    within, origin = warps % atom.shape, warps // atom.shape
    found: dict[tuple[int, ...], list[int]] = {}
    for r in range(layout.registers):
        found.setdefault(tuple(origin[:, 0, r].ravel()), []).append(r)
    ordered = []
    for registers in found.values():
        here = [
            next((r for r in registers if (within[:, :, r] == inner[None, :, i]).all()), -1)
            for i in range(atom.registers)
        ]
        if -1 in here or not (origin[:, :, here] == origin[:, :1, here[:1]]).all():
            raise TilusError(f"dot: {name} in {layout} is not made of the fragments {atom}")
        ordered.append(here)
    return Fragments(origin[:, 0, [here[0] for here in ordered]], ordered)


def steps(atom: Atom, a: Layout, b: Layout, c: Layout) -> list[tuple[int, list[int], list[int]]]:
    """For each mma: the first register of its part of c, and the registers of those of a and b."""
    parts = [
        fragments(name, layout, inner)
        for name, layout, inner in (("a", a, atom.a), ("b", b, atom.b), ("c", c, atom.c))
    ]
    in_a, in_b, in_c = parts
    if not len(in_a.origin) == len(in_b.origin) == len(in_c.origin):
        raise TilusError(f"dot: a, b and c lie over {a.threads}, {b.threads}, {c.threads} threads")
    depth = a.shape[1] // atom.a.shape[1]
    found = []
    for k in range(depth):
        for j, registers in enumerate(in_c.registers):
            row, column = in_c.origin[:, j, 0], in_c.origin[:, j, 1]
            if registers != list(range(registers[0], registers[0] + len(registers))):
                raise TilusError(
                    f"dot: registers {registers} of c in {c} make a fragment: want them in a row,"
                    f" as in local(..) * {atom.c}"
                )
            left = matching("a", in_a, row, np.full_like(row, k))
            right = matching("b", in_b, np.full_like(column, k), column)
            found.append((registers[0], left, right))
    return found


def matching(name: str, parts: Fragments, row: Tile, column: Tile) -> list[int]:
    """The registers of the fragment that lies at (row, column), warp by warp."""
    wanted = np.stack([row, column], -1)
    for j, registers in enumerate(parts.registers):
        if np.array_equal(parts.origin[:, j], wanted):
            return registers
    raise TilusError(
        f"dot: some warp holds a part of c but not the part of {name} that makes it, or not in"
        f" the same registers as the other warps: replicate {name} over those warps"
    )


def joined(words: str, registers: list[int], bits: int = 16) -> str:
    """The 32-bit words that hold these registers of 16 or 8 bits, so many at a time."""
    each = 32 // bits
    join = {16: "join", 8: "join_bytes"}[bits]
    found = []
    for first in range(0, len(registers), each):
        held = registers[first : first + each]
        whole = held == list(range(held[0], held[0] + each)) and held[0] % each == 0
        others = ", ".join(map(str, held))
        found.append(f"{words}[{held[0] // each}]" if whole else f"{join}({words}, {others})")
    return ", ".join(found)
