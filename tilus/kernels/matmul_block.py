"""What one block of the quantised matmul does, for one problem and schedule.

The weight is read in its one stored format (`tilus.kernels.weights`), through a ring of `stages`
asynchronous copies; each warp views its words as elements and lifts or casts them in registers.
What is multiplied is transposed, C^T = B^T @ A^T, so that weights are the operand which the tensor
cores take from registers, and the few rows of A that which may be narrow.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import gcd

from tilus.casts import lift_factor, lift_offset
from tilus.dtypes import f16, f32, i32, u32
from tilus.ir import (
    Global,
    Integer,
    Pointer,
    Register,
    Scalar,
    Shared,
    Swizzle,
    Var,
    ceil_div,
    equal,
    minimum,
)
from tilus.isa.matrices import MATRIX
from tilus.isa.warpgroup import ROW, sums_atom
from tilus.kernels import activations, weights
from tilus.kernels.division import Cursor, Walk, Work
from tilus.kernels.feed import STEP, Feed, Ring
from tilus.kernels.problem import Problem
from tilus.kernels.schedule import Schedule
from tilus.lang import Tracer
from tilus.layout import Layout, local, reduce, replicate, spatial, stack, transpose

NARROW = 16  # rows of tiles so low that there is one row of them
VECTOR = 8  # 16-bit elements that a thread writes at once


@dataclass(frozen=True)
class Sums:
    """What is added up, transposed: the products of each panel of columns, and where zeros or
    flipped signs want it the sums of A's rows, the same in every row of that tile."""

    products: list[Register]
    rows: Register | None

    @property
    def all(self) -> list[Register]:
        return [*self.products, *([] if self.rows is None else [self.rows])]


@dataclass(frozen=True)
class Activations:
    """A's columns of a chunk, in the ring from tile `first` of a place on; for single warps tile by
    tile in registers too, transposed."""

    held: Shared
    place: Scalar
    first: Scalar
    turned: list[Register]


@dataclass(frozen=True)
class Scaling:
    """A weight is scale * its value + shift, for each column: [teams * columns, 1] of A's type."""

    scale: Register
    shift: Register | None


