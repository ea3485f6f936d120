"""Which schedules there are for a quantised matmul, and which are likely to be fast on a GPU.

The space is data: what each field of `Schedule` may be. A model made of bytes, registers, shared
memory, cycles and idle multiprocessors estimates a time for each, without a GPU; `ranked` gives the
best. How far the model can be trusted stands in docs/tuning.md.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product
from math import gcd

from tilus.casts import lift_offset, lift_place, pair_bits, stride
from tilus.dtypes import DType
from tilus.errors import TilusError
from tilus.gpus import US, Gpu
from tilus.kernels import weights
from tilus.kernels.division import blocks_for
from tilus.kernels.problem import Problem
from tilus.kernels.schedule import (
    HEIGHTS,
    MOST_STAGES,
    MOST_SUMS,
    WARPGROUPS,
    Schedule,
    checked_schedule,
    most_stages,
)
from tilus.occupancy import MULTIPROCESSORS, REGISTERS, WARP
from tilus.target import Target

# What the fields may be; those of type bool may be either, stages are as many as fit. A block_n of
# 0 stands for the widths of which a whole number of tiles goes on every multiprocessor.
SPACE: dict[str, tuple[int, ...]] = {
    "block_m": HEIGHTS,
    "block_n": (64, 128, 256, 512, 0),
    "block_k": (64, 128, 256, 512, 1024),
    "warps": (4, 8, 16, 28),
    "blocks_per_sm": (1, 2, 3, 4, 5, 6, 7),
    "teams": (1, 2, 4),
}
WIDEST = 1024  # columns of a tile
MOST_THREADS = 1024
MOST_REGISTERS = 255  # of a thread
MOST_SPILLED = 0.5  # of a thread's registers
REGISTERS_BESIDE = 36  # addresses, counters, words on their way

# Cycles of one of a multiprocessor's schedulers for a product of 16 columns, 16 deep (256 weights),
# measured on an H200 (docs/performance.md); of other chips, those that their tensor cores need.
SCHEDULERS = 4
WARPGROUP_BEGINS = 6.5  # the weight passes through registers
WARPGROUP_ROW, WARPGROUP_LEAST = 0.5, 8.0  # for each row of A, and at the least
WARP_8_ROWS = {80: 8.0, 86: 16.0, 89: 16.0, 90: 6.7, 100: 8.0, 120: 16.0}
LOGIC = 2.0  # of an instruction
# Fitted to recorded times of an H200, as all below but for those that are guessed.
TURNS = 0.64  # what of the shorter of product and cast is not hidden, where one warp is alone
SUM = 3.3  # of a sum, when a group ends
COPY = 4.0  # of 512 bytes that threads copy themselves; guessed
MEETING = 420.0  # of a step
LATENCY = 0.6 * US  # of memory under load
SPILL = 2.0  # of a step, for each time over that registers are wanted; guessed
SHARING = 2.8 * US  # of handing the sums of a tile to another block
POWER = 4.0  # how much of the shorter of reading and computing is hidden
L2_SPEED = 2.15  # of the memory's; what all blocks read of A comes from there
# Instructions for two weights, beside the one that masks them.
STRADDLING = 4.1  # fields that lie in two halves of words
MOVED = 1.25  # fields that lie elsewhere in their half
SIGN = 1.1  # of floats
WIDE = 1.7  # floats that do not lift
SCALING = 1.0  # where scales meet weights: to cast and not to lift, and to multiply; guessed


@dataclass(frozen=True)
class Estimate:
    """What the model thinks of a schedule: seconds in all, of memory, of computing, of the rest."""

    seconds: float
    memory: float
    compute: float
    rest: float
    schedule: Schedule


def ranked(
    problem: Problem, m: int, n: int, k: int, gpu: Gpu, target: Target, limit: int
) -> list[Estimate]:
    """The `limit` schedules that the model likes best, the fastest first."""
    estimates = (
        estimate(plan, problem, m, n, k, gpu) for plan in space(problem, m, n, gpu, target)
    )
    return heapq.nsmallest(limit, estimates, key=lambda found: found.seconds)


def space(problem: Problem, m: int, n: int, gpu: Gpu, target: Target) -> Iterator[Schedule]:
    """Every legal schedule that fits into a multiprocessor, with as many stages as fit."""
    engine = target.supports(WARPGROUPS)
    choices = {f.name: SPACE.get(f.name, (False, True)) for f in fields(Schedule)}
    choices |= {"block_m": heights(m), "block_n": widths(n, gpu), "stages": (2,)}
    if not engine:
        choices |= {"warpgroups": (False,), "engine": (False,)}
    for values in product(*choices.values()):
        plan = planned(dict(zip(choices, values, strict=True)))
        if plan is None or not fits(plan, problem, target):
            continue
        stages = most_stages(plan, problem.b_dtype, problem.group_size, target.shared_bytes)
        if stages >= 2:
            yield replace(plan, stages=min(MOST_STAGES, stages))


def planned(choice: dict[str, int]) -> Schedule | None:
    """The schedule of these fields, if it is a legal one."""
    try:
        return checked_schedule(choice)
    except TilusError:
        return None


def heights(m: int) -> tuple[int, ...]:
    """The lowest tile that holds all rows, else the highest, and the next two lower ones."""
    enough = next((i for i, height in enumerate(HEIGHTS) if m <= height), len(HEIGHTS) - 1)
    return HEIGHTS[max(0, enough - 2) : enough + 1]


def widths(n: int, gpu: Gpu) -> tuple[int, ...]:
    """The widths of tiles: those of the space, and for 0 all that leave few places idle."""
    fixed = {width for width in SPACE["block_n"] if width}
    if 0 not in SPACE["block_n"]:
        return tuple(sorted(fixed))
    even = {
        width
        for width in range(64, WIDEST + 1, 64)
        if n % width == 0 and (n // width) % gpu.multiprocessors >= 0.95 * gpu.multiprocessors
    }
    return tuple(sorted(fixed | even))


def fits(plan: Schedule, problem: Problem, target: Target) -> bool:
    """Whether threads and registers suffice for a legal schedule that differs from the others."""
    grouped = problem.group_size != -1
    if plan.weights_scaled and problem.b_dtype.kind == "float" and not grouped:
        return False
    chip, threads = MULTIPROCESSORS[target.number], WARP * plan.warps * plan.teams
    if threads > MOST_THREADS or threads * plan.blocks_per_sm > chip.threads:
        return False
    return sums(plan) <= MOST_SUMS and spilled(plan, problem) <= MOST_SPILLED


def sums(plan: Schedule) -> int:
    """Of a tile, in the registers of a thread."""
    return plan.block_m * plan.block_n // (WARP * plan.warps)


def registers(plan: Schedule, problem: Problem) -> int:
    """About how many registers a thread needs: sums, those under way, rows of A, weights."""
    panel = plan.block_m // 2
    under_way = panel * (3 if plan.block_m <= 16 else 2) * folds(plan, problem)
    rows = panel * has_row_sums(plan, problem)
    depth = fold(plan, problem) if folds(plan, problem) else 0
    a = 0 if plan.warpgroups else plan.block_m * max(depth, weights.TILE_K) // weights.TILE_K
    return REGISTERS_BESIDE + sums(plan) + under_way + rows + a + 2 * problem.b_dtype.bits


def spilled(plan: Schedule, problem: Problem) -> float:
    """How many times over a thread's registers are wanted, beyond those that it may have."""
    return max(0.0, registers(plan, problem) / registers_left(plan) - 1)


