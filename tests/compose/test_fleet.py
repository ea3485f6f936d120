"""The fleet in real containers: a figure, closed walls, and what it survives."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from services.executors import EXECUTORS
from services.experiments import OTHER_FLOATS
from services.messages import KernelSpec
from services.settings import ROOT
from tests.compose.stack import (
    BASE_IMAGE,
    PORT,
    SECONDS,
    Stack,
    another_host,
    base,
    begin,
    compose,
    docker,
    engine,
    finish,
    gateway,
    netns,
    ok,
    open_ports,
    ready,
    state,
    until,
)

pytestmark = [pytest.mark.compose, compose, engine, base]

# Work that no other test asks for: every test has kernels of its own.
UINTS = ["uint8", "uint7", "uint6", "uint5", "uint4"]
INTS = ["int8", "int7", "int6", "int5", "int4", "int3", "int2"]
FLOATS = ["float8_e4m3", "float7_e3m3", "float6_e3m2", "float5_e2m2", "float4_e2m1"]
OTHERS = list(OTHER_FLOATS[:5])
# What an engine takes to start containers again, on a machine that has much else to do, in seconds.
STARTING = 10
SERVICES = ["redis", "api", "compiler", "plotter"]
# Says whether a connection comes about, and asks nobody but who is named.
KNOCK = """
import socket, sys
for host in sys.argv[2:]:
    with socket.socket() as wire:
        wire.settimeout(0.5)
        print("open" if wire.connect_ex((host, int(sys.argv[1]))) == 0 else "closed")
"""


def every(client, run):
    """The numbers of the run's pieces of work, by how they stand, but for the drawing."""
    counts = (state(client, run) or {}).get("counts", {})
    found = {}
    for kind in ("compile", "check"):
        for name, number in counts.get(kind, {}).items():
            found[name] = found.get(name, 0) + number
    return found


def running(client):
    """The pieces of work that are being done by compilers."""
    answer = client.get("/v1/jobs")
    jobs = answer.json() if answer.is_success else []
    return [job["id"] for job in jobs if job["status"] == "running"]


def test_the_first_figure_is_there_in_a_minute(first, client, images):
    print(f"images {images:.0f} s, up {first.up:.1f} s, first figure {first.drawn:.1f} s from up")
    assert first.drawn < 60
    assert first.state["counts"]["draw"] == {"done": 1}
    drawn = client.get(f"/v1/runs/{first.state['id']}/figures/9.svg")
    assert b"<svg" in drawn.raise_for_status().content


@pytest.mark.promise(18)
@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_rights(fleet, service):
    for container in fleet.containers(service):
        shown = container.run("cat", "/proc/1/status", "/proc/self/status").stdout
        found = {}
        for line in shown.splitlines():
            name, _, values = line.partition(":")
            found.setdefault(name, set()).update(values.split())
        assert all(int(number) > 0 for number in found["Uid"] | found["Gid"])
        assert found["CapEff"] == found["CapPrm"] == found["CapBnd"] == {"0" * 16}
        assert found["NoNewPrivs"] == {"1"} and found["Seccomp"] == {"2"}
        refused = container.run("touch", "/srv/there", "/usr/there", "/etc/there").stderr
        assert refused.count("Read-only file system") == 3, refused


@pytest.mark.promise(19)
@netns
def test_only_the_api_reaches_another_host_or_this_one(fleet):
    with another_host() as (here, there):
        found = {
            container.name: container.run("python", "-c", KNOCK, str(PORT), here, there).stdout
            for container in fleet.containers("api", "compiler", "plotter")
        }
    for name, shown in found.items():
        assert set(shown.split()) == {"open" if "-api-" in name else "closed"}, (name, shown)


def test_a_port_scan_finds_the_api_and_that_only_from_this_machine(fleet, first):
    """All of 65,535 ports, at loopback and at an address that other hosts may reach."""
    assert fleet.port in open_ports("127.0.0.1")
    assert open_ports(gateway()) <= first.before
    published = [
        (each["HostIp"], int(each["HostPort"]))
        for container in fleet.containers()
        for ports in json.loads(container.inspect("json .NetworkSettings.Ports")).values()
        for each in ports or []
    ]
    assert published == [("127.0.0.1", fleet.port)]


