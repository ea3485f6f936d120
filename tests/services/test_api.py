import json

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from redis import Redis

from services.api.app import create_app
from services.building import build_kernel
from services.fleet import Fleet
from services.messages import RunRequest
from services.queue import COMPILE, FleetQueue
from services.records import append, record_path
from services.selection import selected
from tests.services.fake import spec
from tests.services.problems import assert_problem
from tests.services.records import record


def limited(fleet, **changes):
    settings = fleet.settings.model_copy(update=changes)
    app = create_app(Fleet(settings, fleet.store, fleet.connection, fleet.executors))
    return TestClient(app, raise_server_exceptions=False)


def test_a_new_kernel_is_accepted_queued_and_found(client, fleet):
    one = spec(n=1)
    answer = client.post("/v1/kernels", json=one.model_dump())
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/kernels/{one.key()}"
    assert answer.json()["status"] == "waiting"
    assert client.get(answer.headers["location"]).json()["status"] == "waiting"
    assert FleetQueue(COMPILE, fleet.connection).count == 1


def test_the_same_kernel_asked_for_twice_is_one_job(client, fleet):
    for _ in range(2):
        client.post("/v1/kernels", json=spec(n=1).model_dump())
    assert FleetQueue(COMPILE, fleet.connection).count == 1


def test_a_stored_kernel_is_answered_without_a_job(client, fleet):
    one = spec(n=2)
    build_kernel(one, fleet.store, fleet.executors, "abc")
    answer = client.post("/v1/kernels", json=one.model_dump())
    assert answer.status_code == 200 and answer.json()["status"] == "stored"
    assert answer.json()["manifest"]["built_by"] == "abc"
    assert FleetQueue(COMPILE, fleet.connection).count == 0
    assert client.get("/v1/kernels").json() == [one.key()]
    where = f"/v1/kernels/{one.key()}"
    assert client.get(f"{where}/source").text == "// fake\n"
    assert client.get(f"{where}/cubin").content == one.canonical().encode()
    assert_problem(client.get(f"{where}/log"), 404, "no compile.log")


def test_what_the_compiler_said_is_served(client, fleet):
    one = spec(n=2, said="warning: unused")
    build_kernel(one, fleet.store, fleet.executors, "abc")
    assert client.get(f"/v1/kernels/{one.key()}/log").text == "warning: unused"


def test_a_damaged_kernel_is_never_served(client, fleet):
    one = spec(n=3)
    stored = build_kernel(one, fleet.store, fleet.executors, "abc")
    path = fleet.store.root / "cas" / stored.files["kernel.cubin"]
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert_problem(client.get(f"/v1/kernels/{one.key()}/cubin"), 404, "not in the store")


@pytest.mark.promise(11)
@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"executor": "cutlass"}, "choose from fake, tilus"),
        ({"parameters": {"refuse": 1}}, "fake refuses"),
        ({"arch": "sm_90; rm -rf"}, "arch"),
        ({"source": "int main() {}"}, "Extra inputs"),
        ({"parameters": {"n": [1]}}, "parameters"),
    ],
)
def test_a_kernel_that_cannot_be_is_refused_at_the_door(client, fleet, body, word):
    answer = client.post("/v1/kernels", json=spec(n=4).model_dump() | body)
    assert_problem(answer, 422, word)
    assert FleetQueue(COMPILE, fleet.connection).count == 0


@pytest.mark.parametrize(
    "where", ["/v1/kernels/" + "0" * 64, "/v1/jobs/none", "/v1/runs/none", "/nowhere"]
)
def test_what_is_not_there_is_a_problem(client, where):
    assert_problem(client.get(where), 404)


@pytest.mark.parametrize("key", ["..%2F..%2Fetc%2Fpasswd", "A" * 64, "0"])
def test_only_digests_name_kernels(client, key):
    assert client.get(f"/v1/kernels/{key}").status_code in (404, 422)


def test_a_job_waits_is_listed_and_can_be_taken_back(client):
    body = {"kind": "check", "spec": spec(n=5).model_dump()}
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202
    where = answer.headers["location"]
    assert client.get(where).json()["status"] == "waiting"
    assert [job["id"] for job in client.get("/v1/jobs").json()] == [answer.json()["id"]]
    assert client.delete(where).json()["status"] == "cancelled"
    assert client.get("/v1/jobs").json() == []
    assert_problem(client.delete(where), 409, "cancelled")


