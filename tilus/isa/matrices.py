"""Whole 8x8 matrices between shared memory and the registers of a warp."""

from collections.abc import Iterator

import numpy as np

from tilus.dtypes import DType, bf16, f16
from tilus.errors import TilusError
from tilus.ir import Register, Shared, Swizzle
from tilus.isa.access import Index
from tilus.isa.addressing import (
    THREAD,
    address,
    alignment,
    require_inside,
    require_rank,
    threads_below,
    tile_indices,
)
from tilus.isa.base import Block, Effect, Inst, Local, Memory, Tile, Writer, every, instruction
from tilus.isa.memory import require_same_dtype
from tilus.layout import Layout, column_spatial, local, replicate, spatial

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
        require_matrices(self, self.src.dtype, self.layout, "load_shared")
        return Register("", self.src.dtype, self.layout)

    def run(self, block: Block, src: Memory) -> Tile:
        return src.read(tile_indices(src, self.layout.shape, self.at, frozenset()))

    def cuda(self, cu: Writer, out: Register) -> None:
        require_aligned_rows(self.name, self.src, self.at, "load_shared", cu)
        function = f"load_matrix{turned(self.layout)}"
        with cu.scope():
            for start, count, row in rows_of_lanes(self.src, self.at, self.layout, cu):
                cu.line(f"{function}<{count}>({cu.words(out)} + {start}, {row});")

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = Shared("s0", f16, (2, 32, 32), Swizzle(2, 5, 3))
        fragment = local(1, 2) * local(2, 1) * spatial(8, 4) * local(1, 2)
        return [cls(tile, (1, 16, 16), fragment),
                cls(tile, (0, 8, 24), spatial(1, 8, 4) * local(1, 1, 2)),
                cls(tile, (0, 0, 8), local(1, 3) * spatial(8, 4) * local(1, 2)),
                cls(tile, (1, 16, 16), local(2, 1) * TRANSPOSED),
                cls(tile, (0, 0, 8), spatial(1, 2) * local(3, 1) * TRANSPOSED)]  # fmt: skip


@instruction
class StoreMatrix(Inst):
    """Write `src`, 16-bit elements in 8x8 matrices over each warp, over the tile of `dst` at `at`.

    The same meaning as store_shared; all lanes hand over neighbours of a row of a matrix or, where
    the layout says so, of a column, and eight of them say where its rows lie (PTX ISA 9.7.14.5.16,
    stmatrix and stmatrix.trans). Rows must be 16-byte aligned. Of matrices that several warps hold
    one copy is written.
    """

    dst: Shared
    src: Register
    at: Index
    effect = Effect.WRITES
    needs = ("sm_90",)

    def result(self) -> None:
        require_rank(self.name, self.dst, self.at, self.src.shape)
        require_inside(self.name, self.dst, self.at, self.src.shape)
        require_same_dtype(self.name, self.dst, self.src)
        require_matrices(self, self.src.dtype, self.src.layout, "store_shared")

    def run(self, block: Block, dst: Memory, src: Tile) -> None:
        dst.write(tile_indices(dst, self.src.shape, self.at, frozenset()), src)

    def cuda(self, cu: Writer, out: None) -> None:
        require_aligned_rows(self.name, self.dst, self.at, "store_shared", cu)
        layout, function = self.src.layout, f"store_matrix{turned(self.src.layout)}"
        copy = layout.replica(THREAD)  # the same in all lanes of a warp
        with (
            cu.scope(threads_below(layout, cu)),
            cu.scope("" if layout.replicas == 1 else f"if ({cu.expr(copy)} == 0)"),
        ):
            for start, count, row in rows_of_lanes(self.dst, self.at, layout, cu):
                cu.line(f"{function}<{count}>({row}, {cu.words(self.src)} + {start});")

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = Shared("s0", f16, (2, 32, 32), Swizzle(2, 5, 3))
        wide = Shared("s0", bf16, (16, 64), Swizzle(3, 6, 3))
        stored = [
            (tile, (1, 16, 16), local(1, 2) * local(2, 1) * MATRIX),
            (tile, (0, 8, 24), spatial(1, 8, 4) * local(1, 1, 2)),
            (tile, (0, 0, 8), spatial(2, 1) * local(1, 3) * MATRIX),
            (tile, (1, 16, 16), local(2, 1) * TRANSPOSED),
            (wide, (0, 16), spatial(1, 2) * local(2, 1) * local(1, 2) * TRANSPOSED),
            (wide, (8, 0), replicate(2, 2) * spatial(1, 2) * local(1, 3) * TRANSPOSED),
        ]
        return [cls(dst, Register("r0", dst.dtype, layout), at) for dst, at, layout in stored]


def require_matrices(inst: Inst, dtype: DType, layout: Layout, instead: str) -> None:
    """What is moved is made of 8x8 matrices of 16-bit elements."""
    if dtype.bits != 16:
        raise TilusError(f"{inst.name} moves 16-bit elements, not {dtype}: {instead}")
    ways = (MATRIX, TRANSPOSED)
    if not inst.undecided and not any(deals_matrices(layout, way) for way in ways):
        raise TilusError(
            f"{inst.name}: {layout} is not made of 8x8 matrices {MATRIX} over warps:"
            f" use {instead}, or a layout that ends in spatial(8, 4) * local(1, 2) or"
            " column_spatial(4, 8) * local(2, 1)"
        )


def require_aligned_rows(name: str, tensor: Shared, at: Index, instead: str, cu: Writer) -> None:
    """A row of a matrix is one access of 16 bytes."""
    if alignment(tensor, at, frozenset(), cu) % 8:
        raise TilusError(
            f"{name}: the rows at {at} of {tensor.name} {tensor.shape} are not"
            f" known to be 16-byte aligned: use {instead}"
        )


def turned(layout: Layout) -> str:
    """How the function's name ends: lanes hold neighbours of rows, or of columns."""
    return "" if deals_matrices(layout, MATRIX) else "_transposed"


def rows_of_lanes(
    tensor: Shared, at: Index, layout: Layout, cu: Writer
) -> Iterator[tuple[int, int, str]]:
    """For as few instructions as move the tile at `at`: the first matrix, how many, and where the
    row of a matrix lies of which the lane gives the address. Lane 8j + i gives row i of matrix j.
    """
    lane, warp = THREAD % 32, THREAD // 32 * 32
    cu.line(f"const unsigned lane = {cu.expr(lane)}, warp = {cu.expr(warp)};")
    for start, count in runs_of_matrices(layout.registers // 2):
        index = list(layout(Local("warp"), (start + Local("lane") // 8 % count) * 2))
        index[-2] += Local("lane") % 8
        index = [0] * (len(at) - layout.rank) + index
        place = tuple(a + i for a, i in zip(at, index, strict=True))
        yield start, count, address(tensor, place, cu)


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
