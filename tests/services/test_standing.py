"""An API that stands by itself: what it goes on with, what it forgets, and what it refuses."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from services import planning, runs
from services.api import app
from services.api.app import create_app
from services.building import build_kernel
from services.fleet import Fleet
from services.messages import RunRequest
from services.queue import COMPILE, FleetQueue
from tests.services.artifacts import age
from tests.services.fake import spec
from tests.services.problems import assert_problem

REQUEST = RunRequest(figure=9, mode="recorded", dtypes=("u4",))
DAY = 86400


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(app, "RESUME_SECONDS", 0.05)


def accepted(fleet, hours=0):
    """A run that was begun so long ago, and of which the queue has forgotten all."""
    plan = planning.plan(REQUEST, fleet, datetime.now(UTC) - timedelta(hours=hours))
    runs.start(plan, fleet)
    fleet.connection.flushall()
    return plan


def queued(fleet, resumes=True, seconds=2.0):
    """How many batches an API queues by itself."""
    queue = FleetQueue(COMPILE, fleet.connection)
    with TestClient(create_app(fleet, resumes=resumes)):
        deadline = time.monotonic() + seconds
        while not queue.count and time.monotonic() < deadline:
            time.sleep(0.02)
    return queue.count


def test_it_goes_on_with_what_was_accepted_before_it_began(fleet, soon):
    accepted(fleet)
    assert queued(fleet) > 0


def test_a_run_that_cannot_be_gone_on_with_stops_no_other(fleet, soon, monkeypatch, capsys):
    bad = accepted(fleet).id
    good = planning.plan(REQUEST.model_copy(update={"dtypes": ("u8",)}), fleet)
    runs.start(good, fleet)
    fleet.connection.flushall()
    resume, tried = runs.resume, []

    def sometimes(plan, fleet):
        tried.append(plan.id)
        if plan.id == bad or tried.count(plan.id) == 1:
            raise ValueError("this run is not as it should be")
        return resume(plan, fleet)

    monkeypatch.setattr(runs, "resume", sometimes)
    assert queued(fleet) > 0
    assert tried.count(bad) > 1 and tried.count(good.id) > 1
    assert f"run {bad} cannot be gone on with:" in capsys.readouterr().err


def test_one_that_a_driver_starts_leaves_that_to_the_driver(fleet, soon):
    accepted(fleet)
    assert queued(fleet, resumes=False, seconds=0.5) == 0


def test_it_does_not_go_on_with_what_was_taken_back_until_it_is_asked_for_again(fleet, soon):
    plan = accepted(fleet)
    runs.cancel(plan, fleet)
    assert runs.is_cancelled(plan, fleet) and queued(fleet, seconds=0.5) == 0
    runs.start(plan, fleet)
    fleet.connection.flushall()
    assert not runs.is_cancelled(plan, fleet) and queued(fleet) > 0


def test_it_does_not_dig_out_old_runs(fleet, soon):
    accepted(fleet, hours=app.ACCEPTED_HOURS + 1)
    assert queued(fleet, seconds=0.5) == 0


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({}, {1, 2, 3}),
        ({"store_max_days": 5}, {1, 2}),
        ({"store_max_bytes": 1}, {1}),  # what was used within the hour stays
        ({"store_max_days": 20, "store_max_bytes": 1 << 30}, {1, 2, 3}),
    ],
)
def test_it_keeps_its_store_within_the_limits_of_the_settings(fleet, limits, kept):
    specs = {n: spec(n=n) for n in (1, 2, 3)}
    for one, days in zip(specs.values(), (0, 3, 10), strict=True):
        build_kernel(one, fleet.store, fleet.executors, "abc")
        age(fleet.store.path("ac", one.key()), days * DAY)
    for name in fleet.store.every_object():
        age(fleet.store.path("cas", name), 30 * DAY)
    settings = fleet.settings.model_copy(update=limits)
    at = Fleet(settings, fleet.store, fleet.connection, fleet.executors)
    left = set(specs)
    with TestClient(create_app(at)):
        deadline = time.monotonic() + (2 if kept != left else 0.3)
        while (left != kept and time.monotonic() < deadline) or time.monotonic() < deadline - 1.8:
            left = {n for n, one in specs.items() if fleet.store.known(one.key()) is not None}
            time.sleep(0.02)
    assert left == kept
    assert all(fleet.store.get_manifest(specs[n].key()) is not None for n in kept)


def test_one_that_is_going_is_not_ready_and_takes_nothing(fleet):
    made = create_app(fleet)
    client = TestClient(made, raise_server_exceptions=False)
    assert client.get("/readyz").is_success
    made.state.going = True
    assert_problem(client.get("/readyz"), 503, "about to end")
    answer = client.post("/v1/kernels", json=spec(n=1).model_dump())
    assert_problem(answer, 503, "about to end")
    assert int(answer.headers["retry-after"]) > 0
    assert client.get("/healthz").is_success and client.get("/v1/kernels").is_success
    assert FleetQueue(COMPILE, fleet.connection).count == 0
