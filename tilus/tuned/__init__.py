"""Schedules that were measured to be the fastest, as data: a file of JSON lines for each GPU here.

A line says for which problem and shape the schedule won on which GPU, and where that is from: the
commit, the date, its time and that of a plain read of the same bytes.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from tilus.dtypes import dtype
from tilus.errors import TilusError
from tilus.gpus import gpu as gpu_of
from tilus.kernels.problem import Problem, problem_for
from tilus.kernels.schedule import WARPGROUPS, Schedule, checked_schedule, schedules
from tilus.target import target
from tilus.tune import estimate, ranked

FOLDER = Path(__file__).parent
KERNEL = "quantized_matmul"
NEAR = 1.0  # how many doublings of n and k together a schedule may be taken over

Place = tuple[str, str, str, str, int, bool, int]  # what `place` gives
Shapes = dict[tuple[int, int], Schedule]  # by n and k


@dataclass(frozen=True)
class Entry:
    """A schedule that won, for which problem, on which GPU (the name of its file), from where."""

    gpu: str
    arch: str
    kernel: str
    a_dtype: str
    b_dtype: str
    group_size: int
    zeros: bool
    m: int
    n: int
    k: int
    schedule: Schedule
    commit: str
    measured_at: str  # ISO 8601, with its zone
    latency_us: float
    floor_us: float | None

    @property
    def place(self) -> Place:
        """What an entry is looked up by, beside n and k."""
        return place(self.arch, self.kernel, self.problem, self.m)

    @property
    def problem(self) -> Problem:
        """What is computed; the multiples are those of the shape."""
        return problem_for(self.b_dtype, self.group_size, self.zeros, self.a_dtype, self.n, self.k)

    def line(self) -> str:
        """The entry as one line of JSON, without its newline."""
        return json.dumps(asdict(self))


def bucket(m: int) -> int:
    """The m that stands for so many rows: the next of 1, 8, 16, 32, 64 and so on, by doubling."""
    return 1 if m == 1 else max(8, 1 << (m - 1).bit_length())


def place(arch: str, kernel: str, problem: Problem, m: int) -> Place:
    """What schedules are kept by: all that decides which is fastest but for n, k and the GPU."""
    return (
        arch, kernel, problem.a_dtype.name, problem.b_dtype.name, problem.group_size,
        problem.zeros, bucket(m),
    )  # fmt: skip


def tuned(gpu: str, arch: str, problem: Problem, m: int, n: int, k: int) -> Schedule | None:
    """The schedule that was fastest for such a problem on that GPU, by the name of its file.

    `m` counts as its bucket. That n and k come first; else the nearest whose tiles fit n and k
    whole, by the doublings of n and of k together, of which there may be one.
    """
    shapes = index(gpu).get(place(arch, KERNEL, problem, m), {})
    return shapes.get((n, k)) or nearest(shapes, n, k)


def nearest(shapes: Shapes, n: int, k: int) -> Schedule | None:
    """The schedule of the nearest shape that may be taken over, if there is one."""
    near = [
        (abs(math.log2(n / wide)) + abs(math.log2(k / deep)), (wide, deep))
        for (wide, deep), plan in shapes.items()
        if n % plan.block_n == 0 and k % plan.block_k == 0
    ]
    distance, shape = min(near, default=(math.inf, (0, 0)))
    return shapes[shape] if distance <= NEAR else None


def best(
    gpu: str,
    arch: str,
    problem: Problem,
    m: int,
    n: int,
    k: int,
    multiprocessors: int | None = None,
) -> Schedule:
    """The schedule to take: the tuned one; else what the model likes best.

    It chooses from the schedules that were made by hand where these are for chips like this one,
    else from the whole space. `multiprocessors` are those of the device, where they are known.
    """
    found = tuned(gpu, arch, problem, m, n, k)
    if found is not None:
        return found
    chip, device = target(arch), gpu_of(gpu, arch, multiprocessors)
    if chip.supports(WARPGROUPS):
        made = schedules(problem.b_dtype.name, problem.group_size, m, n, arch)
        plans = [checked_schedule(plan) for plan in made]
        return min(plans, key=lambda plan: estimate(plan, problem, m, n, k, device).seconds)
    (first, *_) = ranked(problem, m, n, k, device, chip, 1)
    return first.schedule


def of_architecture(arch: str, problem: Problem, m: int, n: int, k: int) -> list[Schedule]:
    """The tuned schedules of every GPU that was tuned, for code of that architecture."""
    found = [tuned(path.stem, arch, problem, m, n, k) for path in sorted(FOLDER.glob("*.jsonl"))]
    return list(dict.fromkeys(plan for plan in found if plan is not None))


@cache
def index(gpu: str) -> dict[Place, Shapes]:
    """The shipped schedules of a GPU by place, then by n and k; none for one nobody tuned."""
    found: dict[Place, Shapes] = {}
    for entry in load(FOLDER / f"{gpu}.jsonl"):
        found.setdefault(entry.place, {})[entry.n, entry.k] = entry.schedule
    return found


def load(path: Path) -> list[Entry]:
    """The entries of a file, none if there is no such file; TilusError for a damaged one."""
    if not path.exists():
        return []
    entries = [
        checked_entry(path, number, line)
        for number, line in enumerate(path.read_text().splitlines(), 1)
    ]
    if len(merged(entries)) < len(entries):
        raise TilusError(f"{path}: a shape has two schedules: remove one, or tune it again")
    return entries


def checked_entry(path: Path, number: int, line: str) -> Entry:
    """The entry of a line, or a sentence what is wrong with it."""
    try:
        told = json.loads(line)
        entry = Entry(**{**told, "schedule": checked_schedule(told["schedule"])})
        problem = entry.problem
        datetime.fromisoformat(entry.measured_at)
        right = (
            entry.gpu == path.stem
            and target(entry.arch).name == entry.arch
            and dtype(entry.b_dtype) == problem.b_dtype
            and min(entry.m, entry.n, entry.k) >= 1
            and entry.latency_us > 0
        )
    except (ValueError, TypeError, KeyError, TilusError) as error:
        raise TilusError(f"{path}:{number}: {error}: remove the line, or tune it again") from error
    if not right:
        raise TilusError(f"{path}:{number}: it is of no shape or of another GPU: remove the line")
    return entry


def merged(*sets: Iterable[Entry]) -> list[Entry]:
    """One entry for each place and shape, the one that was measured last, in order."""
    newest: dict[tuple[str, Place, int, int], Entry] = {}
    for entry in (entry for entries in sets for entry in entries):
        key = (entry.gpu, entry.place, entry.n, entry.k)
        known = newest.get(key)
        if known is None or moment(entry) >= moment(known):
            newest[key] = entry
    return [newest[key] for key in sorted(newest)]


def moment(entry: Entry) -> datetime:
    """When it was measured."""
    return datetime.fromisoformat(entry.measured_at)


def keep(entries: Iterable[Entry], folder: Path) -> list[Path]:
    """Merge the entries into the files of their GPUs, each whole or not at all; gives the files."""
    paths = []
    by_gpu: dict[str, list[Entry]] = {}
    for entry in entries:
        by_gpu.setdefault(entry.gpu, []).append(entry)
    for gpu, new in by_gpu.items():
        path = folder / f"{gpu}.jsonl"
        lines = [entry.line() for entry in merged(load(path), new)]
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text("".join(f"{line}\n" for line in lines))
        aside.replace(path)
        paths.append(path)
    index.cache_clear()
    return paths
