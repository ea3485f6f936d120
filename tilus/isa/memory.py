"""Naming tensors in global and shared memory, and moving tiles between them and registers."""

from math import gcd, prod

import numpy as np

from tilus.dtypes import DType, f16, f32, floating, sint, u8, u32, uint
from tilus.errors import TilusError
from tilus.ir import PLAIN, Global, Register, Scalar, Shared, Swizzle, Var, divisor
from tilus.isa.access import Group, Index, grouped, load, plus, store
from tilus.isa.addressing import (
    Place,
    address,
    alignment,
    beside,
    bytes_of,
    coalesced,
    copy_layout,
    corner,
    mask_of,
    require_inside,
    require_rank,
    threads_below,
    tile_indices,
)
from tilus.isa.base import Block, Effect, Inst, Known, Memory, Tile, Window, Writer, instruction
from tilus.layout import Layout, local, spatial

TILE = spatial(8, 4) * local(2, 2)
SOME = Global("g0", f16, (20, 13), (13, 1), "p0")
NIBBLES = Global("g0", uint(4), (20, 48), (48, 1), "p0")
SIXES = Global("g0", sint(6), (9, 32), (32, 1), "p0")
LOOSE = Global("g0", floating(3, 2), (5, 13), (13, 1), "p0")  # rows begin inside bytes
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


def row_major(shape: Index) -> Index:
    """The strides of a tensor whose last dimension lies fastest, without gaps."""
    strides: list[Scalar] = [1]
    for extent in reversed(shape[1:]):
        strides.insert(0, strides[0] * extent)
    return tuple(strides)


@instruction
class ViewGlobal(Inst):
    """Name the memory behind `pointer` a tensor: element i lies at the sum of i[d] * strides[d].

    `shape` and `strides` count elements; where no strides are given, the last dimension lies
    fastest, without gaps. Nothing is read.
    """

    pointer: Var
    dtype: DType
    shape: Index
    strides: Index | None = None

    def result(self) -> Global:
        strides = row_major(self.shape) if self.strides is None else self.strides
        if len(self.shape) != len(strides) or not self.shape:
            raise TilusError(
                f"view_global: {len(self.shape)} extents {self.shape} and {len(strides)}"
                f" strides {strides}: give one stride a dimension, at least one"
            )
        return Global("", self.dtype, self.shape, strides, self.pointer.name)

    def run(self, block: Block) -> None:
        block.pointer(self.pointer.name)

    def cuda(self, cu: Writer, out: Global) -> None:
        cu.define(out, f"(char*){cu.expr(self.pointer)}")

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
        checked_of(self.src, self.check)
        return Register("", self.src.dtype, self.layout)

    def run(self, block: Block, src: Memory) -> Tile:
        checked = checked_of(self.src, self.check)
        return src.read(tile_indices(src, self.layout.shape, self.at, checked))

    def cuda(self, cu: Writer, out: Register) -> None:
        load(cu, out, self.src, self.at, checked_of(self.src, self.check), "load_global")

    def window(self) -> Window:
        return self.src, self.at, self.layout.shape

    def prefers(self, threads: int) -> Known:
        return {"": coalesced(self.layout.shape, threads, self.src.dtype)}

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(SOME, (8, 8), TILE), cls(WIDE, (0, 8), TILE, check=(0,)),
                cls(SPACED, (8, 8), TILE),
                cls(Global("g0", u8, (40, 8), (8, 1), "p0"), (3, 0), spatial(32, 1) * local(1, 8)),
                cls(Global("g0", f32, (9,), (2,), "p0"), (1,), spatial(8)),
                cls(NIBBLES, (3, 32), spatial(4, 2) * local(2, 8)),
                cls(SIXES, (1, 8), spatial(8, 1) * local(1, 8), check=(0,)),
                cls(SIXES, (0, 0), spatial(4, 8) * local(2, 4)),
                cls(LOOSE, (1, 3), spatial(4, 2) * local(1, 8)),
                cls(Global("g0", uint(3), (6, 12), (12, 1), "p0"), (1, 4), local(2, 4)),
                cls(Global("g0", uint(1), (7, 64), (64, 1), "p0"), (2, 0), local(1, 64)),
                cls(Global("g0", uint(3), (40,), (3,), "p0"), (2,),
                    spatial(4) * local(8))]  # fmt: skip


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
        require_same_dtype(self.name, self.dst, self.src)
        checked_of(self.dst, self.check)

    def run(self, block: Block, dst: Memory, src: Tile) -> None:
        checked = checked_of(self.dst, self.check)
        dst.write(tile_indices(dst, self.src.shape, self.at, checked), src)

    def cuda(self, cu: Writer, out: None) -> None:
        store(cu, self.src, self.dst, self.at, checked_of(self.dst, self.check), "store_global")

    def window(self) -> Window:
        return self.dst, self.at, self.src.shape

    def prefers(self, threads: int) -> Known:
        return {self.src.name: coalesced(self.src.shape, threads, self.src.dtype)}

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(SOME, Register("r0", f16, TILE), (8, 8)),
                cls(WIDE, Register("r0", f16, TILE), (4, 8), check=()),
                cls(Global("g0", u8, (40, 8), (8, 1), "p0"),
                    Register("r0", u8, spatial(32, 1) * local(1, 8)), (3, 0)),
                cls(NIBBLES, Register("r0", uint(4), spatial(4, 2) * local(2, 8)), (3, 40)),
                cls(SIXES, Register("r0", sint(6), spatial(8, 8) * local(1, 4)), (4, 0)),
                cls(SIXES, Register("r0", sint(6), local(2, 1) * spatial(2, 1) * local(1, 32)),
                    (0, 0), check=())]  # fmt: skip


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
        require_shape(self.name, out)
        return out

    def run(self, block: Block) -> Tile:
        return block.allocate(self.dtype, int(np.prod(self.shape)))

    def cuda(self, cu: Writer, out: Shared) -> None:
        cu.define(out, f"shared + {cu.reserve(bytes_of(out))}")

    @classmethod
    def samples(cls) -> list[Inst]:
        return []  # every sample that touches shared memory starts with one


