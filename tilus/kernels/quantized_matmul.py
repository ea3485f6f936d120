"""C[m, n] = sum over k of A[m, k] * (Q[k, n] - Z[k/g, n]) * S[k/g, n], for Q of 1 to 8 bits.

Products and sums are float32, each result is rounded once, to A's type (float16 or bfloat16). The
work is cut into units, one `block_k` deep step of one `block_m` x `block_n` tile of C. Each block
takes a run of consecutive units, as many as any other or one more, so all blocks end together
whatever m, n and k are; where a run ends inside a tile, the blocks that share the tile leave their
sums in the workspace and the last to arrive adds them up in order. The result is therefore the same
in every launch.

The weight is read in its one stored format (`tilus.kernels.weights`), through a ring of `stages`
asynchronous copies; each warp views its words as elements and lifts or casts them in registers.
What is multiplied is transposed, C^T = B^T @ A^T, so that weights are the operand which the tensor
cores take from registers, and the few rows of A that which may be narrow.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from tilus.casts import lift_factor, lift_offset
from tilus.compiler import run_on_host
from tilus.dtypes import dtype, f16, f32, i32, u32
from tilus.ir import (
    Global,
    Integer,
    Pointer,
    Program,
    Register,
    Scalar,
    Shared,
    Var,
    ceil_div,
    equal,
    maximum,
    minimum,
)
from tilus.isa.matrices import MATRIX
from tilus.isa.warpgroup import ROW, ROWS_SWIZZLED, sums_atom
from tilus.kernels import weights
from tilus.kernels.problem import (
    Case,
    Problem,
    checked_problem,
    problem_of,
    random_case,
    relative_error,
)
from tilus.kernels.schedule import Schedule, checked_schedule, schedule_of, schedules
from tilus.lang import Tracer, trace
from tilus.layout import Layout, local, reduce, replicate, spatial, transpose

__all__ = [
    "Case", "Check", "Launch", "Problem", "Schedule", "check", "checked_problem", "host_arguments",
    "launch", "pack", "problem_of", "program", "random_case", "relative_error", "result",
    "schedule_of", "schedules", "sharing_blocks", "weights",
]  # fmt: skip
STEP = weights.TILE_K  # how deep a stored tile is
HINT = "evict_first"  # weights are read once


@dataclass(frozen=True)
class Launch:
    """A launch for given sizes: how many blocks, and what memory they share."""

    grid: tuple[int, int, int]
    workspace_bytes: int  # of float32, any contents
    counters: int  # of int32, zero before the first launch, left zero by every launch


@dataclass(frozen=True)
class Check:
    """What a run of the kernel's text on the processor gave against float64."""

    relative_error: float
    m: int
    n: int
    k: int
    seconds: float


def program(
    b_dtype: str = "uint4",
    group_size: int = 128,
    zeros: bool = False,
    a_dtype: str = "float16",
    k_multiple: int = 64,
    n_multiple: int = 64,
    **schedule: int,
) -> Program:
    """The kernel for a problem, laid out by `schedule` (fields of `Schedule`).

    Arguments: a [m, k], words (`pack`), scales [k/g, n], zeros [k/g, n] if there are any, c [m, n]
    (these but the words in `a_dtype`), workspace, counters, m, n, k, blocks.
    """
    problem = checked_problem(b_dtype, group_size, zeros, a_dtype, k_multiple, n_multiple)
    plan = checked_schedule(schedule)
    kernel = Kernel(problem, plan)
    return trace(
        f"quantized_matmul_{problem.b_dtype.short}",
        kernel.write,
        kernel.parameters(),
        grid=lambda *p: (p[-1], 1, 1),
        threads=plan.warps * 32,
        blocks_per_sm=plan.blocks_per_sm,
    )


@dataclass(frozen=True)
class Ring:
    """The shared memory of the steps under way: [stages, ...] each.

    What the copy engine brings reports to barriers.
    """

    a: Shared
    words: Shared
    arrived: Shared | None
    scales: Shared | None
    zeros: Shared | None


GroupRow = tuple[Global, Shared, tuple[Scalar, ...], tuple[Scalar, ...]]


