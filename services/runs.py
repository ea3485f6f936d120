"""A run: a figure as tasks, each of which leaves a result under a key.

A run is worked out anew from what is on disk each time it is asked for: what the store and the
records already hold is not queued again, whatever was killed in between. Redis only carries what is
on its way.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from services import queue
from services.fleet import Fleet
from services.messages import (
    Cause,
    Cell,
    Failure,
    Measurement,
    Plan,
    RunState,
    Task,
    TaskKind,
    TaskState,
)
from services.queue import COMPILE, Standing, standings
from services.records import Record, ledger, record_path
from services.settings import Settings
from services.store import Store, write_atomic
from services.tasks import CHECKED, queue_tasks

FORMATS = ("pdf", "png", "svg", "csv", "txt")
UNFINISHED: frozenset[TaskState] = frozenset({"waiting", "running"})


@dataclass(frozen=True)
class Finding:
    """Where one task stands; `lost`: it has no result, and nobody is to make it."""

    state: TaskState
    reason: str | None = None
    cause: Cause | None = None
    relative_error: float | None = None
    seconds: float = 0.0
    lost: bool = False


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
