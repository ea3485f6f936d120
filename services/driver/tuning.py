"""What the tuner found: which cells are tuned, what goes into the shipped set, a line for each."""

from collections.abc import Iterable, Mapping, Sequence

from services.messages import Cell, RunRequest
from services.records import Record, gpu_folder
from services.revision import Revision
from tilus.kernels.schedule import checked_schedule
from tilus.tuned import Entry


def untuned(
    cells: Iterable[Cell], known: Mapping[Cell, Record], at: Revision, limit: int
) -> list[Cell]:
    """The cells that this very commit has not tuned yet, of so many kernels or more."""
    return [cell for cell in cells if not is_tuned(known.get(cell), at, limit)]


def is_tuned(record: Record | None, at: Revision, limit: int) -> bool:
    """Whether a record says all that this commit would find out; of a changed tree nothing does."""
    if record is None or record.status != "ok" or at.dirty or record.dirty:
        return False
    known = record.commit == at.commit != "unknown"
    return known and len(record.candidates) >= limit


def part(request: RunRequest, cell: Cell) -> RunRequest:
    """The part of a request that is one cell."""
    work = cell.workload
    one = {"dtypes": (work.b_dtype,), "shapes": ((work.k, work.n),), "batches": (work.m,)}
    return request.model_copy(update=one)


def entries(records: Iterable[Record]) -> list[Entry]:
    """What won, for the shipped set; nothing of cells without a time."""
    return [entry(record) for record in records if record.status == "ok" and record.kernel]


def entry(record: Record) -> Entry:
    """The winner of a record that has one, and where it is from."""
    if record.kernel is None or record.latency_ms is None:
        raise ValueError(f"a record of {record.executor} that is {record.status} has no winner")
    return Entry(
        gpu=gpu_folder(record.gpu.name),
        arch=record.kernel.arch,
        kernel=record.kernel.name,
        a_dtype=record.a_dtype,
        b_dtype=record.b_dtype,
        group_size=record.group_size,
        zeros=record.zeros,
        m=record.m,
        n=record.n,
        k=record.k,
        schedule=checked_schedule(record.kernel.schedule),
        commit=record.commit + "+" * record.dirty,
        measured_at=record.measured_at.isoformat(timespec="seconds"),
        latency_us=round(record.latency_ms * 1e3, 2),
        floor_us=None if record.floor_ms is None else round(record.floor_ms * 1e3, 2),
    )


def lines(cells: Sequence[Cell], known: Mapping[Cell, Record]) -> list[str]:
    """For each cell what won, or why nothing did."""
    return [line(cell, known.get(cell)) for cell in cells]


def line(cell: Cell, record: Record | None) -> str:
    """The time, by the floor, and the schedule; how many were tried, and how many were right."""
    work = cell.workload
    problem = f"{work.b_dtype} m={work.m} k={work.k} n={work.n}"
    if record is None:
        return f"{problem}: not measured"
    right = sum(tried.status == "ok" for tried in record.candidates)
    tried = f"{right} of {len(record.candidates)} were right"
    if record.latency_ms is None or record.kernel is None:
        return f"{problem}: {record.status}: {record.reason} ({tried})"
    ratio = f" ({record.floor_ratio:.3f} x floor)" if record.floor_ratio else ""
    chosen = " ".join(f"{name}={value}" for name, value in record.kernel.schedule.items())
    return f"{problem}: {record.latency_ms * 1e3:.1f} us{ratio}, {tried}: {chosen}"