@dataclass(frozen=True)
class Sources:
    """What is read, as tensors in global memory."""

    a: Global
    words: Global
    scales: Global
    zeros: Global | None


@dataclass(frozen=True)
class Sums:
    """What is added up, transposed: the products of each panel of columns, and where zeros or
    flipped signs want it the sums of A's rows, the same in every row of that tile."""

    products: list[Register]
    rows: Register | None


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


class Kernel:
    """The kernel's text for one problem and schedule; `write` traces it."""

    def __init__(self, problem: Problem, plan: Schedule) -> None:
        self.problem, self.plan = problem, plan
        self.grouped = problem.group_size != -1
        # a scale holds for the steps of k between two folds of the partial sum
        self.fold = gcd(problem.group_size, plan.block_k) if self.grouped else STEP
        self.depth = min(self.fold, STEP)  # how deep the slices are that are multiplied
        self.chunk = max(self.fold, STEP)
        self.lifts = problem.a_dtype == f16 and weights.lifts(problem.b_dtype)
        self.factor = lift_factor(problem.b_dtype) if self.lifts else 1.0
        self.offset = lift_offset(problem.b_dtype) if self.lifts else 0.0
        self.columns = weights.TILE_N * plan.warps  # of a panel: a stored tile for each warp
        self.panels = plan.block_n // self.columns
        self.check_k = problem.k_multiple % plan.block_k != 0
        self.check_n = problem.n_multiple % plan.block_n != 0
        # the copy engine moves whole tiles only
        self.bulk = plan.warpgroups and not (self.check_k or self.check_n)

    def parameters(self) -> list[Pointer | Integer]:
        of = self.problem.a_dtype
        zeros = [Pointer("zeros", of)] if self.problem.zeros else []
        return [
            Pointer("a", of), Pointer("words", u32), Pointer("scales", of), *zeros,
            Pointer("c", of), Pointer("workspace", f32), Pointer("counters", i32),
            Integer("m"), Integer("n", self.problem.n_multiple),
            Integer("k", self.problem.k_multiple), Integer("blocks"),
        ]  # fmt: skip

    # layouts of a panel: warps along its columns, then what each warp holds

    def sums_layout(self) -> Layout:
        """[columns, block_m] of C^T."""
        return spatial(self.plan.warps, 1) * sums_atom(self.plan.block_m)

    def raw_sums(self) -> Layout:
        """Their registers thread by thread: how partial sums lie in the workspace."""
        return local(self.sums_layout().registers // 4) * spatial(self.plan.warps * 32) * local(4)

    def over_columns(self, tile: Layout) -> Layout:
        """A stored tile for each 16 columns."""
        return spatial(1, self.plan.warps) * tile

    def rows_of_a(self) -> Layout:
        """[block_m, 64] of A, in every warp."""
        return replicate(self.plan.warps, 2) * local(self.plan.block_m // 8, ROW // 8) * MATRIX

    def write(self, t: Tracer, *parameters: Var) -> None:
        p = {q.name: v for q, v in zip(self.parameters(), parameters, strict=True)}
        plan, m, n, k = self.plan, p["m"], p["n"], p["k"]
        sources = self.name_sources(t, p)
        c = t.view_global(p["c"], self.problem.a_dtype, (n, m), (1, n))
        ring = self.allocate_ring(t)
        steps = t.let(ceil_div(k, plan.block_k))
        rows = t.let(ceil_div(m, plan.block_m))
        units = steps * rows * ceil_div(n, plan.block_n)
        shares = Shares(t, t.let(units), p["blocks"])
        begin, end = t.let(shares.begin(t.blocks[0])), t.let(shares.begin(t.blocks[0] + 1))
        sums = Sums([self.nothing(t) for _ in range(self.panels)], self.no_rows(t))
        copied = Walk(t, begin, steps, rows, plan.stages)
        for ahead in range(plan.stages - 1):
            with t.when(begin + ahead < end):
                self.copy(t, sources, ring, copied)
            copied.advance(t)
            if not self.bulk:
                t.commit_group()
        done = Walk(t, begin, steps, rows, plan.stages)
        for u in t.range(begin, end):
            self.wait_for_copies(t, ring, done)
            with t.when(u + (plan.stages - 1) < end):
                self.copy(t, sources, ring, copied)
            copied.advance(t)
            if not self.bulk:
                t.commit_group()
            self.multiply(t, ring, done.place, sums)
            with t.when(equal(done.step, steps - 1) | equal(u, end - 1)):
                if not self.grouped:
                    self.correct(t, sources, done, sums)
                whole = self.gather(t, p, done, shares, begin, end, sums.products)
                with t.when(whole):
                    self.finish(t, sources, c, done, sums.products)
                for products in sums.products:
                    t.assign(products, self.nothing(t))
            done.advance(t)

    def name_sources(self, t: Tracer, p: dict[str, Var]) -> Sources:
        m, n, k, of = p["m"], p["n"], p["k"], self.problem.a_dtype
        columns = t.let(ceil_div(n, weights.TILE_N) * weights.tile_words(self.problem.b_dtype))
        groups = t.let(k // self.problem.group_size) if self.grouped else 1
        # the copy engine takes all rows of the ring's tile at once
        boxes = (k // ROW, m, ROW), (ROW, k, 1)
        return Sources(
            t.view_global(p["a"], of, *(boxes if self.bulk else ((m, k), (k, 1)))),
            t.view_global(p["words"], u32, (ceil_div(k, STEP), columns), (columns, 1)),
            t.view_global(p["scales"], of, (groups, n), (n, 1)),
            t.view_global(p["zeros"], of, (groups, n), (n, 1)) if self.problem.zeros else None,
        )

    def allocate_ring(self, t: Tracer) -> Ring:
        plan, of = self.plan, self.problem.a_dtype
        words = plan.block_n // weights.TILE_N * weights.tile_words(self.problem.b_dtype)
        per_group = (plan.stages, plan.block_k // self.fold, plan.block_n)
        arrived = t.allocate_barriers(plan.stages) if self.bulk else None
        if arrived is not None:
            t.init_barriers(arrived, 1)
        return Ring(
            t.allocate_shared(
                of, (plan.stages, plan.block_k // ROW, plan.block_m, ROW), ROWS_SWIZZLED
            ),
            t.allocate_shared(u32, (plan.stages, plan.block_k // STEP, words)),
            arrived,
            t.allocate_shared(of, per_group) if self.grouped else None,
            t.allocate_shared(of, per_group) if self.grouped and self.problem.zeros else None,
        )

    def wait_for_copies(self, t: Tracer, ring: Ring, unit: Walk) -> None:
        """Until the unit's operands are there, and nobody needs those of the one before."""
        if ring.arrived is not None:
            t.wait_barrier(ring.arrived, unit.place, unit.turn)
        else:
            t.wait_group(self.plan.stages - 2)
            if self.plan.warpgroups:
                t.fence_async()
        t.synchronize()

    def copy(self, t: Tracer, sources: Sources, ring: Ring, unit: Walk) -> None:
        """Start to bring one unit's operands into its place of the ring."""
        if ring.arrived is not None:
            self.copy_in_bulk(t, sources, ring, ring.arrived, unit)
            return
        plan, place = self.plan, unit.place
        k_start = unit.step * plan.block_k
        along_k, along_n = (0,) * self.check_k, (1,) * self.check_n
        tiles, words = ring.words.shape[1:]
        t.copy_async(
            sources.words, ring.words, (unit.step * tiles, unit.column * words), (place, 0, 0),
            (tiles, words), check=along_k + along_n,
        )  # fmt: skip
        for row in range(plan.block_k // ROW):
            t.copy_async(
                sources.a, ring.a, (unit.row * plan.block_m, k_start + row * ROW),
                (place, row, 0, 0), (plan.block_m, ROW), check=(0, 1) if self.check_k else (0,),
            )  # fmt: skip
        for source, target, at, to in self.group_rows(sources, ring, unit):
            t.copy_async(source, target, at, to, (1, plan.block_n), check=along_k + along_n)

    def copy_in_bulk(
        self, t: Tracer, sources: Sources, ring: Ring, arrived: Shared, unit: Walk
    ) -> None:
        """The same by the copy engine."""
        plan, place = self.plan, unit.place
        tiles, words = ring.words.shape[1:]
        rows = plan.block_k // ROW
        per_group = self.group_rows(sources, ring, unit)
        halves = plan.block_m * plan.block_k + len(per_group) * plan.block_n
        t.expect(arrived, place, tiles * words * 4 + halves * 2)
        t.copy_bulk(
            sources.words, ring.words, (unit.step * tiles, unit.column * words), (place, 0, 0),
            (tiles, words), arrived, place, HINT,
        )  # fmt: skip
        t.copy_tensor_async(
            sources.a, ring.a, (unit.step * rows, unit.row * plan.block_m, 0), (place, 0, 0, 0),
            (rows, plan.block_m, ROW), arrived, place,
        )  # fmt: skip
        for source, target, at, to in per_group:
            t.copy_bulk(source, target, at, to, (1, plan.block_n), arrived, place)

    def group_rows(self, sources: Sources, ring: Ring, unit: Walk) -> list[GroupRow]:
        """Where the scales and zeros of each fold of a unit come from and go to."""
        column = unit.column * self.plan.block_n
        return [
            (source, target, (first // self.problem.group_size, column), (unit.place, j, 0))
            for source, target in ((sources.scales, ring.scales), (sources.zeros, ring.zeros))
            if source is not None and target is not None
            for j in range(self.plan.block_k // self.fold)
            for first in [unit.step * self.plan.block_k + j * self.fold]
        ]

    def multiply(self, t: Tracer, ring: Ring, place: Scalar, sums: Sums) -> None:
        """Add the product of one step to `sums`, in chunks of whole tiles and whole folds."""
        for chunk in t.range(0, self.plan.block_k // self.chunk, unroll=0):
            self.multiply_chunk(t, ring, place, chunk, sums)
        self.wait(t, 0, *sums.products, *([] if sums.rows is None else [sums.rows]))

    def multiply_chunk(
        self, t: Tracer, ring: Ring, place: Scalar, chunk: Scalar, sums: Sums
    ) -> None:
        """A panel of columns at a time, and of it a fold.

        A group's part of the result is scale * (A @ Q - zero * (the sums of A's rows)), so scales
        and zeros meet the sums, in float32, and not every weight. So does what lifting leaves out.
        The tensor cores work on one part while the next one's weights are lifted.
        """
        first_tile, first_fold = chunk * (self.chunk // STEP), chunk * (self.chunk // self.fold)
        held = self.stored_tiles(t, ring, place, first_tile)
        rows = [
            self.row_sums(t, ring, place, first_tile, start, sums)
            for start in range(0, self.chunk, self.fold)
        ]
        begun: Callable[[int], None] = lambda pending: None  # noqa: E731
        for panel, products in enumerate(sums.products):
            for start in range(0, self.chunk, self.depth):
                if start % STEP == 0:
                    tile = next(held)
                if start % self.fold == 0:
                    part = self.nothing(t) if self.grouped else products
                b, row = self.slice_of(t, tile, start), first_tile + start // ROW
                self.multiply_slice(t, b, ring, place, row, start % ROW, part)
                if (start + self.depth) % self.fold == 0:
                    self.commit(t)
                    begun(1)
                    j = start // self.fold
                    begun = self.folding(t, ring, place, first_fold + j, panel, part, rows[j], sums)
        begun(0 if self.grouped else 1)

    def folding(
        self, t: Tracer, ring: Ring, place: Scalar, fold: Scalar, panel: int, part: Register,
        rows: Register | None, sums: Sums,
    ) -> Callable[[int], None]:  # fmt: skip
        """What to do with a part when at most so many later ones are still being multiplied."""

        def finish(pending: int) -> None:
            if ring.scales is None:
                self.wait(t, pending)
                return
            self.wait(t, pending, part, *([] if rows is None else [rows]))
            zero = None
            if ring.zeros is not None:
                zero = self.per_column(t, ring.zeros, place, fold, panel)
            scale = self.factored(t, self.per_column(t, ring.scales, place, fold, panel))
            products = sums.products[panel]
            t.assign(products, t.fma(self.corrected(t, part, rows, zero), scale, products))

        return finish

    def wait(self, t: Tracer, pending: int, *tiles: Register) -> None:
        """All but so many products are done, those in `tiles` among them."""
        if self.plan.warpgroups:
            t.wait_dots(pending, tiles)

    def row_sums(
        self, t: Tracer, ring: Ring, place: Scalar, first_tile: Scalar, start: int, sums: Sums
    ) -> Register | None:
        """Begin the sums of A's rows, over the fold at `start`, for whoever needs them.

        They are multiples of the factor, as the sums of lifted numbers are.
        """
        if sums.rows is None:
            return None
        rows = self.nothing(t) if self.grouped else sums.rows
        panel = transpose(self.over_columns(weights.fragment_layout()))
        ones = t.allocate_register(self.problem.a_dtype, panel, 1 / self.factor)
        for at in range(start, start + self.fold, self.depth):
            b, row = self.slice_of(t, ones, at), first_tile + at // ROW
            self.multiply_slice(t, b, ring, place, row, at % ROW, rows)
        return rows

    def multiply_slice(
        self, t: Tracer, b: Register, ring: Ring, place: Scalar, row: Scalar, within: int,
        part: Register,
    ) -> None:  # fmt: skip
        """Add to `part` the product of `b` [columns, depth] and columns of A: those of a row of the
        ring's tile, from `within` on."""
        if self.plan.warpgroups:
            t.warpgroup_dot(b, ring.a, (place, row, 0, within), part)
            return
        a = t.load_matrix(ring.a, (place, row, 0, 0), self.rows_of_a())
        turned = t.view(a, a.dtype, transpose(a.layout))
        if self.depth < ROW:
            turned = t.slice(turned, 0, within, self.depth)
        t.assign(part, t.dot(b, turned, part))

    def commit(self, t: Tracer) -> None:
        if self.plan.warpgroups:
            t.commit_dots()

    def slice_of(self, t: Tracer, tile: Register, start: int) -> Register:
        """The part of a tile [columns, 64] that is multiplied at `start`."""
        if self.depth == STEP:
            return tile
        part: Register = t.slice(tile, 1, start % STEP, self.depth)
        return part

    def stored_tiles(
        self, t: Tracer, ring: Ring, place: Scalar, first: Scalar
    ) -> Iterator[Register]:
        """The panels of a chunk, transposed, in A's type; the words of each are read one ahead."""
        tiles = range(self.chunk // STEP)
        order = [(first + tile, panel) for panel in range(self.panels) for tile in tiles]
        ahead = self.words_of(t, ring, place, *order[0])
        for following in [*order[1:], None]:
            words = ahead
            if following is not None:
                ahead = self.words_of(t, ring, place, *following)
            yield self.numbers_of(t, words)

    def words_of(self, t: Tracer, ring: Ring, place: Scalar, tile: Scalar, panel: int) -> Register:
        of = self.problem.b_dtype
        across = panel * self.plan.warps * weights.tile_words(of)
        words: Register = t.load_shared(
            ring.words, (place, tile, across), self.over_columns(weights.words_layout(of))
        )
        return words

    def numbers_of(self, t: Tracer, words: Register) -> Register:
        """Stored words as A's type, lifted or cast, [columns, 64]."""
        of = self.problem.b_dtype
        codes = t.view(words, of, self.over_columns(weights.tile_layout(of)))
        values = t.lift(codes) if self.lifts else t.cast(codes, self.problem.a_dtype)
        turned: Register = t.view(values, values.dtype, transpose(values.layout))
        return turned

    def correct(self, t: Tracer, sources: Sources, unit: Walk, sums: Sums) -> None:
        """Make of the sums of lifted numbers those of weights, before they are joined."""
        zeros = sources.zeros
        for panel, products in enumerate(sums.products):
            zero = None if zeros is None else self.from_memory(t, zeros, unit, panel)
            t.assign(products, self.corrected(t, products, sums.rows, zero))
        if sums.rows is not None:
            t.assign(sums.rows, self.nothing(t))

    def corrected(
        self, t: Tracer, products: Register, rows: Register | None, zero: Register | None
    ) -> Register:
        """A @ (Q - zero), from sums of lifted numbers and of A's rows; without the factor."""
        if rows is None:
            return products
        column = reduce(self.sums_layout(), (1,))
        offset = t.allocate_register(f32, column, -self.offset)
        less = offset if zero is None else t.sub(offset, zero) if self.offset else t.neg(zero)
        whole: Register = t.fma(rows, less, products)
        return whole

    def factored(self, t: Tracer, scale: Register) -> Register:
        """The scale of lifted numbers."""
        if self.factor == 1:
            return scale
        product: Register = t.mul(scale, t.allocate_register(f32, scale.layout, self.factor))
        return product

    def per_column(
        self, t: Tracer, held: Shared, place: Scalar, fold: Scalar, panel: int
    ) -> Register:
        """A number for each column of a panel, from the ring, in float32: [columns, 1]."""
        across = transpose(reduce(self.sums_layout(), (1,)))
        numbers = t.cast(t.load_shared(held, (place, fold, panel * self.columns), across), f32)
        column: Register = t.view(numbers, f32, transpose(across))
        return column

    def from_memory(self, t: Tracer, source: Global, unit: Walk, panel: int) -> Register:
        """A number for each column of a panel, of the only group, in float32: [columns, 1]."""
        across = transpose(reduce(self.sums_layout(), (1,)))
        column = unit.column * self.plan.block_n + panel * self.columns
        held = t.load_global(source, (0, column), across, check=(1,) * self.check_n)
        numbers: Register = t.view(t.cast(held, f32), f32, transpose(across))
        return numbers

    def nothing(self, t: Tracer) -> Register:
        """Sums of a panel that nothing was added to."""
        zeros: Register = t.allocate_register(f32, self.sums_layout())
        return zeros

    def no_rows(self, t: Tracer) -> Register | None:
        return self.nothing(t) if self.problem.zeros or self.offset else None

    def gather(
        self, t: Tracer, p: dict[str, Var], unit: Walk, shares: Shares, begin: Scalar, end: Scalar,
        sums: list[Register],
    ) -> Var:  # fmt: skip
        """1 if `sums` is now all of the tile: the block did all of it, or is the last to arrive.

        Block b leaves what it has of the tile in which it begins in slot 2b of the workspace, of a
        later one in slot 2b + 1.
        """
        panel_size = self.columns * self.plan.block_m
        tile_size = panel_size * self.panels
        slots = t.view_global(p["workspace"], f32, (p["blocks"] * 2, tile_size), (tile_size, 1))
        first = t.let(unit.tile * unit.steps)
        stop = first + unit.steps
        done = t.let((begin <= first) & (stop <= end))
        with t.when(equal(done, 0)):
            mine = t.blocks[0] * 2 + (begin <= first)
            for panel, part in enumerate(sums):
                raw = t.view(part, f32, self.raw_sums())
                t.store_global(slots, raw, (mine, panel * panel_size), check=())
            counters = t.view_global(p["counters"], i32, (unit.tile + 1,), (1,))
            arrived = t.atomic_add(counters, (unit.tile,), 1)
            oldest, newest = t.let(shares.block_of(first)), t.let(shares.block_of(stop - 1))
            with t.when(equal(arrived, newest - oldest)):
                for part in sums:
                    t.assign(part, self.nothing(t))
                for block in t.range(oldest, newest + 1):
                    slot = block * 2 + (shares.begin(block) <= first)
                    for panel, part in enumerate(sums):
                        at = (slot, panel * panel_size)
                        other = t.load_global(slots, at, self.raw_sums(), check=())
                        t.assign(part, t.add(part, t.view(other, f32, part.layout)))
                t.store_global(counters, t.allocate_register(i32, local(1)), (unit.tile,), check=())
                t.set(done, 1)
        return done

    def finish(
        self, t: Tracer, sources: Sources, c: Global, unit: Walk, sums: list[Register]
    ) -> None:
        """Round the tile and write it."""
        check = (0, 1) if self.check_n else (1,)
        for panel, products in enumerate(sums):
            if not self.grouped:
                scale = self.factored(t, self.from_memory(t, sources.scales, unit, panel))
                products = t.mul(products, scale)
            column = unit.column * self.plan.block_n + panel * self.columns
            at = (column, unit.row * self.plan.block_m)
            t.store_global(c, t.cast(products, c.dtype), at, check=check)


def pack(codes: Any, b_dtype: str) -> Any:
    """Codes [k, n] (unsigned 8-bit, NumPy or torch) in the one stored format: int32 words."""
    return weights.pack(codes, dtype(b_dtype))


def launch(parameters: dict[str, Any], m: int, n: int, k: int, multiprocessors: int) -> Launch:
    """How to launch the kernel that `program(**parameters)` is."""
    plan = schedule_of(parameters)
    tiles = -(-m // plan.block_m) * -(-n // plan.block_n)
    units = tiles * -(-k // plan.block_k)
    blocks = min(units, multiprocessors * plan.blocks_per_sm)
    return Launch((blocks, 1, 1), 2 * blocks * plan.block_m * plan.block_n * 4, tiles)


def check(parameters: dict[str, Any], seed: int) -> Check:
    """Run the kernel's text on this machine's processor on a small problem, against float64.

    The sizes leave every edge of the tiles uncovered that the promises allow, and the blocks share
    tiles.
    """
    plan, made = schedule_of(parameters), program(**parameters)
    problem = problem_of(parameters)
    start = time.perf_counter()
    m = plan.block_m // 2 + 1
    n = -(-(plan.block_n + 1) // problem.n_multiple) * problem.n_multiple
    group = problem.group_size if problem.group_size != -1 else 1
    k = least_multiple(problem.k_multiple, group, 3 * plan.block_k - problem.k_multiple)
    case = random_case(problem, m, n, k, np.random.default_rng(seed))
    arguments = host_arguments(case, problem, plan, sharing_blocks(plan, m, n, k))
    run_on_host(made, arguments)
    error = relative_error(result(arguments, problem, m, n), case.reference(problem))
    return Check(error, m, n, k, time.perf_counter() - start)


def sharing_blocks(plan: Schedule, m: int, n: int, k: int) -> int:
    """So many blocks that the first one ends inside a tile, if a tile has more than one step."""
    steps = -(-k // plan.block_k)
    units = steps * -(-m // plan.block_m) * -(-n // plan.block_n)
    return -(-units // max(1, steps - 1))


def least_multiple(a: int, b: int, floor: int) -> int:
    """The least common multiple of a and b that is at least `floor`."""
    both = a * b // gcd(a, b)
    return -(-max(floor, 1) // both) * both


def result(arguments: dict[str, Any], problem: Problem, m: int, n: int) -> np.ndarray:
    """C [m, n] after a launch, as numbers."""
    numbers: np.ndarray = problem.a_dtype.values(arguments["c"]).reshape(m, n)
    return numbers


def host_arguments(case: Case, problem: Problem, plan: Schedule, blocks: int) -> dict[str, Any]:
    """The arguments of a launch of so many blocks, C full of NaN."""
    (m, k), n = case.a.shape, case.codes.shape[1]
    tiles = -(-m // plan.block_m) * -(-n // plan.block_n)
    return {
        "a": case.a.ravel(),
        "words": weights.pack(case.codes, problem.b_dtype).ravel().view(np.uint32),
        "scales": case.scales.ravel(),
        **({"zeros": case.zeros.ravel()} if problem.zeros else {}),
        "c": problem.a_dtype.carry(np.full(m * n, np.nan)),
        "workspace": np.full(2 * blocks * plan.block_m * plan.block_n, np.nan, np.float32),
        "counters": np.zeros(tiles, np.int32),
        "m": m, "n": n, "k": k, "blocks": blocks,
    }  # fmt: skip