def test_a_container_sees_its_own_secrets_and_nobody_reads_them_from_outside(fleet, secrets):
    own = {
        "redis": {"tilus_redis_users"},
        "api": {"tilus_redis_password", "tilus_queue_key", "tilus_token", "tilus_store_token"},
        "compiler": {"tilus_redis_password", "tilus_queue_key", "tilus_store_token"},
        "plotter": {"tilus_redis_password", "tilus_queue_key"},
    }
    hidden = [path.read_text() for path in secrets.iterdir() if path.name != "redis_users"]
    for container in fleet.containers():
        assert set(container.run("ls", "/run/secrets").stdout.split()) == own[container.service]
        shown = container.inspect("json .")
        assert not any(text in shown for text in hidden), container.name


def test_what_a_client_and_a_worker_may_write_is_not_the_same(fleet, client, secrets):
    store = {"Authorization": f"Bearer {(secrets / 'store_token').read_text()}"}
    run = {"figure": 9, "mode": "recorded"}
    name = "0" * 64
    assert client.post("/v1/runs", json=run, headers=store).status_code == 401
    assert client.post("/v1/runs", json=run, headers={"Authorization": ""}).status_code == 401
    assert client.put(f"/cas/{name}", content=b"x").status_code == 401
    assert client.put(f"/cas/{name}", content=b"x", headers=store).status_code == 422


def test_compilers_are_added_while_it_runs(three, client):
    assert len(three.containers("compiler")) == 3
    until("three compilers", lambda: client.get("/readyz").json()["compilers"] == 3, 30)


@pytest.mark.promise(1)
def test_what_killed_compilers_had_in_hand_is_done_again_within_20_seconds(three, client):
    run = begin(client, figure=10, dtypes=UINTS)
    # kernels that are being compiled, not those that wait for their turn
    until("work for every compiler", lambda: len(running(client)) == 3)
    for compiler in three.containers("compiler"):
        compiler.kill()
    killed, stopped = time.time(), running(client)
    assert stopped
    ended = finish(client, run)
    notes = {identity: three.note(identity) for identity in stopped}
    again = {identity: note for identity, note in notes.items() if note.began > killed}
    waited = max(note.began - killed for note in again.values())
    print(f"{len(again)} of {len(notes)} begun again, the last {waited:.1f} s after the kill")
    # 20 s from when there is a compiler again: the engine has to start them all
    assert again and waited < 20 + STARTING
    assert all(note.state == "done" and note.tries <= 2 for note in notes.values())
    assert ended["counts"]["compile"]["done"] >= len(UINTS)
    keys = [identity.partition("-")[2] for identity in again if identity.startswith("compile-")]
    for key in keys:
        manifest = client.get(f"/v1/kernels/{key}").json()["manifest"]
        spec = KernelSpec.model_validate(manifest["spec"])
        built = EXECUTORS[spec.executor].build(spec).files["kernel.cubin"]
        assert client.get(f"/v1/kernels/{key}/cubin").content == built


@pytest.mark.promise(2)
def test_a_killed_queue_loses_nothing(three, client):
    run = begin(client, figure=10, dtypes=INTS)
    until("a beginning", lambda: every(client, run).get("running"))
    [server] = three.containers("redis")
    before = server.inspect(".State.StartedAt")
    unfinished = every(client, run)
    assert unfinished["waiting"] + unfinished["running"] >= 12
    killed = time.monotonic()
    server.kill()
    until("a new queue", lambda: server.inspect(".State.StartedAt") != before, 5)
    until("the api", lambda: ready(client), 5)
    seconds = time.monotonic() - killed
    print(f"ready {seconds:.1f} s after the kill")
    assert seconds < 5
    ended = finish(client, run)
    assert ended["counts"]["compile"]["done"] >= len(INTS)


@pytest.mark.promise(3)
def test_after_a_power_cut_an_accepted_run_goes_on(three, client):
    run = begin(client, figure=10, dtypes=FLOATS)
    time.sleep(1.1)  # what is accepted is on disk within a second
    until("a beginning", lambda: every(client, run).get("running"))
    assert "stored" not in every(client, run)
    for container in three.containers():
        container.kill()
    cut = time.monotonic()
    until("the api", lambda: state(client, run) is not None, 20)
    print(f"the api answers {time.monotonic() - cut:.1f} s after the cut")
    assert sum(finish(client, run)["counts"]["compile"].values()) >= len(FLOATS)


