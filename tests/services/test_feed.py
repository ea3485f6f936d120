"""News of the fleet: what changed is told once, whoever comes back is told what it missed."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import httpx
import pytest

from services import planning, runs
from services.api import events, feed
from services.api.events import QUEUES, Watch
from services.api.feed import Event, Feed, Topic
from services.messages import Reference, RunRequest
from services.queue import COMPILE, FleetQueue
from services.settings import ROOT, environment
from services.worker import FleetWorker
from tests.services.problems import assert_problem
from tests.services.served import await_, served

A, B = Topic("run", "a"), Topic("run", "b")
RECORDED = RunRequest(figure=9, mode="recorded", dtypes=("u4",))


class Said:
    """Something to look at that changes, and how often it was looked at."""

    def __init__(self, **topics):
        self.topics = {A: 0, B: 0} | topics
        self.looks = 0

    def __call__(self):
        self.looks += 1
        return dict(self.topics)


def heard(one, number, count, change=lambda: None):
    """The next so many events after that number; `change` happens after the first look."""

    async def listen():
        found = []
        async for event in one.follow(number):
            found.append(event)
            if len(found) == count:
                break
            change()
        return found

    return asyncio.run(asyncio.wait_for(listen(), 10))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0.02)


def test_every_topic_is_told_once_then_what_changes():
    said = Said()
    one = Feed(said)
    assert heard(one, 0, 2) == [Event(1, A, 0), Event(2, B, 0)]

    def change():
        said.topics[A] = 5

    assert heard(one, 0, 3, change)[2] == Event(3, A, 5)


def test_who_comes_back_is_told_what_changed_meanwhile_and_the_newest_of_it():
    said = Said()
    one = Feed(said)
    heard(one, 0, 2)
    for value in (1, 2, 3):
        said.topics[B] = value
        time.sleep(feed.LOOK_SECONDS)
        [last] = heard(one, 1 + value, 1)
    assert last == Event(5, B, 3)
    assert one.since(2) == [last] and one.since(0) == [Event(1, A, 0), last]


def test_an_id_is_of_the_process_that_gave_it():
    one, other = Feed(Said()), Feed(Said())
    event = Event(7, A, 0)
    assert one.number(one.identity(event)) == 7
    for strange in (other.identity(event), "", "7", "x-7", f"{one.identity(event)}\n", "-1"):
        assert one.number(strange) == 0


def test_many_listeners_look_no_more_often_than_one(monkeypatch):
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0.1)
    said = Said()
    one = Feed(said)

    async def all_of_them():
        async def listen(after):
            async with asyncio.timeout(0.55):
                await asyncio.sleep(after)
                async for _ in one.follow(0):
                    pass

        await asyncio.gather(*(listen(n / 500) for n in range(40)), return_exceptions=True)

    asyncio.run(all_of_them())
    assert 2 <= said.looks <= 6


def test_nothing_is_kept_of_what_is_gone():
    said = Said()
    one = Feed(said)
    heard(one, 0, 2)
    del said.topics[A]
    said.topics[B] = 1
    time.sleep(feed.LOOK_SECONDS)
    heard(one, 2, 1)
    assert one.since(0) == [Event(3, B, 1)]


def started(fleet):
    plan = planning.plan(RECORDED, fleet)
    runs.start(plan, fleet)
    return plan


def test_the_watch_sees_runs_queues_and_workers(fleet):
    plan = started(fleet)
    queue = FleetQueue(COMPILE, fleet.connection)
    worker = FleetWorker([queue], connection=fleet.connection, serializer=queue.serializer)
    worker.register_birth()
    found = Watch(fleet).look()
    assert found[Topic("run", plan.id)]["created_at"] == plan.created_at.isoformat().replace(
        "+00:00", "Z"
    )
    compiling, drawing = found[QUEUES]["queues"]
    assert compiling["name"] == COMPILE and compiling["waiting"] > 0
    assert [one["batch"] for one in compiling["workers"]] == [None]
    assert drawing["waiting"] == 1 and drawing["workers"] == []


def test_a_run_that_is_over_is_not_looked_at_again_unless_it_is_begun_again(fleet, monkeypatch):
    plan = started(fleet)
    watch, looks = Watch(fleet), []
    state = runs.state
    monkeypatch.setattr(runs, "state", lambda *given: looks.append(1) or state(*given))
    watch.look()
    watch.look()
    assert len(looks) == 2
    runs.cancel(plan, fleet)
    for _ in range(3):
        assert watch.look()[Topic("run", plan.id)]["finished"]
    assert len(looks) == 3
    runs.start(plan, fleet)
    assert not watch.look()[Topic("run", plan.id)]["finished"]


def test_a_queue_that_does_not_answer_is_news(fleet, monkeypatch):
    def away(_):
        raise ConnectionError("gone")

    monkeypatch.setattr(events, "names", away)
    with pytest.raises(ConnectionError):
        Watch(fleet).look()
    monkeypatch.setattr(events, "names", lambda _: (_ for _ in ()).throw(events.RedisError("gone")))
    assert "gone" in Watch(fleet).look()[QUEUES]["problem"]


def lines_of(client, path, count, last=None):
    """The first so many events of a stream: their fields by name."""
    headers = {"Last-Event-ID": last} if last else {}
    found, fields = [], {}
    with client.stream("GET", path, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "data" in fields:
                found.append(fields)
                fields = {}
            if len(found) == count:
                return found
    return found


def test_the_stream_goes_on_where_a_listener_was(fleet):
    with served(fleet) as (address, _), httpx.Client(base_url=address, trust_env=False) as client:
        [queues] = lines_of(client, "/v1/events", 1)
        assert queues["event"] == "queues"
        run = client.post("/v1/runs", json=RECORDED.model_dump(mode="json")).json()
        news = lines_of(client, "/v1/events", 2, last=queues["id"])
        assert [one["event"] for one in news] == ["run", "queues"]
        assert json.loads(news[0]["data"])["id"] == run["id"]
        client.delete(f"/v1/runs/{run['id']}")
        [again, _] = lines_of(client, "/v1/events", 2, last=news[-1]["id"])
        assert json.loads(again["data"])["finished"]
        everything = lines_of(client, "/v1/events", 2, last="of-another-process-9")
        assert [one["event"] for one in everything] == ["run", "queues"]


def test_a_run_is_not_told_twice_to_who_comes_back(fleet):
    with served(fleet) as (address, _), httpx.Client(base_url=address, trust_env=False) as client:
        run = client.post("/v1/runs", json=RECORDED.model_dump(mode="json")).json()
        where = f"/v1/runs/{run['id']}/events"
        [first] = lines_of(client, where, 1)
        client.delete(f"/v1/runs/{run['id']}")
        [last] = lines_of(client, where, 9, last=first["id"])
        assert not json.loads(first["data"])["finished"] and json.loads(last["data"])["finished"]
        assert lines_of(client, where, 9, last=last["id"]) == []


def test_a_table_of_other_numbers_is_not_sent_with_each_event(fleet):
    text = "device,figure\n" + "x" * 1000
    plan = planning.plan(RECORDED, fleet)
    request = plan.request.model_copy(update={"reference": Reference(source="a.csv", text=text)})
    runs.start(plan.model_copy(update={"request": request}), fleet)
    said = Watch(fleet).look()[Topic("run", plan.id)]
    assert said["request"]["reference"] == {"source": "a.csv"}


def test_there_are_so_many_places_and_a_place_that_is_left_is_free(fleet, monkeypatch):
    monkeypatch.setattr(events, "LISTENERS", 3)
    run = started(fleet)
    paths = ["/v1/events", "/v1/events", f"/v1/runs/{run.id}/events"]
    with served(fleet) as (address, _), httpx.Client(base_url=address, trust_env=False) as client:
        with ExitStack() as open_:
            for path in paths:
                answer = open_.enter_context(client.stream("GET", path))
                assert answer.status_code == 200
            for path in paths:
                full = client.get(path)
                assert_problem(full, 503, "3 listen already")
                assert full.headers["retry-after"] == "10"
            assert client.get("/healthz").status_code == 200

        def free():
            with client.stream("GET", "/v1/events") as answer:
                return answer.status_code == 200

        assert await_(free)


def test_an_api_that_is_told_to_stop_does_not_wait_for_listeners(fleet, redis_url):
    settings = fleet.settings.model_copy(update={"redis_url": redis_url})
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "services.api", "--fd", str(listener.fileno())]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment(settings), pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        ) as api:  # fmt: skip
            try:
                client = stack.enter_context(
                    httpx.Client(base_url=address, timeout=60, trust_env=False)
                )
                answer = stack.enter_context(client.stream("GET", "/v1/events"))
                assert answer.status_code == 200
                told = time.monotonic()
                api.send_signal(signal.SIGTERM)
                api.wait(20)
                assert time.monotonic() - told < 6
            finally:
                api.kill()
