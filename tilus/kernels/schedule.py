"""How the work of a quantised matmul is laid out, and which layouts are worth trying."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import gcd
from typing import Any

from tilus.dtypes import DType, dtype
from tilus.errors import TilusError
from tilus.kernels.weights import TILE_K
from tilus.target import DEFAULT, target

WARPGROUPS = "sm_90a"  # what products by warpgroups need


@dataclass(frozen=True)
class Schedule:
    """How the work is laid out; any schedule computes the same function.

    A block of `warps` warps makes tiles of `block_m` x `block_n`, `block_k` deep at a time, with
    `stages` - 1 steps of copies in flight; `blocks_per_sm` blocks share a multiprocessor. The
    warps stand side by side along n; four of them multiply together where there are `warpgroups`.
    """

    block_m: int = 16
    block_n: int = 128
    block_k: int = 128
    warps: int = 4
    stages: int = 4
    blocks_per_sm: int = 2
    warpgroups: bool = False


HEIGHTS = (8, 16, 32, 64, 128)


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
    return plan


def schedule_of(parameters: dict[str, Any]) -> Schedule:
    """The schedule among the parameters of `program`."""
    names = asdict(Schedule())
    return checked_schedule({name: v for name, v in parameters.items() if name in names})


def schedules(b_dtype: str, group_size: int, m: int, arch: str = DEFAULT) -> list[dict[str, int]]:
    """The schedules worth trying for `m` rows, as parameters of `program`, best guess first."""
    groups = target(arch).supports(WARPGROUPS)
    return [asdict(plan) for plan in schedule_space(dtype(b_dtype), group_size, m, groups)]


# (block_n, block_k, warps, stages, blocks_per_sm): what was among the fastest somewhere when the
# whole space was measured on an H200 for 1 to 8 bits, products by warpgroups and by single warps
ROWS = {
    True: (
        (512, 128, 8, 3, 1), (256, 256, 4, 2, 2), (256, 256, 8, 2, 1), (256, 256, 8, 2, 2),
        (512, 256, 4, 2, 2), (512, 256, 8, 2, 1), (128, 256, 4, 2, 3), (64, 256, 4, 2, 3),
        (256, 256, 4, 4, 3), (256, 256, 8, 3, 1), (256, 256, 4, 4, 2), (512, 128, 4, 2, 2),
    ),
    False: (
        (256, 128, 4, 3, 2), (128, 256, 4, 3, 2), (128, 128, 4, 3, 2), (256, 256, 4, 4, 2),
        (256, 256, 8, 3, 1), (128, 128, 4, 4, 2), (256, 64, 4, 3, 2),
    ),
}  # fmt: skip
# for more than 16 rows; measured by warpgroups only
TALL = (
    (512, 256, 8, 2, 1), (512, 128, 8, 3, 1), (256, 256, 8, 2, 1), (128, 128, 4, 3, 3),
    (128, 128, 8, 3, 1), (128, 64, 4, 4, 1),
)  # fmt: skip
MOST_SUMS = 128  # that a thread keeps in registers


def schedule_space(b_dtype: DType, group_size: int, m: int, warpgroups: bool) -> Iterator[Schedule]:
    """Tiles as tall as m asks for, and of the rows above those whose ring fits."""
    block_m = next((height for height in HEIGHTS if m <= height), HEIGHTS[-1])
    rows = ROWS[warpgroups] if block_m <= 16 else TALL
    for block_n, block_k, warps, stages, blocks_per_sm in rows:
        plan = Schedule(block_m, block_n, block_k, warps, stages, blocks_per_sm, warpgroups)
        sums = block_m * block_n // (32 * warps)
        if sums <= MOST_SUMS and stages <= most_stages(plan, b_dtype, group_size):
            yield plan


SHARED_BYTES = 227 << 10  # that the blocks of one multiprocessor share on sm_90
RESERVED_BYTES = 2 << 10  # a block's own: what the system takes, mailboxes


def most_stages(plan: Schedule, b_dtype: DType, group_size: int) -> int:
    """How many steps of copies fit into a block's part of the shared memory."""
    groups = plan.block_k // gcd(group_size, plan.block_k) if group_size != -1 else 1
    a, weight = plan.block_m * plan.block_k * 2, plan.block_k * plan.block_n * b_dtype.bits // 8
    stage = a + weight + 2 * groups * plan.block_n * 2
    return (SHARED_BYTES // plan.blocks_per_sm - RESERVED_BYTES) // stage
