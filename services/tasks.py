"""Tasks: pieces of work that leave a result under a key, and how they come into the queue."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from services.batch import Function, Piece
from services.building import check_key
from services.fleet import Fleet
from services.messages import Cell, Drawing, KernelSpec, Measurement, RunRequest, Task, TaskKind
from services.queue import COMPILE, DRAW, measure_queue, submit
from services.store import Store

# Whose kernels are checked on the CPU.
CHECKED = "tilus"
FUNCTION: dict[TaskKind, Function] = {
    "compile": "services.compiler.jobs.build",
    "check": "services.compiler.jobs.check",
    "measure": "services.runner.jobs.measure",
    "draw": "services.plotter.jobs.draw",
}
# How many pieces of work a batch has at most, and into how many batches each worker's part goes.
BATCH, SHARES = 32, 4


def compile_task(key: str, spec: KernelSpec, store: Store) -> Task:
    """The compilation of a spec whose key is known."""
    return _kernel_task("compile", key, spec, store)


def check_task(kernel_key: str, spec: KernelSpec, store: Store) -> Task:
    """The CPU check of a spec whose key is known."""
    return _kernel_task("check", check_key(kernel_key), spec, store)


def measure_task(
    request: RunRequest,
    cell: Cell,
    specs: list[KernelSpec],
    keys: list[str],
    after: tuple[str, ...],
    *,
    stored: bool,
) -> Task:
    """The measurement of a cell: of which kernels, once the pieces of work in `after` are over."""
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


def draw_task(request: RunRequest, gpu: str, after: tuple[str, ...]) -> Task:
    """The drawing of a run's figure, once the pieces of work in `after` are over."""
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


def title(spec: KernelSpec) -> str:
    """A kernel in a line: who makes it, what of what parameters, for which chip."""
    named = " ".join(f"{name}={value}" for name, value in spec.parameters.items())
    return f"{spec.executor} {spec.kernel} {named} {spec.arch}"


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
