"""Dividing the work of a kernel among its blocks, whatever the sizes are.

Work is cut into units: one step along k of one tile of C. A block first makes whole tiles, by turns
with the others, then takes a run of consecutive units of the tiles that are left.
"""

from dataclasses import dataclass

from tilus.ir import Scalar, Var, equal, maximum, minimum
from tilus.kernels.schedule import WASTE
from tilus.lang import Tracer

# Rows of tiles in a band. Blocks that run at the same time work in one band, side by side, so that
# the rows of A and the columns of the weight which they read together fit into an L2 cache.
BAND = 16


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


@dataclass(frozen=True)
class Work:
    """What a block has to do, of tiles of so many `steps`, `rows` x `columns` of them.

    First a whole tile in each of so many `turns`: tile block + i * blocks in turn i. The tiles from
    `shared` on are shared out; of their units the block has those from `begin` to `end`.
    """

    shares: Shares
    turns: Scalar
    shared: Scalar
    begin: Var
    end: Var
    steps: Var
    rows: Var
    columns: Scalar
    blocks: Scalar
    units: Var  # how many the block does

    @classmethod
    def of(
        cls, t: Tracer, steps: Scalar, rows: Scalar, columns: Scalar, blocks: Scalar, by_turns: bool
    ) -> "Work":
        """That of the block that runs. Without `by_turns` all tiles are shared out."""
        along_k, down = t.let(steps), t.let(rows)
        tiles = t.let(down * columns)
        turns = t.let(maximum(tiles // blocks, 1) - 1) if by_turns else 0
        shared = t.let(turns * blocks) if by_turns else 0
        shares = Shares(t, t.let((tiles - shared) * along_k), blocks)
        begin, end = t.let(shares.begin(t.blocks[0])), t.let(shares.begin(t.blocks[0] + 1))
        units = t.let(turns * along_k + end - begin)
        return cls(shares, turns, shared, begin, end, along_k, down, columns, blocks, units)

    @property
    def tiles(self) -> Scalar:
        """How many tiles the block does something of."""
        last = (self.end + self.steps - 1) // self.steps
        return self.turns + (self.begin < self.end) * (last - self.begin // self.steps)

    @property
    def first_shared(self) -> tuple[Scalar, Scalar]:
        """The step and the tile of the first unit that the block has of those shared out."""
        return self.begin % self.steps, self.shared + self.begin // self.steps


class Cursor:
    """A place in a ring, and whether the ring is gone through for an odd time."""

    def __init__(self, t: Tracer, size: int) -> None:
        self.size, self.place, self.turn = size, t.let(0), t.let(0)

    def advance(self, t: Tracer) -> None:
        t.set(self.place, self.place + 1)
        with t.when(equal(self.place, self.size)):
            t.set(self.place, 0)
            t.set(self.turn, self.turn ^ 1)


class Walk:
    """The way of a block through its tiles: those of its turns, then those that it shares.

    Down the rows of C first, so that a weight is read again soon. Its variables say where the next
    unit lies.
    """

    def __init__(self, t: Tracer, work: Work) -> None:
        self.work, self.by_turns = work, not isinstance(work.turns, int)
        step, tile = work.first_shared
        if self.by_turns:
            self.left = t.let(work.turns)
            shares = t.let(equal(work.turns, 0))
            step, tile = step * shares, t.blocks[0] + shares * (tile - t.blocks[0])
        tile = t.let(tile)
        self.step, self.tile = t.let(step), t.let(tile)
        row, column = self.place(t, tile)
        self.row, self.column = t.let(row), t.let(column)

    def place(self, t: Tracer, tile: Scalar) -> tuple[Scalar, Scalar]:
        """The row and column of a tile."""
        work = self.work
        if not self.by_turns:
            return tile % work.rows, tile // work.rows
        high = t.let(minimum(work.rows, BAND))
        band = t.let(tile // (high * work.columns))
        within = t.let(tile - band * high * work.columns)
        # beyond the last tile there is no row, and nothing is read
        here = t.let(maximum(minimum(high, work.rows - band * high), 1))
        return band * high + within % here, within // here

    def next_tile(self, t: Tracer) -> None:
        t.set(self.step, 0)
        if not self.by_turns:
            t.set(self.tile, self.tile + 1)
            t.set(self.row, self.row + 1)
            with t.when(equal(self.row, self.work.rows)):
                t.set(self.row, 0)
                t.set(self.column, self.column + 1)
            return
        more = t.let(self.left > 0)
        t.set(self.tile, self.tile + 1 + more * (self.work.blocks - 1))
        t.set(self.left, self.left - more)
        with t.when(more & equal(self.left, 0)):
            step, tile = self.work.first_shared
            t.set(self.step, step)
            t.set(self.tile, tile)
        row, column = self.place(t, self.tile)
        t.set(self.row, row)
        t.set(self.column, column)

    def advance(self, t: Tracer) -> None:
        """To the next unit."""
        t.set(self.step, self.step + 1)
        with t.when(equal(self.step, self.work.steps)):
            self.next_tile(t)
