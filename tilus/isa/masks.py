"""Which elements of a tile are there: for kernels that compute at the edges of tensors."""

import numpy as np

from tilus.dtypes import boolean, f16
from tilus.ir import Global, Register
from tilus.isa.access import Index
from tilus.isa.addressing import (
    beside,
    corner,
    mask_of,
    require_rank,
    tile_indices,
)
from tilus.isa.base import Block, Inst, Memory, Tile, Writer, instruction
from tilus.isa.spelling import kind
from tilus.layout import Layout, local, reduce, spatial


@instruction
class Inside(Inst):
    """Whether each element of the tile at `at` lies inside `src`: a tile of bool.

    These are the elements that load_global of the same tile reads, where it checks all dimensions;
    nothing is read.
    """

    src: Global
    at: Index
    layout: Layout

    def result(self) -> Register:
        require_rank(self.name, self.src, self.at, self.layout.shape)
        return Register("", boolean, self.layout)

    def run(self, block: Block, src: Memory) -> Tile:
        everywhere = frozenset(range(len(self.at)))
        index = tile_indices(src, self.layout.shape, self.at, everywhere)
        tests = [(i >= 0) & (i < n) for i, n in zip(index, src.shape, strict=True)]
        return np.asarray(np.logical_and.reduce(tests)).astype(boolean.carrier)

    def cuda(self, cu: Writer, out: Register) -> None:
        everywhere = frozenset(range(len(self.at)))
        with cu.scope():
            first = corner(cu, "i", out.layout, self.at)
            for register in range(out.layout.registers):
                index = beside(first, out.layout, register)
                mask = mask_of(self.src, index, everywhere, cu)
                cu.line(f"set<{kind(boolean)}, {register}>({cu.words(out)}, {mask});")

    @classmethod
    def samples(cls) -> list[Inst]:
        edge = Global("g0", f16, (20, 13), (13, 1), "p0")
        tile = spatial(8, 4) * local(2, 2)
        planes = Global("g0", f16, (2, 20, 13), (260, 13, 1), "p0")
        return [
            cls(edge, (8, 8), tile),
            cls(edge, (19, 0), reduce(tile, (0,))),
            cls(planes, (1, 14, 8), tile),
        ]
