"""How the operands of a quantised matmul come into shared memory, some steps ahead of their use."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from tilus.dtypes import u32
from tilus.groups import WARP
from tilus.ir import Global, Scalar, Shared, Var, ceil_div
from tilus.isa.warpgroup import ROW, ROWS_SWIZZLED
from tilus.kernels import weights
from tilus.kernels.division import Cursor, Walk, Work
from tilus.kernels.problem import Problem
from tilus.kernels.schedule import Schedule
from tilus.lang import Tracer

STEP = weights.TILE_K  # how deep a stored tile is
HINT = "evict_first"  # weights are read once
GroupRow = tuple[Global, Shared, tuple[Scalar, ...], tuple[Scalar, ...]]


@dataclass(frozen=True)
class Sources:
    """What is read, as tensors in global memory."""

    a: Global
    words: Global
    scales: Global
    zeros: Global | None


@dataclass(frozen=True)
class Ring:
    """The shared memory of the steps under way, [stages, ...] each."""

    a: Shared
    words: Shared
    scales: Shared | None
    zeros: Shared | None

    def by_team(self, t: Tracer, teams: int) -> "Ring":
        """The same with its second dimension, which is along k, cut in two: [teams, parts]."""

        def cut(held: Shared) -> Shared:
            stages, along_k, *rest = held.shape
            shape = (stages, teams, along_k // teams, *rest)
            named: Shared = t.view_shared(held, held.dtype, shape, held.swizzle)
            return named

        scales, zeros = (None if held is None else cut(held) for held in (self.scales, self.zeros))
        return Ring(cut(self.a), cut(self.words), scales, zeros)


@dataclass(frozen=True)
class Handover:
    """Barriers of the places in the ring: all has arrived; nobody needs it any more."""

    arrived: Shared
    released: Shared


@dataclass(frozen=True)
class Masks:
    """The dimensions along which a tile may leave what it is read from."""

    k: bool
    n: bool

    @classmethod
    def of(cls, problem: Problem, plan: Schedule) -> "Masks":
        return cls(problem.k_multiple % plan.block_k != 0, problem.n_multiple % plan.block_n != 0)


class Feed:
    """Brings the units of a block one after the other into a ring of `stages` places.

    The copy engine does it where all tiles are whole and the schedule says so: one warp asks it,
    and barriers say when a place is full and when it is free. Else all threads copy.
    """

    def __init__(
        self, t: Tracer, problem: Problem, plan: Schedule, fold: int, p: dict[str, Var], work: Work
    ) -> None:
        self.t, self.problem, self.plan, self.fold, self.work = t, problem, plan, fold, work
        self.mask = Masks.of(problem, plan)
        self.engine = plan.engine and not (self.mask.k or self.mask.n)
        self.sources = self.name_sources(p)
        self.ring = self.allocate_ring()
        self.handover = self.allocate_barriers() if self.engine else None
        # with three places or more, those who copy into one have left it a unit ago
        self.slack = self.engine and plan.stages > 2
        self.ahead = plan.stages - 1 - self.slack
        self.copied, self.at = Walk(t, work), Cursor(t, plan.stages)

    def begin(self) -> None:
        """Start to bring the first units."""
        with self.feeders():
            for i in range(self.ahead):
                with self.t.when(i < self.work.units):
                    self.copy(self.copied, self.at.place)
                self.next()

    def wait_for(self, u: Scalar, at: Cursor) -> None:
        """Until unit `u` is there; start to bring the one that is `ahead` of it."""
        if not self.slack:
            self.wait_until_there(at)
            self.t.synchronize()
        with self.feeders():
            with self.t.when(u + self.ahead < self.work.units):
                if self.handover is not None and self.slack:
                    self.t.wait_barrier(self.handover.released, self.at.place, self.at.turn ^ 1)
                self.copy(self.copied, self.at.place)
            self.next()
        if self.slack:
            self.wait_until_there(at)

    def wait_until_there(self, at: Cursor) -> None:
        """Until what was copied into this place of the ring has arrived."""
        if self.handover is not None:
            self.t.wait_barrier(self.handover.arrived, at.place, at.turn)
            return
        self.t.wait_group(self.ahead - 1)
        if self.plan.warpgroups:
            self.t.fence_async()

    def feeders(self) -> AbstractContextManager[None]:
        """Those who copy: one warp asks the copy engine, and the others need not know what for."""
        return self.t.group(0, WARP) if self.engine else nullcontext()

    def release(self, place: Scalar) -> None:
        """Nobody reads the unit in this place any more, once all warps have said so."""
        if self.handover is not None and self.slack:
            self.t.arrive(self.handover.released, place)

    def next(self) -> None:
        self.copied.advance(self.t)
        self.at.advance(self.t)
        if not self.engine:
            self.t.commit_group()

    def name_sources(self, p: dict[str, Var]) -> Sources:
        t, m, n, k, of = self.t, p["m"], p["n"], p["k"], self.problem.a_dtype
        grouped = self.problem.group_size != -1
        columns = t.let(ceil_div(n, weights.TILE_N) * weights.tile_words(self.problem.b_dtype))
        groups = t.let(k // self.problem.group_size) if grouped else 1
        # the copy engine takes all rows of the ring's tile at once
        boxes = (k // ROW, m, ROW), (ROW, k, 1)
        return Sources(
            t.view_global(p["a"], of, *(boxes if self.engine else ((m, k), (k, 1)))),
            t.view_global(p["words"], u32, (ceil_div(k, STEP), columns), (columns, 1)),
            t.view_global(p["scales"], of, (groups, n), (n, 1)),
            t.view_global(p["zeros"], of, (groups, n), (n, 1)) if self.problem.zeros else None,
        )

    def allocate_ring(self) -> Ring:
        t, plan, of = self.t, self.plan, self.problem.a_dtype
        grouped = self.problem.group_size != -1
        words = plan.block_n // weights.TILE_N * weights.tile_words(self.problem.b_dtype)
        per_group = (plan.stages, plan.block_k // self.fold, plan.block_n)
        return Ring(
            t.allocate_shared(
                of, (plan.stages, plan.block_k // ROW, plan.block_m, ROW), ROWS_SWIZZLED
            ),
            t.allocate_shared(u32, (plan.stages, plan.block_k // STEP, words)),
            t.allocate_shared(of, per_group) if grouped else None,
            t.allocate_shared(of, per_group) if grouped and self.problem.zeros else None,
        )

    def allocate_barriers(self) -> Handover:
        made = Handover(*(self.t.allocate_barriers(self.plan.stages) for _ in range(2)))
        self.t.init_barriers(made.arrived, 1)
        self.t.init_barriers(made.released, self.plan.warps * self.plan.teams)
        return made

    def copy(self, unit: Walk, place: Scalar) -> None:
        """Start to bring one unit's operands into a place of the ring."""
        if self.handover is not None:
            self.copy_by_engine(unit, place, self.handover.arrived)
            return
        plan, sources, ring = self.plan, self.sources, self.ring
        k_start = unit.step * plan.block_k
        along_k, along_n = (0,) * self.mask.k, (1,) * self.mask.n
        tiles, words = ring.words.shape[1:]
        self.t.copy_async(
            sources.words, ring.words, (unit.step * tiles, unit.column * words), (place, 0, 0),
            (tiles, words), check=along_k + along_n,
        )  # fmt: skip
        for row in range(plan.block_k // ROW):
            self.t.copy_async(
                sources.a, ring.a, (unit.row * plan.block_m, k_start + row * ROW),
                (place, row, 0, 0), (plan.block_m, ROW), check=(0, 1) if self.mask.k else (0,),
            )  # fmt: skip
        for source, target, at, to in self.group_rows(unit, place):
            self.t.copy_async(source, target, at, to, (1, plan.block_n), check=along_k + along_n)

    def copy_by_engine(self, unit: Walk, place: Scalar, arrived: Shared) -> None:
        """The same by the copy engine."""
        plan, sources, ring = self.plan, self.sources, self.ring
        tiles, words = ring.words.shape[1:]
        rows = plan.block_k // ROW
        per_group = self.group_rows(unit, place)
        halves = plan.block_m * plan.block_k + len(per_group) * plan.block_n
        self.t.expect(arrived, place, tiles * words * 4 + halves * 2)
        self.t.copy_bulk(
            sources.words, ring.words, (unit.step * tiles, unit.column * words), (place, 0, 0),
            (tiles, words), arrived, place, HINT,
        )  # fmt: skip
        self.t.copy_tensor_async(
            sources.a, ring.a, (unit.step * rows, unit.row * plan.block_m, 0), (place, 0, 0, 0),
            (rows, plan.block_m, ROW), arrived, place,
        )  # fmt: skip
        for source, target, at, to in per_group:
            self.t.copy_bulk(source, target, at, to, (1, plan.block_n), arrived, place)

    def group_rows(self, unit: Walk, place: Scalar) -> list[GroupRow]:
        """Where the scales and zeros of each fold of a unit come from and go to."""
        column = unit.column * self.plan.block_n
        pairs = ((self.sources.scales, self.ring.scales), (self.sources.zeros, self.ring.zeros))
        return [
            (source, target, (first // self.problem.group_size, column), (place, j, 0))
            for source, target in pairs
            if source is not None and target is not None
            for j in range(self.plan.block_k // self.fold)
            for first in [unit.step * self.plan.block_k + j * self.fold]
        ]
