"""How the work of a quantised matmul is laid out, and which layouts are worth trying."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import gcd
from typing import Any

from tilus.dtypes import DType, dtype
from tilus.errors import TilusError
from tilus.kernels.weights import TILE_K, TILE_N
from tilus.target import DEFAULT, Target, target

WARPGROUPS = "sm_90a"  # what products by warpgroups need


@dataclass(frozen=True)
class Schedule:
    """How the work is laid out; any schedule computes the same function.

    A block makes tiles of `block_m` x `block_n`, `block_k` deep at a time, in a ring of `stages`
    steps of copies; `blocks_per_sm` blocks share a multiprocessor. `warps` warps stand side by side
    along n; four of them multiply together where there are `warpgroups`. So many `teams` of them
    share a step along k, and add up at the end of a tile. The copy `engine` brings what is whole.
    Scales and zeros of groups meet the sums; where `weights_scaled` they meet each weight, which is
    rounded once more and then waits for nothing.
    """

    block_m: int = 16
    block_n: int = 128
    block_k: int = 128
    warps: int = 4
    stages: int = 4
    blocks_per_sm: int = 2
    warpgroups: bool = False
    teams: int = 1
    engine: bool = False
    weights_scaled: bool = False

    @property
    def slab_rows(self) -> int:
        """So many rows of a tile that is tall are turned round at once on their way to memory."""
        columns = TILE_N * self.warps
        plain = self.warpgroups and self.teams == 1 and columns & (columns - 1) == 0
        return 16 if plain and self.block_m >= 32 else 0


HEIGHTS = (8, 16, 32, 64, 128, 256)
WASTE = 0.05  # of the places for blocks; leaving so many idle costs less than sharing tiles


def checked_schedule(schedule: dict[str, Any]) -> Schedule:
    """The schedule, or a sentence what does not fit."""
    try:
        plan = Schedule(**schedule)
    except TypeError as unknown:
        raise TilusError(f"schedule {schedule}: there is {asdict(Schedule())}") from unknown
    if plan.block_m not in HEIGHTS or plan.block_n % (16 * plan.warps):
        raise TilusError(f"{plan}: block_m is one of {HEIGHTS}, and 16 * warps divides block_n")
    if plan.block_k % TILE_K or plan.block_k & (plan.block_k - 1) or plan.stages < 2:
        raise TilusError(
            f"{plan}: block_k is a power of two from {TILE_K}, and there are 2 stages up"
        )
    if plan.warpgroups and plan.warps % 4:
        raise TilusError(f"{plan}: a warpgroup has 4 warps")
    if plan.block_k % (TILE_K * plan.teams) or (plan.teams > 1 and not plan.warpgroups):
        raise TilusError(
            f"{plan}: every team of warpgroups takes a multiple of {TILE_K} of block_k"
        )
    return plan


def schedule_of(parameters: dict[str, Any]) -> Schedule:
    """The schedule among the parameters of `program`."""
    names = asdict(Schedule())
    return checked_schedule({name: v for name, v in parameters.items() if name in names})


def schedules(
    b_dtype: str, group_size: int, m: int, n: int, arch: str = DEFAULT
) -> list[dict[str, int]]:
    """The schedules worth trying for `m` rows and `n` columns, best guess first."""
    return [asdict(plan) for plan in schedule_space(dtype(b_dtype), group_size, m, n, target(arch))]


@dataclass(frozen=True)
class Row:
    """A schedule for weights of `least` to `most` bits, with as many stages as fit, up to 8.

    Without a `block_n` a tile is as wide as lets every multiprocessor make one.
    """

    least: int
    most: int
    block_n: int | None
    block_k: int
    warps: int
    blocks_per_sm: int = 1
    teams: int = 1
    warpgroups: bool = True


# What was within 2 % of the fastest for some format when a larger space was measured on an H200,
# for up to 8 rows and up to 16, for matrices of many columns and for others.
STRIPS, OTHERS = "many columns", "few columns"
ROWS = {
    (8, STRIPS): (
        Row(1, 3, 256, 256, 4, 3, warpgroups=False), Row(3, 5, None, 256, 4, teams=2),
        Row(5, 8, None, 128, 4, teams=2), Row(6, 6, None, 128, 28),
    ),
    (8, OTHERS): (
        Row(1, 3, 256, 256, 4, 2, warpgroups=False), Row(1, 2, 256, 256, 4, 3, warpgroups=False),
        Row(3, 4, 128, 256, 4, 4, warpgroups=False), Row(5, 7, 128, 256, 8, 2, warpgroups=False),
        Row(5, 7, 64, 1024, 4, teams=4), Row(8, 8, 256, 256, 8, warpgroups=False),
        Row(8, 8, 128, 512, 4, teams=2),
    ),
    (16, STRIPS): (
        Row(1, 3, None, 512, 4, teams=2), Row(1, 5, None, 256, 4, teams=2),
        Row(4, 4, 256, 256, 8, 2), Row(7, 7, 512, 128, 16),
        Row(8, 8, 64, 128, 4, 7), Row(6, 8, None, 128, 4, teams=2), Row(6, 8, None, 128, 28),
    ),
    (16, OTHERS): (
        Row(1, 4, 256, 256, 4, 2), Row(1, 4, 128, 512, 4, 2), Row(5, 8, 256, 256, 8),
        Row(5, 8, 64, 512, 4, teams=4),
    ),
}  # fmt: skip
# for more rows, by the height of a tile; two heights are tried where one is not enough
TALL = {
    32: (Row(1, 8, 512, 128, 8), Row(1, 8, 512, 256, 16), Row(5, 8, None, 256, 28)),
    64: (Row(1, 8, 512, 256, 16), Row(1, 8, 256, 256, 16), Row(1, 8, 256, 256, 8)),
    128: (Row(1, 8, 256, 128, 16), Row(1, 8, 128, 128, 8)),
    256: (Row(1, 8, 128, 128, 8), Row(5, 8, 128, 64, 8)),
}
SCALED = 64  # rows; in tiles as high the scales meet the weights
# by single warps, without the copy engine
PLAIN = (
    Row(1, 8, 256, 128, 4, 2), Row(1, 8, 128, 256, 4, 2), Row(1, 8, 128, 128, 4, 2),
    Row(1, 8, 256, 256, 8), Row(1, 8, 256, 64, 4, 2), Row(1, 8, 128, 64, 4),
)  # fmt: skip
PLAIN_HEIGHT = 128  # rows, at most
MOST_SUMS = 128  # that a thread keeps in registers
MOST_STAGES = 8
MULTIPROCESSORS = 132  # of an H100 or H200
SPLIT = 64  # columns of which a strip is made
NARROWEST = 256  # columns; strips that are narrower read A too often


def strip(n: int) -> int | None:
    """The width of tiles of which almost every multiprocessor makes one, if there is one."""
    for tiles in range(MULTIPROCESSORS, round(MULTIPROCESSORS * (1 - WASTE)), -1):
        if n % (tiles * SPLIT) == 0 and n // tiles >= NARROWEST:
            return n // tiles
    return None


def rows_for(m: int, n: int, warpgroups: bool) -> Iterator[tuple[int, Row]]:
    """What there is to choose from: the height of a tile, and a row."""
    block_m = next((height for height in HEIGHTS if m <= height), HEIGHTS[-1])
    if not warpgroups:
        yield from ((min(block_m, PLAIN_HEIGHT), row) for row in PLAIN)
    elif block_m <= 16:
        columns = STRIPS if n >= NARROWEST * MULTIPROCESSORS else OTHERS
        yield from ((block_m, row) for row in ROWS[block_m, columns])
    else:
        for height in [block_m, HEIGHTS[-2]] if block_m == HEIGHTS[-1] else [block_m]:
            yield from ((height, row) for row in TALL[height])


def schedule_space(
    b_dtype: DType, group_size: int, m: int, n: int, chip: Target
) -> Iterator[Schedule]:
    """Tiles as tall as m asks for, and of the rows for the type those whose ring fits."""
    warpgroups = chip.supports(WARPGROUPS)
    plain = b_dtype.kind == "float" and group_size == -1  # nothing to correct but the result
    for block_m, row in rows_for(m, n, warpgroups):
        block_n = row.block_n or strip(n)
        if not row.least <= b_dtype.bits <= row.most or block_n is None:
            continue
        plan = Schedule(
            block_m, block_n, row.block_k, row.warps, 2, row.blocks_per_sm,
            row.warpgroups and warpgroups, row.teams, warpgroups,
            warpgroups and block_m >= SCALED and not plain,
        )  # fmt: skip
        stages = min(MOST_STAGES, most_stages(plan, b_dtype, group_size, chip.shared_bytes))
        whole = block_n % (TILE_N * row.warps) == 0
        if whole and block_m * block_n // (32 * row.warps) <= MOST_SUMS and stages >= 2:
            yield replace(plan, stages=stages)


RESERVED_BYTES = 2 << 10  # a block's own: what the system takes, mailboxes


def most_stages(plan: Schedule, b_dtype: DType, group_size: int, shared_bytes: int) -> int:
    """How many steps of copies fit into a block's part of a multiprocessor's shared memory."""
    depth = plan.block_k // plan.teams
    groups = plan.teams * (depth // gcd(group_size, depth)) if group_size != -1 else 1
    a, weight = plan.block_m * plan.block_k * 2, plan.block_k * plan.block_n * b_dtype.bits // 8
    stage = a + weight + 2 * groups * plan.block_n * 2
    scratch = plan.teams * plan.warps * TILE_N * plan.block_m * 4 if plan.teams > 1 else 0
    scratch += plan.slab_rows * TILE_N * plan.warps * 2
    return (shared_bytes // plan.blocks_per_sm - RESERVED_BYTES - scratch) // stage
