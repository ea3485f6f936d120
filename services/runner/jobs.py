"""The work of a runner: one cell, measured in a child of its own, as one record.

Causes are told apart. What a kernel does wrong (wrong numbers, a crash, a hang, too much memory) is
a record with its reason. What the house does wrong (a kernel that is not in the store, a process
killed from outside) raises, leaves no record, and the queue tries again. After any trouble the
device computes something known: if it does not pass, or the driver reports what only a device does
wrong, nothing is recorded, this runner stops, and the work waits for a device that is fit."""

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue
from redis.exceptions import RedisError

import tilus
from services import notes
from services.batch import Unfit
from services.building import built_kernel
from services.executors import EXECUTORS
from services.executors.base import Built, Executor, problem_bytes
from services.gpu import Device
from services.messages import Measurement, Workload
from services.queue import connect
from services.records import (
    Candidate,
    Gpu,
    Record,
    append,
    finished,
    ledger,
    record_path,
)
from services.revision import Revision, revision
from services.runner import child, xids
from services.runner.bench import FLOOR, open_bench
from services.runner.canary import NoDevice, fault, library_kernel
from services.runner.measure import (
    LIBRARY,
    Bench,
    Finding,
    Option,
    Poisoned,
    candidate,
    kernel,
    percentile,
)
from services.runner.measure import measure as measure_options
from services.settings import Settings
from services.settings import load as load_settings
from services.store import Store, open_store

CHILD_SECONDS = 120.0
LAUNCHES, SLOW_FLOPS = 1000, 5e13  # what a measurement takes of a kernel, at how many a second
RESTARTS = 4  # a kernel that takes its process down is left out, and the others are tried again

Watch = Callable[[str], AbstractContextManager[Callable[[], list[int]]]]
Open = Callable[[Workload, str, Built | None], Bench]


class Infrastructure(Exception):
    """The house, not the kernel, is at fault: nothing is recorded, the job may run again."""


@dataclass(frozen=True)
class House:
    """What a measurement needs besides its message."""

    store: Store
    results: Path
    locks: Path
    executors: Mapping[str, Executor]
    revision: Revision
    open_bench: Open
    floor: Callable[[Measurement, Store, Revision], Built | None]
    canary: Callable[[str], str | None]
    watch: Watch = xids.watched
    seconds: float = CHILD_SECONDS
    locked_mhz: int | None = None


