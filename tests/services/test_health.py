"""Who is to blame: the kernel, the house or the GPU, each of which has its own consequences."""

import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services import notes
from services.batch import Piece, Unfit
from services.queue import FleetQueue, measure_queue, standings, submit
from services.records import Gpu, load, record_path
from services.revision import Revision
from services.runner import __main__ as runner
from services.runner import canary, child, jobs, xids
from services.settings import ROOT, Settings
from services.store import Folder
from tests.services.bench import DEVICE, spec
from tests.services.test_runner import GPU, asked, house, stored

SICK = "its canary has 3 wrong words"


def reporting(*numbers):
    """A driver that reports these, and then hangs as one may."""

    def source(uuid):
        yield from numbers
        time.sleep(60)

    return lambda uuid: xids.watched(uuid, source)


def measured(tmp_path, *specs, **changes):
    at = replace(house(tmp_path, specs), **changes)
    stored(at, specs)
    return jobs.measure_cell(asked(specs), at)


@pytest.mark.promise(21)
@pytest.mark.parametrize("fate", ["abort", "poison", "hang", "killed"])
def test_a_gpu_that_does_not_pass_after_trouble_is_blamed_and_no_kernel(tmp_path, fate):
    with pytest.raises(Unfit, match=rf"{DEVICE.uuid}: {SICK}"):
        measured(tmp_path, spec(us=1, fate=fate), canary=lambda _: SICK, seconds=1.0)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("fate", ["abort", "poison"])
def test_the_gpu_is_asked_after_each_trouble_and_only_then(tmp_path, fate):
    questions = []

    def healthy(uuid):
        questions.append(uuid)

    record = measured(tmp_path, spec(us=1, fate=fate), spec(us=40), canary=healthy)
    assert record.status == "ok" and questions == [DEVICE.uuid]
    measured(tmp_path / "calm", spec(us=40), canary=healthy)
    assert len(questions) == 1


@pytest.mark.promise(21)
@pytest.mark.parametrize("number", [48, 63, 64, 74, 79, 94, 95, 119, 120])
def test_what_only_a_device_does_wrong_leaves_no_record_also_of_a_good_run(tmp_path, number):
    with pytest.raises(Unfit, match=rf"Xid {number}: "):
        measured(tmp_path, spec(us=40, ms=100), watch=reporting(number))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("number", [13, 31, 43, 45, 999])
def test_what_a_program_may_cause_is_said_of_the_kernel_that_did_it(tmp_path, number):
    abort = spec(us=1, fate="abort", ms=100)
    record = measured(tmp_path, abort, spec(us=40), watch=reporting(number))
    assert record.status == "ok"
    reason = record.candidates[0].reason
    assert "SIGABRT" in reason and f"Xid {number}" in reason


def test_a_driver_that_cannot_be_listened_to_is_no_fault_of_the_work(tmp_path):
    def broken(uuid):
        raise OSError("NVML is not there")
        yield

    record = measured(tmp_path, spec(us=40), watch=lambda uuid: xids.watched(uuid, broken))
    assert record.status == "ok"


def children() -> set[str]:
    """The processes that this one began and that are still there."""
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def test_a_listener_that_hangs_is_gone_with_the_work():
    before = children()
    with reporting(31)("GPU-x") as found:
        begun = time.monotonic()
        assert len(children() - before) == 1
        while not found():
            assert time.monotonic() < begun + 5
        left = time.monotonic()
        assert found() == [31]
    assert time.monotonic() - left < 2 and children() <= before


def test_a_child_that_does_not_die_makes_its_gpu_unfit(tmp_path, monkeypatch):
    def stays(work, seconds):
        raise child.Unkillable("process 7 does not die")

    monkeypatch.setattr(child, "run", stays)
    with pytest.raises(Unfit, match=r"GPU-fixture: process 7 does not die"):
        measured(tmp_path, spec(us=40))


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (child.End("exit", "0", ({"wrong": 0},)), None),
        (child.End("exit", "0", ({"wrong": 5},)), "5 wrong words"),
        (child.End("exit", "1", ({"error": "LookupError: there is no GPU"},)), "there is no GPU"),
        (child.End("timeout", "killed", ()), "no end after 30 s"),
        (child.End("signal", "SIGSEGV", ()), "ended with SIGSEGV"),
        (child.End("exit", "0", ()), "ended with 0"),
    ],
)
def test_a_canary_says_what_is_wrong(end, words):
    said = canary.verdict(end, 30.0)
    assert said is None if words is None else words in said