class Kernel:
    """The kernel's text for one problem and schedule; `write` traces it."""

    def __init__(self, problem: Problem, plan: Schedule) -> None:
        self.problem, self.plan = problem, plan
        self.grouped = problem.group_size != -1
        # bfloat16 has too few bits to round a weight twice
        self.scales_weights = plan.weights_scaled and self.grouped and problem.a_dtype == f16
        self.folds = self.grouped and not self.scales_weights
        self.depth_of_team = plan.block_k // plan.teams
        # a scale holds for the steps of k between two folds of the partial sum
        self.fold = gcd(problem.group_size, self.depth_of_team) if self.grouped else STEP
        self.depth = min(self.fold, STEP)  # how deep the slices are that are multiplied
        # so deep are the products that are done together
        self.part = self.fold if self.folds else STEP
        self.chunk = max(self.part, STEP)
        self.lifts = (
            problem.a_dtype == f16 and not plan.weights_scaled and weights.lifts(problem.b_dtype)
        )
        self.factor = lift_factor(problem.b_dtype) if self.lifts else 1.0
        self.offset = lift_offset(problem.b_dtype) if self.lifts else 0.0
        self.columns = weights.TILE_N * plan.warps  # of a panel: a stored tile for each warp
        self.panels = plan.block_n // self.columns
        self.threads = 32 * plan.warps * plan.teams
        # so many parts are multiplied while the next one's weights are lifted
        self.pending = 2 if plan.block_m <= NARROW else 1
        # The next step's first weights may take the registers of this one's if those are free by
        # then: when as many parts as may be pending came after the first, or others are multiplied.
        # A second tile by turns is none: the C++ compiler takes products for done at once and puts
        # both into the same registers.
        parts = self.panels * self.depth_of_team // self.part
        free = self.scales_weights or parts > self.pending
        self.overlaps = plan.warpgroups and not self.folds and free

    def parameters(self) -> list[Pointer | Integer]:
        of = self.problem.a_dtype
        zeros = [Pointer("zeros", of)] if self.problem.zeros else []
        bias = [Pointer("bias", of)] if self.problem.bias else []
        return [
            Pointer("a", of), Pointer("words", u32), Pointer("scales", of), *zeros, *bias,
            Pointer("c", of), Pointer("workspace", f32), Pointer("counters", i32),
            Integer("m"), Integer("n", self.problem.n_multiple),
            Integer("k", self.problem.k_multiple), Integer("blocks"),
        ]  # fmt: skip

    # layouts of a panel: warps along its columns, then what each warp holds

    def panel(self) -> Layout:
        """[columns, block_m] of C^T, in the warps of one team."""
        return spatial(self.plan.warps, 1) * sums_atom(self.plan.block_m)

    def parts(self) -> Layout:
        """What each team has of a panel, one below the other: [teams * columns, block_m]."""
        return spatial(self.plan.teams, 1) * self.panel()

    def sums_layout(self) -> Layout:
        """A panel, in every team."""
        return replicate(self.plan.teams, 2) * self.panel()

    def raw_panel(self) -> Layout:
        """The registers of one team's panel, thread by thread: how sums lie in memory."""
        return local(self.panel().registers // 4) * spatial(self.plan.warps * 32) * local(4)

    def raw_sums(self) -> Layout:
        return replicate(self.plan.teams, 1) * self.raw_panel()

    def over_columns(self, tile: Layout) -> Layout:
        """A stored tile for each 16 columns of one team."""
        return spatial(1, self.plan.warps) * tile

    def over_parts(self, tile: Layout) -> Layout:
        """A stored tile for each 16 columns of all teams."""
        return spatial(1, self.plan.teams) * self.over_columns(tile)

    def rows_of_a(self) -> Layout:
        """[block_m, 64] of A, in every warp."""
        return replicate(self.plan.warps, 2) * local(self.plan.block_m // 8, ROW // 8) * MATRIX

    def write(self, t: Tracer, *parameters: Var) -> None:
        p = {q.name: v for q, v in zip(self.parameters(), parameters, strict=True)}
        plan, m, n, k = self.plan, p["m"], p["n"], p["k"]
        sizes = (ceil_div(k, plan.block_k), ceil_div(m, plan.block_m), ceil_div(n, plan.block_n))
        work = Work.of(t, *sizes, p["blocks"], plan.block_m > NARROW)
        feed = Feed(t, self.problem, plan, self.fold, p, work)
        ring, scratch = feed.ring.by_team(t, plan.teams), self.allocate_scratch(t)
        slab = self.allocate_slab(t)
        sums = self.no_sums(t)
        done, at, unit = Walk(t, work), Cursor(t, plan.stages), t.let(0)
        feed.begin()
        # weights of the next step are lifted while those of one are still multiplied
        following = self.no_weights(t) if feed.slack and self.overlaps else None

        def turn_to_unit() -> None:
            with t.when(unit < work.units):
                feed.wait_for(unit, at)
                if following is not None:
                    t.assign(following, self.numbers_at(t, ring, at.place, (0, 0)))

        def turn_to_next() -> None:
            t.set(unit, unit + 1)
            at.advance(t)
            turn_to_unit()

        turn_to_unit()
        for _ in t.range(0, work.tiles):
            depth = t.let(minimum(work.steps - done.step, work.units - unit))
            for _ in t.range(0, depth):
                place = t.let(at.place)
                self.multiply(t, ring, place, sums, following, turn_to_next)
                feed.release(place)
                if following is None:
                    turn_to_next()
            self.end_tile(t, p, feed, scratch, slab, work, done, equal(depth, work.steps), sums)
            done.next_tile(t)

    def end_tile(
        self, t: Tracer, p: dict[str, Var], feed: Feed, scratch: Shared | None,
        slab: Shared | None, work: Work, done: Walk, whole: Scalar, sums: Sums,
    ) -> None:  # fmt: skip
        """Hand over what was summed of a tile, the `whole` of it or a part, and begin another."""
        rows = None if sums.rows is None else self.joined(t, scratch, sums.rows)
        products = [self.joined(t, scratch, part) for part in sums.products]
        if not self.grouped:
            self.correct(t, feed, done, Sums(products, rows))
        with t.when(self.gather(t, p, done, work, whole, products)):
            self.finish(t, p, feed, slab, done, products)
        for part in sums.all:
            t.assign(part, self.nothing(t))

    def allocate_scratch(self, t: Tracer) -> Shared | None:
        """Where teams leave what they have of a panel."""
        if self.plan.teams == 1:
            return None
        scratch: Shared = t.allocate_shared(f32, (self.plan.teams, *self.raw_panel().shape))
        return scratch

    def allocate_slab(self, t: Tracer) -> Shared | None:
        """Where rows of C are turned round on their way to memory, if they are."""
        if not self.plan.slab_rows:
            return None
        swizzle = Swizzle(3, self.columns.bit_length() - 1, 3)
        slab: Shared = t.allocate_shared(
            self.problem.a_dtype, (self.plan.slab_rows, self.columns), swizzle
        )
        return slab

    def multiply(
        self, t: Tracer, ring: Ring, place: Scalar, sums: Sums, first: Register | None,
        turn_to_next: Callable[[], None],
    ) -> None:  # fmt: skip
        """Add the product of one step to `sums`, in chunks of whole tiles and whole folds.

        The tensor cores work on one part while the next one's weights are lifted, and on the last
        while those of the next step are, if its `first` ones came that way.
        """
        tiles = self.stored_tiles(t, ring, place, first)
        begun: deque[Callable[[int], None]] = deque()
        scaling = cache(lambda fold, panel: self.scaling(t, ring, place, fold, panel))
        for chunk in range(self.depth_of_team // self.chunk):
            self.multiply_chunk(t, ring, place, chunk, tiles, scaling, begun, sums)
        if first is not None:
            turn_to_next()
        while begun:
            finish = begun.popleft()
            finish(len(begun))
        self.wait(t, 0, *sums.all)

    def multiply_chunk(
        self, t: Tracer, ring: Ring, place: Scalar, chunk: int, tiles: Iterator[Register],
        scaling: Callable[[int, int], Scaling], begun: deque[Callable[[int], None]], sums: Sums,
    ) -> None:  # fmt: skip
        """A panel of columns at a time, and of it a part that is committed.

        A group's part of the result is scale * (A @ Q - zero * (the sums of A's rows)), so scales
        and zeros meet the sums, in float32, and not every weight. So does what lifting leaves out.
        """
        a = self.loaded(t, ring, place, chunk * (self.chunk // STEP))
        rows = [self.row_sums(t, a, start, sums) for start in range(0, self.chunk, self.part)]
        for panel, products in enumerate(sums.products):
            for start in range(0, self.chunk, self.depth):
                if start % STEP == 0:
                    tile = next(tiles)
                if start % self.part == 0:
                    part = self.nothing(t) if self.folds else products
                fold = (chunk * self.chunk + start) // self.fold
                b = self.slice_of(t, tile, start % STEP)
                if self.scales_weights:
                    b = self.scaled(t, b, scaling(fold, panel))
                self.multiply_slice(t, b, a, start, part)
                if (start + self.depth) % self.part:
                    continue
                self.commit(t)
                if len(begun) == self.pending:
                    begun.popleft()(self.pending)
                row_sums = rows[start // self.part]
                begun.append(self.folding(t, ring, place, fold, panel, part, row_sums, sums))

    def loaded(self, t: Tracer, ring: Ring, place: Scalar, first_tile: int) -> Activations:
        """A's columns of a chunk: where single warps multiply, in registers."""
        if self.plan.warpgroups:
            return Activations(ring.a, place, first_tile, [])
        turned = []
        for row in range(self.chunk // ROW):
            a = t.load_matrix(ring.a, (place, 0, first_tile + row, 0, 0), self.rows_of_a())
            turned.append(t.view(a, a.dtype, transpose(a.layout)))
        return Activations(ring.a, place, first_tile, turned)

    def folding(
        self, t: Tracer, ring: Ring, place: Scalar, fold: Scalar, panel: int, part: Register,
        rows: Register | None, sums: Sums,
    ) -> Callable[[int], None]:  # fmt: skip
        """What to do with a part when at most so many later ones are still being multiplied."""
        if not self.folds:
            return lambda pending: self.wait(t, pending)
        assert ring.scales is not None
        scales = ring.scales

        def finish(pending: int) -> None:
            self.wait(t, pending, part, *([] if rows is None else [rows]))
            zero = None
            if ring.zeros is not None:
                zero = self.per_column(t, ring.zeros, place, fold, panel)
            scale = self.factored(t, self.per_column(t, scales, place, fold, panel))
            products = sums.products[panel]
            t.assign(products, t.fma(self.corrected(t, part, rows, zero), scale, products))

        return finish

    def wait(self, t: Tracer, pending: int, *tiles: Register) -> None:
        """All but so many products are done, those in `tiles` among them."""
        if self.plan.warpgroups:
            t.wait_dots(pending, tiles)

    def row_sums(self, t: Tracer, a: Activations, start: int, sums: Sums) -> Register | None:
        """Begin the sums of A's rows, over the fold at `start`, for whoever needs them.

        They are multiples of the factor, as the sums of lifted numbers are.
        """
        if sums.rows is None:
            return None
        rows = self.nothing(t) if self.folds else sums.rows
        panel = transpose(self.over_parts(weights.fragment_layout()))
        ones = t.allocate_register(self.problem.a_dtype, panel, 1 / self.factor)
        for at in range(start, start + self.part, self.depth):
            b = self.slice_of(t, ones, at % STEP)
            self.multiply_slice(t, b, a, at, rows)
        return rows

    def multiply_slice(
        self, t: Tracer, b: Register, a: Activations, start: int, part: Register
    ) -> None:
        """Add to `part` the product of `b` [columns, depth] and A's columns from `start` on."""
        row, within = start // ROW, start % ROW
        if self.plan.warpgroups:
            at, parts = (a.place, 0, a.first + row, 0, within), (self.plan.teams, 1)
            t.warpgroup_dot(b, a.held, at, part, parts)
            return
        turned = a.turned[row]
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
        part: Register = t.slice(tile, 1, start, self.depth)
        return part

    def stored_tiles(
        self, t: Tracer, ring: Ring, place: Scalar, first: Register | None
    ) -> Iterator[Register]:
        """The tiles of a step, transposed, in A's type; the words of each are read one ahead."""
        depth = self.chunk // STEP
        order = [
            (chunk * depth + tile, panel)
            for chunk in range(self.depth_of_team // self.chunk)
            for panel in range(self.panels)
            for tile in range(depth)
        ]
        words = None if first is not None else self.words_of(t, ring, place, order[0])
        for following in [*order[1:], None]:
            held = words
            words = None if following is None else self.words_of(t, ring, place, following)
            if held is not None:
                yield self.numbers_of(t, held)
            elif first is not None:
                yield first

    def numbers_at(self, t: Tracer, ring: Ring, place: Scalar, tile: tuple[int, int]) -> Register:
        return self.numbers_of(t, self.words_of(t, ring, place, tile))

    def words_of(self, t: Tracer, ring: Ring, place: Scalar, at: tuple[int, int]) -> Register:
        """Those of tile (along k, panel) of a step."""
        of, (tile, panel) = self.problem.b_dtype, at
        across = panel * self.plan.warps * weights.tile_words(of)
        words: Register = t.load_shared(
            ring.words,
            (place, 0, tile, across),
            stack(self.plan.teams, self.over_columns(weights.words_layout(of))),
        )
        return words

    def numbers_of(self, t: Tracer, words: Register) -> Register:
        """Stored words as A's type, lifted or cast, [teams * columns, 64]."""
        of = self.problem.b_dtype
        codes = t.view(words, of, self.over_parts(weights.tile_layout(of)))
        values = t.lift(codes) if self.lifts else t.cast(codes, self.problem.a_dtype)
        turned: Register = t.view(values, values.dtype, transpose(values.layout))
        return turned

    def correct(self, t: Tracer, feed: Feed, unit: Walk, sums: Sums) -> None:
        """Make of the sums of lifted numbers those of weights, before they are joined."""
        zeros = feed.sources.zeros
        for panel, products in enumerate(sums.products):
            zero = None if zeros is None else self.from_memory(t, feed, zeros, unit, panel)
            t.assign(products, self.corrected(t, products, sums.rows, zero))

    def joined(self, t: Tracer, scratch: Shared | None, part: Register) -> Register:
        """What the teams have of a panel together, in the order of the teams, for all of them."""
        if scratch is None:
            return part
        t.store_shared(scratch, t.view(part, f32, stack(self.plan.teams, self.raw_panel())), (0, 0))
        t.synchronize()
        whole = t.load_shared(scratch, (0, 0), self.raw_sums())
        for team in range(1, self.plan.teams):
            whole = t.add(whole, t.load_shared(scratch, (team, 0), self.raw_sums()))
        t.synchronize()
        panel: Register = t.view(whole, f32, self.sums_layout())
        return panel

    def corrected(
        self, t: Tracer, products: Register, rows: Register | None, zero: Register | None
    ) -> Register:
        """A @ (Q - zero), from sums of lifted numbers and of A's rows; without the factor."""
        if rows is None:
            return products
        column = reduce(products.layout, (1,))
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
        """A number for each column of a panel and each team, from the ring, in float32:
        [teams * columns, 1]."""
        column: Register = t.cast(self.held_per_column(t, held, place, fold, panel), f32)
        return column

    def held_per_column(
        self, t: Tracer, held: Shared, place: Scalar, fold: Scalar, panel: int
    ) -> Register:
        """The same as it is stored."""
        across = stack(self.plan.teams, transpose(reduce(self.panel(), (1,))))
        numbers = t.load_shared(held, (place, 0, fold, panel * self.columns), across)
        column: Register = t.view(numbers, numbers.dtype, reduce(self.parts(), (1,)))
        return column

    def scaling(self, t: Tracer, ring: Ring, place: Scalar, fold: int, panel: int) -> Scaling:
        """What the weights of a fold of a panel are multiplied by, and what is then added."""
        assert ring.scales is not None
        scale = self.held_per_column(t, ring.scales, place, fold, panel)
        if ring.zeros is None:
            return Scaling(scale, None)
        zero = self.held_per_column(t, ring.zeros, place, fold, panel)
        return Scaling(scale, t.mul(t.neg(zero), scale))

    def scaled(self, t: Tracer, values: Register, by: Scaling) -> Register:
        """(values - zero) * scale, in A's type: the weights themselves."""
        multiply = t.mul if by.shift is None else t.fma
        weights: Register = multiply(values, by.scale, *filter(None, [by.shift]))
        return weights

    def from_memory(
        self, t: Tracer, feed: Feed, source: Global, unit: Walk, panel: int
    ) -> Register:
        """A number for each column of a panel, from the only row, in float32: [columns, 1]."""
        across = transpose(reduce(self.sums_layout(), (1,)))
        column = unit.column * self.plan.block_n + panel * self.columns
        held = t.load_global(source, (0, column), across, check=(1,) * feed.mask.n)
        numbers: Register = t.view(t.cast(held, f32), f32, transpose(across))
        return numbers

    def nothing(self, t: Tracer) -> Register:
        """Sums of a panel that nothing was added to."""
        zeros: Register = t.allocate_register(f32, self.parts())
        return zeros

    def no_weights(self, t: Tracer) -> Register:
        """A tile for each warp, to be filled."""
        of, panel = self.problem.a_dtype, transpose(self.over_parts(weights.fragment_layout()))
        tile: Register = t.allocate_register(of, panel)
        return tile

    def no_sums(self, t: Tracer) -> Sums:
        needed = self.offset or (self.problem.zeros and not self.scales_weights)
        rows = self.nothing(t) if needed else None
        return Sums([self.nothing(t) for _ in range(self.panels)], rows)

    def gather(
        self, t: Tracer, p: dict[str, Var], unit: Walk, work: Work, whole: Scalar,
        sums: list[Register],
    ) -> Var:  # fmt: skip
        """1 if `sums` is now all of the tile: the block did all of it, or is the last to arrive.

        Block b leaves what it has of the tile in which it begins in slot 2b of the workspace, of a
        later one in slot 2b + 1.
        """
        shares = work.shares
        panel_size = self.columns * self.plan.block_m
        tile_size = panel_size * self.panels
        slots = t.view_global(p["workspace"], f32, (p["blocks"] * 2, tile_size), (tile_size, 1))
        first = t.let((unit.tile - work.shared) * work.steps)
        stop = first + work.steps
        done = t.let(whole)
        with t.when(equal(done, 0)):
            mine = t.blocks[0] * 2 + (work.begin <= first)
            for panel, part in enumerate(sums):
                raw = t.view(part, f32, self.raw_sums())
                t.store_global(slots, raw, (mine, panel * panel_size), check=())
            counters = t.view_global(p["counters"], i32, (unit.tile + 1,), (1,))
            arrived = t.atomic_add(counters, (unit.tile,), 1)
            oldest, newest = t.let(shares.block_of(first)), t.let(shares.block_of(stop - 1))
            with t.when(equal(arrived, newest - oldest)):
                for part in sums:
                    t.assign(part, t.allocate_register(f32, self.sums_layout()))
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
        self, t: Tracer, p: dict[str, Var], feed: Feed, slab: Shared | None, unit: Walk,
        sums: list[Register],
    ) -> None:  # fmt: skip
        """Do what follows the sums, round the tile and write it."""
        for panel, products in enumerate(sums):
            if not self.grouped:
                scale = self.from_memory(t, feed, feed.sources.scales, unit, panel)
                products = t.mul(products, self.factored(t, scale))
            products = self.followed(t, p, feed, unit, panel, products)
            column = unit.column * self.plan.block_n + panel * self.columns
            row = unit.row * self.plan.block_m
            rounded = t.cast(products, self.problem.a_dtype)
            if slab is None:
                c = t.view_global(p["c"], rounded.dtype, (p["n"], p["m"]), (1, p["n"]))
                check = (0, 1) if feed.mask.n else (1,)
                t.store_global(c, rounded, (column, row), check=check)
                continue
            self.write_slabs(t, p, feed, slab, rounded, (row, column))

    def followed(
        self, t: Tracer, p: dict[str, Var], feed: Feed, unit: Walk, panel: int, products: Register
    ) -> Register:
        """The activation of the whole sums and the bias."""
        if self.problem.bias:
            bias = t.view_global(p["bias"], self.problem.a_dtype, (1, p["n"]), (p["n"], 1))
            products = t.add(products, self.from_memory(t, feed, bias, unit, panel))
        return activations.named(self.problem.activation).traced(t, products)

    def write_slabs(
        self, t: Tracer, p: dict[str, Var], feed: Feed, slab: Shared, panel: Register,
        at: tuple[Scalar, Scalar],
    ) -> None:  # fmt: skip
        """Write a panel of C^T to C at `at`, some rows at a time, turned round in shared memory: so
        neighbours write neighbours."""
        c = t.view_global(p["c"], panel.dtype, (p["m"], p["n"]), (p["n"], 1))
        check = (0, 1) if feed.mask.n else (0,)
        turned = t.view(panel, panel.dtype, transpose(panel.layout))
        rows, columns = slab.shape
        vectors = spatial(rows, columns // VECTOR) * local(1, VECTOR)
        for first in range(0, self.plan.block_m, rows):
            t.store_matrix(slab, t.slice(turned, 0, first, rows), (0, 0))
            t.synchronize()
            part = t.load_shared(slab, (0, 0), vectors)
            t.store_global(c, part, (at[0] + first, at[1]), check=check)
            t.synchronize()
