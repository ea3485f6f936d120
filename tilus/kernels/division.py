"""Dividing the work of a kernel among its blocks, whatever the sizes are.

Work is cut into units: one step along k of one tile of C. A block takes a run of consecutive units.
"""

from dataclasses import dataclass

from tilus.ir import Scalar, Var, equal, maximum, minimum
from tilus.kernels.schedule import WASTE
from tilus.lang import Tracer


def blocks_for(tiles: int, steps: int, places: int) -> int:
    """How many blocks take `tiles` of so many `steps` where so many run at once."""
    if (1 - WASTE) * places <= tiles <= places:
        return tiles
    return min(tiles * steps, places)


class Shares:
    """Which block does which units: each takes `least` of them, the first `more` blocks another."""

    def __init__(self, t: Tracer, units: Scalar, blocks: Scalar) -> None:
        self.least, self.more = t.let(units // blocks), t.let(units % blocks)
        self.cut = t.let(self.more * (self.least + 1))  # the first unit of a block that takes least

    def begin(self, block: Scalar) -> Scalar:
        return block * self.least + minimum(block, self.more)

    def block_of(self, unit: Scalar) -> Scalar:
        beyond = maximum(unit, self.cut) - self.cut
        return minimum(unit, self.cut) // (self.least + 1) + beyond // maximum(self.least, 1)


class Walk:
    """The way through the units: along k first, then down the rows of C, so that a weight is read
    again soon. Its variables say where the next unit lies."""

    def __init__(self, t: Tracer, start: Scalar, steps: Scalar, rows: Scalar, ring: int) -> None:
        self.steps, self.rows, self.ring = steps, rows, ring
        self.step, self.tile = t.let(start % steps), t.let(start // steps)
        self.row, self.column = t.let(self.tile % rows), t.let(self.tile // rows)
        self.place = t.let(0)  # in the ring of shared memory
        self.turn = t.let(0)  # whether the ring is gone through for an odd time

    def advance(self, t: Tracer) -> None:
        t.set(self.place, self.place + 1)
        with t.when(equal(self.place, self.ring)):
            t.set(self.place, 0)
            t.set(self.turn, self.turn ^ 1)
        t.set(self.step, self.step + 1)
        with t.when(equal(self.step, self.steps)):
            t.set(self.step, 0)
            t.set(self.tile, self.tile + 1)
            t.set(self.row, self.row + 1)
            with t.when(equal(self.row, self.rows)):
                t.set(self.row, 0)
                t.set(self.column, self.column + 1)


@dataclass(frozen=True)
class Work:
    """What a block has to do: the units from `begin` to `end`, of tiles of so many `steps`."""

    shares: Shares
    begin: Var
    end: Var
    steps: Var
    rows: Var

    @classmethod
    def of(cls, t: Tracer, steps: Scalar, rows: Scalar, columns: Scalar, blocks: Scalar) -> "Work":
        """That of the block that runs, of tiles `rows` x `columns`."""
        along_k, down = t.let(steps), t.let(rows)
        shares = Shares(t, t.let(along_k * down * columns), blocks)
        begin, end = t.let(shares.begin(t.blocks[0])), t.let(shares.begin(t.blocks[0] + 1))
        return cls(shares, begin, end, along_k, down)

    def walk(self, t: Tracer, stages: int) -> Walk:
        return Walk(t, self.begin, self.steps, self.rows, stages)
