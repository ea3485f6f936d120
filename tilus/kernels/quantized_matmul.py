"""C[m, n] = sum over k of A[m, k] * (Q[k, n] - Z[k/g, n]) * S[k/g, n], for Q of 1 to 8 bits.

Products and sums are float32, each result is rounded once, to A's type (float16 or bfloat16). The
work is cut into units, one `block_k` deep step of one `block_m` x `block_n` tile of C. Block b of B
takes an equal run of consecutive units, so all blocks end together whatever m, n and k are; where a
run ends inside a tile, the blocks that share the tile leave their sums in the workspace and the
last to arrive adds them up in order. The result is therefore the same in every launch.

The weight is read in its one stored format (`tilus.kernels.weights`), through a ring of `stages`
asynchronous copies; each warp views its words as elements, casts them in registers, and multiplies.
"""

import time
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from tilus.casts import lift_factor
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
    Swizzle,
    Var,
    ceil_div,
    equal,
    minimum,
)
from tilus.isa.matmul import M16N8K16
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
from tilus.layout import Layout, local, reduce, replicate, spatial

__all__ = [
    "Case", "Check", "Launch", "Problem", "Schedule", "check", "checked_problem", "host_arguments",
    "launch", "pack", "problem_of", "program", "random_case", "relative_error", "result",
    "schedule_of", "schedules", "sharing_blocks", "weights",
]  # fmt: skip
ATOM_A, ATOM_B, ATOM_C = M16N8K16
STEP = weights.TILE_K  # how deep a stored tile is


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
        threads=plan.warps_m * plan.warps_n * 32,
        blocks_per_sm=plan.blocks_per_sm,
    )


@dataclass(frozen=True)
class Ring:
    """The shared memory of the steps under way: [stages, ...] each."""

    a: Shared
    words: Shared
    scales: Shared | None
    zeros: Shared | None


@dataclass(frozen=True)
class Sources:
    """What is read, as tensors in global memory."""

    a: Global
    words: Global
    scales: Global
    zeros: Global | None


@dataclass(frozen=True)
class Sums:
    """What is added up: A @ the lifted Q; A @ the offsets of lifting; with zeros the rows of A.

    The latter two are the same in every column, and 8 columns wide.
    """

    products: Register
    offsets: Register | None
    rows: Register | None


