"""What a figure says of each cell, as numbers: the same rows are drawn, tabled and shown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.experiments import BASELINE, baseline
from services.messages import Cell, ModelCell
from services.records import ModelRecord, Record
from services.reference import Published

NONE = "n/a"
ModelRecords = Mapping[tuple[str, ModelCell], ModelRecord]


@dataclass(frozen=True)
class Row:
    """One cell: its record, None where nothing was measured, and its speed over the baseline's.

    `reference_ms` and `reference_speedup` are those of another's numbers, None where it has none.
    """

    cell: Cell
    record: Record | None
    speedup: float | None
    reference_ms: float | None = None
    reference_speedup: float | None = None

    @property
    def status(self) -> str:
        """The record's status, or n/a."""
        return self.record.status if self.record else NONE

    @property
    def latency_ms(self) -> float | None:
        """The record's latency."""
        return self.record.latency_ms if self.record else None

    @property
    def ratio(self) -> float | None:
        """Our speedup over the reference's, each over the baseline of its own device."""
        return quotient(self.speedup, self.reference_speedup)


@dataclass(frozen=True)
class ModelRow:
    """One cell on one GPU: its record, None where nothing was measured.

    `gpu` is the device's name, empty where there is none; `baseline_ms` the latency in f16.
    """

    gpu: str
    cell: ModelCell
    record: ModelRecord | None
    baseline_ms: float | None = None
    reference_ms: float | None = None

    @property
    def status(self) -> str:
        """The record's status, or n/a."""
        return self.record.status if self.record else NONE

    @property
    def latency_ms(self) -> float | None:
        """The record's latency."""
        return self.record.latency_ms if self.record else None

    @property
    def speedup(self) -> float | None:
        """Its speed over that in f16."""
        return quotient(self.baseline_ms, self.latency_ms)

    @property
    def ratio(self) -> float | None:
        """Our latency over the reference's."""
        return quotient(self.latency_ms, self.reference_ms)


def rows(
    cells: Iterable[Cell], records: Mapping[Cell, Record], published: Published | None = None
) -> list[Row]:
    """One row for each cell, in order."""
    device = None if published is None else published.device(gpu_of(records))

    def reference(cell: Cell) -> float | None:
        return published.of(device, cell) if published and device else None

    return [
        Row(
            cell,
            records.get(cell),
            _speedup(cell, records),
            reference(cell),
            quotient(reference(baseline(cell)), reference(cell)),
        )
        for cell in cells
    ]


def model_rows(cells: Sequence[ModelCell], records: ModelRecords) -> list[ModelRow]:
    """A row for each cell on each GPU that has records of any, GPUs by name; else on no GPU."""
    names = {folder: record.gpu.name for (folder, _), record in records.items()} or {"": ""}
    table = [
        ModelRow(name, cell, records.get((folder, cell)))
        for folder, name in sorted(names.items())
        for cell in cells
    ]
    base = {
        (row.gpu, step(row.cell)): row.latency_ms for row in table if row.cell.executor == BASELINE
    }
    return [replace(row, baseline_ms=base.get((row.gpu, step(row.cell)))) for row in table]


def step(cell: ModelCell) -> tuple[str, str, int, int]:
    """What the executors of a model's step have in common."""
    work = cell.workload
    return work.model, work.stage, work.batch, work.tokens


def gpu_of(records: Mapping[Cell, Record]) -> str:
    """The GPU that the records are of; no name where there are none."""
    return next((record.gpu.name for record in records.values()), "")


def quotient(over: float | None, under: float | None) -> float | None:
    """One by the other, where both are there."""
    return over / under if over is not None and under else None


def _speedup(cell: Cell, records: Mapping[Cell, Record]) -> float | None:
    this, base = records.get(cell), records.get(baseline(cell))
    if this is None or base is None:
        return None
    return quotient(base.latency_ms, this.latency_ms)
