"""C[m, n] = f(sum over k of A[m, k] * (Q[k, n] - Z[k/g, n]) * S[k/g, n] + bias[n]).

Q has 1 to 8 bits; the bias and the activation f are optional. Everything is float32 until each
result is rounded once, to A's type (float16 or bfloat16). The work is cut into units, one `block_k`
deep step of one `block_m` x `block_n` tile of C. Each block takes a run of consecutive units, as
many as any other or one more, so all blocks end together whatever m, n and k are; where a run ends
inside a tile, the blocks that share the tile leave their sums in the workspace and the last to
arrive adds them up in order and does what follows. The result is therefore the same in every
launch.

This is what others ask of the kernel; `tilus.kernels.matmul_block` is the kernel.
"""

import time
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from tilus.compiler import run_on_host
from tilus.dtypes import dtype
from tilus.ir import Program
from tilus.kernels import weights
from tilus.kernels.division import blocks_for
from tilus.kernels.matmul_block import Kernel
from tilus.kernels.problem import (
    Case,
    Problem,
    checked_problem,
    problem_of,
    random_case,
    relative_error,
)
from tilus.kernels.schedule import Schedule, checked_schedule, schedule_of, schedules
from tilus.lang import trace

__all__ = [
    "Case", "Check", "Launch", "Problem", "Schedule", "check", "checked_problem", "host_arguments",
    "launch", "pack", "problem_of", "program", "random_case", "relative_error", "result",
    "schedule_of", "schedules", "sharing_blocks", "weights",
]  # fmt: skip

F32_BYTES = 4


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
    bias: bool = False,
    activation: str = "none",
    **schedule: int,
) -> Program:
    """The kernel for a problem, laid out by `schedule` (fields of `Schedule`).

    Arguments: a [m, k], words (`pack`), scales [k/g, n], zeros [k/g, n] and bias [n] if there are
    any, c [m, n] (these but the words in `a_dtype`), workspace, counters, m, n, k, blocks.
    """
    problem = checked_problem(
        b_dtype, group_size, zeros, a_dtype, k_multiple, n_multiple, bias, activation
    )
    plan = checked_schedule(schedule)
    kernel = Kernel(problem, plan)
    return trace(
        f"quantized_matmul_{problem.b_dtype.short}",
        kernel.write,
        kernel.parameters(),
        grid=lambda *p: (p[-1], 1, 1),
        threads=kernel.threads,
        blocks_per_sm=plan.blocks_per_sm,
    )


def pack(codes: Any, b_dtype: str) -> Any:
    """Codes [k, n] (unsigned 8-bit, NumPy or torch) in the one stored format: int32 words."""
    return weights.pack(codes, dtype(b_dtype))


def launch(parameters: dict[str, Any], m: int, n: int, k: int, multiprocessors: int) -> Launch:
    """How to launch the kernel that `program(**parameters)` is."""
    plan = schedule_of(parameters)
    steps = -(-k // plan.block_k)
    blocks = blocks_for(tiles(plan, m, n), steps, multiprocessors * plan.blocks_per_sm)
    return launch_of(plan, m, n, blocks)


def launch_of(plan: Schedule, m: int, n: int, blocks: int) -> Launch:
    """A launch of so many blocks: two tiles of sums each; a counter for each tile of C."""
    sums = 2 * blocks * plan.block_m * plan.block_n
    return Launch((blocks, 1, 1), F32_BYTES * sums, tiles(plan, m, n))


def tiles(plan: Schedule, m: int, n: int) -> int:
    """How many tiles cover C."""
    return -(-m // plan.block_m) * -(-n // plan.block_n)


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
    return -(-steps * tiles(plan, m, n) // max(1, steps - 1))


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
    shared = launch_of(plan, m, n, blocks)
    return {
        "a": case.a.ravel(),
        "words": weights.pack(case.codes, problem.b_dtype).ravel().view(np.uint32),
        "scales": case.scales.ravel(),
        **({"zeros": case.zeros.ravel()} if problem.zeros else {}),
        **({"bias": case.bias} if problem.bias else {}),
        "c": problem.a_dtype.carry(np.full(m * n, np.nan)),
        "workspace": np.full(shared.workspace_bytes // F32_BYTES, np.nan, np.float32),
        "counters": np.zeros(shared.counters, np.int32),
        "m": m, "n": n, "k": k, "blocks": blocks,
    }  # fmt: skip
