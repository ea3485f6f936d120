"""Products by four warps together, one operand read from shared memory, done asynchronously."""

from functools import lru_cache
from math import prod

import numpy as np

from tilus.dtypes import bf16, f16, f32
from tilus.errors import TilusError
from tilus.ir import Register, Scalar, Shared, Swizzle
from tilus.isa.addressing import THREAD, address, require_rank, tile_indices
from tilus.isa.barriers import shifted, unraveled
from tilus.isa.base import Block, Effect, Inst, Local, Memory, Tile, Writer, instruction
from tilus.isa.matmul import M16N8K16, fragments, joined, matching
from tilus.layout import Layout, local, spatial

ATOM_A, _, ATOM_C = M16N8K16
ROW = 64  # elements in a row of 128 bytes
ROWS_SWIZZLED = Swizzle(3, 6, 3)  # 16-byte parts of such a row xor the row's number modulo 8
WARPGROUP = 128  # threads
PART = Local("part")
WIDTHS = (8, 16, 32, 64, 128, 256)  # of c
NEEDS = ("sm_90a",)
FUNCTIONS = {f16: "f16", bf16: "bf16"}


def sums_atom(columns: int) -> Layout:
    """What a warp holds of the sums [16, columns] (PTX ISA 9.7.15.5.1.1, figure of D)."""
    return local(1, columns // 8) * ATOM_C


@instruction
class WarpgroupDot(Inst):
    """Begin `c` += `a` @ the transpose of the tile of `b` at `at`: [m, k] x [n, k] -> [m, n].

    Products and sums are float32. Each warp multiplies the rows that it holds of `a`, which must be
    those that it holds of `c`; the four warps of a warpgroup share `b`, whose rows are 128 bytes
    long, 16-byte parts of them swizzled by the row modulo 8. The sums are there, and `a` and `b`
    may be overwritten, once the group of products this belongs to was committed and waited for
    (PTX ISA 9.7.15.5.2, wgmma.mma_async).

    With `parts` the rows of `a` and `c` fall into as many equal parts as that has elements, each
    for warpgroups of its own and multiplied by its own tile: that of `b` is [*parts, n, k] then.
    """

    a: Register
    b: Shared
    at: tuple[Scalar, ...]
    c: Register
    parts: tuple[int, ...] = ()
    effect = Effect.READS | Effect.WRITES
    needs = NEEDS
    together = WARPGROUP
    writes = ("c",)

    def result(self) -> None:
        (m, k), (m2, n) = self.a.shape, self.c.shape
        require_rank(self.name, self.b, self.at, (*self.parts, n, k))
        if m != m2 or n not in WIDTHS:
            raise TilusError(
                f"warpgroup_dot: {self.a.shape} @ [n, k] + {self.c.shape}: want [m, k] and [m, n]"
                f" with n one of {WIDTHS}"
            )
        if self.a.dtype not in FUNCTIONS or self.b.dtype != self.a.dtype or self.c.dtype != f32:
            raise TilusError(
                f"warpgroup_dot of {self.a.dtype}, {self.b.dtype}, {self.c.dtype}: want both"
                " float16 or both bfloat16, and sums in float32"
            )
        if self.b.shape[-1] != ROW or self.b.swizzle != ROWS_SWIZZLED or self.b.shape[-2] % 8:
            raise TilusError(
                f"warpgroup_dot: b {self.b.shape} with {self.b.swizzle}: want rows of {ROW}"
                f" elements, in groups of 8, with {ROWS_SWIZZLED}"
            )
        if not self.undecided:
            products(self)
            require_parts(self)

    @property
    def count(self) -> int:
        """How many parts there are."""
        return prod(self.parts)

    def run(self, block: Block, a: Tile, b: Memory, c: Tile) -> None:
        (m, k), n = self.a.shape, self.c.shape[1]
        index = tile_indices(b, (*self.parts, n, k), self.at, frozenset())

        def finish() -> None:
            """As late as may be: by what has overwritten `a` or `b` too early, it is spoiled."""
            left = self.a.dtype.values(a).reshape(self.count, -1, k)
            right = self.b.dtype.values(b.read(index)).reshape(self.count, n, k)
            product = left @ right.transpose(0, 2, 1)
            c[...] = self.c.dtype.carry(product.reshape(m, n) + self.c.dtype.values(c))

        block.defer(finish, "dots")

    def cuda(self, cu: Writer, out: None) -> None:
        columns, function = self.c.shape[1], FUNCTIONS[self.a.dtype]
        a, c = cu.words(self.a), cu.words(self.c)
        with cu.scope():
            if self.count > 1:
                own = THREAD // (self.a.layout.threads // self.count)
                cu.line(f"const unsigned part = uniform({cu.expr(own)});")
            tile = address(self.b, self.at_of_part(), cu)
            cu.line(f"const Descriptor b = matrix_descriptor({tile});")
            cu.line("fence_dots();")
            for depth, c_first, a_registers in products(self):
                where = f"advanced(b, {2 * depth})" if depth else "b"
                cu.line(
                    f"WarpgroupDot<{columns}>::{function}({c} + {c_first},"
                    f" {joined(a, a_registers)}, {where});"
                )

    def at_of_part(self) -> tuple[Scalar, ...]:
        """The corner of the tile by which `part`, that of the thread, is multiplied."""
        if self.count == 1:
            return self.at
        return shifted(self.at, (*unraveled(PART, self.parts), 0, 0))

    def completion(self) -> list[Inst]:
        return [CommitDots(), WaitDots(0, (self.c,))]

    @classmethod
    def samples(cls) -> list[Inst]:
        held = Shared("s0", f16, (2, 16, ROW), ROWS_SWIZZLED)
        wide = Shared("s0", bf16, (1, 2, 32, ROW), ROWS_SWIZZLED)
        deep = Shared("s0", f16, (2, 2, 2, 8, ROW), ROWS_SWIZZLED)
        warps, two = spatial(4, 1), spatial(8, 1)
        return [cls(Register("r0", f16, warps * local(1, 4) * ATOM_A), held, (1, 0, 0),
                    Register("r1", f32, warps * sums_atom(16))),
                cls(Register("r0", f16, warps * ATOM_A), held, (0, 8, 32),
                    Register("r1", f32, warps * sums_atom(8))),
                cls(Register("r0", bf16, local(2, 1) * warps * local(1, 2) * ATOM_A), wide,
                    (0, 1, 0, 16),
                    Register("r1", f32, local(2, 1) * warps * sums_atom(32))),
                cls(Register("r0", f16, two * local(1, 2) * ATOM_A), deep, (1, 0, 1, 0, 32),
                    Register("r1", f32, two * sums_atom(8)), (2, 1))]  # fmt: skip


def require_parts(dot: WarpgroupDot) -> None:
    """Each part is for warpgroups of its own, in the order of their numbers."""
    threads, rows = dot.a.layout.threads, dot.a.shape[0]
    if rows % dot.count or threads % (dot.count * WARPGROUP):
        raise TilusError(
            f"warpgroup_dot: {rows} rows and {threads} threads do not fall into parts {dot.parts}"
            f" of whole warpgroups of {WARPGROUP}"
        )
    if not falls_into_parts(dot.a.layout, dot.count):
        raise TilusError(
            f"warpgroup_dot: threads of {dot.a.layout} hold rows of several parts {dot.parts}:"
            " let the outermost digit of their numbers count parts"
        )


@lru_cache(maxsize=256)
def falls_into_parts(layout: Layout, count: int) -> bool:
    """Whether the threads of each of `count` equal parts hold rows of their part alone."""
    every, size = np.arange(layout.threads), layout.shape[0] // count
    held = np.asarray([layout(every, r)[0] // size for r in range(layout.registers)])
    return not (held != every // (layout.threads // count)).any()


def products(dot: WarpgroupDot) -> list[tuple[int, int, list[int]]]:
    """For each instruction: where it begins in k, its first register of c, its registers of a."""
    if dot.a.layout.threads % WARPGROUP:
        raise TilusError(
            f"warpgroup_dot: {dot.a.layout.threads} threads are no whole warpgroups of {WARPGROUP}"
        )
    in_a = fragments("a", dot.a.layout, ATOM_A)
    in_c = fragments("c", dot.c.layout, sums_atom(dot.c.shape[1]))
    found = []
    for j, registers in enumerate(in_c.registers):
        for k in range(dot.a.shape[1] // 16):
            row = in_c.origin[:, j, 0]
            left = matching("a", in_a, row, np.full_like(row, k))
            found.append((16 * k, registers[0], left))
    return found


@instruction
class CommitDots(Inst):
    """Close the open group of asynchronous products; an empty one counts too."""

    effect = Effect.SYNC
    needs = NEEDS
    together = WARPGROUP

    def result(self) -> None:
        return None

    def run(self, block: Block) -> None:
        block.commit("dots")

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line("commit_dots();")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls()]


@instruction
class WaitDots(Inst):
    """Wait until at most the newest `pending` groups of asynchronous products are under way.

    `sums` are the tiles that the others have added to and that are read next.
    """

    pending: int
    sums: tuple[Register, ...]
    effect = Effect.SYNC | Effect.WRITES
    needs = NEEDS
    together = WARPGROUP
    writes = ("sums",)

    def result(self) -> None:
        if self.pending < 0:
            raise TilusError(f"wait_dots: {self.pending} groups cannot be pending: 0 waits for all")

    def run(self, block: Block, *sums: Tile) -> None:
        block.wait(self.pending, "dots")

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line(f"wait_dots<{self.pending}>();")
        for tile in self.sums:
            cu.line(f"settle<{-(-tile.bits_held // 32)}>({cu.words(tile)});")

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = spatial(4, 1) * sums_atom(8)
        return [cls(0, ()), cls(1, (Register("r0", f32, tile),))]


@instruction
class FenceAsync(Inst):
    """What this thread wrote to shared memory may be read by asynchronous products and copies.

    `synchronize` after it makes it so for what the whole block wrote (PTX ISA 9.7.13.7).
    """

    effect = Effect.SYNC
    needs = ("sm_90",)

    def result(self) -> None:
        return None

    def run(self, block: Block) -> None:
        """Whole tiles are seen by everybody."""

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line("fence_async();")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls()]
