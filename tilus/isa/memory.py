"""Naming tensors in global and shared memory, and moving tiles between them and registers."""

from math import gcd, prod

import numpy as np

from tilus.dtypes import DType, f16, f32, u8, u32
from tilus.errors import TilusError
from tilus.ir import PLAIN, Global, Register, Scalar, Shared, Swizzle, Var
from tilus.isa.addressing import (
    THREAD,
    WIDEST,
    Place,
    address,
    alignment,
    beside,
    copy_layout,
    corner,
    mask_of,
    require_inside,
    require_rank,
    require_whole_bytes,
    threads_below,
    tile_indices,
    width,
)
from tilus.isa.base import Block, Effect, Inst, Memory, Tile, Writer, every, instruction
from tilus.layout import Layout, local, spatial

Index = tuple[Scalar, ...]
TILE = spatial(8, 4) * local(2, 2)
SOME = Global("g0", f16, (20, 13), (13, 1), "p0")
SPACED = Global("g0", f16, (20, 13), (16, 1), "p0")  # rows are aligned, but end in between
WIDE = Global("g0", f16, (20, 16), (16, 1), "p0")
STAGED = Shared("s0", f16, (2, 16, 16), Swizzle(1, 4, 3))


def checked_of(tensor: Place, check: tuple[int, ...] | None) -> frozenset[int]:
    """The dimensions along which an access is masked; None stands for all of them."""
    there = range(len(tensor.shape))
    if check is not None and not set(check) <= set(there):
        raise TilusError(
            f"check={check} of {tensor.name}, which has the dimensions {list(there)}: name some of"
            " these"
        )
    return frozenset(there if check is None else check)


@instruction
class ViewGlobal(Inst):
    """Name the memory behind `pointer` a tensor: element i lies at the sum of i[d] * strides[d].

    `shape` and `strides` count elements; nothing is read.
    """

    pointer: Var
    dtype: DType
    shape: Index
    strides: Index

    def result(self) -> Global:
        if len(self.shape) != len(self.strides) or not self.shape:
            raise TilusError(
                f"view_global: {len(self.shape)} extents {self.shape} and {len(self.strides)}"
                f" strides {self.strides}: give one stride a dimension, at least one"
            )
        return Global("", self.dtype, self.shape, self.strides, self.pointer.name)

    def run(self, block: Block) -> None:
        block.pointer(self.pointer.name)

    def cuda(self, cu: Writer, out: Global) -> None:
        cu.define(out, f"(char*){self.pointer.name}")

    @classmethod
    def samples(cls) -> list[Inst]:
        return []  # every sample that touches global memory starts with one


@instruction
class LoadGlobal(Inst):
    """Read the tile of `src` whose corner is `at` into registers, as `layout` says.

    Elements outside `src` read as zero. `check` names the dimensions in which the tile may leave
    `src` (all of them where it is None); along the others it must stay inside.
    """

    src: Global
    at: Index
    layout: Layout
    check: tuple[int, ...] | None = None
    effect = Effect.READS

    def result(self) -> Register:
        require_rank(self.name, self.src, self.at, self.layout.shape)
        require_whole_bytes(self.name, self.src)
        checked_of(self.src, self.check)
        return Register("", self.src.dtype, self.layout)

    def run(self, block: Block, src: Memory) -> Tile:
        checked = checked_of(self.src, self.check)
        return src.read(tile_indices(src, self.layout.shape, self.at, checked))

    def cuda(self, cu: Writer, out: Register) -> None:
        load(cu, out, self.src, self.at, checked_of(self.src, self.check), "load_global")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(SOME, (8, 8), TILE), cls(WIDE, (0, 8), TILE, check=(0,)),
                cls(SPACED, (8, 8), TILE),
                cls(Global("g0", u8, (40, 8), (8, 1), "p0"), (3, 0), spatial(32, 1) * local(1, 8)),
                cls(Global("g0", f32, (9,), (2,), "p0"), (1,), spatial(8))]  # fmt: skip


