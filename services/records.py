"""Result records: one measured cell as one JSON line, written once, never edited."""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.figures import TABLES
from services.messages import Cell, KernelSpec, ModelCell, ModelWorkload, Workload
from tilus.gpus import folder_name

Status = Literal["ok", "unsupported", "oom", "wrong", "failed", "timeout"]
Parameters = dict[str, int | bool | str]
CLOCK_TOLERANCE = 0.01
FIXTURE = "Fixture"  # a device whose name begins so does not exist: its numbers are made up

Line = TypeVar("Line", bound="_Measured")
Place = TypeVar("Place")


class RecordError(ValueError):
    """A record file holds something that is not a record."""


class _Row(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, protected_namespaces=()
    )


class Gpu(_Row):
    """The device around the timing: MHz, degrees Celsius, watts; pairs: before, after."""

    name: str
    uuid: str
    driver: str
    arch: str
    sm_mhz: tuple[int, int] | None = None
    mem_mhz: int | None = None
    temperature_c: tuple[int, int] | None = None
    power_w: float | None = None
    throttled: bool | None = None
    locked_mhz: int | None = None

    @property
    def unsteady(self) -> bool:
        """Whether a clock was more than 1% off: off the locked one, else off the one before."""
        if self.sm_mhz is None:
            return False
        right = self.locked_mhz or self.sm_mhz[0]
        return any(abs(mhz - right) > CLOCK_TOLERANCE * right for mhz in self.sm_mhz)

    @property
    def fixture(self) -> bool:
        """Whether the device is a test's invention."""
        return self.name.startswith(FIXTURE)


class Kernel(_Row):
    """The kernel that was timed: `parameters` state the problem, `schedule` is tuning's."""

    key: str
    cubin_sha256: str
    name: str
    arch: str
    parameters: Parameters = {}
    schedule: Parameters = {}


class Candidate(_Row):
    """One kernel that was tried: what became of it, the median of a short timing in ms."""

    key: str
    schedule: Parameters = {}
    status: Status
    reason: str | None = None
    latency_ms: float | None = None
    relative_error: float | None = None


class _Measured(_Row):
    """What every record says: who, on weights of what type, how it ended, where and when.

    Times are in ms.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    figure: int
    executor: str
    a_dtype: str = "float16"
    b_dtype: str
    group_size: int
    zeros: bool
    status: Status
    reason: str | None = None
    latency_ms: float | None = None
    min_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    samples_ms: tuple[float, ...] = ()
    gpu: Gpu
    versions: dict[str, str] = {}
    commit: str
    dirty: bool
    measured_at: AwareDatetime

    @model_validator(mode="after")
    def _status_agrees_with_numbers(self) -> Self:
        if self.status == "ok" and (self.latency_ms is None or self.reason is not None):
            raise ValueError("an ok record has a latency and no reason")
        if self.status != "ok" and (self.latency_ms is not None or not self.reason):
            raise ValueError(f"a record with status {self.status} has a reason and no latency")
        return self

    def line(self) -> str:
        """The record as one line of JSON, without its newline."""
        return self.model_dump_json(by_alias=True)


class Record(_Measured):
    """One measured product; `bytes` is what must move, the weight is [k, n].

    `empty_ms` is the time of a kernel that does nothing, measured as `latency_ms` is, and
    `empty_graph_ms` the same inside a CUDA graph.
    """

    m: int
    n: int
    k: int
    graph_latency_ms: float | None = None
    bytes: int
    floor_ms: float | None = None
    empty_ms: float | None = None
    empty_graph_ms: float | None = None
    floor_ratio: float | None = None
    relative_error: float | None = None
    inputs_sha256: str | None = None
    kernel: Kernel | None = None
    candidates: tuple[Candidate, ...] = ()

    @property
    def cell(self) -> Cell:
        """The cell of a figure that this record fills."""
        return Cell(
            figure=self.figure,
            executor=self.executor,
            workload=Workload(
                a_dtype=self.a_dtype,
                b_dtype=self.b_dtype,
                group_size=self.group_size,
                zeros=self.zeros,
                m=self.m,
                n=self.n,
                k=self.k,
            ),
        )

    @property
    def kernel_spec(self) -> KernelSpec | None:
        """What a compile worker needs to build the timed kernel again; None for a library call."""
        if self.kernel is None:
            return None
        return KernelSpec(
            executor=self.executor,
            kernel=self.kernel.name,
            parameters=self.kernel.parameters | self.kernel.schedule,
            arch=self.kernel.arch,
        )


class ModelRecord(_Measured):
    """One measured step of a whole model; `engine` is what ran it, `tokens` are the batch's."""

    model: str
    engine: str
    stage: Literal["decode", "prefill"]
    batch: int
    tokens: int
    memory_gb: float | None = None

    @property
    def cell(self) -> ModelCell:
        """The cell of a figure that this record fills."""
        return ModelCell(
            figure=self.figure,
            executor=self.executor,
            workload=ModelWorkload(
                model=self.model,
                stage=self.stage,
                batch=self.batch,
                tokens=self.tokens,
                a_dtype=self.a_dtype,
                b_dtype=self.b_dtype,
                group_size=self.group_size,
                zeros=self.zeros,
            ),
        )


