"""A run: a figure as tasks, each of which leaves a result under a key.

A run is worked out anew from what is on disk each time it is asked for: what the store and the
records already hold is not queued again, whatever was killed in between. Redis only carries what is
on its way.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from redis import Redis

import tilus
from services import queue
from services.building import check_key
from services.executors import tilus as ours
from services.executors.base import Executor, ExecutorError
from services.experiments import MODEL_FIGURES
from services.figures import TABLES, TUNE
from services.messages import (
    Cause,
    Cell,
    Drawing,
    Failure,
    KernelSpec,
    Measurement,
    Plan,
    RunRequest,
    RunState,
    Task,
    TaskKind,
    TaskState,
)
from services.queue import (
    COMPILE,
    DRAW,
    FleetQueue,
    Function,
    Piece,
    Standing,
    measure_queue,
    standings,
    submit,
)
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
from services.settings import Settings
from services.signing import serializer
from services.store import Folder, Store, write_atomic

CHECKED = "tilus"
RECORDED_ON = "nvidia-h100-80gb-hbm3"
FORMATS = ("pdf", "png", "svg", "csv", "txt")
FUNCTION: dict[TaskKind, Function] = {
    "compile": "services.compiler.jobs.build",
    "check": "services.compiler.jobs.check",
    "measure": "services.runner.jobs.measure",
    "draw": "services.plotter.jobs.draw",
}
UNFINISHED: frozenset[TaskState] = frozenset({"waiting", "running"})
# How many pieces of work a batch has at most, and into how many batches each worker's part goes.
BATCH, SHARES = 32, 4


@dataclass(frozen=True)
class Fleet:
    """What a run is worked out from: the knobs, the artifacts, the queue, the executors."""

    settings: Settings
    store: Folder
    connection: Redis
    executors: Mapping[str, Executor]

    def queue(self, name: str) -> FleetQueue:
        """A queue of this fleet, whose jobs are written as its workers expect them."""
        settings = self.settings
        written = serializer(settings.redis_url, settings.queue_key.get_secret_value())
        return FleetQueue(name, self.connection, written)


@dataclass(frozen=True)
class Finding:
    """Where one task stands; `lost`: it has no result, and nobody is to make it."""

    state: TaskState
    reason: str | None = None
    cause: Cause | None = None
    relative_error: float | None = None
    seconds: float = 0.0
    lost: bool = False


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
    drawings = [] if request.figure in TABLES else [_drawing(request, gpu, waits)]
    return Plan(
        id=request.key()[:16],
        request=request,
        created_at=created_at,
        tasks=(*work.tasks, *drawings),
        missing=work.missing,
        changed=work.changed,
    )


def start(plan: Plan, fleet: Fleet) -> None:
    """Write the run down, then queue every task whose result is not there, each once."""
    write_atomic(_path(plan.id, fleet.settings), plan.model_dump_json().encode())
    _cancelled(plan, fleet).unlink(missing_ok=True)
    queue_tasks([task for task in plan.tasks if not task.stored], plan.request.gpu, fleet)


def resume(plan: Plan, fleet: Fleet) -> bool:
    """Queue again what got lost on its way: tasks with no result that nobody will work on.

    Returns whether there is anything to wait for.
    """
    findings = _findings(plan, fleet)
    queue_tasks([task for task, found in findings if found.lost], plan.request.gpu, fleet)
    return any(found.state in UNFINISHED for _, found in findings)


def cancel(plan: Plan, fleet: Fleet) -> None:
    """Take the run's waiting work out of the queue; what runs is finished."""
    _cancelled(plan, fleet).touch()
    queue.cancel(fleet.queue(COMPILE), [task.id for task in plan.tasks])


def is_cancelled(plan: Plan, fleet: Fleet) -> bool:
    """Whether the run was taken back since it was last begun."""
    return _cancelled(plan, fleet).exists()


def _cancelled(plan: Plan, fleet: Fleet) -> Path:
    return _path(plan.id, fleet.settings).with_suffix(".cancelled")


def find(identity: str, settings: Settings) -> Plan | None:
    """The run of that id, None if there is none."""
    path = _path(identity, settings)
    return read(path) if path.exists() else None


def every(settings: Settings) -> list[Plan]:
    """All runs that were ever started here, oldest first."""
    return [read(path) for path in written(settings)]


