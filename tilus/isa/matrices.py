"""Whole 8x8 matrices between shared memory and the registers of a warp."""

import numpy as np

from tilus.dtypes import f16
from tilus.errors import TilusError
from tilus.ir import Register, Shared, Swizzle
from tilus.isa.access import Index
from tilus.isa.addressing import THREAD, address, alignment, require_rank, tile_indices
from tilus.isa.base import Block, Effect, Inst, Local, Memory, Tile, Writer, every, instruction
from tilus.layout import Layout, column_spatial, local, spatial

# how a warp holds an 8x8 matrix of 16-bit elements: row by row, or column by column
MATRIX = spatial(8, 4) * local(1, 2)
TRANSPOSED = column_spatial(4, 8) * local(2, 1)


@instruction
class LoadMatrix(Inst):
    """Read a tile of 16-bit elements whose layout is made of 8x8 matrices over each warp.

    The same meaning as load_shared; the rows of a matrix are fetched by eight lanes and dealt to
    all, each lane taking neighbours of a row or, where the layout says so, of a column (PTX ISA
    9.7.14.5.15, ldmatrix and ldmatrix.trans). Rows must be 16-byte aligned.
    """

    src: Shared
    at: Index
    layout: Layout
    effect = Effect.READS

    def result(self) -> Register:
        require_rank(self.name, self.src, self.at, self.layout.shape)
        if self.src.dtype.bits != 16:
            raise TilusError(
                f"load_matrix moves 16-bit elements, not {self.src.dtype}: load_shared"
            )
        ways = (MATRIX, TRANSPOSED)
        if not self.undecided and not any(deals_matrices(self.layout, way) for way in ways):
            raise TilusError(
                f"load_matrix: {self.layout} is not made of 8x8 matrices {MATRIX} over warps:"
                " use load_shared, or a layout that ends in spatial(8, 4) * local(1, 2) or"
                " column_spatial(4, 8) * local(2, 1)"
            )
        return Register("", self.src.dtype, self.layout)

    def run(self, block: Block, src: Memory) -> Tile:
        return src.read(tile_indices(src, self.layout.shape, self.at, frozenset()))

    def cuda(self, cu: Writer, out: Register) -> None:
        if alignment(self.src, self.at, frozenset(), cu) % 8:
            raise TilusError(
                f"load_matrix: the rows at {self.at} of {self.src.name} {self.src.shape} are not"
                " known to be 16-byte aligned: use load_shared"
            )
        turned = "" if deals_matrices(self.layout, MATRIX) else "_transposed"
        lane, warp = THREAD % 32, THREAD // 32 * 32
        with cu.scope():
            cu.line(f"const unsigned lane = {cu.expr(lane)}, warp = {cu.expr(warp)};")
            for start, count in runs_of_matrices(self.layout.registers // 2):
                index = list(self.layout(Local("warp"), (start + Local("lane") // 8 % count) * 2))
                index[-2] += Local("lane") % 8
                index = [0] * (len(self.at) - self.layout.rank) + index
                place = tuple(a + i for a, i in zip(self.at, index, strict=True))
                target = f"{cu.words(out)} + {start}"
                cu.line(f"load_matrix{turned}<{count}>({target}, {address(self.src, place, cu)});")

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = Shared("s0", f16, (2, 32, 32), Swizzle(2, 5, 3))
        fragment = local(1, 2) * local(2, 1) * spatial(8, 4) * local(1, 2)
        return [cls(tile, (1, 16, 16), fragment),
                cls(tile, (0, 8, 24), spatial(1, 8, 4) * local(1, 1, 2)),
                cls(tile, (0, 0, 8), local(1, 3) * spatial(8, 4) * local(1, 2)),
                cls(tile, (1, 16, 16), local(2, 1) * TRANSPOSED),
                cls(tile, (0, 0, 8), spatial(1, 2) * local(3, 1) * TRANSPOSED)]  # fmt: skip


def runs_of_matrices(matrices: int) -> list[tuple[int, int]]:
    """So many matrices as (first, count) of as few instructions, which move 4, 2 or 1."""
    fours = [(first, 4) for first in range(0, matrices - 3, 4)]
    rest = matrices - matrices % 4
    twos = [(rest, 2)] if matrices % 4 >= 2 else []
    return fours + twos + ([(matrices - 1, 1)] if matrices % 2 else [])


def deals_matrices(layout: Layout, matrix: Layout) -> bool:
    """Whether each pair of registers is an 8x8 matrix, dealt to the lanes of a warp as `matrix`."""
    if layout.threads % 32 or layout.registers % 2 or layout.rank < 2:
        return False
    index = every(layout)
    lane = np.arange(layout.threads)[:, None] % 32
    parity = np.arange(layout.registers)[None, :] % 2
    moved = [np.zeros_like(lane + parity)] * (layout.rank - 2)
    moved += [np.broadcast_to(i, lane.shape[:1] + parity.shape[1:]) for i in matrix(lane, parity)]
    origin = (np.arange(layout.threads) // 32 * 32)[:, None], (np.arange(layout.registers) // 2 * 2)
    return all(np.array_equal(i, i[origin] + m) for i, m in zip(index, moved, strict=True))
