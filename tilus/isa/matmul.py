"""Products of tiles on tensor cores. An atom is one hardware instruction, one row of `ATOMS`."""

from dataclasses import dataclass

import numpy as np

from tilus.dtypes import DType, bf16, f16, f32
from tilus.errors import TilusError
from tilus.ir import Register
from tilus.isa.base import Block, Inst, Tile, Writer, every, instruction
from tilus.layout import Layout, column_local, column_spatial, local, replicate, spatial


@dataclass(frozen=True)
class Atom:
    """d = a * b + c by one warp: what it takes, how its operands lie, and the prelude's name."""

    operand: DType
    accumulator: DType
    a: Layout
    b: Layout
    c: Layout
    function: str


# PTX ISA 9.7.14.5.8, figures of mma.m16n8k16 with 16-bit operands
M16N8K16 = (
    column_local(2, 2) * spatial(8, 4) * local(1, 2),
    local(2, 1) * column_spatial(4, 8) * local(2, 1),
    local(2, 1) * spatial(8, 4) * local(1, 2),
)
ATOMS = (
    Atom(f16, f32, *M16N8K16, "mma_m16n8k16_f16"),
    Atom(bf16, f32, *M16N8K16, "mma_m16n8k16_bf16"),
)


@instruction
class Dot(Inst):
    """`a` @ `b` + `c` for tiles [m, k], [k, n], [m, n], products and sums in float32.

    Each warp multiplies what it holds: the layouts must be made of the fragments of one mma
    instruction, and a warp that holds a part of `c` must hold the rows of `a` and the columns of
    `b` that make it.
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
        atom_of(self)
        return Register("", self.c.dtype, self.c.layout)

    def run(self, block: Block, a: Tile, b: Tile, c: Tile) -> Tile:
        wide = self.a.dtype.values(a) @ self.b.dtype.values(b) + self.c.dtype.values(c)
        return self.c.dtype.carry(wide)

    def cuda(self, cu: Writer, out: Register) -> None:
        atom = atom_of(self)
        a, b, c, d = (cu.words(t) for t in (self.a, self.b, self.c, out))
        for w in range(out.layout.registers):
            cu.line(f"{d}[{w}] = {c}[{w}];")
        for c_first, a_first, b_first in steps(atom, self.a.layout, self.b.layout, self.c.layout):
            cu.line(
                f"{atom.function}({d} + {c_first}, {joined(a, a_first)}, {joined(b, b_first)});"
            )

    @classmethod
    def samples(cls) -> list[Inst]:
        f16_atom, bf16_atom = ATOMS
        warps = spatial(2, 2)
        parts = (
            local(2, 2) * f16_atom.a, local(2, 3) * f16_atom.b, local(2, 3) * f16_atom.c,
        )  # fmt: skip
        shared_a = spatial(2, 1) * replicate(2, 2) * local(1, 2) * f16_atom.a
        shared_b = replicate(2, 2) * spatial(1, 2) * local(2, 2) * f16_atom.b
        return [
            cls(*operands(f16_atom, f16_atom.a, f16_atom.b, f16_atom.c)),
            cls(*operands(bf16_atom, bf16_atom.a, bf16_atom.b, bf16_atom.c)),
            cls(*operands(f16_atom, *parts)),
            cls(*operands(f16_atom, shared_a, shared_b, warps * local(1, 2) * f16_atom.c)),
        ]


def operands(atom: Atom, a: Layout, b: Layout, c: Layout) -> tuple[Register, Register, Register]:
    """Three tiles to multiply by `atom`."""
    return (Register("r0", atom.operand, a), Register("r1", atom.operand, b),
            Register("r2", atom.accumulator, c))  # fmt: skip


def atom_of(dot: Dot) -> Atom:
    """The first atom whose types fit; `TilusError` where its fragments do not."""
    types = (dot.a.dtype, dot.b.dtype, dot.c.dtype)
    for atom in ATOMS:
        if types == (atom.operand, atom.operand, atom.accumulator):
            steps(atom, dot.a.layout, dot.b.layout, dot.c.layout)
            return atom
    there = [(atom.operand, atom.operand, atom.accumulator) for atom in ATOMS]
    raise TilusError(f"dot of {types}: there is {there}: cast first")


@dataclass(frozen=True)
class Fragments:
    """A layout cut into fragments: `origin[warp, j]` is where fragment j of a warp lies, in
    fragments, and `registers[j]` which registers make it, in the atom's order."""

    origin: Tile
    registers: list[list[int]]


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


def joined(words: str, registers: list[int]) -> str:
    """The 32-bit words that hold these 16-bit registers, two by two."""
    return ", ".join(
        f"{words}[{low // 2}]"
        if high == low + 1 and low % 2 == 0
        else f"join({words}, {low}, {high})"
        for low, high in zip(registers[::2], registers[1::2], strict=True)
    )