def measure(message: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The job: measure a cell unless it is measured, append its record, say how it went."""
    settings = load_settings()
    measurement = Measurement.model_validate(message)
    try:
        record = measure_cell(measurement, house(settings))
    except Unfit as error:
        tell(measurement.uuid, str(error), settings)
        raise
    return {"status": record.status, "reason": record.reason, "latency_ms": record.latency_ms}


def tell(uuid: str, why: str | None, settings: Settings) -> None:
    """Say where the API finds it whether a device is fit."""
    password = settings.redis_password.get_secret_value()
    with suppress(RedisError), connect(settings.redis_url, password) as connection:
        notes.tell_device(connection, uuid, why)


def house(settings: Settings) -> House:
    """The house of this process."""
    store, at = open_store(settings), revision(settings.commit)
    return House(
        store=store,
        results=settings.results,
        locks=settings.state / "locks",
        executors=EXECUTORS,
        revision=at,
        open_bench=open_bench,
        floor=floor_kernel,
        canary=lambda uuid: fault(uuid, store, at),
        locked_mhz=settings.sm_mhz or None,
    )


def measure_cell(measurement: Measurement, at: House) -> Record:
    """The record of a cell: the one that is there, else a new one, written once."""
    path = record_path(at.results, measurement.gpu, measurement.cell.figure)
    with locked(at.locks, measurement.uuid):
        known = finished(
            ledger(path).newest(), measurement.cell, measurement.keys, measurement.uuid
        )
        if known is not None and not measurement.fresh:
            return known
        record = _measured(measurement, at)
        append(path, record)
    return record


@contextmanager
def locked(folder: Path, uuid: str) -> Iterator[None]:
    """One measurement at a time on a device; the kernel lets go for a holder that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"gpu-{uuid or 'any'}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _measured(measurement: Measurement, at: House) -> Record:
    cell = measurement.cell
    executor = at.executors[cell.executor]
    refusal = executor.refusal(cell.workload)
    if refusal is not None:
        raise Infrastructure(f"{cell.executor} was asked for what it refuses: {refusal}")
    options = _options(measurement, at.store)
    known = {
        option.key: candidate(option, "failed", "it was not compiled")
        for option in options
        if option.spec is not None and option.built is None
    }
    if len(known) == len(options):
        raise Infrastructure(f"none of the {len(options)} kernels of {cell.executor} is compiled")
    floor = at.floor(measurement, at.store, at.revision)
    seconds = at.seconds + longer(cell.workload)
    for _ in range(RESTARTS + 1):
        work = _work(measurement, executor, options, known, floor, at)
        end, reported = _run(work, seconds, measurement.uuid, at)
        for event in end.events:
            if "record" in event:
                return Record.model_validate(event["record"])
        option = _at_work(options, end)
        known[option.key] = _taken_down(option, end, seconds, reported)
    raise Infrastructure(f"{RESTARTS + 1} kernels of {cell.executor} took their processes down")


def _run(
    work: Callable[[child.Send], None], seconds: float, uuid: str, at: House
) -> tuple[child.End, list[int]]:
    """How the child ended, and what the driver reported; Unfit if the device is at fault."""
    try:
        with at.watch(uuid) as reported:
            end = child.run(work, seconds)
            measured = any("record" in event for event in end.events)
            why = None if measured else at.canary(uuid)
            found = reported()
    except child.Unkillable as error:
        raise Unfit(f"{uuid}: {error}") from error
    fatal = [number for number in found if xids.is_fatal(number)]
    if fatal or why is not None:
        raise Unfit(f"{uuid}: {xids.words(fatal) or why}")
    return end, found


def longer(workload: Workload) -> float:
    """The seconds that a child gets on top, for products so large that each launch takes long."""
    return LAUNCHES * 2 * workload.m * workload.n * workload.k / SLOW_FLOPS


def _options(measurement: Measurement, store: Store) -> list[Option]:
    if not measurement.specs:
        return [Option(LIBRARY)]
    return [
        Option(key, spec, built_kernel(store, key))
        for key, spec in zip(measurement.keys, measurement.specs, strict=True)
    ]


def floor_kernel(measurement: Measurement, store: Store, at: Revision) -> Built | None:
    """The streaming read for the GPU of this measurement."""
    try:
        return library_kernel(FLOOR, measurement.uuid, store, at)
    except NoDevice as error:
        raise Unfit(str(error)) from error


def _work(
    measurement: Measurement,
    executor: Executor,
    options: list[Option],
    known: Mapping[str, Candidate],
    floor: Built | None,
    at: House,
) -> Callable[[child.Send], None]:
    """What the child does; it says which option is at work, then sends the record."""
    workload = measurement.cell.workload

    def work(send: child.Send) -> None:
        try:
            bench = at.open_bench(workload, measurement.uuid, floor)
            size = problem_bytes(workload, tilus.dtype(workload.b_dtype).bits)
            finding = measure_options(
                executor, options, known, size, bench, lambda key: send({"at": key})
            )
            record = _record(measurement, finding, size, bench, at)
            send({"record": record.model_dump(mode="json", by_alias=True)})
        except Poisoned as error:
            send({"gpu": str(error)})

    return work


def _at_work(options: list[Option], end: child.End) -> Option:
    """The option that was at work when the child ended; Infrastructure if there was none."""
    keys = [event["at"] for event in end.events if "at" in event]
    option = next((option for option in options if keys and option.key == keys[-1]), None)
    if option is None:
        raise Infrastructure(f"the measuring child ended with no kernel at work: {_words(end)}")
    return option


def _taken_down(option: Option, end: child.End, seconds: float, reported: list[int]) -> Candidate:
    """What is known of an option whose process ended; Infrastructure if it is not to blame."""
    also = f" ({xids.words(reported)})" if reported else ""
    for event in end.events:
        if "gpu" in event:
            return candidate(option, "failed", f"{event['gpu']}{also}")
    match end:
        case child.End("timeout"):
            return candidate(option, "timeout", f"no end after {seconds:.0f} s{also}")
        case child.End("signal", name) if name != "SIGKILL":
            return candidate(option, "failed", f"it took its process down with {name}{also}")
    raise Infrastructure(f"the measuring child ended: {_words(end)}")


def _words(end: child.End) -> str:
    errors = [str(event["error"]) for event in end.events if "error" in event]
    return errors[-1] if errors else f"{end.how} {end.detail}"


def _record(
    measurement: Measurement, finding: Finding, size: int, bench: Bench, at: House
) -> Record:
    cell, timing = measurement.cell, finding.timing
    shape = cell.workload
    samples = timing.samples if timing else ()
    latency = percentile(samples, 50) if samples else None
    return Record(
        figure=cell.figure,
        executor=cell.executor,
        a_dtype=shape.a_dtype,
        b_dtype=shape.b_dtype,
        group_size=shape.group_size,
        zeros=shape.zeros,
        m=shape.m,
        n=shape.n,
        k=shape.k,
        status=finding.status,
        reason=finding.reason,
        latency_ms=latency,
        min_ms=min(samples) if samples else None,
        p10_ms=percentile(samples, 10) if samples else None,
        p90_ms=percentile(samples, 90) if samples else None,
        samples_ms=samples,
        graph_latency_ms=timing.graph_ms if timing else None,
        bytes=size,
        floor_ms=finding.floor_ms,
        empty_ms=finding.empty_ms,
        empty_graph_ms=finding.empty_graph_ms,
        floor_ratio=latency / finding.floor_ms if latency and finding.floor_ms else None,
        relative_error=timing.error if timing else None,
        inputs_sha256=bench.inputs_sha256 if finding.status in ("ok", "wrong") else None,
        gpu=_gpu(bench.device, finding, at.locked_mhz),
        kernel=kernel(finding.chosen) if finding.chosen else None,
        candidates=tuple(tried for tried in finding.candidates if tried.key != LIBRARY),
        versions=bench.versions | _versions(finding),
        commit=at.revision.commit,
        dirty=at.revision.dirty,
        measured_at=datetime.now(UTC),
    )


def _versions(finding: Finding) -> dict[str, str]:
    built = finding.chosen.built if finding.chosen else None
    return dict(built.versions) if built else {}


def _gpu(device: Device, finding: Finding, locked_mhz: int | None) -> Gpu:
    before, after = (
        (finding.timing.before, finding.timing.after) if finding.timing else (None, None)
    )
    if before is None or after is None:
        return Gpu(name=device.name, uuid=device.uuid, driver=device.driver, arch=device.arch)
    return Gpu(
        name=device.name,
        uuid=device.uuid,
        driver=device.driver,
        arch=device.arch,
        locked_mhz=locked_mhz,
        sm_mhz=(before.sm_mhz, after.sm_mhz),
        mem_mhz=after.mem_mhz,
        temperature_c=(before.temperature_c, after.temperature_c),
        power_w=after.power_w,
        throttled=bool(before.throttled or after.throttled),
    )