@instruction
class StoreGlobal(Inst):
    """Write `src` over the tile of `dst` at `at`. Elements outside `dst` are dropped.

    Of elements that several threads hold one copy is written. `check` is as for load_global.
    """

    dst: Global
    src: Register
    at: Index
    check: tuple[int, ...] | None = None
    effect = Effect.WRITES

    def result(self) -> None:
        require_rank(self.name, self.dst, self.at, self.src.shape)
        require_whole_bytes(self.name, self.dst)
        require_same_dtype(self.name, self.dst, self.src)
        checked_of(self.dst, self.check)

    def run(self, block: Block, dst: Memory, src: Tile) -> None:
        checked = checked_of(self.dst, self.check)
        dst.write(tile_indices(dst, self.src.shape, self.at, checked), src)

    def cuda(self, cu: Writer, out: None) -> None:
        store(cu, self.src, self.dst, self.at, checked_of(self.dst, self.check), "store_global")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(SOME, Register("r0", f16, TILE), (8, 8)),
                cls(WIDE, Register("r0", f16, TILE), (4, 8), check=()),
                cls(Global("g0", u8, (40, 8), (8, 1), "p0"),
                    Register("r0", u8, spatial(32, 1) * local(1, 8)), (3, 0))]  # fmt: skip


@instruction
class AllocateShared(Inst):
    """Set aside shared memory for a tensor, full of garbage, until the program ends.

    It is row-major, each element offset then passed through `swizzle`.
    """

    dtype: DType
    shape: tuple[int, ...]
    swizzle: Swizzle = PLAIN

    def result(self) -> Shared:
        out = Shared("", self.dtype, self.shape, self.swizzle)
        require_whole_bytes(self.name, out)
        if min(self.shape, default=0) < 1:
            raise TilusError(f"{self.name}: no tensor has the shape {self.shape}")
        bits, source, target = self.swizzle.bits, self.swizzle.source, self.swizzle.target
        if bits and (source < target + bits or prod(self.shape) % (1 << target + bits)):
            raise TilusError(
                f"{self.name}: {self.swizzle} moves elements of {self.shape} onto each other or"
                f" out of it: want source >= target + bits, and whole runs of 2^(target + bits)"
            )
        return out

    def run(self, block: Block) -> Tile:
        return block.allocate(self.dtype, int(np.prod(self.shape)))

    def cuda(self, cu: Writer, out: Shared) -> None:
        offset = cu.reserve(int(np.prod(self.shape)) * self.dtype.bits // 8)
        cu.define(out, f"shared + {offset}")

    @classmethod
    def samples(cls) -> list[Inst]:
        return []  # every sample that touches shared memory starts with one


@instruction
class LoadShared(Inst):
    """Read the tile of `src` whose corner is `at` into registers, as `layout` says."""

    src: Shared
    at: Index
    layout: Layout
    effect = Effect.READS

    def result(self) -> Register:
        require_rank(self.name, self.src, self.at, self.layout.shape)
        require_inside(self.name, self.src, self.at, self.layout.shape)
        return Register("", self.src.dtype, self.layout)

    def run(self, block: Block, src: Memory) -> Tile:
        return src.read(tile_indices(src, self.layout.shape, self.at, frozenset()))

    def cuda(self, cu: Writer, out: Register) -> None:
        load(cu, out, self.src, self.at, frozenset(), "load_shared")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(STAGED, (1, 0, 0), spatial(8, 4) * local(2, 4)),
                cls(STAGED, (0, 8, 8), spatial(1, 8, 4) * local(1, 1, 2)),
                cls(Shared("s0", u32, (4, 64)), (2, 0),
                    local(2, 1) * spatial(1, 16) * local(1, 4))]  # fmt: skip


@instruction
class StoreShared(Inst):
    """Write `src` over the tile of `dst` whose corner is `at`."""

    dst: Shared
    src: Register
    at: Index
    effect = Effect.WRITES

    def result(self) -> None:
        require_rank(self.name, self.dst, self.at, self.src.shape)
        require_inside(self.name, self.dst, self.at, self.src.shape)
        require_same_dtype(self.name, self.dst, self.src)

    def run(self, block: Block, dst: Memory, src: Tile) -> None:
        dst.write(tile_indices(dst, self.src.shape, self.at, frozenset()), src)

    def cuda(self, cu: Writer, out: None) -> None:
        store(cu, self.src, self.dst, self.at, frozenset(), "store_shared")

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = spatial(1, 8, 4) * local(1, 2, 4)
        return [cls(STAGED, Register("r0", f16, tile), (1, 0, 0)),
                cls(STAGED, Register("r0", f16, spatial(1, 8, 4)), (0, 5, 3))]  # fmt: skip


