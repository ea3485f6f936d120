"""The measuring child: right before fast, one record a cell, and every way to go wrong apart."""

import faulthandler
import os
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import get_context

import pytest

from services.batch import Piece
from services.experiments import FIGURES
from services.messages import Manifest, Measurement
from services.queue import FleetQueue, measure_queue, standings, submit
from services.records import load, record_path
from services.revision import Revision
from services.runner import child, jobs
from services.runner.measure import REPEATS, WARM_UPS, Option, measure, percentile
from services.settings import ROOT, Settings
from services.store import Folder
from tests.services.bench import DEVICE, Numbers, Scripted, built, nothing_reported, spec

CELL = FIGURES[9].cells[3].model_copy(update={"executor": "scripted"})
GPU = "fixture-gpu"


def house(tmp_path, specs, seconds=20.0):
    return jobs.House(
        store=Folder(tmp_path / "store"),
        results=tmp_path / "results",
        locks=tmp_path / "locks",
        executors={"scripted": Scripted(specs)},
        revision=Revision("c0ffee", dirty=False),
        open_bench=lambda workload, uuid, floor: Numbers(),
        floor=lambda measurement, store, revision: None,
        canary=lambda uuid: None,
        watch=nothing_reported,
        seconds=seconds,
    )


def stored(at, specs):
    for one in specs:
        kernel = built(one)
        manifest = Manifest(
            key=one.key(), spec=one, facts=kernel.facts, versions=kernel.versions
        )  # fmt: skip
        at.store.put(manifest, kernel.files)


def asked(specs, fresh=""):
    return Measurement(
        cell=CELL,
        specs=tuple(specs),
        keys=tuple(one.key() for one in specs),
        gpu=GPU,
        uuid=DEVICE.uuid,
        fresh=fresh,
    )


def measured(tmp_path, *specs, seconds=20.0):
    at = house(tmp_path, specs, seconds)
    stored(at, specs)
    return jobs.measure_cell(asked(specs), at)


def options(*specs):
    return [Option(one.key(), one, built(one)) for one in specs]


def test_the_fastest_right_kernel_is_chosen_and_timed_in_full(tmp_path):
    best = spec(us=40)
    record = measured(tmp_path, spec(us=50), best, spec(us=60))
    assert record.status == "ok"
    assert record.kernel.key == best.key()
    assert record.kernel.schedule == {"us": 40}
    assert len(record.samples_ms) == REPEATS == 50
    assert record.latency_ms == pytest.approx(0.04 * 1.0245)
    assert record.min_ms == min(record.samples_ms)
    assert record.min_ms < record.p10_ms < record.latency_ms < record.p90_ms
    assert [c.latency_ms is not None for c in record.candidates] == [True] * 3
    assert record.floor_ratio == pytest.approx(record.latency_ms / record.floor_ms)
    assert (record.commit, record.dirty) == ("c0ffee", False)
    assert record.gpu.sm_mhz == (1500, 1500)


def test_a_record_is_written_once_and_a_second_job_finds_it(tmp_path):
    one = spec(us=40)
    at = house(tmp_path, [one])
    stored(at, [one])
    first = jobs.measure_cell(asked([one]), at)
    assert jobs.measure_cell(asked([one]), at) == first
    assert load(record_path(at.results, GPU, 9)) == [first]
    again = jobs.measure_cell(asked([one], fresh="now"), at)
    assert load(record_path(at.results, GPU, 9)) == [first, again]


def test_a_wrong_kernel_has_no_latency(tmp_path):
    record = measured(tmp_path, spec(us=1, error=50_000))
    assert record.status == "wrong"
    assert record.latency_ms is None
    assert record.samples_ms == ()
    assert "relative error 5.00e-02" in record.reason


def test_a_wrong_kernel_is_never_timed_and_loses_to_a_slower_right_one():
    bench = Numbers()
    wrong, right = spec(us=1, error=50_000), spec(us=90)
    finding = measure(Scripted([]), options(wrong, right), {}, 1000, bench, lambda key: None)
    assert finding.chosen.spec == right
    assert [c.status for c in finding.candidates] == ["wrong", "ok"]
    assert not [entry for entry in bench.log if entry[0] == "time" and entry[1] == 1]


def test_every_kernel_is_verified_before_and_the_chosen_one_again_after_timing():
    bench = Numbers()
    measure(Scripted([]), options(spec(us=7)), {}, 1000, bench, lambda key: None)
    kinds = [entry[0] for entry in bench.log if entry[1] != bench.EMPTY_US]
    assert kinds[0] == "verify"
    assert kinds[-1] == "verify"
    assert ("time", 7, WARM_UPS, 0) in bench.log
    assert ("time", 7, 0, REPEATS) in bench.log


def test_a_kernel_that_turns_wrong_while_it_is_timed_is_wrong(tmp_path):
    record = measured(tmp_path, spec(us=1, later_wrong=True), spec(us=9))
    assert record.status == "ok"
    assert record.kernel.schedule == {"us": 9}
    assert record.candidates[0].status == "wrong"


@pytest.mark.parametrize(
    ("fate", "status", "reason"),
    [
        ("abort", "failed", "SIGABRT"),
        ("poison", "failed", "illegal memory access"),
        ("raise", "failed", "ValueError: no such shape"),
        ("oom", "oom", "1 TiB"),
    ],
)
def test_what_one_kernel_does_is_its_own_and_the_others_are_measured(
    tmp_path, fate, status, reason
):
    record = measured(tmp_path, spec(us=1, fate=fate), spec(us=40))
    assert record.status == "ok"
    assert record.kernel.schedule == {"us": 40}
    assert record.candidates[0].status == status
    assert reason in record.candidates[0].reason