def test_a_run_is_its_request(client):
    request = RunRequest(figure=9, mode="recorded", dtypes=("u4",)).model_dump()
    first, second = (client.post("/v1/runs", json=request) for _ in range(2))
    assert first.status_code == second.status_code == 202
    assert first.headers["location"] == second.headers["location"]
    state = client.get(first.headers["location"]).json()
    assert not state["finished"] and state["counts"]["compile"]["waiting"] > 0
    assert [run["id"] for run in client.get("/v1/runs").json()] == [state["id"]]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"figure": 8}, "there is no figure 8"),
        ({"dtypes": ["u5"]}, "uint5"),
        ({"group_size": 100}, "does not divide"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_a_run_that_cannot_be_leaves_nothing(client, fleet, change, word):
    answer = client.post("/v1/runs", json={"figure": 9, "mode": "recorded"} | change)
    assert_problem(answer, 422, word)
    assert not (fleet.settings.state / "runs").exists()
    assert FleetQueue(COMPILE, fleet.connection).count == 0


def test_a_run_tells_how_it_goes_until_it_is_over(client, fleet):
    answer = client.post("/v1/runs", json={"figure": 9, "mode": "recorded", "dtypes": ["u4"]})
    where = answer.headers["location"]
    assert client.delete(where).json()["finished"]
    with client.stream("GET", f"{where}/events") as events:
        lines = [line for line in events.iter_lines() if line.startswith("data:")]
    assert json.loads(lines[-1].removeprefix("data:"))["finished"]


def test_a_figure_is_served_once_it_is_drawn(client, fleet):
    answer = client.post("/v1/runs", json={"figure": 9, "mode": "recorded"})
    where = f"{answer.headers['location']}/figures/9.svg"
    assert_problem(client.get(where), 404, "not drawn yet")
    fleet.settings.results.mkdir()
    (fleet.settings.results / "figure9.svg").write_text("<svg/>")
    answer = client.get(where)
    assert answer.text == "<svg/>" and answer.headers["content-type"].startswith("image/svg")
    assert_problem(client.get(where.replace(".svg", ".exe")), 404, "9.pdf, 9.png, 9.svg")
    assert_problem(client.get(where.replace("9.svg", "10.svg")), 404)


def test_results_are_the_records(client, fleet):
    [cell, *_] = selected(RunRequest(figure=9, mode="recorded"))
    append(record_path(fleet.settings.recorded, "nvidia-h200", 9), record(cell))
    [one] = client.get("/v1/results", params={"figure": 9}).json()
    assert one["executor"] == "torch-f16" and one["schema"] == 1
    assert client.get("/v1/results", params={"figure": 9, "gpu": "other"}).json() == []
    assert_problem(client.get("/v1/results"), 422, "figure")


@pytest.mark.promise(11)
def test_bodies_have_a_limit(fleet):
    client = limited(fleet, body_limit=100)
    body = json.dumps({"padding": "x" * 200})
    assert_problem(client.post("/v1/runs", content=body), 413, "100 bytes")
    assert_problem(client.post("/v1/runs", content=iter([b"{}"])), 411)


def test_the_queue_has_a_limit(fleet):
    client = limited(fleet, queue_limit=2)
    for n in range(2):
        assert client.post("/v1/kernels", json=spec(n=n).model_dump()).status_code == 202
    answer = client.post("/v1/kernels", json=spec(n=9).model_dump())
    assert_problem(answer, 429, "2 jobs are waiting")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.promise(16)
def test_writing_needs_the_token_where_there_is_one(fleet):
    client = limited(fleet, token=SecretStr("open sesame"))
    body = spec(n=1).model_dump()
    assert_problem(client.post("/v1/kernels", json=body), 401)
    wrong = {"Authorization": "Bearer open"}
    assert_problem(client.post("/v1/kernels", json=body, headers=wrong), 401)
    right = {"Authorization": "Bearer open sesame"}
    assert client.post("/v1/kernels", json=body, headers=right).status_code == 202
    assert client.get("/v1/kernels").status_code == 200


@pytest.mark.promise(21)
def test_readiness_needs_the_queue_and_health_does_not(client, fleet, tmp_path):
    assert client.get("/readyz").json()["compilers"] == 0
    gone = Redis.from_url(f"unix://{tmp_path}/none.sock")
    lonely = TestClient(
        create_app(Fleet(fleet.settings, fleet.store, gone, fleet.executors)),
        raise_server_exceptions=False,
    )
    assert_problem(lonely.get("/readyz"), 503, "queue does not answer")
    assert_problem(lonely.post("/v1/kernels", json=spec(n=1).model_dump()), 503)
    assert lonely.get("/healthz").json() == {"status": "ok"}


def test_the_interface_describes_itself(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {
        "/ac/{name}",
        "/cas/{name}",
        "/v1/kernels",
        "/v1/jobs",
        "/v1/runs",
        "/v1/results",
        "/readyz",
    } <= set(paths)