@instruction
class CopyAsync(Inst):
    """Start to copy the tile of `src` at `at` over the tile of `dst` at `to`, both of `shape`.

    Elements outside `src` arrive as zero. The copy joins the open group; nobody may read or write
    the tile before the group was committed and waited for, and the block synchronised. `check` is
    as for load_global. (PTX: cp.async; copies of less than 4 bytes move at once.)
    """

    src: Global
    dst: Shared
    at: Index
    to: Index
    shape: tuple[int, ...]
    check: tuple[int, ...] | None = None
    effect = Effect.READS | Effect.WRITES

    def result(self) -> None:
        require_rank(self.name, self.src, self.at, self.shape)
        require_rank(self.name, self.dst, self.to, self.shape)
        require_whole_bytes(self.name, self.src)
        require_same_dtype(self.name, self.dst, self.src)
        require_inside(self.name, self.dst, self.to, self.shape)
        checked_of(self.src, self.check)

    def run(self, block: Block, src: Memory, dst: Memory) -> None:
        checked = checked_of(self.src, self.check)
        values = src.read(tile_indices(src, self.shape, self.at, checked))
        index = tile_indices(dst, self.shape, self.to, frozenset())
        block.defer(lambda: dst.write(index, values))

    def cuda(self, cu: Writer, out: None) -> None:
        checked = checked_of(self.src, self.check)
        step = self.elements_a_copy(cu, checked)
        layout = copy_layout(self.shape, cu.threads, step)
        with cu.scope(threads_below(layout, cu)):
            here, there = corner(cu, "from", layout, self.at), corner(cu, "to", layout, self.to)
            for register in range(0, layout.registers, step):
                source = beside(here, layout, register)
                target = address(self.dst, beside(there, layout, register), cu)
                mask = mask_of(self.src, source, checked, cu)
                size = step * self.src.dtype.bits // 8
                cu.line(f"copy_async<{size}>({target}, {address(self.src, source, cu)}, {mask});")

    def completion(self) -> list[Inst]:
        return [CommitGroup(), WaitGroup(0)]

    def elements_a_copy(self, cu: Writer, checked: frozenset[int]) -> int:
        """How many neighbours one copy can move: aligned in both places, 16 bytes at most."""
        source = alignment(self.src, self.at, checked, cu)
        target = alignment(self.dst, self.to, frozenset(), cu)
        return gcd(self.shape[-1], source, target, WIDEST * 8 // self.src.dtype.bits)

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(WIDE, STAGED, (8, 0), (1, 0, 0), (16, 16)),
                cls(SOME, STAGED, (2, 3), (0, 4, 2), (5, 7)),
                cls(Global("g0", u32, (3, 96), (96, 1), "p0"), Shared("s0", u32, (2, 96)),
                    (1, 0), (0, 0), (2, 96), check=())]  # fmt: skip


@instruction
class CommitGroup(Inst):
    """Close the open group of asynchronous copies; an empty one counts too."""

    effect = Effect.SYNC

    def result(self) -> None:
        return None

    def run(self, block: Block) -> None:
        block.commit()

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line("commit_group();")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls()]


@instruction
class WaitGroup(Inst):
    """Wait until at most the newest `pending` groups of asynchronous copies are under way.

    That is so for each thread's own copies; `synchronize` makes it so for the block.
    """

    pending: int
    effect = Effect.SYNC

    def result(self) -> None:
        if self.pending < 0:
            raise TilusError(
                f"wait_group: {self.pending} groups cannot be pending: 0 waits for all"
            )

    def run(self, block: Block) -> None:
        block.wait(self.pending)

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line(f"wait_group<{self.pending}>();")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(0), cls(2)]


MATRIX = spatial(8, 4) * local(1, 2)  # an 8x8 matrix of 16-bit elements over a warp


