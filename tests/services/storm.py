"""A fleet in a storm: many small jobs through local mode while its processes are killed.

python -m tests.services.storm --tasks 10000 --pause 4     prints what became of them, as JSON

A fifth of the cells have a kernel of one line, really compiled; all are measured on a bench
without a device, in a child of the runner, and leave a record. The processes are those of local
mode, each told of the made-up figure first.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import httpx

from services import figures, queue
from services.api import __main__ as api
from services.compiler import __main__ as compiler
from services.driver import processes
from services.executors import EXECUTORS
from services.executors.base import Built
from services.experiments import FIGURES, Figure
from services.messages import Cell, KernelSpec, RunRequest, RunState, Workload
from services.plotter import __main__ as plotter
from services.plotter import jobs as drawing
from services.queue import measure_queue
from services.records import load, record_path
from services.runner import jobs
from services.settings import Settings
from services.settings import load as load_settings
from services.store import Folder, write_atomic
from services.worker import serve
from tests.services.bench import DEVICE, Numbers, Scripted, nothing_reported, write_line
from tilus.runtime import nvrtc

FIGURE, GPU = 99, "fixture-gpu"
COMPILED = 5  # one cell in so many has a kernel
ROLES = ("compiler", "plotter", "runner", "api")


class Tiny(Scripted):
    """Its kernels write one number, and every build leaves a line in the log."""

    name = "tiny"

    def candidates(self, workload, arch):
        parameters = {"n": workload.n, "us": 40}
        return [KernelSpec(executor="tiny", kernel="tiny", parameters=parameters, arch=arch)]

    def build(self, spec):
        write_line(Path(os.environ["STORM_LOG"]), spec.key())
        text = f'extern "C" __global__ void tiny(int *out) {{ *out = {spec.parameters["n"]}; }}'
        cubin = nvrtc.compile_cubin(text, "tiny", spec.arch, 0).cubin
        return Built({"kernel.cubin": cubin, "source.cu": text.encode()}, {}, {"tiny": "1"})


def cells(tasks: int) -> tuple[Cell, ...]:
    """As many cells as make so many tasks: compilations, measurements and one drawing."""
    number = round((tasks - 1) * COMPILED / (COMPILED + 1))
    return tuple(
        Cell(
            figure=FIGURE,
            executor="tiny" if n % COMPILED == 0 else "noop",
            workload=Workload(b_dtype="uint4", group_size=-1, zeros=False, m=1, n=n, k=1),
        )
        for n in range(number)
    )


@cache
def install(tasks: int) -> None:
    """Tell this process of the figure and of those who compete in it."""
    figures.TITLES[FIGURE] = "a storm"
    FIGURES[FIGURE] = Figure(FIGURE, "a storm", "bars", cells(tasks))
    EXECUTORS["tiny"] = Tiny([])
    EXECUTORS["noop"] = Scripted([])
    if "STORM_HEARTBEAT" in os.environ:
        queue.HEARTBEAT_SECONDS = int(os.environ["STORM_HEARTBEAT"])
        queue.MAINTENANCE_SECONDS = 1


def draw(figure, cells, records, recorded, out, published):
    path = out / f"figure{figure}.svg"
    write_atomic(path, f"<svg><!-- {len(records)} --></svg>".encode())
    return [path]


def run_role(role: str, arguments: list[str]) -> None:
    """Be one of the fleet's processes."""
    install(int(os.environ["STORM_TASKS"]))
    sys.argv = [role, *arguments]
    match role:
        case "compiler":
            compiler.main()
        case "plotter":
            drawing.render = draw
            plotter.main([])
        case "api":
            api.main()
        case "runner":
            settings = load_settings()
            house = replace(
                jobs.house(settings),
                open_bench=lambda workload, uuid, floor: Numbers(),
                floor=lambda measurement, store, revision: None,
                canary=lambda uuid: None,
                watch=nothing_reported,
            )
            jobs.house = lambda _: house
            serve(measure_queue(GPU), settings.redis_url)


