"""Programs of several threads that tell each other: for the tests on this machine and on a GPU."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilus.dtypes import f32
from tilus.ir import Integer, Parameter, Pointer, Program, Var, equal
from tilus.isa.tensor_copies import tensor_swizzle
from tilus.lang import Tracer, trace
from tilus.layout import column_spatial, local, spatial

X, Y = Pointer("x", f32), Pointer("y", f32)
Arguments = dict[str, Any]


class Protocol(NamedTuple):
    """A program, what it is given, and what must then be in `y`."""

    program: Program
    arguments: Arguments
    y: np.ndarray


def traced(
    kernel: Callable[..., None], threads: int, parameters: tuple[Parameter, ...] = (X, Y)
) -> Program:
    return trace(kernel.__name__, kernel, parameters, lambda *p: (1, 1, 1), threads)


STEPS, STAGES, ROWS, COLUMNS = 7, 3, 4, 64
TILE = spatial(2, 32) * local(2, 2)
DATA = np.arange(STEPS * ROWS * COLUMNS, dtype=np.float32)


def ring(bytes: int = ROWS * COLUMNS * 4, warps: int = 0) -> Callable[..., None]:
    """y = 2 x, through a ring of stages that one thread fills ahead."""

    def doubled(t: Tracer, x: Var, y: Var) -> None:
        source = t.view_global(x, f32, (STEPS * ROWS, COLUMNS), (COLUMNS, 1))
        target = t.view_global(y, f32, (STEPS * ROWS, COLUMNS), (COLUMNS, 1))
        stages = t.allocate_shared(f32, (STAGES, ROWS, COLUMNS))
        full = t.allocate_barriers(STAGES)
        t.init_barriers(full, 1 + warps)

        def fetch(step: Any) -> None:
            at, stage = (step * ROWS, 0), step % STAGES
            t.expect(full, stage, bytes)
            t.copy_bulk(source, stages, at, (stage, 0, 0), (ROWS, COLUMNS), full, stage)

        for step in range(STAGES):
            fetch(step)
        for u in t.range(0, STEPS):
            t.wait_barrier(full, u % STAGES, u // STAGES)
            tile = t.load_shared(stages, (u % STAGES, 0, 0), TILE)
            t.store_global(target, t.add(tile, tile), (u * ROWS, 0))
            t.synchronize()
            with t.when(u < STEPS - STAGES):
                fetch(u + STAGES)

    return doubled


CONSUMERS, HALF = 2, spatial(1, 64) * local(2, 1)


def specialised(release: bool = True, registers: int = 0) -> Callable[..., None]:
    """y = 2 x: one warp fills a ring of stages that two groups empty, each a half of the rows.

    On the way a group turns its rows round through shared memory of its own.
    """

    def doubled(t: Tracer, x: Var, y: Var) -> None:
        source = t.view_global(x, f32, (STEPS * ROWS, COLUMNS), (COLUMNS, 1))
        target = t.view_global(y, f32, (STEPS * ROWS, COLUMNS), (COLUMNS, 1))
        stages = t.allocate_shared(f32, (STAGES, ROWS, COLUMNS))
        turned = t.allocate_shared(f32, (ROWS, COLUMNS))
        full, empty = t.allocate_barriers(STAGES), t.allocate_barriers(STAGES)
        t.init_barriers(full, 1)
        t.init_barriers(empty, 2 * CONSUMERS)  # warps
        with t.group(128, 32):
            for u in t.range(0, STEPS):
                stage = u % STAGES
                t.wait_barrier(empty, stage, u // STAGES + 1)
                t.expect(full, stage, ROWS * COLUMNS * 4)
                t.copy_bulk(source, stages, (u * ROWS, 0), (stage, 0, 0), (ROWS, COLUMNS), full,
                            stage)  # fmt: skip
        for consumer in range(CONSUMERS):
            with t.group(64 * consumer, 64, registers):
                row = 2 * consumer
                for u in t.range(0, STEPS):
                    stage = u % STAGES
                    t.wait_barrier(full, stage, u // STAGES)
                    tile = t.load_shared(stages, (stage, row, 0), HALF)
                    if release:
                        t.arrive(empty, stage)
                    t.store_shared(turned, tile, (row, 0))
                    t.synchronize()
                    back = t.load_shared(turned, (row, 0), TURNED)
                    t.store_global(target, t.add(back, back), (u * ROWS + row, 0))
                    t.synchronize()

    return doubled


TURNED = column_spatial(2, 32) * local(1, 2)


def joined(t: Tracer, x: Var, y: Var) -> None:
    """Two groups each fetch one half of a row; then all threads turn the halves round."""
    row = t.allocate_shared(f32, (2 * COLUMNS,))
    source = t.view_global(x, f32, (2 * COLUMNS,), (1,))
    for half in range(2):
        with t.group(32 * half, 32):
            part = t.load_global(source, (half * COLUMNS,), spatial(32) * local(2))
            t.store_shared(row, part, ((1 - half) * COLUMNS,))
            t.synchronize()
    t.synchronize()
    target = t.view_global(y, f32, (2 * COLUMNS,), (1,))
    t.store_global(target, t.load_shared(row, (0,), spatial(64) * local(2)), (0,))


CLUSTER, GRID = (2, 2, 1), (4, 2, 1)


def neighbours(meetings: int = 2) -> Program:
    """Each block hands its line to the one before it in its cluster."""

    def handed(t: Tracer, x: Var, y: Var) -> None:
        place = (t.blocks[0] + t.blocks[1] * GRID[0]) * COLUMNS
        line = t.allocate_shared(f32, (COLUMNS,))
        source = t.view_global(x, f32, (GRID[0] * GRID[1] * COLUMNS,), (1,))
        target = t.view_global(y, f32, (GRID[0] * GRID[1] * COLUMNS,), (1,))
        t.store_shared(line, t.load_global(source, (place,), spatial(64)), (0,))
        if meetings > 0:
            t.synchronize_cluster()
        there = t.load_peer(line, (t.rank + 1) % 4, (0,), spatial(64))
        t.store_global(target, there, (place,))
        if meetings > 1:
            t.synchronize_cluster()

    return trace("handed", handed, (X, Y), lambda *p: GRID, 64, cluster=CLUSTER)


TILES = np.arange(5 * ROWS * COLUMNS, dtype=np.float32)
LINES = np.arange(8 * COLUMNS, dtype=np.float32)
NEXT = [1, 4, 3, 6, 5, 0, 7, 2]  # by block: ranks 0, 1 are neighbours along x, 0, 2 along y


def shared_out(t: Tracer, x: Var, y: Var) -> None:
    """Block 0 of two fetches each tile for both; they write it to halves of y."""
    tiles = 5
    source = t.view_global(x, f32, (tiles * ROWS, COLUMNS), (COLUMNS, 1))
    target = t.view_global(y, f32, (2 * tiles * ROWS, COLUMNS), (COLUMNS, 1))
    stages = t.allocate_shared(f32, (2, ROWS, COLUMNS))
    full, empty = t.allocate_barriers(2), t.allocate_barriers(2)
    t.init_barriers(full, 1)
    t.init_barriers(empty, 2 * 2)  # two warps of both blocks
    t.synchronize_cluster()
    with t.group(64, 32):
        for u in t.range(0, tiles):
            stage = u % 2
            with t.when(u > 1):
                with t.when(equal(t.rank, 0)):
                    t.wait_barrier(empty, stage, u // 2 + 1)
                with t.otherwise():
                    t.wait_barrier(full, stage, u // 2 + 1)
            t.expect(full, stage, ROWS * COLUMNS * 4)
            with t.when(equal(t.rank, 0)):
                t.copy_tensor_async(source, stages, (u * ROWS, 0), (stage, 0, 0), (ROWS, COLUMNS),
                                    full, stage, peers=(0, 1))  # fmt: skip
    with t.group(0, 64):
        for u in t.range(0, tiles):
            t.wait_barrier(full, u % 2, u // 2)
            tile = t.load_shared(stages, (u % 2, 0, 0), TILE)
            t.arrive_peer(empty, u % 2, 0)
            t.store_global(target, tile, ((t.rank * tiles + u) * ROWS, 0))
    t.synchronize_cluster()


WIDTH, HEIGHT, SIDE = 80, 44, 32  # the last boxes are partly outside


def boxes(commit: bool = True, known: bool = True) -> Callable[..., None]:
    """y = 2 x for matrices [n, WIDTH], box by box, in and out by the copy engine."""

    def doubled(t: Tracer, x: Var, y: Var, n: Var) -> None:
        rows = n if known else t.let(n)
        source = t.view_global(x, f32, (rows, WIDTH), (WIDTH, 1))
        target = t.view_global(y, f32, (rows, WIDTH), (WIDTH, 1))
        stages = t.allocate_shared(f32, (2, SIDE, SIDE), tensor_swizzle(128, f32))
        full, empty = t.allocate_barriers(2), t.allocate_barriers(2)
        t.init_barriers(full, 1)
        t.init_barriers(empty, 4)
        across = -(-WIDTH // SIDE)
        count = t.let((n + SIDE - 1) // SIDE * across)
        with t.group(128, 32):
            for u in t.range(0, count):
                t.wait_barrier(empty, u % 2, u // 2 + 1)
                t.expect(full, u % 2, SIDE * SIDE * 4)
                corner = (u // across * SIDE, u % across * SIDE)
                t.copy_tensor_async(
                    source, stages, corner, (u % 2, 0, 0), (SIDE, SIDE), full, u % 2
                )
        with t.group(0, 128):
            layout = spatial(16, 8) * local(2, 4)
            for u in t.range(0, count):
                t.wait_barrier(full, u % 2, u // 2)
                tile = t.load_shared(stages, (u % 2, 0, 0), layout)
                t.store_shared(stages, t.add(tile, tile), (u % 2, 0, 0))
                t.fence_async()
                t.synchronize()
                corner = (u // across * SIDE, u % across * SIDE)
                t.store_tensor_async(stages, target, (u % 2, 0, 0), corner, (SIDE, SIDE))
                if commit:
                    t.commit_stores()
                t.wait_stores(0)
                t.arrive(empty, u % 2)

    return doubled


MATRIX = np.arange(HEIGHT * WIDTH, dtype=np.float32)
MATRICES: Arguments = {"x": MATRIX, "y": 0 * MATRIX, "n": HEIGHT}
LINE = np.arange(2 * COLUMNS, dtype=np.float32)
PROTOCOLS = {
    "ring": Protocol(traced(ring(), 64), {"x": DATA, "y": 0 * DATA}, 2 * DATA),
    "specialised": Protocol(traced(specialised(), 160), {"x": DATA, "y": 0 * DATA}, 2 * DATA),
    "boxes": Protocol(traced(boxes(), 160, (X, Y, Integer("n"))), MATRICES, 2 * MATRIX),
    "neighbours": Protocol(
        neighbours(), {"x": LINES, "y": 0 * LINES}, LINES.reshape(8, -1)[NEXT].ravel()
    ),
    "shared_out": Protocol(
        trace("shared_out", shared_out, (X, Y), lambda *p: (2, 1, 1), 96, cluster=(2, 1, 1)),
        {"x": TILES, "y": np.zeros(2 * TILES.size, np.float32)},
        np.concatenate([TILES, TILES]),
    ),
    "joined": Protocol(traced(joined, 64), {"x": LINE, "y": 0 * LINE}, np.roll(LINE, COLUMNS)),
}