def registers_left(plan: Schedule) -> int:
    """How many registers a thread may have."""
    threads = WARP * plan.warps * plan.teams * plan.blocks_per_sm
    return min(MOST_REGISTERS, REGISTERS // threads)


def has_row_sums(plan: Schedule, problem: Problem) -> bool:
    """Whether the sums of A's rows are needed, to correct what zeros and lifting leave out."""
    scaled = plan.weights_scaled and problem.group_size != -1
    lifted = not plan.weights_scaled and lift_offset(problem.b_dtype) != 0
    return lifted or (problem.zeros and not scaled)


def folds(plan: Schedule, problem: Problem) -> bool:
    """Whether scales and zeros meet the sums, at the end of each group."""
    return problem.group_size != -1 and not plan.weights_scaled


def estimate(plan: Schedule, problem: Problem, m: int, n: int, k: int, gpu: Gpu) -> Estimate:
    """How long a launch takes, the L2 cache cold.

    Reading and computing overlap, though not wholly; each is bound by the multiprocessor that has
    most to do. What comes on top is handing over sums at the ends.
    """
    steps, rows, columns = -(-k // plan.block_k), -(-m // plan.block_m), -(-n // plan.block_n)
    tiles = rows * columns
    blocks = blocks_for(tiles, steps, gpu.multiprocessors * plan.blocks_per_sm)
    units = -(-tiles * steps // blocks)  # of the busiest block
    busiest = units * -(-blocks // gpu.multiprocessors)  # of its multiprocessor
    memory = memory_seconds(plan, problem, m, n, k, gpu, busiest, tiles * steps)
    unit = unit_cycles(plan, problem, gpu) / gpu.clock
    compute, last = busiest * unit, plan.blocks_per_sm * unit
    start = gpu.read_seconds(0)
    both: float = ((memory - start) ** POWER + compute**POWER) ** (1 / POWER)
    shared = SHARING * (blocks != tiles)
    rest = start + last + shared
    return Estimate(both + rest, memory, compute, rest, plan)


def memory_seconds(
    plan: Schedule, problem: Problem, m: int, n: int, k: int, gpu: Gpu, busiest: int, units: int
) -> float:
    """Until all that a launch reads is there.

    The memory brings the weight once, as fast as bytes are under way for, and the L2 cache A as
    often as there are tiles.
    """
    of_a, of_weight = unit_bytes(plan, problem)
    ahead = plan.stages - 1 - (plan.engine and plan.stages > 2)
    under_way = ahead * plan.blocks_per_sm * of_weight
    alone = busiest * of_weight * LATENCY / under_way
    whole = gpu.read_seconds(k * n * of_weight / (plan.block_k * plan.block_n) + 2 * m * (n + k))
    cached = units * (of_a + of_weight) / (gpu.bandwidth * L2_SPEED)
    return max(whole, gpu.read_seconds(0) + max(alone, cached))


def unit_bytes(plan: Schedule, problem: Problem) -> tuple[int, int]:
    """What a step of a tile reads: of A, and of the weight with its scales and zeros."""
    groups = plan.block_k / problem.group_size if problem.group_size != -1 else 0
    of_groups = int(groups * plan.block_n * 2 * (1 + problem.zeros))
    words = plan.block_k * plan.block_n * problem.b_dtype.bits // 8
    return plan.block_m * plan.block_k * 2, words + of_groups


def panels(plan: Schedule) -> int:
    """How many stored tiles a warp has side by side."""
    return plan.block_n // (weights.TILE_N * plan.warps)


def unit_cycles(plan: Schedule, problem: Problem, gpu: Gpu) -> float:
    """Cycles of each scheduler for one step of a tile."""
    products = plan.block_k // 16 * (plan.block_n // 16) / SCHEDULERS
    with_rows = 1 + has_row_sums(plan, problem) / panels(plan)
    multiply = product_cycles(plan, gpu)
    scaling = SCALING * plan.weights_scaled * (1 + (problem.group_size != -1))
    cast = LOGIC * 4 * (cast_instructions(problem.b_dtype) + scaling)
    warps = plan.warps * plan.teams * plan.blocks_per_sm / SCHEDULERS
    alone = min(multiply, cast) * TURNS / warps
    cycles = products * (max(multiply * with_rows, cast) + alone + group_cycles(plan, problem))
    if not plan.engine:
        cycles += COPY * sum(unit_bytes(plan, problem)) / 512 / SCHEDULERS
    return (cycles + MEETING / plan.blocks_per_sm) * (1 + SPILL * spilled(plan, problem))


def product_cycles(plan: Schedule, gpu: Gpu) -> float:
    """Cycles of a product."""
    if not plan.warpgroups:
        return WARP_8_ROWS[gpu.number] * plan.block_m / 8
    return WARPGROUP_BEGINS + max(WARPGROUP_LEAST, WARPGROUP_ROW * plan.block_m)


def group_cycles(plan: Schedule, problem: Problem) -> float:
    """Cycles that scales and zeros cost of each product."""
    if not folds(plan, problem):
        return 0.0
    sums_of_a_fold = (1 + has_row_sums(plan, problem)) * plan.block_m / 2
    return SUM * sums_of_a_fold * 16 / fold(plan, problem)


def fold(plan: Schedule, problem: Problem) -> int:
    """How many steps of k a scale holds for, within a step of a tile."""
    return gcd(problem.group_size, plan.block_k // plan.teams)


@cache
def cast_instructions(dtype: DType) -> float:
    """Instructions that make two weights of stored words, on average."""
    at = -1 if dtype.kind == "float" else lift_place(dtype)
    lows = [pair_bits(dtype, word)[0] % 16 for word in range(stride(dtype.bits))]
    moves = sum(move_instructions(low, dtype.bits, at) for low in lows) / len(lows)
    sign = SIGN * (dtype.kind == "float") + WIDE * (not weights.lifts(dtype))
    return 1 + moves + sign


def move_instructions(low: int, bits: int, at: int) -> float:
    """Instructions that bring fields from bit `low` of words to bit `at`."""
    if low + bits > 16:
        return STRADDLING
    return MOVED * (low != at)