@instruction
class LoadMatrix(Inst):
    """Read a tile of 16-bit elements whose layout is made of 8x8 matrices over each warp.

    The same meaning as load_shared; the rows of a matrix are fetched by eight lanes and dealt to
    all (PTX ISA 9.7.14.5.15, ldmatrix). Rows must be 16-byte aligned.
    """

    src: Shared
    at: Index
    layout: Layout
    effect = Effect.READS

    def result(self) -> Register:
        require_rank(self.name, self.src, self.at, self.layout.shape)
        require_inside(self.name, self.src, self.at, self.layout.shape)
        if self.src.dtype.bits != 16:
            raise TilusError(
                f"load_matrix moves 16-bit elements, not {self.src.dtype}: load_shared"
            )
        if not deals_matrices(self.layout):
            raise TilusError(
                f"load_matrix: {self.layout} is not made of 8x8 matrices {MATRIX} over warps:"
                " use load_shared, or a layout that ends in spatial(8, 4) * local(1, 2)"
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
        lane, warp = THREAD % 32, THREAD // 32 * 32
        with cu.scope():
            cu.line(f"const unsigned lane = {cu.expr(lane)}, warp = {cu.expr(warp)};")
            for start, count in runs_of_matrices(self.layout.registers // 2):
                index = list(self.layout(Var("warp"), (start + Var("lane") // 8 % count) * 2))
                index[-2] += Var("lane") % 8
                index = [0] * (len(self.at) - self.layout.rank) + index
                place = tuple(a + i for a, i in zip(self.at, index, strict=True))
                target = f"{cu.words(out)} + {start}"
                cu.line(f"load_matrix<{count}>({target}, {address(self.src, place, cu)});")

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = Shared("s0", f16, (2, 32, 32), Swizzle(2, 5, 3))
        fragment = local(1, 2) * local(2, 1) * spatial(8, 4) * local(1, 2)
        return [cls(tile, (1, 16, 16), fragment),
                cls(tile, (0, 8, 24), spatial(1, 8, 4) * local(1, 1, 2)),
                cls(tile, (0, 0, 8), local(1, 3) * spatial(8, 4) * local(1, 2))]  # fmt: skip


def runs_of_matrices(matrices: int) -> list[tuple[int, int]]:
    """So many matrices as (first, count) of as few instructions, which move 4, 2 or 1."""
    fours = [(first, 4) for first in range(0, matrices - 3, 4)]
    rest = matrices - matrices % 4
    twos = [(rest, 2)] if matrices % 4 >= 2 else []
    return fours + twos + ([(matrices - 1, 1)] if matrices % 2 else [])


def deals_matrices(layout: Layout) -> bool:
    """Whether each pair of registers is an 8x8 matrix, dealt row by row to the lanes of a warp."""
    if layout.threads % 32 or layout.registers % 2 or layout.rank < 2:
        return False
    index = every(layout)
    lane = np.arange(layout.threads)[:, None] % 32
    parity = np.arange(layout.registers)[None, :] % 2
    moved = [np.zeros_like(lane + parity)] * (layout.rank - 2)
    moved += [lane // 4 + 0 * parity, lane % 4 * 2 + parity]
    origin = (np.arange(layout.threads) // 32 * 32)[:, None], (np.arange(layout.registers) // 2 * 2)
    return all(np.array_equal(i, i[origin] + m) for i, m in zip(index, moved, strict=True))


def require_same_dtype(name: str, memory: Place, other: Register | Global) -> None:
    """Moving changes no bits."""
    if memory.dtype != other.dtype:
        raise TilusError(f"{name}: {other.dtype} into {memory.dtype}: cast or view it first")


def load(
    cu: Writer, out: Register, src: Place, at: Index, checked: frozenset[int], function: str
) -> None:
    """Code that fills `out` from the tile of `src` at `at`."""
    bits, step = out.dtype.bits, width(out.layout, src, alignment(src, at, checked, cu))
    with cu.scope(threads_below(out.layout, cu)):
        first = corner(cu, "i", out.layout, at)
        for register in range(0, out.layout.registers, step):
            index = beside(first, out.layout, register)
            size, place = step * bits // 8, register * bits
            target = f"{cu.words(out)} + {place // 32}"
            where, mask = address(src, index, cu), mask_of(src, index, checked, cu)
            cu.line(f"{function}<{size}, {place % 32}>({target}, {where}, {mask});")


def store(
    cu: Writer, src: Register, dst: Place, at: Index, checked: frozenset[int], function: str
) -> None:
    """Code that writes one copy of each element of `src` to the tile of `dst` at `at`."""
    bits, step = src.dtype.bits, width(src.layout, dst, alignment(dst, at, checked, cu))
    replica = src.layout.replica(THREAD)
    once = "" if replica == 0 else f" && {cu.expr(replica)} == 0"
    with cu.scope(threads_below(src.layout, cu)):
        first = corner(cu, "i", src.layout, at)
        for register in range(0, src.layout.registers, step):
            index = beside(first, src.layout, register)
            size, place = step * bits // 8, register * bits
            source = f"{cu.words(src)} + {place // 32}"
            where, mask = address(dst, index, cu), mask_of(dst, index, checked, cu)
            cu.line(f"{function}<{size}, {place % 32}>({where}, {source}, {mask}{once});")
