"""What a figure says of each cell, as numbers: the same rows are drawn, tabled and exported."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.experiments import BASELINE, baseline
from services.messages import Cell
from services.records import Record

NONE = "n/a"


@dataclass(frozen=True)
class Row:
    """One cell: its record, None where nothing was measured, and its speed over the baseline's."""

    cell: Cell
    record: Record | None
    speedup: float | None

    @property
    def status(self) -> str:
        """The record's status, or n/a."""
        return self.record.status if self.record else NONE


def rows(cells: Iterable[Cell], records: Mapping[Cell, Record]) -> list[Row]:
    """One row for each cell, in order."""
    return [Row(cell, records.get(cell), _speedup(cell, records)) for cell in cells]


def _speedup(cell: Cell, records: Mapping[Cell, Record]) -> float | None:
    this, base = records.get(cell), records.get(baseline(cell))
    if this is None or base is None or this.latency_ms is None or base.latency_ms is None:
        return None
    return base.latency_ms / this.latency_ms


def geometric_mean(numbers: Sequence[float]) -> float:
    """The number whose logarithm is the mean of theirs."""
    return math.exp(sum(math.log(number) for number in numbers) / len(numbers))


def against(table: Sequence[Row], ours: str) -> dict[str, tuple[float, int]]:
    """For each other executor: the geometric mean of its latency over ours, and of how many."""
    mine = {row.cell.workload: row for row in table if row.cell.executor == ours}
    ratios: dict[str, list[float]] = {}
    for row in table:
        twin = mine.get(row.cell.workload)
        if row.cell.executor in (ours, BASELINE) or twin is None:
            continue
        if row.speedup is not None and twin.speedup is not None:
            ratios.setdefault(row.cell.executor, []).append(twin.speedup / row.speedup)
    return {name: (geometric_mean(found), len(found)) for name, found in ratios.items()}


COLUMNS = (
    "figure",
    "executor",
    "a_dtype",
    "b_dtype",
    "group_size",
    "zeros",
    "m",
    "k",
    "n",
    "status",
    "latency_ms",
    "floor_ms",
    "ratio_to_floor",
    "speedup",
    "relative_error",
    "graph_latency_ms",
    "kernel_key",
    "gpu",
    "measured_at",
    "commit",
    "reason",
)


def as_csv(table: Iterable[Row]) -> str:
    """One line a cell, n/a where nothing is known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_fields(row) for row in table)
    return text.getvalue()


def _fields(row: Row) -> list[str]:
    cell, shape, record = row.cell, row.cell.workload, row.record
    known: list[object] = [cell.figure, cell.executor, shape.a_dtype, shape.b_dtype]
    known += [shape.group_size, shape.zeros, shape.m, shape.k, shape.n, row.status]
    if record is None:
        return [*map(str, known), *[NONE] * (len(COLUMNS) - len(known))]
    measured = [
        _number(record.latency_ms),
        _number(record.floor_ms),
        _number(record.floor_ratio, 4),
        _number(row.speedup, 4),
        NONE if record.relative_error is None else f"{record.relative_error:.3e}",
        _number(record.graph_latency_ms),
        record.kernel.key if record.kernel else NONE,
        record.gpu.name,
        record.measured_at.isoformat(timespec="seconds"),
        record.commit,
        record.reason or "",
    ]
    return [*map(str, known), *measured]


def _number(number: float | None, digits: int = 6) -> str:
    return NONE if number is None else f"{number:.{digits}f}"


def as_text(table: Sequence[Row], heading: str, footer: str) -> str:
    """The table for reading: one line a cell, a blank one between weight shapes."""
    head = ("m", "k", "n", "weight", "executor", "us", "speedup", "x floor", "error", "")
    lines = [_line(head)]
    shape = None
    for row in table:
        work = row.cell.workload
        if (work.m, work.k, work.n) != shape:
            shape = (work.m, work.k, work.n)
            lines.append("")
        lines.append(_line(_columns(row)))
    return "\n".join([heading, "", *lines, "", footer, ""])


def _columns(row: Row) -> tuple[str, ...]:
    work, record = row.cell.workload, row.record
    first = (str(work.m), str(work.k), str(work.n), work.b_dtype, row.cell.executor)
    if record is None:
        return (*first, NONE, "", "", "", "")
    if record.latency_ms is None:
        return (*first, record.status, "", "", "", record.reason or "")
    return (
        *first,
        f"{record.latency_ms * 1000:.1f}",
        f"{row.speedup:.2f}x" if row.speedup else NONE,
        f"{record.floor_ratio:.2f}" if record.floor_ratio else NONE,
        f"{record.relative_error:.1e}" if record.relative_error is not None else NONE,
        "throttled" if record.gpu.throttled else "",
    )


WIDTHS = (4, 6, 6, -12, -10, 9, 8, 8, 8, -1)


def _line(parts: Sequence[str]) -> str:
    return "  ".join(
        part.rjust(width) if width > 0 else part.ljust(-width)
        for part, width in zip(parts, WIDTHS, strict=True)
    ).rstrip()
