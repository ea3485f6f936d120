"""Work is divided among blocks: every unit of every tile is done once, and by equal shares."""

import numpy as np
import pytest

from tilus.dtypes import i32
from tilus.interp import interpret
from tilus.ir import Integer, Pointer, Program, Var, equal
from tilus.kernels.division import BAND, Walk, Work, blocks_for
from tilus.lang import Tracer, trace

SIZES = [  # steps, rows and columns of tiles, blocks
    (1, 1, 1, 1), (4, 1, 7, 3), (3, 5, 2, 4), (5, 2, 3, 7), (2, BAND, 3, 5), (3, BAND + 1, 2, 4),
    (1, 2 * BAND + 3, 3, 11), (7, 1, 2, 14), (2, 3, 4, 12), (2, 3, 4, 6),
]  # fmt: skip


def walks(by_turns: bool) -> Program:
    """Counts how often each unit is come to, how many each block does, and how many of those that
    are shared out `block_of` gives to the block that has them."""

    def kernel(t: Tracer, seen: Var, done: Var, own: Var, *sizes: Var) -> None:
        steps, rows, columns, blocks = sizes
        work = Work.of(t, steps, rows, columns, blocks, by_turns)
        units = t.view_global(seen, i32, (rows, columns, steps), (columns * steps, steps, 1))
        by_block = [t.view_global(each, i32, (blocks,), (1,)) for each in (done, own)]
        walk = Walk(t, work)
        for _ in t.range(0, work.units):
            t.atomic_add(units, (walk.row, walk.column, walk.step), 1)
            t.atomic_add(by_block[0], (t.blocks[0],), 1)
            walk.advance(t)
        for unit in t.range(work.begin, work.end):
            with t.when(equal(work.shares.block_of(unit), t.blocks[0])):
                t.atomic_add(by_block[1], (t.blocks[0],), 1)

    pointers = [Pointer(name, i32) for name in ("seen", "done", "own")]
    sizes = [Integer(name) for name in ("steps", "rows", "columns", "blocks")]
    return trace("walks", kernel, [*pointers, *sizes], lambda *p: (p[-1], 1, 1), 32)


@pytest.mark.parametrize("by_turns", [False, True])
@pytest.mark.parametrize(("steps", "rows", "columns", "blocks"), SIZES)
def test_every_unit_is_done_once_by_equal_shares(
    steps: int, rows: int, columns: int, blocks: int, by_turns: bool
) -> None:
    seen = np.zeros(rows * columns * steps, np.int32)
    done, own = np.zeros(blocks, np.int32), np.zeros(blocks, np.int32)
    interpret(walks(by_turns), {
        "seen": seen, "done": done, "own": own,
        "steps": steps, "rows": rows, "columns": columns, "blocks": blocks,
    })  # fmt: skip
    assert (seen == 1).all()
    assert done.max() - done.min() <= 1
    turns = max(rows * columns // blocks, 1) - 1 if by_turns else 0
    assert own.tolist() == [each - turns * steps for each in done]


@pytest.mark.parametrize(("tiles", "steps", "places", "blocks"), [
    (128, 32, 132, 128),  # nearly all places get a tile of their own
    (132, 32, 132, 132), (126, 32, 132, 126), (125, 32, 132, 132), (100, 32, 132, 132),
    (133, 32, 132, 132), (2, 3, 132, 6), (2, 100, 132, 132),
])  # fmt: skip
def test_places_are_filled_unless_few_stay_idle(
    tiles: int, steps: int, places: int, blocks: int
) -> None:
    assert blocks_for(tiles, steps, places) == blocks
