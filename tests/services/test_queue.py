import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from rq.job import JobStatus

from services.messages import JobRequest
from services.queue import (
    COMPILE,
    FleetJob,
    FleetQueue,
    Piece,
    fetch,
    reason,
    standings,
    submit,
)
from services.settings import ROOT, environment, load
from services.store import Folder
from tests.services.fake import built, spec

BUILD = "services.compiler.jobs.build"


@pytest.fixture
def house(tmp_path, redis, redis_url):
    """A store, a build log, and a way to start compile workers on them."""

    class House:
        store = Folder(tmp_path / "store")
        log = tmp_path / "builds"
        queue = FleetQueue(COMPILE, redis)
        environment = environment(
            load().model_copy(update={"redis_url": redis_url, "store": tmp_path / "store"})
        )

        def worker(self, *flags):
            command = [sys.executable, "-m", "tests.services.fake", redis_url, str(self.log)]
            return subprocess.Popen([*command, *flags], cwd=ROOT, env=self.environment)

        def work(self):
            with self.worker("burst") as worker:
                pass
            assert worker.returncode == 0

        def submit(self, one, after=()):
            self.submit_batch([one], after)

        def submit_batch(self, specs, after=(), seconds=60):
            pieces = [Piece(one.key(), one.model_dump(mode="json")) for one in specs]
            submit(self.queue, BUILD, pieces, title="fake", seconds=seconds, after=after)

        def note(self, one):
            [standing] = standings(self.queue, [one.key()])
            return None if standing is None else standing.note

        def state(self, one):
            return self.note(one).state

    return House()


def test_a_job_leaves_its_kernel_in_the_store(house):
    one = spec(n=1)
    house.submit(one)
    house.work()
    assert house.state(one) == "done"
    assert house.store.get_manifest(one.key()).spec == one


def test_sixteen_equal_requests_at_once_are_one_job_and_one_build(house):
    one = spec(n=2)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: house.submit(one), range(16)))
    assert house.queue.count == 1
    house.work()
    assert built(house.log) == [one.key()]


def test_a_kernel_that_is_in_the_store_is_not_built_again(house):
    one = spec(n=3)
    for _ in range(2):
        house.submit(one)
        house.work()
    assert built(house.log) == [one.key()]


def test_a_kernel_that_cannot_be_is_tried_once_and_says_why(house):
    one = spec(fail=True)
    house.submit(one)
    house.work()
    assert built(house.log) == [one.key()]
    note = house.note(one)
    assert (note.state, note.cause) == ("failed", "kernel")
    assert note.reason == "ValueError: this kernel cannot be"
    assert house.store.get_manifest(one.key()) is None


def test_a_failure_is_not_remembered_as_a_result(house):
    one = spec(fail=True)
    for _ in range(2):
        house.submit(one)
        house.work()
    assert built(house.log) == [one.key()] * 2


def test_a_job_whose_process_was_killed_runs_again(house):
    one = spec(die_once=True)
    house.submit(one)
    house.work()
    assert house.state(one) == "done"
    assert built(house.log) == [one.key()] * 2


def test_a_job_waits_for_others_even_if_they_fail(house):
    first, second = spec(fail=True), spec(n=4)
    house.submit(first)
    house.submit(second, after=[first.key()])
    assert house.queue.count == 1 and house.state(second) == "waiting"
    house.work()
    assert house.state(second) == "done"
    assert built(house.log) == [first.key(), second.key()]


def test_waiting_for_a_job_that_nobody_knows_is_not_waiting(house):
    one = spec(n=5)
    house.submit(one, after=["never-was"])
    assert house.queue.count == 1


def test_the_job_of_a_killed_worker_runs_again_within_twenty_seconds(house):
    one = spec(n=6, milliseconds=1500)
    house.submit(one)
    with house.worker() as victim:
        await_builds(house, 1)
        os.kill(victim.pid, signal.SIGKILL)
    with house.worker() as successor:
        try:
            await_builds(house, 2, seconds=20)
            deadline = time.monotonic() + 5
            while house.state(one) != "done" and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            successor.terminate()
    assert house.state(one) == "done"
    assert built(house.log) == [one.key()] * 2


def test_killing_a_worker_kills_the_job_at_hand(house):
    one = spec(n=7, milliseconds=1500)
    house.submit(one)
    with house.worker() as victim:
        await_builds(house, 1)
        os.kill(victim.pid, signal.SIGKILL)
    time.sleep(2)
    assert house.store.get_manifest(one.key()) is None


def await_builds(house, number, seconds=10):
    deadline = time.monotonic() + seconds
    while len(built(house.log)) < number:
        assert time.monotonic() < deadline, f"no build {number} within {seconds} s"
        time.sleep(0.02)


def write_by_hand(queue, function, arguments, **fields):
    """A job as somebody would write it who can reach Redis but does not use this code."""
    data = json.dumps([function, None, [[["by-hand", arguments]], 60], {}])
    queue.connection.hset(
        FleetJob.key_for("by-hand"),
        mapping={"data": data, "status": "queued", "origin": COMPILE, "timeout": "60"} | fields,
    )
    queue.connection.rpush(queue.key, "by-hand")


@pytest.mark.parametrize("function", ["os.system", "services.store.write_atomic", "builtins.eval"])
def test_a_hand_written_job_runs_nothing_but_listed_functions(house, tmp_path, function):
    proof = tmp_path / "proof"
    write_by_hand(house.queue, function, f"touch {proof}")
    house.work()
    [job] = fetch(house.queue, ["by-hand"])
    assert job.get_status() is JobStatus.FAILED and "no worker runs" in reason(job)
    assert not proof.exists()


def test_a_job_calls_nobody_back(house, tmp_path):
    one = spec(n=8)
    write_by_hand(
        house.queue,
        BUILD,
        one.model_dump(mode="json"),
        success_callback_name="os.abort",
        failure_callback_name="os.abort",
        webhooks=json.dumps([{"url": "http://127.0.0.1:9/", "statuses": ["finished"]}]),
    )
    [job] = fetch(house.queue, ["by-hand"])
    assert job.success_callback is None and job.failure_callback is None and job.webhooks == []
    house.work()
    assert house.store.get_manifest(one.key()) is not None


def test_a_request_for_a_job_is_data():
    with pytest.raises(ValueError, match="extra"):
        JobRequest.model_validate({"kind": "compile", "spec": spec(), "source": "int main() {}"})
