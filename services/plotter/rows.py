"""The rows of products in words: a table for programs, text for people, one against another."""

import math
from collections.abc import Callable, Iterable, Sequence

from services.comparison import NONE, Row, quotient
from services.experiments import BASELINE
from services.plotter import tables
from services.plotter.tables import Column, number
from services.records import Record


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


Says = Callable[[Row], str]


def _of_record(says: Callable[[Record], object]) -> Says:
    return lambda row: NONE if row.record is None else str(says(row.record))


CSV: dict[str, Says] = {
    "figure": lambda row: str(row.cell.figure),
    "executor": lambda row: row.cell.executor,
    "a_dtype": lambda row: row.cell.workload.a_dtype,
    "b_dtype": lambda row: row.cell.workload.b_dtype,
    "group_size": lambda row: str(row.cell.workload.group_size),
    "zeros": lambda row: str(row.cell.workload.zeros),
    "m": lambda row: str(row.cell.workload.m),
    "k": lambda row: str(row.cell.workload.k),
    "n": lambda row: str(row.cell.workload.n),
    "status": lambda row: row.status,
    "latency_ms": lambda row: number(row.latency_ms),
    "floor_ms": _of_record(lambda record: number(record.floor_ms)),
    "ratio_to_floor": _of_record(lambda record: number(record.floor_ratio, 4)),
    "speedup": lambda row: number(row.speedup, 4),
    "relative_error": lambda row: _error(row, 3),
    "graph_latency_ms": _of_record(lambda record: number(record.graph_latency_ms)),
    "kernel_key": _of_record(lambda record: record.kernel.key if record.kernel else NONE),
    "gpu": _of_record(lambda record: record.gpu.name),
    "measured_at": _of_record(lambda record: record.measured_at.isoformat(timespec="seconds")),
    "commit": _of_record(lambda record: record.commit),
    "reason": _of_record(lambda record: record.reason or ""),
}
REFERENCE_CSV: dict[str, Says] = {
    "reference_latency_ms": lambda row: number(row.reference_ms),
    "reference_speedup": lambda row: number(row.reference_speedup, 4),
    "latency_over_reference": lambda row: number(quotient(row.latency_ms, row.reference_ms), 4),
    "speedup_over_reference": lambda row: number(row.ratio, 4),
}
TEXT: tuple[Column[Row], ...] = (
    Column("m", 5, CSV["m"]),
    Column("k", 6, CSV["k"]),
    Column("n", 6, CSV["n"]),
    Column("weight", -12, CSV["b_dtype"]),
    Column("executor", -10, CSV["executor"]),
    Column("us", 9, lambda row: _latency(row)),
    Column("speedup", 8, lambda row: _measured(row, _times(row.speedup))),
    Column("x floor", 8, lambda row: _measured(row, _floor(row))),
    Column("error", 8, lambda row: _measured(row, _error(row, 1))),
)
REFERENCE_TEXT: tuple[Column[Row], ...] = (
    Column("ref us", 9, lambda row: _us(row.reference_ms)),
    Column("ref speedup", 11, lambda row: _times(row.reference_speedup)),
    Column("ours/ref", 8, lambda row: number(row.ratio, 2)),
)
NOTE: Column[Row] = Column("", -1, lambda row: _note(row))


def as_csv(table: Iterable[Row], published: bool = False) -> str:
    """One line a cell, n/a where nothing is known; with the reference's numbers if it is there."""
    return tables.as_csv(CSV | REFERENCE_CSV if published else CSV, table)


def as_text(table: Sequence[Row], words: Sequence[str], published: bool = False) -> str:
    """The table for reading: one line a cell, a blank one between shapes."""
    columns = (*TEXT, *(REFERENCE_TEXT if published else ()), NOTE)
    return tables.as_text(columns, table, _shape, words)


def _shape(row: Row) -> tuple[int, int, int]:
    work = row.cell.workload
    return work.m, work.k, work.n


def _latency(row: Row) -> str:
    return row.status if row.latency_ms is None else _us(row.latency_ms)


def _us(milliseconds: float | None) -> str:
    return NONE if milliseconds is None else f"{milliseconds * 1000:.1f}"


def _times(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}x"


def _error(row: Row, digits: int) -> str:
    error = row.record.relative_error if row.record else None
    return NONE if error is None else f"{error:.{digits}e}"


def _floor(row: Row) -> str:
    return number(row.record.floor_ratio if row.record else None, 2)


def _measured(row: Row, word: str) -> str:
    """What is only said of a cell that has a time."""
    return "" if row.latency_ms is None else word


def _note(row: Row) -> str:
    if row.record is None:
        return ""
    gpu = row.record.gpu
    flags = ["throttled"] * bool(gpu.throttled) + ["clock moved"] * gpu.unsteady
    return row.record.reason or ", ".join(flags)
