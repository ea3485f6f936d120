"""What threads make together: the sum, or the largest, of the elements along a dimension.

A thread number has digits (see `tilus.layout`), and those of the dimension go away one by one: a
digit inside a warp by shuffles, two lanes at a time; the others through shared memory.
"""

from itertools import product
from typing import Any, NamedTuple

import numpy as np

from tilus.dtypes import f16, f32, i32
from tilus.errors import TilusError
from tilus.ir import Register
from tilus.isa.addressing import THREAD
from tilus.isa.base import Block, Effect, Inst, Known, Tile, Writer, instruction
from tilus.isa.elementwise import NUMBER
from tilus.isa.spelling import arithmetic, kind
from tilus.isa.synchronization import Synchronize
from tilus.layout import Layout, local, reduce, replicate, spatial

WARP = 32


class Reduction(NamedTuple):
    run: Any  # the meaning, on NumPy arrays of float64 or int64
    code: str  # of two elements


REDUCTIONS = {
    "sum": Reduction(np.add.reduce, "{} + {}"),
    "max": Reduction(np.fmax.reduce, "max({}, {})"),
    "min": Reduction(np.fmin.reduce, "min({}, {})"),
}


class Digit(NamedTuple):
    """`size` threads that differ in one digit, `weight` apart."""

    size: int
    weight: int


@instruction
class Reduce(Inst):
    """The sum (max, min) of the elements of `src` along dimension `dim`, which stays, of extent 1.

    The result's layout is `reduce(layout, (dim,))`: all threads that held a part hold it. Floats
    are added in float32 and rounded once: first a thread's own in the order of its registers, then
    those of lanes by pairs, nearest first, then those of warps in the order of their numbers. max
    and min pass over NaN. All threads of the block take part, and may synchronise.
    """

    src: Register
    dim: int
    op: str
    effect = Effect.SYNC

    def result(self) -> Register:
        if self.op not in REDUCTIONS:
            raise TilusError(f"reduce by {self.op!r}: there are {', '.join(REDUCTIONS)}")
        if self.src.dtype not in NUMBER:
            raise TilusError(
                f"reduce takes one of {list(NUMBER)}, not {self.src.dtype}: cast first"
            )
        return Register("", self.src.dtype, reduce(self.src.layout, (self.dim,)))

    def relates(self, known: Known) -> Known:
        name = self.src.name
        return {"": reduce(known[name], (self.dim,))} if name in known else {}

    def run(self, block: Block, src: Tile) -> Tile:
        dtype = self.src.dtype
        with np.errstate(all="ignore"):
            exact = REDUCTIONS[self.op].run(dtype.values(src), axis=self.dim, keepdims=True)
        if dtype.kind == "float":
            return dtype.carry(exact)
        return np.asarray(exact).astype(dtype.carrier)

    def cuda(self, cu: Writer, out: Register) -> None:
        code, tag, words = REDUCTIONS[self.op].code, kind(out.dtype), cu.words(self.src)
        within, across = digits_along(self.src.layout, self.dim)
        with cu.scope():
            for i, held in enumerate(held_along(self.src.layout, out.layout, self.dim)):
                value = f"get<{tag}, {held[0]}>({words})"
                for r in held[1:]:
                    value = code.format(value, f"get<{tag}, {r}>({words})")
                cu.line(f"{arithmetic(out.dtype)} part{i} = {value};")
                for mask in masks(within):
                    other = f"shuffle_xor<{mask}, {cu.threads}>(part{i})"
                    cu.line(f"part{i} = {code.format(f'part{i}', other)};")
            if across:
                through_shared(cu, self.op, out, across)
            for i in range(out.layout.registers):
                cu.line(f"set<{tag}, {i}>({cu.words(out)}, part{i});")

    @classmethod
    def samples(cls) -> list[Inst]:
        warp = local(2, 2) * spatial(8, 4) * local(1, 2)
        block = spatial(2, 2) * warp
        odd = spatial(3, 1) * warp
        few, copied = spatial(4, 2) * local(1, 3), spatial(2, 1) * replicate(2, 2) * warp
        return [
            *(cls(Register("r0", t, block), 0, op) for op in REDUCTIONS for t in NUMBER),
            *(cls(Register("r0", t, layout), dim, "sum") for t in (f32, f16, i32)
              for layout in (warp, block, odd, few, copied, local(3, 5)) for dim in (0, 1)),
            cls(Register("r0", f32, spatial(1, 3, 4) * local(2, 1, 1)), 1, "max"),
        ]  # fmt: skip


def digits_along(layout: Layout, dim: int) -> tuple[list[Digit], list[Digit]]:
    """The thread digits of `dim`, outermost first: those that shuffles reach, and the others."""
    within, across, weight = [], [], layout.threads
    for size, moved, _ in layout.thread_modes:
        weight //= size
        if moved != dim:
            continue
        powers = size & (size - 1) == 0 and weight & (weight - 1) == 0
        inner = min(size, max(1, WARP // weight)) if powers else 1
        within.append(Digit(inner, weight))
        across.append(Digit(size // inner, weight * inner))
    return [d for d in within if d.size > 1], [d for d in across if d.size > 1]


def masks(digits: list[Digit]) -> list[int]:
    """The bits of a lane's number that make up `digits`, one by one, lowest first."""
    found = []
    for size, weight in reversed(digits):
        found += [weight << bit for bit in range(size.bit_length() - 1)]
    return found


def held_along(layout: Layout, out: Layout, dim: int) -> list[list[int]]:
    """For each register of `out` those of `layout` that a thread makes it from."""
    parts = [layout.register_part(r) for r in range(layout.registers)]
    places = [out.register_part(i) for i in range(out.registers)]
    return [
        [r for r, part in enumerate(parts) if (*part[:dim], 0, *part[dim + 1 :]) == place]
        for place in places
    ]


def through_shared(cu: Writer, op: str, out: Register, digits: list[Digit]) -> None:
    """Code that brings together what threads hold that differ in `digits`."""
    code, c_type, registers = REDUCTIONS[op].code, arithmetic(out.dtype), out.layout.registers
    scratch = cu.reserve(4 * cu.threads * registers)
    cu.line(f"{c_type}* const parts = ({c_type}*)(shared + {scratch});")
    for i in range(registers):
        cu.line(f"parts[{i * cu.threads} + thread] = part{i};")
    Synchronize().cuda(cu, None)
    own = sum((THREAD // weight % size * weight for size, weight in digits), start=0)
    steps = [[k * weight for k in range(size)] for size, weight in digits]
    with cu.scope(f"if (thread < {out.layout.threads})"):
        cu.line(f"const unsigned first = {cu.expr(THREAD - own)};")
        for i in range(registers):
            places = [f"parts[{i * cu.threads + sum(step)} + first]" for step in product(*steps)]
            value = places[0]
            for place in places[1:]:
                value = code.format(value, place)
            cu.line(f"part{i} = {value};")
    Synchronize().cuda(cu, None)