@pytest.mark.promise(13)
def test_a_compiler_that_is_stopped_finishes_what_it_has_in_hand(three, client):
    run = begin(client, figure=10, dtypes=OTHERS)
    until("work for every compiler", lambda: len(running(client)) == 3)
    at_hand = running(client)
    stopped = three.containers("compiler")[0]
    began = time.monotonic()
    ok(docker("stop", "--time", "30", stopped.name))
    seconds = time.monotonic() - began
    assert stopped.inspect(".State.ExitCode") == "0"
    print(f"stopped in {seconds:.1f} s")
    assert seconds < 30
    finish(client, run)
    assert {three.note(identity).tries for identity in at_hand} == {1}


@pytest.mark.promise(22)
def test_a_full_disk_is_told_before_anything_is_lost(images, secrets, tmp_path):
    small = tmp_path / "small.yaml"
    small.write_text(
        "services: {api: {volumes: !override ['state:/data/state'],"
        " tmpfs: ['/data/store:size=64m,uid=10001', '/data/results:size=1m,uid=10001']}}\n"
    )
    files = ("compose.yaml", str(small))
    stack = Stack(f"tilus-fleet-small-{os.getpid()}", secrets, files)
    try:
        stack.compose("up", "--detach", "--no-build", "redis", "api")
        token = (secrets / "store_token").read_text()
        with stack.client() as client:
            until("an answer", lambda: not ready(client) and alive(client))
            answer = client.get("/readyz")
            assert answer.status_code == 503 and "MiB left: make room" in answer.json()["detail"]
            answer = client.put(
                "/cas/2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
                content=b"x",
                headers={"Authorization": f"Bearer {token}"},
            )
            assert answer.status_code == 507
            assert answer.headers["content-type"] == "application/problem+json"
    finally:
        stack.down()


def alive(client):
    try:
        return client.get("/healthz", timeout=1).is_success
    except httpx.TransportError:
        return False


def test_a_worker_on_another_host_shares_no_disk(fleet, client, secrets, tmp_path):
    """Two projects of Compose: no volume and no network is in both, the ports are the wire."""
    address = gateway()
    ports = {"TILUS_QUEUE_PORT": "16379", "TILUS_STORE_PORT": "18081"}
    here = Stack(
        fleet.project,
        secrets,
        ("compose.yaml", "compose.hosts.yaml"),
        {"TILUS_ADDRESS": address, **ports},
    )
    carried = tmp_path / "secrets"
    carried.mkdir()
    for name in ("redis_compiler", "queue_key", "store_token"):
        (carried / name).write_bytes((secrets / name).read_bytes())
    there = Stack(
        f"tilus-fleet-there-{os.getpid()}",
        carried,
        ("compose.worker.yaml",),
        {
            "REDIS_URL": f"redis://compiler@{address}:16379/0",
            "STORE_URL": f"http://{address}:18081",
        },
    )
    here.port = fleet.port
    here.environment["TILUS_API_PORT"] = str(fleet.port)
    try:
        here.up("--scale", "compiler=0")
        there.up()
        until("workers", lambda: ready(client) and client.get("/readyz").json()["compilers"] == 2)
        run = begin(client, figure=9, dtypes=["int4"])
        ended = finish(client, run)
        mounts = [
            {each["Name"] for each in json.loads(c.inspect("json .Mounts")) if "Name" in each}
            for c in (*here.containers("api"), *there.containers())
        ]
    finally:
        there.down()
    assert ended["counts"]["compile"]["done"] > 0  # nobody else could have
    assert len(mounts) == 3 and not mounts[0] & (mounts[1] | mounts[2])


def test_the_driver_makes_a_figure_in_containers(images, secrets, tmp_path):
    project = f"tilus-fleet-driver-{os.getpid()}"
    stack = Stack(project, secrets)
    given = {
        "COMPOSE_PROJECT_NAME": project,
        "BASE_IMAGE": BASE_IMAGE,
        "TILUS_STATE": str(tmp_path / "state"),
        "TILUS_RESULTS": str(tmp_path / "results"),
        "TILUS_SECRETS": str(tmp_path / "secrets"),
        "TILUS_API_PORT": str(stack.port),
    }
    command = [sys.executable, "-m", "services.driver", "--mode", "compose", "--json"]
    try:
        done = subprocess.run(
            [*command, "--figure", "9", "--dtypes", "u4", "--device", "cpu"],
            cwd=ROOT,
            env=os.environ | given,
            stdout=subprocess.PIPE,
            text=True,
            timeout=SECONDS * 2,
            check=False,
        )
    finally:
        stack.down()
    assert done.returncode == 0
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["run"]["counts"]["draw"] == {"done": 1}
    assert summary["run"]["largest_error"] < 2e-3
    assert all(Path(name).stat().st_size > 0 for name in summary["files"])