def test_a_hang_is_killed_at_the_limit_and_recorded_as_a_timeout(tmp_path):
    begun = time.monotonic()
    record = measured(tmp_path, spec(us=1, fate="hang"), seconds=1.0)
    assert 1.0 < time.monotonic() - begun < 6.0
    assert record.status == "timeout"
    assert record.latency_ms is None
    assert "1 s" in record.reason


@pytest.mark.promise(21)
def test_a_process_killed_from_outside_is_no_fault_of_the_kernel(tmp_path):
    with pytest.raises(jobs.Infrastructure, match="SIGKILL"):
        measured(tmp_path, spec(us=1, fate="killed"))
    assert not (tmp_path / "results").exists()


def test_kernels_that_were_not_compiled_are_said_so(tmp_path):
    absent, there = spec(us=1), spec(us=40)
    at = house(tmp_path, [absent, there])
    stored(at, [there])
    record = jobs.measure_cell(asked([absent, there]), at)
    assert record.candidates[0].reason == "it was not compiled"
    with pytest.raises(jobs.Infrastructure, match="none of the 1 kernels"):
        jobs.measure_cell(asked([absent]), at)


def test_a_library_call_is_measured_without_a_kernel(tmp_path):
    record = jobs.measure_cell(asked([]), house(tmp_path, []))
    assert record.status == "ok"
    assert record.kernel is None
    assert record.candidates == ()


@pytest.mark.promise(21)
def test_a_device_that_is_not_there_leaves_no_record(tmp_path):
    def absent(workload, uuid, floor):
        raise LookupError("there is no GPU")

    at = house(tmp_path, [])
    with pytest.raises(jobs.Infrastructure, match="there is no GPU"):
        jobs.measure_cell(asked([]), replace(at, open_bench=absent))
    assert not at.results.exists()


def _measure_slowly(tmp_path, log, number):
    def bench(workload, uuid, floor):
        with log.open("a") as file:
            file.write(f"in {number}\n")
        time.sleep(0.2)
        with log.open("a") as file:
            file.write(f"out {number}\n")
        return Numbers()

    at = replace(house(tmp_path, []), open_bench=bench)
    jobs.measure_cell(asked([], fresh=str(number)), at)


@pytest.mark.promise(14)
def test_one_device_is_measured_by_one_job_at_a_time(tmp_path):
    log = tmp_path / "log"
    spawn = get_context("spawn")
    jobs_at_once = [
        spawn.Process(target=_measure_slowly, args=(tmp_path, log, number)) for number in range(3)
    ]
    for job in jobs_at_once:
        job.start()
    for job in jobs_at_once:
        job.join()
    assert [job.exitcode for job in jobs_at_once] == [0] * 3
    words = log.read_text().split()
    turns = list(zip(words[0::4], words[2::4], words[1::4], words[3::4], strict=True))
    assert [turn[:2] for turn in turns] == [("in", "out")] * 3
    assert all(began == ended for *_, began, ended in turns)


def test_a_runner_takes_jobs_from_the_queue_of_its_gpu(tmp_path, redis_url, redis):
    good, dies = spec(us=40), spec(us=1, fate="abort")
    stored(house(tmp_path, []), [good, dies])
    queue = FleetQueue(measure_queue(GPU), redis)
    request = asked([dies, good])
    identity = f"measure-{request.key()}"
    submit(
        queue,
        "services.runner.jobs.measure",
        [Piece(identity, request.model_dump(mode="json"))],
        title="fixture",
        seconds=60,
    )
    worker = [sys.executable, "-m", "tests.services.bench", redis_url, str(tmp_path)]
    subprocess.run(worker, cwd=ROOT, check=True, timeout=60)
    [standing] = standings(queue, [identity])
    assert standing.note.state == "done"
    (record,) = load(record_path(tmp_path, GPU, 9))
    assert record.kernel.key == good.key()
    assert record.candidates[0].reason == "it took its process down with SIGABRT"


def test_a_child_is_heard_also_when_it_dies():
    def work(send):
        send({"at": 1})
        faulthandler.disable()  # its words would fill the report
        os.abort()

    end = child.run(work, 5.0)
    assert (end.how, end.detail, end.events) == ("signal", "SIGABRT", ({"at": 1},))


def test_a_child_that_raises_says_what():
    def work(send):
        raise KeyError("lost")

    end = child.run(work, 5.0)
    assert (end.how, end.detail) == ("exit", "1")
    assert end.events == ({"error": "KeyError: 'lost'"},)


def test_a_child_can_say_more_than_a_pipe_holds():
    end = child.run(lambda send: send({"text": "x" * 500_000}), 5.0)
    assert end.how == "exit"
    assert len(end.events[0]["text"]) == 500_000


@pytest.mark.parametrize(("percent", "sample"), [(0, 1.0), (10, 1.4), (50, 3.0), (100, 5.0)])
def test_percentiles_are_interpolated(percent, sample):
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], percent) == pytest.approx(sample)


def test_a_large_product_gets_longer_and_a_measurement_ends_before_its_job_does():
    work = [cell.workload for figure in FIGURES.values() for cell in figure.cells]
    assert jobs.longer(min(work, key=lambda one: one.m * one.n * one.k)) < 0.1
    most = max(map(jobs.longer, work))
    assert most > jobs.CHILD_SECONDS
    assert (jobs.RESTARTS + 1) * (jobs.CHILD_SECONDS + most) < Settings().measure_seconds
