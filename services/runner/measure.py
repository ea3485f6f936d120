"""What is measured and in which order: verify, choose, time, verify again; knows no GPU.

The device is a `Bench`: on a GPU `services.runner.bench`, in the tests numbers that were made up.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.building import TOLERANCE
from services.executors.base import Built, Executor, Launch, problem_parameters, schedule
from services.gpu import Device, State
from services.messages import KernelSpec, digest
from services.records import Candidate, Kernel, Status

QUICK_WARM_UPS, QUICK_REPEATS = 3, 15
FEW, HOPELESS = 4, 1.1  # so many samples, all by so much slower than the best so far, are enough
CLOSE = 1.02  # kernels so near to the fastest are timed once more, before one is chosen
WARM_UPS, REPEATS = 10, 50
LIBRARY = "library"  # stands for a call that has no kernel of ours


class OutOfMemory(Exception):
    """The device has not enough memory for what was asked."""


class Poisoned(Exception):
    """A kernel left the device's context unusable: nothing more can be measured in this process."""


class Bench(Protocol):
    """One device with the inputs of one workload on it; times are in ms."""

    @property
    def device(self) -> Device:
        """The GPU."""

    @property
    def inputs_sha256(self) -> str:
        """Digest of the quantised weight, the scales, the zeros and the activations."""

    @property
    def versions(self) -> dict[str, str]:
        """The packages that took part."""

    def prepare(self, executor: Executor, spec: KernelSpec | None, built: Built | None) -> Launch:
        """The call of this kernel on the inputs; OutOfMemory if they do not fit."""

    def relative_error(self, launch: Launch) -> float:
        """The worst slot against float64, outputs poisoned before; infinite for NaN."""

    def times(self, launch: Launch, warm_ups: int, repeats: int) -> list[float]:
        """Event times of launches that rotate over the slots, the L2 flushed before each."""

    def graph_ms(self, launch: Launch) -> float | None:
        """Mean time of a launch in a replayed graph; None where it cannot be had."""

    def floor_times(self, size: int, warm_ups: int, repeats: int) -> list[float]:
        """Times of a streaming read of `size` bytes, likewise; [] where it cannot be had."""

    def nothing(self) -> Launch:
        """The call of a kernel that does nothing: what is left is the launch's own time."""

    def state(self) -> State | None:
        """Clocks, temperature and power now."""

    def check(self) -> None:
        """Poisoned if the context is unusable."""


@dataclass(frozen=True)
class Option:
    """A kernel to choose from: what was asked of a compile worker, and what it built."""

    key: str
    spec: KernelSpec | None = None
    built: Built | None = None


@dataclass(frozen=True)
class Timing:
    """The numbers of the chosen option."""

    error: float
    samples: tuple[float, ...]
    graph_ms: float | None
    before: State | None
    after: State | None


@dataclass(frozen=True)
class Finding:
    """What came of a cell: its status, every option tried, and the numbers where it is ok."""

    status: Status
    reason: str | None
    candidates: tuple[Candidate, ...]
    chosen: Option | None = None
    timing: Timing | None = None
    floor_ms: float | None = None
    empty_ms: float | None = None
    empty_graph_ms: float | None = None


def percentile(samples: Sequence[float], percent: int) -> float:
    """The sample below which `percent` of them lie, interpolated."""
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def measure(
    executor: Executor,
    options: Sequence[Option],
    known: Mapping[str, Candidate],
    size: int,
    bench: Bench,
    note: Callable[[str], None],
) -> Finding:
    """Choose the fastest right option and time it in full; `note` is told which one is at work.

    `known` holds what is already certain of some options: they are not run. One that a few samples
    show to be slow is given up; those that are nearly as fast as the fastest are timed again.
    """
    tried: list[Candidate] = []
    for option in options:
        best_ms = min(map(_time_of, tried), default=math.inf)
        tried.append(known.get(option.key) or _try(executor, option, bench, note, best_ms))
    for close in _close(tried):
        tried[close] = _again(executor, options[close], tried[close], bench, note)
    while (best := _fastest(tried)) is not None:
        option = options[best]
        note(option.key)
        try:
            timing = _time(bench.prepare(executor, option.spec, option.built), bench)
        except Exception as failure:
            tried[best] = _failed(option, failure, bench)
            continue
        if timing.error < TOLERANCE:
            note("")
            floor = bench.floor_times(size, WARM_UPS, REPEATS)
            floor_ms = statistics.median(floor) if floor else None
            empty_ms = statistics.median(bench.times(bench.nothing(), WARM_UPS, REPEATS))
            empty_graph_ms = bench.graph_ms(bench.nothing())
            return Finding(
                "ok", None, tuple(tried), option, timing, floor_ms, empty_ms, empty_graph_ms
            )
        tried[best] = _wrong(option, timing.error)
    return _none_left(tried)