def test_a_canary_that_hangs_is_killed_and_a_gpu_that_is_not_there_is_told(tmp_path, monkeypatch):
    store, at = Folder(tmp_path), Revision("c0ffee", dirty=False)
    monkeypatch.setattr(canary, "devices", list)
    assert canary.fault("GPU-1", store, at) == "nvidia-smi shows no GPU GPU-1"
    monkeypatch.setattr(canary, "devices", lambda: [DEVICE])
    monkeypatch.setattr(canary, "wrong", lambda uuid, built: time.sleep(60))
    begun = time.monotonic()
    assert canary.fault(DEVICE.uuid, store, at, 1.0) == "its canary has no end after 1 s"
    assert time.monotonic() - begun < 10
    monkeypatch.setattr(canary, "wrong", lambda uuid, built: 0)
    assert canary.fault(DEVICE.uuid, store, at, 5.0) is None


def test_a_runner_whose_gpu_turns_unfit_stops_and_its_work_waits(tmp_path, redis, redis_url):
    one = spec(us=1, fate="abort")
    stored(house(tmp_path, []), [one])
    queue = FleetQueue(measure_queue(GPU), redis)
    request = asked([one])
    piece = Piece("measure-1", request.model_dump(mode="json"))
    submit(queue, "services.runner.jobs.measure", [piece], title="fixture", seconds=60)
    worker = [sys.executable, "-m", "tests.services.bench", redis_url, str(tmp_path), SICK]
    subprocess.run(worker, cwd=ROOT, check=True, timeout=60)
    [standing] = standings(queue, ["measure-1"])
    assert (standing.note.state, standing.note.cause, standing.note.tries) == ("waiting", "gpu", 0)
    assert SICK in standing.note.reason
    assert notes.devices(redis) == {DEVICE.uuid: f"{DEVICE.uuid}: {SICK}"}
    subprocess.run(worker[:-1], cwd=ROOT, check=True, timeout=60)  # another, whose GPU is well
    [standing] = standings(queue, ["measure-1"])
    assert (standing.note.state, standing.note.cause) == ("done", None)
    (record,) = load(record_path(tmp_path, GPU, 9))
    assert record.status == "failed" and "SIGABRT" in record.reason


@pytest.mark.parametrize(("why", "code"), [(SICK, 3), (None, 0)])
def test_a_runner_begins_once_its_gpu_passes(
    tmp_path, redis, redis_url, monkeypatch, capsys, why, code
):
    served, held = [], []

    @contextmanager
    def locked(folder, uuid):
        held.append(uuid)
        yield
        held.append("let go")

    settings = Settings(state=tmp_path, store=tmp_path / "store", redis_url=redis_url)
    monkeypatch.setattr(runner, "devices", lambda: [DEVICE])
    monkeypatch.setattr(runner, "find_spec", lambda package: package)
    monkeypatch.setattr(runner, "import_module", lambda name: jobs)
    monkeypatch.setattr(runner, "load", lambda: settings)
    monkeypatch.setattr(runner, "serve", lambda *given, **options: served.append(given[0]))
    monkeypatch.setattr(jobs, "fault", lambda uuid, store, at: why)
    monkeypatch.setattr(jobs, "locked", locked)
    assert runner.main([]) == code
    assert served == ([] if why else ["measure-fixture-gpu"])
    assert held == [DEVICE.uuid, "let go"]
    assert notes.devices(redis) == {DEVICE.uuid: why}
    assert (SICK in capsys.readouterr().err) == bool(why)


@pytest.mark.parametrize(
    ("clocks", "locked", "unsteady"),
    [
        ((1980, 1980), None, False),
        ((1980, 1965), None, False),
        ((1980, 1950), None, True),
        ((1500, 1500), 1500, False),
        ((1500, 1500), 1980, True),
        ((1980, 1500), 1980, True),
        (None, 1980, False),
    ],
)
def test_a_clock_that_is_off_by_more_than_one_percent_is_seen(clocks, locked, unsteady):
    gpu = Gpu(name="f", uuid="u", driver="1", arch="sm_90", sm_mhz=clocks, locked_mhz=locked)
    assert gpu.unsteady is unsteady


def test_a_record_says_what_the_clock_was_locked_at(tmp_path):
    record = measured(tmp_path, spec(us=40), locked_mhz=1980)
    assert record.gpu.locked_mhz == 1980 and record.gpu.unsteady  # the bench runs at 1500
