"""Blocks of a cluster: meeting, telling each other, and reading each other's shared memory.

A program says how many blocks make a cluster; they run at the same time. PTX ISA 5.1.7,
shared::cluster; 9.7.13.4, barrier.cluster.
"""

from dataclasses import replace

from tilus.dtypes import f16
from tilus.ir import Register, Scalar, Shared
from tilus.isa.access import Index, load
from tilus.isa.addressing import require_rank, tile_indices
from tilus.isa.barriers import (
    HOPPER,
    PLACES,
    WARP,
    one_of,
    place_of,
    require_barriers,
)
from tilus.isa.base import Block, Effect, Inst, Memory, Tile, Writer, instruction
from tilus.layout import Layout, local, spatial


@instruction
class SynchronizeCluster(Inst):
    """All threads of all blocks of the cluster arrive here; each then sees what others wrote.

    A block must not end while others still read its shared memory.
    """

    effect = Effect.SYNC
    whole_block = True
    needs = HOPPER

    def result(self) -> None:
        return None

    def ready(self, block: Block) -> bool:
        return block.meet()

    def run(self, block: Block) -> None:
        """All have met."""

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line("synchronize_cluster();")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls()]


@instruction
class LoadPeer(Inst):
    """Read the tile at `at` of what `src` is in block `peer` of the cluster, as `layout` says.

    The blocks of a cluster count from 0, the first dimension of the grid fastest.
    """

    src: Shared
    peer: Scalar
    at: Index
    layout: Layout
    effect = Effect.READS
    needs = HOPPER

    def result(self) -> Register:
        require_rank(self.name, self.src, self.at, self.layout.shape)
        return Register("", self.src.dtype, self.layout)

    def run(self, block: Block, src: Memory) -> Tile:
        there = block.of_peer(int(self.peer), self.src)  # type: ignore[arg-type]
        return there.read(tile_indices(there, self.layout.shape, self.at, frozenset()))

    def cuda(self, cu: Writer, out: Register) -> None:
        there = replace(self.src, name="__there")  # no name of a program begins like that
        with cu.scope():
            place = f"peer_place({cu.base(self.src)}, {cu.expr(self.peer)})"
            cu.define(there, place)
            load(cu, out, there, self.at, frozenset(), "load_shared")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(Shared("s0", f16, (2, 16, 16)), 0, (1, 8, 0), spatial(8, 4) * local(1, 4))]


@instruction
class ArrivePeer(Inst):
    """Every warp arrives once at a barrier of block `peer` of the cluster, as `arrive` does."""

    barriers: Shared
    index: Scalar
    peer: Scalar
    effect = Effect.SYNC
    needs = HOPPER

    def result(self) -> None:
        require_barriers(self.name, self.barriers)

    def run(self, block: Block, barriers: Memory) -> None:
        there = block.of_peer(int(self.peer), self.barriers)  # type: ignore[arg-type]
        one_of(there, self.index).arrive(-(-block.threads // WARP))

    def cuda(self, cu: Writer, out: None) -> None:
        barrier = place_of(self.barriers, self.index, cu)
        cu.line(f"arrive_peer({barrier}, {cu.expr(self.peer)});")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(PLACES, 1, 0)]