def _try(
    executor: Executor, option: Option, bench: Bench, note: Callable[[str], None], best_ms: float
) -> Candidate:
    """What a short timing finds, shorter where the option is hopelessly behind `best_ms`."""
    note(option.key)
    try:
        launch = bench.prepare(executor, option.spec, option.built)
        error = bench.relative_error(launch)
        if not error < TOLERANCE:
            return _wrong(option, error)
        times = bench.times(launch, QUICK_WARM_UPS, FEW)
        if min(times) <= HOPELESS * best_ms:
            times += bench.times(launch, 0, QUICK_REPEATS - FEW)
    except Exception as failure:
        return _failed(option, failure, bench)
    return Candidate(
        key=option.key,
        schedule=_schedule(option),
        status="ok",
        latency_ms=statistics.median(times),
        relative_error=error,
    )


def _close(tried: Sequence[Candidate]) -> list[int]:
    """Which ones are nearly as fast as the fastest, where there are several."""
    best_ms = min(map(_time_of, tried), default=math.inf)
    near = [i for i, one in enumerate(tried) if _time_of(one) <= CLOSE * best_ms < math.inf]
    return near if len(near) > 1 else []


def _again(
    executor: Executor,
    option: Option,
    known: Candidate,
    bench: Bench,
    note: Callable[[str], None],
) -> Candidate:
    """The same with the median of more samples."""
    note(option.key)
    try:
        launch = bench.prepare(executor, option.spec, option.built)
        times = bench.times(launch, QUICK_WARM_UPS, REPEATS)
    except Exception as failure:
        return _failed(option, failure, bench)
    return known.model_copy(update={"latency_ms": statistics.median(times)})


def _time_of(one: Candidate) -> float:
    """In ms; infinite for what is not right."""
    return one.latency_ms if one.status == "ok" and one.latency_ms else math.inf


def _failed(option: Option, failure: Exception, bench: Bench) -> Candidate:
    """What an option did wrong; Poisoned if it left nothing to go on with."""
    match failure:
        case Poisoned():
            raise failure
        case OutOfMemory():
            return candidate(option, "oom", str(failure))
    bench.check()
    return candidate(option, "failed", f"{type(failure).__name__}: {failure}")


def _time(launch: Launch, bench: Bench) -> Timing:
    bench.times(launch, WARM_UPS, 0)
    before = bench.state()
    samples = bench.times(launch, 0, REPEATS)
    after = bench.state()
    graph_ms = bench.graph_ms(launch)
    return Timing(bench.relative_error(launch), tuple(samples), graph_ms, before, after)


def _fastest(tried: Sequence[Candidate]) -> int | None:
    right = [i for i, candidate in enumerate(tried) if candidate.status == "ok"]
    return min(right, key=lambda i: _time_of(tried[i]), default=None)


def candidate(option: Option, status: Status, reason: str) -> Candidate:
    """What became of an option that has no time."""
    return Candidate(
        key=option.key, schedule=_schedule(option), status=status, reason=reason or status
    )


def _schedule(option: Option) -> dict[str, int | bool | str]:
    return schedule(option.spec) if option.spec else {}


def _wrong(option: Option, error: float) -> Candidate:
    reason = f"relative error {error:.2e}, at most {TOLERANCE:.0e} is right"
    return candidate(option, "wrong", reason)


def _none_left(tried: Sequence[Candidate]) -> Finding:
    """The status of the best guess stands for all of them."""
    if not tried:
        return Finding("failed", "there was no kernel to try", ())
    first, others = tried[0], len(tried) - 1
    more = f" (and {others} more kernels failed)" if others else ""
    return Finding(first.status, f"{first.reason}{more}", tuple(tried))


def kernel(option: Option) -> Kernel | None:
    """What a record says of the timed kernel; None for a library call."""
    if option.spec is None or option.built is None:
        return None
    return Kernel(
        key=option.key,
        cubin_sha256=digest(option.built.files["kernel.cubin"]),
        name=option.spec.kernel,
        arch=option.spec.arch,
        parameters=problem_parameters(option.spec),
        schedule=schedule(option.spec),
    )