@instruction
class ViewShared(Inst):
    """Name bytes of `src`, from `offset` on, another tensor; both names stay good. No byte moves.

    The new tensor ends where `src` ends, or before; `offset` is a multiple of 16.
    """

    src: Shared
    dtype: DType
    shape: tuple[int, ...]
    swizzle: Swizzle = PLAIN
    offset: Scalar = 0

    def result(self) -> Shared:
        out = Shared("", self.dtype, self.shape, self.swizzle)
        require_shape(self.name, out)
        if bytes_of(out) > bytes_of(self.src):
            raise TilusError(
                f"view_shared: {self.dtype} {self.shape} takes {bytes_of(out)} bytes, but"
                f" {self.src.name} has {bytes_of(self.src)}: allocate more"
            )
        return out

    def run(self, block: Block, src: Memory) -> Tile:
        start = int(self.offset)  # type: ignore[arg-type]  # expressions have values by now
        end = start + bytes_of(self.result())
        if start % 16 or end > bytes_of(self.src):
            raise TilusError(
                f"view_shared: bytes {start} to {end} of {bytes_of(self.src)}: the view must start"
                " at a multiple of 16, and lie inside"
            )
        return src.array.view(np.uint8)[start:end].view(self.dtype.carrier)

    def cuda(self, cu: Writer, out: Shared) -> None:
        if divisor(self.offset, cu.facts) % 16:
            raise TilusError(
                f"view_shared: the offset {self.offset} is not known to be a multiple of 16:"
                " multiply it by one"
            )
        base = cu.base(self.src)
        cu.define(out, base if self.offset == 0 else f"{base} + {cu.expr(self.offset)}")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(STAGED, u32, (2, 8, 16)), cls(STAGED, u32, (4, 32), PLAIN, 256),
                cls(STAGED, uint(4), (8, 99)),
                cls(Shared("s0", sint(5), (8, 32)), u8, (2, 80))]  # fmt: skip


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

    def prefers(self, threads: int) -> Known:
        return {"": coalesced(self.layout.shape, threads, self.src.dtype)}

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(STAGED, (1, 0, 0), spatial(8, 4) * local(2, 4)),
                cls(STAGED, (0, 8, 8), spatial(1, 8, 4) * local(1, 1, 2)),
                cls(Shared("s0", u32, (4, 64)), (2, 0),
                    local(2, 1) * spatial(1, 16) * local(1, 4)),
                cls(Shared("s0", sint(5), (8, 32)), (4, 8), spatial(4, 2) * local(1, 8)),
                cls(Shared("s0", uint(2), (3, 7)), (1, 2),
                    spatial(2, 1) * local(1, 4))]  # fmt: skip


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

    def prefers(self, threads: int) -> Known:
        return {self.src.name: coalesced(self.src.shape, threads, self.src.dtype)}

    @classmethod
    def samples(cls) -> list[Inst]:
        tile = spatial(1, 8, 4) * local(1, 2, 4)
        return [cls(STAGED, Register("r0", f16, tile), (1, 0, 0)),
                cls(STAGED, Register("r0", f16, spatial(1, 8, 4)), (0, 5, 3)),
                cls(Shared("s0", sint(5), (8, 32)),
                    Register("r0", sint(5), spatial(4, 2) * local(1, 8)), (4, 8))]  # fmt: skip


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
        step, size, pieces = self.elements_a_copy(cu, checked)
        if not pieces:
            raise TilusError(
                f"copy_async: rows of {self.shape[-1]} elements of {self.src.dtype} at {self.at} of"
                f" {self.src.name} and {self.to} of {self.dst.name} are not known to be whole"
                " bytes: copy a wider tile, or load_global and store_shared"
            )
        layout = copy_layout(self.shape, cu.threads, step)
        with cu.scope(threads_below(layout, cu)):
            here, there = corner(cu, "from", layout, self.at), corner(cu, "to", layout, self.to)
            for register in range(0, layout.registers, step):
                index = beside(here, layout, register)
                source, mask = address(self.src, index, cu), mask_of(self.src, index, checked, cu)
                target = address(self.dst, beside(there, layout, register), cu)
                for first in range(0, size * pieces, size):
                    where = f"{plus(target, first)}, {plus(source, first)}"
                    cu.line(f"copy_async<{size}>({where}, {mask});")

    def window(self) -> Window:
        return self.src, self.at, self.shape

    def completion(self) -> list[Inst]:
        return [CommitGroup(), WaitGroup(0)]

    def elements_a_copy(self, cu: Writer, checked: frozenset[int]) -> Group:
        """How many neighbours are moved together: aligned in both places."""
        source = alignment(self.src, self.at, checked, cu)
        target = alignment(self.dst, self.to, frozenset(), cu)
        return grouped(self.src.dtype.bits, gcd(self.shape[-1], source, target))

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(WIDE, STAGED, (8, 0), (1, 0, 0), (16, 16)),
                cls(SOME, STAGED, (2, 3), (0, 4, 2), (5, 7)),
                cls(Global("g0", u32, (3, 96), (96, 1), "p0"), Shared("s0", u32, (2, 96)),
                    (1, 0), (0, 0), (2, 96), check=()),
                cls(NIBBLES, Shared("s0", uint(4), (8, 32)), (15, 32), (0, 0), (8, 32)),
                cls(SIXES, Shared("s0", sint(6), (9, 32)), (4, 16), (1, 0), (8, 16))]  # fmt: skip


@instruction
class CommitGroup(Inst):
    """Close the open group of asynchronous copies; an empty one counts too."""

    effect = Effect.SYNC
    closes_group = True

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

    @property
    def completes(self) -> bool:
        return self.pending == 0

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


def require_shape(name: str, tensor: Shared) -> None:
    """Every element has a place of its own in the tensor."""
    if min(tensor.shape, default=0) < 1:
        raise TilusError(f"{name}: no tensor has the shape {tensor.shape}")
    bits, source, target = tensor.swizzle.bits, tensor.swizzle.source, tensor.swizzle.target
    if bits and (source < target + bits or prod(tensor.shape) % (1 << target + bits)):
        raise TilusError(
            f"{name}: {tensor.swizzle} moves elements of {tensor.shape} onto each other or out of"
            " it: want source >= target + bits, and whole runs of 2^(target + bits)"
        )


def require_same_dtype(name: str, memory: Place, other: Register | Global) -> None:
    """Moving changes no bits."""
    if memory.dtype != other.dtype:
        raise TilusError(f"{name}: {other.dtype} into {memory.dtype}: cast or view it first")
