import json
import os
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.exceptions import TimeoutError as RedisTimeout
from rq.job import JobStatus

from services import queue
from services.batch import TRIES, FleetJob
from services.messages import JobRequest
from services.notes import waiting, write
from services.queue import COMPILE, cancel, fetch, reason
from tests.services.fake import built, spec
from tests.services.house import await_builds, await_state
from tests.services.promises import FULL

BUILD = "services.compiler.jobs.build"


def test_a_job_leaves_its_kernel_in_the_store(house):
    one = spec(n=1)
    house.submit(one)
    house.work()
    assert house.state(one) == "done"
    assert house.store.get_manifest(one.key()).spec == one


@pytest.mark.promise(4)
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


def test_a_killed_batch_goes_on_with_what_has_no_result(house):
    specs = [spec(n=20), spec(die_once=True, n=21), spec(fail=True, n=22), spec(n=23)]
    house.submit_batch(specs)
    assert house.queue.count == 1 and waiting(house.queue.connection, COMPILE) == 4
    house.work()
    assert [house.state(one) for one in specs] == ["done", "done", "failed", "done"]
    assert Counter(built(house.log)) == {one.key(): 1 + (one is specs[1]) for one in specs}
    assert waiting(house.queue.connection, COMPILE) == 0


def test_work_that_kills_its_process_each_time_is_given_up_and_the_rest_is_done(house):
    deadly, good = spec(die=True), spec(n=24)
    house.submit_batch([deadly, good])
    house.work()
    note = house.note(deadly)
    assert (note.state, note.cause) == ("failed", "killed")
    assert note.reason == f"its process was killed {TRIES} times"
    assert built(house.log) == [deadly.key()] * TRIES + [good.key()]
    assert house.state(good) == "done"


@pytest.mark.promise(12)
@pytest.mark.parametrize(("how", "word"), [("milliseconds", "no end after 1 s"), ("deaf", "deaf")])
def test_each_piece_has_its_own_limit(house, shown, how, word):
    slow, good = spec(**{how: 60_000}), spec(n=25)
    house.submit_batch([slow, good], seconds=1)
    started = time.monotonic()
    house.work()
    assert time.monotonic() - started < 20
    note = house.note(slow)
    assert (note.state, note.cause) == ("failed", "timeout") and word in note.reason
    over = house.note(good).began - note.began - 1
    shown("seconds over its limit until the next began", over)
    assert over < 4  # 2 to hear it, and then another process
    assert built(house.log) == [slow.key(), good.key()] and house.state(good) == "done"


def test_work_that_was_killed_long_ago_is_done_and_not_called_late(house):
    one = spec(n=26)
    house.submit_batch([one], seconds=5)
    begun = house.note(one).model_copy(update={"state": "running", "tries": 1, "began": 1.0})
    write(house.queue.connection, one.key(), begun)
    house.work()
    assert house.state(one) == "done" and house.note(one).tries == 2


def test_what_the_machine_lacked_is_tried_again_and_then_the_houses_fault(house):
    one, good = spec(full=True), spec(n=27)
    house.submit_batch([one, good])
    house.work()
    note = house.note(one)
    assert (note.state, note.cause, note.tries) == ("failed", "house", TRIES)
    assert note.reason.startswith("OSError") and house.state(good) == "done"


def test_only_what_waits_can_be_taken_back(house):
    first, second = spec(n=28), spec(n=29)
    house.submit_batch([first, second])
    cancel(house.queue, [second.key(), "never-was"])
    house.work()
    cancel(house.queue, [first.key()])
    assert house.state(first) == "done" and house.state(second) == "cancelled"
    assert built(house.log) == [first.key()]
    house.submit(second)
    house.work()
    assert house.state(second) == "done"


def test_work_that_is_on_its_way_is_not_queued_twice(house):
    specs = [spec(n=n) for n in range(30, 34)]
    house.submit_batch(specs[:2])
    house.submit_batch(specs[1:])
    house.submit_batch(specs)
    assert house.queue.count == 2 and waiting(house.queue.connection, COMPILE) == 4
    house.work()
    assert sorted(built(house.log)) == sorted(one.key() for one in specs)


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


@pytest.mark.promise(1)
@pytest.mark.parametrize("turn", range(3 if FULL else 1))
def test_the_job_of_a_killed_worker_runs_again_within_twenty_seconds(house, shown, turn):
    one = spec(n=6, slow_once=True)
    house.submit(one)
    with house.worker() as victim:
        await_builds(house, 1)
        with house.worker() as successor:
            try:
                house.await_worker(workers=2, seconds=30)
                os.kill(victim.pid, signal.SIGKILL)
                killed = time.monotonic()
                await_builds(house, 2, seconds=20)
                shown("seconds until it ran again", time.monotonic() - killed)
                await_state(house, one, "done")
            finally:
                successor.terminate()
    assert built(house.log) == [one.key()] * 2


def test_killing_a_worker_kills_the_job_at_hand(house):
    one = spec(n=7, milliseconds=1500)
    house.submit(one)
    with house.worker() as victim:
        await_builds(house, 1)
        os.kill(victim.pid, signal.SIGKILL)
    time.sleep(2)
    assert house.store.get_manifest(one.key()) is None


def write_by_hand(queue, function, arguments, **fields):
    """A job as somebody would write it who can reach Redis but does not use this code."""
    data = json.dumps([function, None, [[["by-hand", arguments]], 60], {}])
    queue.connection.hset(
        FleetJob.key_for("by-hand"),
        mapping={"data": data, "status": "queued", "origin": COMPILE, "timeout": "60"} | fields,
    )
    queue.connection.rpush(queue.key, "by-hand")


@pytest.mark.promise(8)
@pytest.mark.parametrize("function", ["os.system", "services.store.write_atomic", "builtins.eval"])
def test_a_hand_written_job_runs_nothing_but_listed_functions(house, tmp_path, function):
    proof = tmp_path / "proof"
    write_by_hand(house.queue, function, f"touch {proof}")
    house.work()
    [job] = fetch(house.queue, ["by-hand"])
    assert job.get_status() is JobStatus.FAILED and "no worker runs" in reason(job)
    assert not proof.exists()


@pytest.mark.promise(8)
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


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(monkeypatch):
    """As one whose container was killed: the connection is there, and nobody at its end."""
    monkeypatch.setattr(queue, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = queue.connect(f"redis://127.0.0.1:{silent.getsockname()[1]}", asks=1)
        began = time.monotonic()
        with connection, pytest.raises(RedisTimeout):
            connection.ping()
        assert 0.4 <= time.monotonic() - began < 5