class Walk:
    """The way through the units: along k first, then down the rows of C, so that a weight is read
    again soon. Its variables say where the next unit lies."""

    def __init__(self, t: Tracer, start: Scalar, steps: Scalar, rows: Scalar, ring: int) -> None:
        self.steps, self.rows, self.ring = steps, rows, ring
        self.step, self.tile = t.let(start % steps), t.let(start // steps)
        self.row, self.column = t.let(self.tile % rows), t.let(self.tile // rows)
        self.place = t.let(0)  # in the ring of shared memory

    def advance(self, t: Tracer) -> None:
        t.set(self.place, self.place + 1)
        with t.when(equal(self.place, self.ring)):
            t.set(self.place, 0)
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
        self.fold = gcd(problem.group_size, plan.block_k) if self.grouped else plan.block_k
        self.depth = min(self.fold, STEP)  # how deep the slices are that `dot` takes
        floating = problem.b_dtype.kind == "float"
        # offsets are up to 1024 times the weights: sums over all of k would lose their last bits
        self.lifts = (
            problem.a_dtype == f16 and weights.lifts(problem.b_dtype) and (self.grouped or floating)
        )
        self.offsets = self.lifts and not floating
        self.check_k = problem.k_multiple % plan.block_k != 0
        self.check_n = problem.n_multiple % plan.block_n != 0

    def parameters(self) -> list[Pointer | Integer]:
        of = self.problem.a_dtype
        zeros = [Pointer("zeros", of)] if self.problem.zeros else []
        return [
            Pointer("a", of), Pointer("words", u32), Pointer("scales", of), *zeros,
            Pointer("c", of), Pointer("workspace", f32), Pointer("counters", i32),
            Integer("m"), Integer("n", self.problem.n_multiple),
            Integer("k", self.problem.k_multiple), Integer("blocks"),
        ]  # fmt: skip

    # layouts: warps over the tile, then what each warp holds

    def layout_a(self, depth: int) -> Layout:
        plan = self.plan
        warps = spatial(plan.warps_m, 1) * replicate(plan.warps_n, 2)
        return warps * local(plan.block_m // plan.warps_m // 16, depth // 16) * ATOM_A

    def layout_c(self) -> Layout:
        plan = self.plan
        parts = local(plan.block_m // plan.warps_m // 16, plan.block_n // plan.warps_n // 8)
        return spatial(plan.warps_m, plan.warps_n) * parts * ATOM_C

    def over_columns(self, tile: Layout) -> Layout:
        """A stored tile for each 16 columns, every row of warps holding all of them."""
        plan = self.plan
        warps = replicate(plan.warps_m, 2) * spatial(1, plan.warps_n)
        return warps * local(1, plan.block_n // plan.warps_n // weights.TILE_N) * tile

    def rows_layout(self, fragment: Layout) -> Layout:
        """Sums over the rows of A: a fragment wide, in every warp that shares the rows."""
        plan = self.plan
        warps = spatial(plan.warps_m, 1) * replicate(plan.warps_n, 2)
        return warps * local(plan.block_m // plan.warps_m // 16, 1) * fragment

    def in_every_warp(self, depth: int) -> Layout:
        """A tile of B, 8 columns wide, that every warp holds."""
        warps = replicate(self.plan.warps_m * self.plan.warps_n, 2)
        return warps * local(depth // 16, 1) * ATOM_B

    def raw_c(self) -> Layout:
        """The registers of `layout_c` thread by thread: how partial sums lie in the workspace."""
        threads = self.layout_c().threads
        return local(self.layout_c().registers // 4) * spatial(threads) * local(4)

    def write(self, t: Tracer, *parameters: Var) -> None:
        p = {q.name: v for q, v in zip(self.parameters(), parameters, strict=True)}
        plan, m, n, k = self.plan, p["m"], p["n"], p["k"]
        sources = self.name_sources(t, p)
        c = t.view_global(p["c"], self.problem.a_dtype, (m, n), (n, 1))
        ring = self.allocate_ring(t)
        steps = t.let(ceil_div(k, plan.block_k))
        rows = t.let(ceil_div(m, plan.block_m))
        units = steps * rows * ceil_div(n, plan.block_n)
        share = t.let(ceil_div(units, p["blocks"]))
        begin = t.let(t.blocks[0] * share)
        end = t.let(minimum(begin + share, units))
        sums = self.no_sums(t)
        copied = Walk(t, begin, steps, rows, plan.stages)
        for ahead in range(plan.stages - 1):
            with t.when(begin + ahead < end):
                self.copy(t, sources, ring, copied)
            copied.advance(t)
            t.commit_group()
        done = Walk(t, begin, steps, rows, plan.stages)
        for u in t.range(begin, end):
            t.wait_group(plan.stages - 2)
            t.synchronize()
            with t.when(u + (plan.stages - 1) < end):
                self.copy(t, sources, ring, copied)
            copied.advance(t)
            t.commit_group()
            self.multiply(t, ring, done.place, sums)
            with t.when(equal(done.step, steps - 1) | equal(u, end - 1)):
                if not self.grouped:
                    self.correct(t, sources, done, sums)
                whole = self.gather(t, p, done, share, begin, end, sums.products)
                with t.when(whole):
                    self.finish(t, sources, c, done, sums.products)
                t.assign(sums.products, t.allocate_register(f32, self.layout_c()))
            done.advance(t)

    def name_sources(self, t: Tracer, p: dict[str, Var]) -> Sources:
        m, n, k, of = p["m"], p["n"], p["k"], self.problem.a_dtype
        columns = t.let(ceil_div(n, weights.TILE_N) * weights.tile_words(self.problem.b_dtype))
        groups = t.let(k // self.problem.group_size) if self.grouped else 1
        return Sources(
            t.view_global(p["a"], of, (m, k), (k, 1)),
            t.view_global(p["words"], u32, (ceil_div(k, STEP), columns), (columns, 1)),
            t.view_global(p["scales"], of, (groups, n), (n, 1)),
            t.view_global(p["zeros"], of, (groups, n), (n, 1)) if self.problem.zeros else None,
        )

    def allocate_ring(self, t: Tracer) -> Ring:
        plan, of = self.plan, self.problem.a_dtype
        swizzle = Swizzle(3, plan.block_k.bit_length() - 1, 3)  # 16-byte columns xor row modulo 8
        words = plan.block_n // weights.TILE_N * weights.tile_words(self.problem.b_dtype)
        per_group = (plan.stages, plan.block_k // self.fold, plan.block_n)
        return Ring(
            t.allocate_shared(of, (plan.stages, plan.block_m, plan.block_k), swizzle),
            t.allocate_shared(u32, (plan.stages, plan.block_k // STEP, words)),
            t.allocate_shared(of, per_group) if self.grouped else None,
            t.allocate_shared(of, per_group) if self.grouped and self.problem.zeros else None,
        )

    def copy(self, t: Tracer, sources: Sources, ring: Ring, unit: Walk) -> None:
        """Start to bring one unit's operands into its place of the ring."""
        plan, place = self.plan, unit.place
        k_start = unit.step * plan.block_k
        along_k, along_n = (0,) * self.check_k, (1,) * self.check_n
        tiles = plan.block_k // STEP
        words = ring.words.shape[2]
        t.copy_async(
            sources.words, ring.words, (unit.step * tiles, unit.column * words), (place, 0, 0),
            (tiles, words), check=along_k + along_n,
        )  # fmt: skip
        t.copy_async(
            sources.a, ring.a, (unit.row * plan.block_m, k_start), (place, 0, 0),
            (plan.block_m, plan.block_k), check=(0, 1) if self.check_k else (0,),
        )  # fmt: skip
        for source, target in ((sources.scales, ring.scales), (sources.zeros, ring.zeros)):
            if source is None or target is None:
                continue
            for j in range(plan.block_k // self.fold):
                group = (k_start + j * self.fold) // self.problem.group_size
                t.copy_async(
                    source, target, (group, unit.column * plan.block_n), (place, j, 0),
                    (1, plan.block_n), check=along_k + along_n,
                )  # fmt: skip

    def multiply(self, t: Tracer, ring: Ring, place: Scalar, sums: Sums) -> None:
        """Add the product of one step to `sums`, a fold at a time.

        A group's part of the result is scale * (A @ Q - zero * (the sums of A's rows)), so scales
        and zeros meet the sums, in float32, and not every weight. So do what lifting leaves out.
        """
        for j in range(self.plan.block_k // self.fold):
            if not self.grouped:
                self.product(t, ring, place, j, sums)
                continue
            part = self.no_sums(t)
            self.product(t, ring, place, j, part)
            zero = None if ring.zeros is None else self.per_column(t, ring.zeros, place, j)
            assert ring.scales is not None
            scale = self.factored(t, self.per_column(t, ring.scales, place, j))
            products = self.corrected(t, part, zero)
            t.assign(sums.products, t.fma(products, scale, sums.products))

    def correct(self, t: Tracer, sources: Sources, unit: Walk, sums: Sums) -> None:
        """Make of the sums of lifted numbers those of weights, before they are joined."""
        zeros = sources.zeros
        zero = None if zeros is None else self.from_memory(t, zeros, unit)
        t.assign(sums.products, self.corrected(t, sums, zero))
        for narrow in (sums.offsets, sums.rows):
            if narrow is not None:
                t.assign(narrow, t.allocate_register(f32, narrow.layout))

    def per_column(self, t: Tracer, held: Shared, place: Scalar, j: int) -> Register:
        """A number for each column of C, from fold `j` of the ring, in float32."""
        across = reduce(self.layout_c(), (0,))
        column: Register = t.cast(t.load_shared(held, (place, j, 0), across), f32)
        return column

    def factored(self, t: Tracer, scale: Register) -> Register:
        """The scale of lifted numbers."""
        factor = lift_factor(self.problem.b_dtype) if self.lifts else 1.0
        if factor == 1:
            return scale
        product: Register = t.mul(scale, t.allocate_register(f32, scale.layout, factor))
        return product

    def corrected(self, t: Tracer, sums: Sums, zero: Register | None) -> Register:
        """A @ (Q - zero), from sums of lifted numbers."""
        products = sums.products
        if sums.offsets is not None:
            products = t.sub(products, self.one_column(t, sums.offsets))
        if sums.rows is not None and zero is not None:
            products = t.fma(t.neg(self.one_column(t, sums.rows)), zero, products)
        return products

    def one_column(self, t: Tracer, wide: Register) -> Register:
        """The first of the equal columns of `wide`, held by every lane that holds its row of C."""
        copies = self.rows_layout(local(2, 1) * spatial(8, 1) * replicate(4, 2) * local(1, 2))
        column: Register = t.slice(t.view(wide, f32, copies), 1, 0, 1)
        return column

    def no_sums(self, t: Tracer) -> Sums:
        narrow = self.rows_layout(ATOM_C)
        return Sums(
            t.allocate_register(f32, self.layout_c()),
            t.allocate_register(f32, narrow) if self.offsets else None,
            t.allocate_register(f32, narrow) if self.problem.zeros else None,
        )

    def product(self, t: Tracer, ring: Ring, place: Scalar, j: int, sums: Sums) -> None:
        """Add fold `j` of a step to `sums`."""
        for start in range(j * self.fold, (j + 1) * self.fold, self.depth):
            a = t.load_matrix(ring.a, (place, 0, start), self.layout_a(self.depth))
            b = self.weight(t, ring, place, start // STEP)
            if self.depth < STEP:
                b = t.slice(b, 0, start % STEP, self.depth)
            t.assign(sums.products, t.dot(a, b, sums.products))
            if sums.offsets is not None:
                t.assign(sums.offsets, t.dot(a, self.offset_tile(t, start), sums.offsets))
            if sums.rows is not None:
                ones = t.allocate_register(a.dtype, self.in_every_warp(self.depth), 1)
                t.assign(sums.rows, t.dot(a, ones, sums.rows))

    def offset_tile(self, t: Tracer, start: int) -> Register:
        """What lifting adds to rows of a stored tile from `start` on: a lifted tile of zeros."""
        of = self.problem.b_dtype
        warps = replicate(self.plan.warps_m * self.plan.warps_n, 2)
        lifted = t.lift(t.allocate_register(of, warps * weights.tile_layout(of)))
        narrow: Register = t.slice(lifted, 1, 0, 8)
        if self.depth < STEP:
            narrow = t.slice(narrow, 0, start % STEP, self.depth)
        return narrow

    def weight(self, t: Tracer, ring: Ring, place: Scalar, tile: int) -> Register:
        """The stored tiles in row `tile` of a step, as A's type: load words, view, lift or cast."""
        of = self.problem.b_dtype
        words = t.load_shared(
            ring.words, (place, tile, 0), self.over_columns(weights.words_layout(of))
        )
        codes = t.view(words, of, self.over_columns(weights.tile_layout(of)))
        values: Register = t.lift(codes) if self.lifts else t.cast(codes, self.problem.a_dtype)
        return values

    def gather(
        self, t: Tracer, p: dict[str, Var], unit: Walk, share: Scalar, begin: Scalar, end: Scalar,
        sums: Register,
    ) -> Var:  # fmt: skip
        """1 if `sums` is now all of the tile: the block did all of it, or is the last to arrive.

        Block b leaves what it has of the tile in which it begins in slot 2b of the workspace, of a
        later one in slot 2b + 1.
        """
        tile_size = self.plan.block_m * self.plan.block_n
        slots = t.view_global(p["workspace"], f32, (p["blocks"] * 2, tile_size), (tile_size, 1))
        first = t.let(unit.tile * unit.steps)
        stop = first + unit.steps
        done = t.let((begin <= first) & (stop <= end))
        with t.when(equal(done, 0)):
            mine = t.blocks[0] * 2 + (begin <= first)
            t.store_global(slots, t.view(sums, f32, self.raw_c()), (mine, 0), check=())
            counters = t.view_global(p["counters"], i32, (unit.tile + 1,), (1,))
            arrived = t.atomic_add(counters, (unit.tile,), 1)
            oldest, newest = t.let(first // share), t.let((stop - 1) // share)
            with t.when(equal(arrived, newest - oldest)):
                t.assign(sums, t.allocate_register(f32, sums.layout))
                for block in t.range(oldest, newest + 1):
                    slot = block * 2 + (block * share <= first)
                    part = t.load_global(slots, (slot, 0), self.raw_c(), check=())
                    t.assign(sums, t.add(sums, t.view(part, f32, sums.layout)))
                t.store_global(counters, t.allocate_register(i32, local(1)), (unit.tile,), check=())
                t.set(done, 1)
        return done

    def finish(self, t: Tracer, sources: Sources, c: Global, unit: Walk, sums: Register) -> None:
        """Round the tile and write it."""
        column = unit.column * self.plan.block_n
        along_n = (1,) * self.check_n
        if not self.grouped:
            scale = self.factored(t, self.from_memory(t, sources.scales, unit))
            sums = t.mul(sums, scale)
        t.store_global(
            c, t.cast(sums, c.dtype), (unit.row * self.plan.block_m, column), check=(0, *along_n)
        )

    def from_memory(self, t: Tracer, source: Global, unit: Walk) -> Register:
        """A number for each column of C, of the only group, in float32."""
        across, column = reduce(self.layout_c(), (0,)), unit.column * self.plan.block_n
        held = t.load_global(source, (0, column), across, check=(1,) * self.check_n)
        numbers: Register = t.cast(held, f32)
        return numbers


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