def victims(household) -> dict[str, int]:
    """The processes that may be killed, by name: workers, what they forked, and the queue."""
    found = {}
    for child in household.children:
        if child.name == "api" or child.process is None:
            continue
        found[child.name] = child.process.pid
        with suppress(OSError):
            tasks = Path(f"/proc/{child.process.pid}/task/{child.process.pid}/children")
            for pid in tasks.read_text().split():
                found[f"{child.name}'s child"] = int(pid)
    return found


def kill(household, chance: random.Random) -> str:
    """Kill one process of the fleet, whichever comes."""
    name, pid = chance.choice(sorted(victims(household).items()))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return name.split("-")[0].split("'")[0] + (" child" if "'" in name else "")


def storm(
    root: Path, tasks: int, pause: float, seconds: float, seed: int, kills: int = sys.maxsize
) -> SimpleNamespace:
    """Run so many tasks in `root`; kill something every `pause` seconds, `kills` times at most."""
    os.environ |= {"STORM_TASKS": str(tasks), "STORM_LOG": str(root / "builds")}
    install(tasks)
    processes.RESTARTS = tasks  # a storm is no reason to give up
    settings = Settings(
        **{name: root / name for name in ("state", "store", "results", "recorded")},
        redis_url="",
        compilers=2 + processes.CORES_TO_MEASURE,
    )
    services = {role: ("-m", "tests.services.storm", role) for role in ROLES}
    request = RunRequest(figure=FIGURE, mode="measured", gpu=GPU, uuid=DEVICE.uuid)
    chance, killed = random.Random(seed), Counter()
    started = time.monotonic()
    with processes.local_fleet(settings, GPU, services) as (household, client):
        answer = client.post("/v1/runs", json=request.model_dump(mode="json"), timeout=300)
        state = RunState.model_validate_json(answer.raise_for_status().content)
        queued = time.monotonic()
        next_kill, next_look = queued + pause, queued
        while not state.finished and time.monotonic() - started < seconds:
            time.sleep(0.05)
            household.watch()
            now = time.monotonic()
            if now > next_kill and killed.total() < kills:
                killed[kill(household, chance)] += 1
                next_kill = now + chance.expovariate(1 / pause)
            if now > next_look:
                with suppress(httpx.HTTPError):
                    answer = client.get(f"/v1/runs/{state.id}").raise_for_status()
                    state = RunState.model_validate_json(answer.content)
                next_look = time.monotonic() + max(0.25, tasks / 1000)
        metrics = client.get("/metrics").text
    return found(settings, state, tasks, killed, queued - started, started, metrics)


def found(settings, state, tasks, kills, queueing, started, metrics) -> SimpleNamespace:
    wanted = cells(tasks)
    records = Counter(r.cell for r in load(record_path(settings.results, GPU, FIGURE)))
    keys = {
        spec.key()
        for cell in wanted
        if cell.executor == "tiny"
        for spec in EXECUTORS["tiny"].candidates(cell.workload, "sm_90")
    }
    stored = [key for key in keys if Folder(settings.store).get_manifest(key) is not None]
    builds = (settings.state.parent / "builds").read_text().split()
    return SimpleNamespace(
        tasks=len(wanted) + len(keys) + 1,
        seconds=round(time.monotonic() - started, 1),
        seconds_to_queue=round(queueing, 1),
        kills=dict(kills),
        finished=state.finished,
        counts=state.counts,
        failures=[failure.reason for failure in state.failures][:10],
        records=sum(records.values()),
        duplicates=sum(number - 1 for number in records.values()),
        lost=len(set(wanted) - set(records)) + len(keys) - len(stored),
        kernels=len(stored),
        builds_begun=len(builds),
        metrics=metrics,
    )


def main() -> None:
    """A storm, and what is left after it."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.storm", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument(
        "--pause", type=float, default=4.0, help="seconds between kills, on average"
    )
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        left = storm(Path(folder), asked.tasks, asked.pause, asked.seconds, asked.seed)
    json.dump(vars(left), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ROLES:
        run_role(sys.argv[1], sys.argv[2:])
    else:
        main()