def gpu_folder(name: str) -> str:
    """The folder of a device's records."""
    return folder_name(name)


def record_path(root: Path, gpu: str, figure: int) -> Path:
    """Where the records of `figure` on the device called `gpu` lie under `root`."""
    return root / gpu_folder(gpu) / file_name(figure)


def record_paths(root: Path, figure: int) -> list[Path]:
    """The files with records of `figure` under `root`, one a GPU, by its folder's name."""
    return sorted(root.glob(f"*/{file_name(figure)}"))


def file_name(figure: int) -> str:
    """The name of a file with records of `figure`; what has no picture has one of its own."""
    return TABLES.get(figure, f"figure{figure}.jsonl")


def append(path: Path, record: Record | ModelRecord) -> None:
    """Add `record` to the file for good: whole or not at all, after the lines that are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _drop_torn_line(file.fileno())
        file.write(record.line().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _drop_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    content = os.pread(descriptor, size, 0)
    whole = content.rfind(b"\n") + 1
    if whole < size:
        os.ftruncate(descriptor, whole)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path) -> list[Record]:
    """Every record of a file, oldest first; a last line with no newline was never written."""
    return _load(path, Record)


def load_models(path: Path) -> list[ModelRecord]:
    """Every record of a file of whole models, likewise."""
    return _load(path, ModelRecord)


def _load(path: Path, kind: type[Line]) -> list[Line]:
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    return _parsed(path, lines, 0, kind)


def _parsed(path: Path, lines: Iterable[bytes], before: int, kind: type[Line]) -> list[Line]:
    numbered = enumerate(lines, before + 1)
    return [_parse(path, number, line, kind) for number, line in numbered if line.strip()]


def _parse(path: Path, number: int, line: bytes, kind: type[Line]) -> Line:
    with suppress(ValidationError):
        return kind.model_validate_json(line)
    try:  # once more, for words that name the field
        return kind.model_validate(json.loads(line))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}:{number}: not JSON ({error}): remove the line") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "record"
        raise RecordError(
            f"{path}:{number}: {field}: {first['msg']}: remove the line or measure again"
        ) from error


def newest(records: Iterable[Record]) -> dict[Cell, Record]:
    """The record that counts for each cell: the latest `measured_at`, then the last written."""
    return _newest(records, lambda record: record.cell)


def newest_models(records: Iterable[ModelRecord]) -> dict[tuple[str, ModelCell], ModelRecord]:
    """The record that counts for each cell on each GPU, by the name of its folder."""
    return _newest(records, lambda record: (gpu_folder(record.gpu.name), record.cell))


def _newest(records: Iterable[Line], place: Callable[[Line], Place]) -> dict[Place, Line]:
    latest: dict[Place, Line] = {}
    for record in records:
        known = latest.get(place(record))
        if known is None or record.measured_at >= known.measured_at:
            latest[place(record)] = record
    return latest


class Ledger:
    """The records that count of a file which grows: only what was added is read again.

    A file that was replaced, or is shorter than it was, is read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._forget(0)

    def newest(self) -> dict[Cell, Record]:
        """The record that counts for each cell now."""
        with self._lock:
            try:
                file = self._path.open("rb")
            except FileNotFoundError:
                return {}
            with file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._bytes:
                    self._forget(status.st_ino)
                file.seek(self._bytes)
                *lines, _torn = file.read().split(b"\n")
            for record in _parsed(self._path, lines, self._lines, Record):
                _count(self._newest, record)
            self._bytes += sum(len(line) + 1 for line in lines)
            self._lines += len(lines)
            return dict(self._newest)

    def _forget(self, inode: int) -> None:
        self._inode, self._bytes, self._lines = inode, 0, 0
        self._newest: dict[Cell, Record] = {}


@lru_cache(maxsize=64)
def ledger(path: Path) -> Ledger:
    """The ledger of a file, which this process keeps."""
    return Ledger(path)


def finished(
    records: Mapping[Cell, Record], cell: Cell, keys: Iterable[str], uuid: str
) -> Record | None:
    """The record that makes measuring needless: good, same kernels offered, same device."""
    record = records.get(cell)
    if record is None or record.status != "ok" or record.gpu.uuid != uuid:
        return None
    return record if {tried.key for tried in record.candidates} == set(keys) else None


def _count(latest: dict[Cell, Record], record: Record) -> None:
    cell = record.cell
    known = latest.get(cell)
    if known is None or record.measured_at >= known.measured_at:
        latest[cell] = record
