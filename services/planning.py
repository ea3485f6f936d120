"""What a run has to do: its cells as tasks, those marked whose results are there."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import tilus
from services.executors import tilus as ours
from services.executors.base import Executor, ExecutorError
from services.experiments import MODEL_FIGURES
from services.figures import TABLES, TUNE
from services.fleet import Fleet
from services.messages import Cell, KernelSpec, Plan, RunRequest, Task
from services.records import (
    Record,
    finished,
    ledger,
    load_models,
    newest_models,
    record_path,
    record_paths,
)
from services.reference import check_reference
from services.selection import BadRequest, no_records, selected, selected_models
from services.tasks import CHECKED, check_task, compile_task, draw_task, measure_task

RECORDED_ON = "nvidia-h100-80gb-hbm3"


class Work(NamedTuple):
    """The tasks of a run but for its drawing, and what is to be said about its cells."""

    tasks: list[Task]
    missing: dict[str, int]
    changed: int = 0


def recorded_gpus(root: Path, figure: int) -> list[str]:
    """The folder names of the GPUs that have records of a figure, the reference GPU first."""
    found = [path.parent.name for path in record_paths(root, figure)]
    return sorted(found, key=lambda name: (name != RECORDED_ON, name))


def plan(request: RunRequest, fleet: Fleet, now: datetime | None = None) -> Plan:
    """The tasks of a run, those marked whose results are there; BadRequest if it cannot be."""
    check_reference(request)
    gpus = recorded_gpus(fleet.settings.recorded, request.figure)
    gpu = request.gpu or (gpus or [RECORDED_ON])[0]
    created_at = now or datetime.now(UTC)
    match request.mode:
        case _ if request.figure in MODEL_FIGURES:
            gpu = request.gpu if MODEL_FIGURES[request.figure].every_gpu else gpu
            work = _of_models(request, gpu, fleet)
        case "recorded" if request.figure in TABLES:
            raise BadRequest(
                "the benchmark and the tuner have nothing to draw from records: they measure"
            )
        case "recorded":
            work = _recorded(request, gpu, selected(request), fleet)
        case "measured":
            if not request.gpu:
                raise BadRequest("a measured run needs the name of its GPU")
            work = _measured(request, selected(request), fleet)
    waits = tuple(task.id for task in work.tasks if not task.stored and task.kind != "compile")
    drawings = [] if request.figure in TABLES else [draw_task(request, gpu, waits)]
    return Plan(
        id=request.key()[:16],
        request=request,
        created_at=created_at,
        tasks=(*work.tasks, *drawings),
        missing=work.missing,
        changed=work.changed,
    )


def _of_models(request: RunRequest, gpu: str, fleet: Fleet) -> Work:
    """Nothing to do but to draw what is recorded, of one GPU or, where none is named, of all."""
    cells = selected_models(request)
    root = fleet.settings.recorded
    why = no_records(request.figure, root)
    if why is not None or request.mode == "measured":
        raise BadRequest(why or f"figure {request.figure} can only be drawn from records")
    records = newest_models(
        record
        for name in ([gpu] if gpu else recorded_gpus(root, request.figure))
        for record in load_models(record_path(root, name, request.figure))
    )
    gpus = {name for name, _ in records} or {gpu}
    missing = Counter(c.executor for g in gpus for c in cells if (g, c) not in records)
    return Work([], missing)


def _recorded(request: RunRequest, gpu: str, cells: Iterable[Cell], fleet: Fleet) -> Work:
    records = ledger(record_path(fleet.settings.recorded, gpu, request.figure)).newest()
    executor = fleet.executors.get(CHECKED)
    specs: dict[str, KernelSpec] = {}
    changed: set[str] = set()
    for cell in cells:
        if executor is None or cell.executor != CHECKED:
            continue
        record = records.get(cell)
        spec = _recorded_spec(cell, record, request.arch, executor)
        if spec is None:
            continue
        key = executor.key(spec)
        specs[key] = spec
        if record is not None and record.kernel is not None and record.kernel.key != key:
            changed.add(key)
    return Work(
        [compile_task(key, spec, fleet.store) for key, spec in specs.items()]
        + [check_task(key, spec, fleet.store) for key, spec in specs.items()],
        missing=Counter(cell.executor for cell in cells if cell not in records),
        changed=len(changed),
    )


def _recorded_spec(
    cell: Cell, record: Record | None, arch: str, executor: Executor
) -> KernelSpec | None:
    """The kernel that was measured; where there is none, the one that would be tried first."""
    if record is not None and record.kernel_spec is not None:
        with suppress(tilus.TilusError, ExecutorError):  # no kernel of that kind is made any more
            executor.key(record.kernel_spec)
            return record.kernel_spec
    if executor.refusal(cell.workload) is not None:
        return None
    return executor.candidates(cell.workload, arch)[0]


def _measured(request: RunRequest, cells: Iterable[Cell], fleet: Fleet) -> Work:
    records = ledger(record_path(fleet.settings.results, request.gpu, request.figure)).newest()
    compiles: dict[str, Task] = {}
    measures: list[Task] = []
    unmeasured: Counter[str] = Counter()
    for cell in cells:
        executor = fleet.executors.get(cell.executor)
        if executor is None or executor.refusal(cell.workload) is not None:
            unmeasured[cell.executor] += 1
            continue
        specs = _candidates(request, cell, executor)
        keys = [executor.key(spec) for spec in specs]
        done = None if request.fresh else finished(records, cell, keys, request.uuid)
        needed = {}
        if done is None:
            needed = {
                key: compiles.get(key) or compile_task(key, spec, fleet.store)
                for key, spec in zip(keys, specs, strict=True)
            }
        missing = tuple(task.id for task in needed.values() if not task.stored)
        if missing and executor.absence() is not None:
            unmeasured[cell.executor] += 1
            continue
        compiles |= needed
        measures.append(measure_task(request, cell, specs, keys, missing, stored=done is not None))
    return Work([*compiles.values(), *measures], unmeasured)


def _candidates(request: RunRequest, cell: Cell, executor: Executor) -> list[KernelSpec]:
    """The kernels to choose from: the executor's own, for the tuner many more."""
    if request.figure == TUNE:
        return ours.space(cell.workload, request.arch, request.gpu, request.limit)
    return executor.candidates(cell.workload, request.arch)
