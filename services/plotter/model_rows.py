"""The rows of whole models in words, on each GPU, with another's numbers beside them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from services.comparison import NONE, ModelRow, step
from services.messages import ModelWorkload
from services.plotter import tables
from services.plotter.tables import Column, number
from services.records import ModelRecord, gpu_folder
from services.reference import Published


def compared(table: Sequence[ModelRow], published: Published, every_gpu: bool) -> list[ModelRow]:
    """The rows with another's numbers beside them.

    A figure of one GPU is compared with the file's nearest device; in a figure of several each
    device is itself, and those that only the file has get rows of their own.
    """
    if not every_gpu:
        gpu = next((row.gpu for row in table), "")
        return [
            replace(row, reference_ms=published.of_model(published.device(gpu), row.cell))
            for row in table
        ]
    devices = {gpu_folder(name): name for name in published.latencies}
    names = {folder: name.replace("-", " ") for folder, name in devices.items()}
    names |= {gpu_folder(row.gpu): row.gpu for row in table if row.gpu}
    known = {(gpu_folder(row.gpu), row.cell): row for row in table}
    return [
        replace(
            known.get((folder, cell)) or ModelRow(name, cell, None),
            reference_ms=published.of_model(devices[folder], cell) if folder in devices else None,
        )
        for folder, name in sorted(names.items())
        for cell in dict.fromkeys(row.cell for row in table)
    ]


def stage(work: ModelWorkload) -> str:
    """A step in words."""
    if work.stage == "prefill":
        return f"prefill, {work.tokens} tokens"
    return f"decode, batch {work.batch}"


Says = Callable[[ModelRow], str]


def _of_record(says: Callable[[ModelRecord], object]) -> Says:
    return lambda row: NONE if row.record is None else str(says(row.record))


CSV: dict[str, Says] = {
    "figure": lambda row: str(row.cell.figure),
    "gpu": lambda row: row.gpu or NONE,
    "executor": lambda row: row.cell.executor,
    "a_dtype": lambda row: row.cell.workload.a_dtype,
    "b_dtype": lambda row: row.cell.workload.b_dtype,
    "group_size": lambda row: str(row.cell.workload.group_size),
    "zeros": lambda row: str(row.cell.workload.zeros),
    "model": lambda row: row.cell.workload.model,
    "stage": lambda row: row.cell.workload.stage,
    "batch": lambda row: str(row.cell.workload.batch),
    "tokens": lambda row: str(row.cell.workload.tokens),
    "status": lambda row: row.status,
    "latency_ms": lambda row: number(row.latency_ms),
    "speedup": lambda row: number(row.speedup, 4),
    "memory_gb": _of_record(lambda record: number(record.memory_gb, 2)),
    "engine": _of_record(lambda record: record.engine),
    "measured_at": _of_record(lambda record: record.measured_at.isoformat(timespec="seconds")),
    "commit": _of_record(lambda record: record.commit),
    "reason": _of_record(lambda record: record.reason or ""),
}
REFERENCE_CSV: dict[str, Says] = {
    "reference_latency_ms": lambda row: number(row.reference_ms),
    "latency_over_reference": lambda row: number(row.ratio, 4),
}
TEXT: tuple[Column[ModelRow], ...] = (
    Column("gpu", -22, lambda row: row.gpu or NONE),
    Column("model", -12, CSV["model"]),
    Column("step", -20, lambda row: stage(row.cell.workload)),
    Column("weight", -8, CSV["b_dtype"]),
    Column("executor", -10, CSV["executor"]),
    Column("ms", 9, lambda row: _latency(row)),
    Column("over f16", 8, lambda row: _times(row.speedup)),
)
REFERENCE_TEXT: tuple[Column[ModelRow], ...] = (
    Column("ref ms", 9, lambda row: number(row.reference_ms, 2)),
    Column("ours/ref", 8, lambda row: number(row.ratio, 2)),
)
NOTE: Column[ModelRow] = Column("", -1, lambda row: (row.record and row.record.reason) or "")


def as_csv(table: Iterable[ModelRow], published: bool = False) -> str:
    """One line a cell and GPU, n/a where nothing is known."""
    return tables.as_csv(CSV | REFERENCE_CSV if published else CSV, table)


def as_text(table: Sequence[ModelRow], words: Sequence[str], published: bool = False) -> str:
    """The table for reading: a blank line between steps."""
    columns = (*TEXT, *(REFERENCE_TEXT if published else ()), NOTE)
    return tables.as_text(columns, table, lambda row: (row.gpu, step(row.cell)), words)


def _latency(row: ModelRow) -> str:
    return row.status if row.latency_ms is None else f"{row.latency_ms:.2f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"
