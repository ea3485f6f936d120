"""A worker that is told to stop: what is at hand ends or goes back, and it ends with 0."""

import os
import signal
import subprocess
import sys
import time

import pytest

from services.queue import FleetQueue, fetch
from services.settings import ROOT
from tests.services.fake import built, spec
from tests.services.house import await_builds, await_state

SOON = 30  # seconds in which it is gone, whatever it does


def told_to_stop(worker):
    """Its exit code, and the seconds that it took."""
    worker.send_signal(signal.SIGTERM)
    told = time.monotonic()
    return worker.wait(SOON), time.monotonic() - told


def test_an_idle_worker_goes_at_once(house):
    worker = house.worker()
    house.await_worker()
    code, seconds = told_to_stop(worker)
    assert code == 0 and seconds < 5


@pytest.mark.promise(13)
def test_a_worker_that_has_hardly_begun_ends_with_0(house):
    """Told to before it listens itself: while it registers with the queue's server."""
    code = (
        "import os, signal\n"
        "from services import worker\n"
        "worker.serializer = lambda url, key: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"worker.serve('compile', {house.url!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=SOON, check=False)
    assert done.returncode == 0


@pytest.mark.promise(13)
def test_what_is_at_hand_is_finished_and_the_rest_of_the_batch_goes_back(house):
    specs = [spec(n=1, milliseconds=1000), spec(n=2), spec(n=3)]
    house.submit_batch(specs)
    worker = house.worker()
    await_builds(house, 1)
    code, seconds = told_to_stop(worker)
    assert code == 0 and 0.2 < seconds < 5
    assert [house.state(one) for one in specs] == ["done", "waiting", "waiting"]
    assert built(house.log) == [specs[0].key()] and house.queue.count == 1
    house.work()
    assert [house.state(one) for one in specs] == ["done"] * 3
    assert built(house.log) == [one.key() for one in specs]


@pytest.mark.promise(13)
def test_what_does_not_end_goes_back_and_that_is_no_try(house, monkeypatch, shown):
    """Its process is killed when the drain is over; the next worker begins it anew."""
    monkeypatch.setitem(house.environment, "FAKE_DRAIN", "1")
    slow, other = spec(n=4, milliseconds=20_000), spec(n=5)
    house.submit_batch([slow, other])
    worker = house.worker()
    await_builds(house, 1)
    code, seconds = told_to_stop(worker)
    assert code == 0 and seconds < 1 + 5 + 3  # it looks every 5 s
    note = house.note(slow)
    assert (note.state, note.tries) == ("waiting", 0)
    assert house.queue.count == 1
    shown("seconds until a worker is gone that was given 1", seconds)


def test_being_stopped_often_costs_no_batch_its_tries(house, monkeypatch):
    monkeypatch.setitem(house.environment, "FAKE_DRAIN", "30")
    specs = [spec(n=6, milliseconds=400), spec(n=7, milliseconds=400), spec(n=8)]
    house.submit_batch(specs)
    before = retries(house.queue)
    for number in (1, 2):
        worker = house.worker()
        await_builds(house, number)
        assert told_to_stop(worker)[0] == 0
    assert retries(house.queue) == before
    house.work()
    assert [house.state(one) for one in specs] == ["done"] * 3


def test_a_worker_whose_machine_is_unfit_stops_and_its_work_waits_for_another(house):
    """That is nobody's try and no failure; `cause` says why it waits."""
    one, rest = spec(unfit=True), spec(n=9)
    house.submit_batch([one, rest])
    for _ in range(2):
        house.work()
    note = house.note(one)
    assert (note.state, note.tries, note.cause) == ("waiting", 0, "gpu")
    assert note.reason == "this machine's GPU does not pass its test"
    assert built(house.log) == [one.key()] * 2 and house.state(rest) == "waiting"


@pytest.mark.promise(12)
@pytest.mark.parametrize(
    ("how", "bound", "cause", "word"),
    [
        ("greedy", "FAKE_MEMORY", "house", "MemoryError"),
        ("large", "FAKE_FILE", "kernel", "File too large"),
    ],
)
def test_what_takes_more_than_it_may_fails_alone(house, monkeypatch, how, bound, cause, word):
    limit = {"greedy": 512 << 20, "large": 512 << 10}[how]
    monkeypatch.setitem(house.environment, bound, str(limit))
    one, good = spec(**{how: True}), spec(n=10)
    house.submit_batch([one, good])
    house.work()
    note = house.note(one)
    assert (note.state, note.cause) == ("failed", cause) and word in note.reason
    assert house.state(good) == "done"


def test_a_stopping_worker_lets_no_failure_of_a_batch_be_forgotten(house):
    bad, slow, last = spec(fail=True), spec(n=11, milliseconds=800), spec(n=12)
    house.submit_batch([bad, slow, last])
    worker = house.worker()
    await_builds(house, 2)
    assert told_to_stop(worker)[0] == 0
    house.work()
    await_state(house, last, "done")
    assert [house.state(one) for one in (bad, slow, last)] == ["failed", "done", "done"]
    assert built(house.log).count(bad.key()) == 1


def retries(queue: FleetQueue) -> list[int]:
    return [job.retries_left for job in fetch(queue, queue.get_job_ids()) if job is not None]


def test_a_second_signal_does_not_cut_the_drain_short(house):
    one = spec(n=13, milliseconds=900)
    house.submit(one)
    worker = house.worker()
    await_builds(house, 1)
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait(SOON) == 0 and house.state(one) == "done"