def written(settings: Settings) -> list[Path]:
    """The files of all runs that were ever started here, oldest first."""
    return sorted((settings.state / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime)


def read(path: Path) -> Plan:
    """The run that was written down in a file."""
    return Plan.model_validate_json(path.read_bytes())


def state(plan: Plan, fleet: Fleet) -> RunState:
    """Where a run stands now."""
    findings = _findings(plan, fleet)
    counts: dict[TaskKind, dict[TaskState, int]] = {}
    for (kind, found), number in Counter((t.kind, f.state) for t, f in findings).items():
        counts.setdefault(kind, {})[found] = number
    errors = [f.relative_error for _, f in findings if f.relative_error is not None]
    figures = fleet.settings.results
    return RunState(
        id=plan.id,
        request=plan.request,
        created_at=plan.created_at,
        finished=not any(f.state in UNFINISHED for _, f in findings),
        counts=counts,
        failures=tuple(
            Failure(
                kind=t.kind, title=t.title, reason=f.reason or "no reason was given", cause=f.cause
            )
            for t, f in findings
            if f.state == "failed"
        ),
        missing=plan.missing,
        changed=plan.changed,
        largest_error=max(errors, default=None),
        check_seconds=sum(f.seconds for _, f in findings),
        figures=tuple(
            name
            for name in (f"figure{plan.request.figure}.{kind}" for kind in FORMATS)
            if (figures / name).exists()
        ),
    )


def compile_task(key: str, spec: KernelSpec, store: Store) -> Task:
    """The compilation of a spec whose key is known."""
    return _kernel_task("compile", key, spec, store)


def check_task(kernel_key: str, spec: KernelSpec, store: Store) -> Task:
    """The CPU check of a spec whose key is known."""
    return _kernel_task("check", check_key(kernel_key), spec, store)


def _kernel_task(
    kind: Literal["compile", "check"], key: str, spec: KernelSpec, store: Store
) -> Task:
    return Task(
        kind=kind,
        id=f"{kind}-{key}",
        key=key,
        title=title(spec),
        message=spec.model_dump(mode="json"),
        stored=store.get_manifest(key) is not None,
    )


def queue_tasks(tasks: Sequence[Task], gpu: str, fleet: Fleet) -> None:
    """Queue tasks, each once, where their kind of worker listens; `gpu` is the one to measure on.

    Neighbours of one kind travel as a batch, in batches small enough that every worker has some.
    """
    settings = fleet.settings
    workers = {"measure": 1, "draw": 1}
    for kind, alike in groupby(tasks, key=lambda task: task.kind):
        group = list(alike)
        share = math.ceil(len(group) / (SHARES * workers.get(kind, settings.compilers)))
        size = min(BATCH, share)
        for start in range(0, len(group), size):
            batch = group[start : start + size]
            submit(
                fleet.queue({"measure": measure_queue(gpu), "draw": DRAW}.get(kind, COMPILE)),
                FUNCTION[kind],
                [Piece(task.id, task.message) for task in batch],
                title=f"{batch[0].title}{f' and {len(batch) - 1} more' * (len(batch) > 1)}",
                seconds=settings.measure_seconds if kind == "measure" else settings.job_seconds,
                after=sorted({identity for task in batch for identity in task.after}),
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
        for key, spec in zip(keys, specs, strict=True):
            if done is None and key not in compiles:
                compiles[key] = compile_task(key, spec, fleet.store)
        missing = tuple(compiles[k].id for k in keys if done is None and not compiles[k].stored)
        measures.append(_measure(request, cell, specs, keys, missing, stored=done is not None))
    return Work([*compiles.values(), *measures], unmeasured)


def _candidates(request: RunRequest, cell: Cell, executor: Executor) -> list[KernelSpec]:
    """The kernels to choose from: the executor's own, for the tuner many more."""
    if request.figure == TUNE:
        return ours.space(cell.workload, request.arch, request.gpu, request.limit)
    return executor.candidates(cell.workload, request.arch)


def title(spec: KernelSpec) -> str:
    """A kernel in a line: who makes it, what of what parameters, for which chip."""
    named = " ".join(f"{name}={value}" for name, value in spec.parameters.items())
    return f"{spec.executor} {spec.kernel} {named} {spec.arch}"


def _measure(
    request: RunRequest,
    cell: Cell,
    specs: list[KernelSpec],
    keys: list[str],
    after: tuple[str, ...],
    *,
    stored: bool,
) -> Task:
    measurement = Measurement(
        cell=cell,
        specs=tuple(specs),
        keys=tuple(keys),
        gpu=request.gpu,
        uuid=request.uuid,
        fresh=request.fresh,
    )
    key = measurement.key()
    shape = cell.workload
    return Task(
        kind="measure",
        id=f"measure-{key}",
        key=key,
        title=f"{cell.executor} {shape.b_dtype} m={shape.m} k={shape.k} n={shape.n}",
        message=measurement.model_dump(mode="json"),
        after=after,
        stored=stored,
    )


def _drawing(request: RunRequest, gpu: str, after: tuple[str, ...]) -> Task:
    drawing = Drawing(
        figure=request.figure,
        gpu=gpu,
        mode=request.mode,
        executors=request.executors,
        dtypes=request.dtypes,
        group_size=request.group_size,
        reference=request.reference,
    )
    key = drawing.key()
    return Task(
        kind="draw",
        id=f"draw-{key}",
        key=key,
        title=f"figure {request.figure}",
        message=drawing.model_dump(mode="json"),
        after=after,
    )


def _findings(plan: Plan, fleet: Fleet) -> list[tuple[Task, Finding]]:
    found = standings(fleet.queue(COMPILE), [task.id for task in plan.tasks])
    records: Mapping[Cell, Record] = {}
    if plan.request.mode == "measured":
        path = record_path(fleet.settings.results, plan.request.gpu, plan.request.figure)
        records = ledger(path).newest()
    return [
        (task, _found(task, standing, plan, fleet, records))
        for task, standing in zip(plan.tasks, found, strict=True)
    ]


def _found(
    task: Task, at: Standing | None, plan: Plan, fleet: Fleet, records: Mapping[Cell, Record]
) -> Finding:
    standing: TaskState = "waiting" if at is None else at.note.state
    if standing == "failed" and at is not None:
        return Finding("failed", at.note.reason, at.note.cause)
    finding = _left(task, standing, at, plan, fleet, records)
    nobody = at is None or at.lost or at.note.state == "done"
    return replace(finding, lost=nobody and finding.state == "waiting")


def _left(
    task: Task,
    standing: TaskState,
    at: Standing | None,
    plan: Plan,
    fleet: Fleet,
    records: Mapping[Cell, Record],
) -> Finding:
    """What a task that did not fail left behind."""
    match task.kind:
        case "compile":
            return _compiled(task, standing, at, fleet.store)
        case "check":
            return _checked(task, standing, fleet.store)
        case "measure":
            return _timed(task, standing, plan, records)
        case "draw":
            return _drawn(standing, at, plan, fleet.settings.results)


def _compiled(task: Task, standing: TaskState, at: Standing | None, store: Store) -> Finding:
    if task.stored:
        return Finding("stored")
    if at is None and store.get_manifest(task.key) is not None:
        return Finding("done")
    return Finding(standing)


def _checked(task: Task, standing: TaskState, store: Store) -> Finding:
    if standing == "running":
        return Finding("running")
    manifest = store.get_manifest(task.key)
    if manifest is None:
        return Finding("waiting" if standing == "done" else standing)
    return Finding(
        "stored" if task.stored else "done",
        relative_error=float(manifest.facts["relative_error"]),
        seconds=manifest.seconds,
    )


def _drawn(standing: TaskState, at: Standing | None, plan: Plan, results: Path) -> Finding:
    picture = results / f"figure{plan.request.figure}.svg"
    if at is None and picture.exists() and picture.stat().st_mtime > plan.created_at.timestamp():
        return Finding("done")
    return Finding(standing)


def _timed(task: Task, standing: TaskState, plan: Plan, records: Mapping[Cell, Record]) -> Finding:
    if standing == "running":
        return Finding("running")
    measurement = Measurement.model_validate(task.message)
    record = records.get(measurement.cell)
    if record is None or record.gpu.uuid != measurement.uuid:
        return Finding(standing)
    if not task.stored and record.measured_at < plan.created_at.replace(microsecond=0):
        return Finding(standing)
    if record.status != "ok":
        return Finding("failed", f"{record.status}: {record.reason}", "kernel")
    error = record.relative_error if record.executor == CHECKED else None
    return Finding("stored" if task.stored else "done", relative_error=error)


def _path(identity: str, settings: Settings) -> Path:
    return settings.state / "runs" / f"{identity}.json"
