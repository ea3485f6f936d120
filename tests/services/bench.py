"""A device made of numbers, and an executor whose kernels do what their parameters say."""

import faulthandler
import os
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from services.executors import EXECUTORS
from services.executors.base import Built
from services.gpu import Device, State
from services.messages import KernelSpec
from services.queue import measure_queue
from services.runner import jobs
from services.runner.measure import REPEATS, OutOfMemory, Poisoned
from services.settings import Settings
from services.worker import serve

DEVICE = Device(0, "Fixture GPU", "GPU-fixture", "1.2.3", "sm_90")


class Scripted:
    """`prepare` looks at the spec: its error, its time, or how it goes wrong."""

    name = "scripted"

    def __init__(self, specs):
        self.specs = specs

    def absence(self):
        return None

    def refusal(self, workload):
        return None

    def candidates(self, workload, arch):
        return list(self.specs)

    def key(self, spec):
        return spec.key()

    def prepare(self, problem, spec, built):
        behaviour = spec.parameters if spec else {"us": 50}

        def launch(slot):
            problem.launches += 1
            if problem.launches == 1:
                time.sleep(behaviour.get("ms", 0) / 1000)
            match behaviour.get("fate"):
                case "abort":
                    faulthandler.disable()  # its words would fill the report
                    os.abort()
                case "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    time.sleep(60)
                case "poison":
                    problem.poisoned = True
                    raise RuntimeError("an illegal memory access")
                case "oom":
                    raise OutOfMemory("1 TiB is not there")
                case "raise":
                    raise ValueError("no such shape")
            problem.now = behaviour
            return behaviour

        return launch


@dataclass
class Numbers:
    """A bench without a device: errors and times are those of the spec."""

    EMPTY_US = 2  # what a kernel that does nothing takes
    device: Device = DEVICE
    inputs_sha256: str = "1" * 64
    versions: dict = field(default_factory=lambda: {"numbers": "1"})
    poisoned: bool = False
    launches: int = 0
    now: dict = field(default_factory=dict)
    log: list = field(default_factory=list)

    def prepare(self, executor, spec, built):
        assert not self.poisoned, "a poisoned context was used"
        return executor.prepare(self, spec, built)

    def relative_error(self, launch):
        launch(0)
        self.log.append(("verify", self.now.get("us")))
        if self.now.get("later_wrong") and self.launches > 60:
            return 1.0
        return float(self.now.get("error", 300)) * 1e-6 if self.now.get("error") else 3e-4

    def times(self, launch, warm_ups, repeats):
        for slot in range(warm_ups + repeats):
            launch(slot % 2)
        if repeats == REPEATS and "BENCH_LOG" in os.environ:
            log, who = Path(os.environ["BENCH_LOG"]), f"{os.getpid()} {runner_of(os.getppid())}"
            write_line(log, f"in {who}")
            time.sleep(0.02)
            write_line(log, f"out {who}")
        self.log.append(("time", self.now.get("us"), warm_ups, repeats))
        return [self.now["us"] * 1e-3 * (1 + 0.001 * i) for i in range(repeats)]

    def graph_ms(self, launch):
        return None

    def floor_times(self, size, warm_ups, repeats):
        return [size * 1e-9] * repeats

    def nothing(self):
        def launch(slot):
            self.now = {"us": self.EMPTY_US}

        return launch

    def state(self):
        return State(1500, 2000, 40, 300.0, False)

    def check(self):
        if self.poisoned:
            raise Poisoned("an illegal memory access")


def runner_of(pid):
    """The process that forked this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def write_line(path, line):
    """Add a line, whole, whoever else writes."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


@contextmanager
def nothing_reported(uuid):
    """No driver that would report an Xid."""
    yield list


def spec(**behaviour):
    return KernelSpec(executor="scripted", kernel="fixture", parameters=behaviour, arch="sm_90")


def built(one):
    return Built({"kernel.cubin": one.canonical().encode()}, {"entry": "f"}, {"fixture": "1"})


def serve_numbers(url, settings_root, sick=None):
    """A runner whose device is made of numbers, until its queue is empty; `sick`: what ails it."""
    settings = Settings(
        state=settings_root / "state", store=settings_root / "store", results=settings_root
    )
    EXECUTORS["scripted"] = Scripted([])
    real = jobs.house(settings)
    jobs.house = lambda _: replace(
        real,
        open_bench=lambda workload, uuid, floor: Numbers(),
        floor=lambda measurement, store, revision: None,
        canary=lambda uuid: sick,
        watch=nothing_reported,
    )
    serve(measure_queue("fixture-gpu"), url, burst=True)


if __name__ == "__main__":
    os.environ["REDIS_URL"] = sys.argv[1]  # where a runner tells that its device is unfit
    serve_numbers(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
