"""Docker and Compose for the tests: what works here, and one fleet in containers of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from services.driver.compose import client_of
from services.notes import Note
from services.settings import ROOT

OFFICIAL, LOCAL = "python:3.11-slim-bookworm", "tilus-fleet-base"
SECONDS = 120.0


def docker(
    *arguments: str, given: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run docker at the project's root; 127 where there is none."""
    environment = {**os.environ, **(given or {})}
    try:
        return subprocess.run(
            ["docker", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return subprocess.CompletedProcess(arguments, 127, "", str(error))


def works(*arguments: str) -> bool:
    return docker(*arguments).returncode == 0


def needs(what: str, *arguments: str) -> pytest.MarkDecorator:
    """Skip where `docker arguments` does not work."""
    done = docker(*arguments)
    said = (done.stderr or done.stdout).strip().splitlines()[-1:]
    return pytest.mark.skipif(done.returncode != 0, reason=f"{what}: {' '.join(said)}")


# The base that images are built on: as told, else the official one or the one made here.
BASE_IMAGE = os.environ.get("BASE_IMAGE") or next(
    (name for name in (OFFICIAL, LOCAL) if works("image", "inspect", name)), OFFICIAL
)
compose = needs("no Docker Compose here", "compose", "version")
engine = needs("no Docker engine here", "info")
base = needs(f"no image {BASE_IMAGE} here", "image", "inspect", BASE_IMAGE)

netns = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="another host takes a network namespace: root and iproute2",
)
HERE, THERE, PORT = "198.51.100.1", "198.51.100.2", 8765


class Container(NamedTuple):
    """One container of a fleet."""

    service: str
    name: str

    def inspect(self, what: str) -> str:
        """A field of what the engine knows of it."""
        return ok(docker("inspect", "--format", f"{{{{{what}}}}}", self.name)).strip()

    def kill(self) -> None:
        """Kill its first process, as a crash does: the engine starts it again."""
        os.kill(int(self.inspect(".State.Pid")), signal.SIGKILL)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return docker("exec", self.name, *command)


@dataclass
class Stack:
    """The containers of one project of Compose, with secrets in a folder."""

    project: str
    secrets: Path
    files: Sequence[str] = ("compose.yaml",)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port = free_port()
        self.environment = {
            "BASE_IMAGE": BASE_IMAGE,
            "TILUS_API_PORT": str(self.port),
            "TILUS_SECRETS": str(self.secrets),
        } | self.environment

    def compose(self, *arguments: str) -> str:
        """Run docker compose for this project; what it printed."""
        return ok(self.try_compose(*arguments))

    def try_compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same, however it ends."""
        files = [part for name in self.files for part in ("--file", name)]
        return docker("compose", "-p", self.project, *files, *arguments, given=self.environment)

    def up(self, *arguments: str) -> None:
        """Start what is not there, and wait until all is well."""
        self.compose("up", "--detach", "--wait", "--no-build", *arguments)

    def down(self) -> None:
        """Take everything away, its volumes and networks too.

        But for a network of which the engine believes, as it does at times, that some container
        still has it, when none is left.
        """
        done = self.try_compose("down", "--volumes", "--timeout", "1", "--remove-orphans")
        if "has active endpoints" in done.stderr and not self.containers():
            return
        ok(done)

    def containers(self, *services: str) -> list[Container]:
        """The containers there are, of these services or of all."""
        lines = self.compose("ps", "--all", "--format", "json", *services).splitlines()
        found = [json.loads(line) for line in lines]
        return sorted(Container(each["Service"], each["Name"]) for each in found)

    def client(self) -> httpx.Client:
        """A client of its API that may begin runs."""
        return client_of(f"http://127.0.0.1:{self.port}", self.secrets)

    def note(self, identity: str) -> Note:
        """What the queue's server knows of one piece of work."""
        [server] = self.containers("redis")
        password = (self.secrets / "redis_compiler").read_text()
        cli = ["redis-cli", "--user", "compiler", "--pass", password, "--no-auth-warning"]
        return Note.model_validate_json(ok(server.run(*cli, "get", f"tilus:note:{identity}")))


@contextmanager
def another_host() -> Iterator[tuple[str, str]]:
    """Another host beside this one, and a server on both: their addresses."""
    name = f"tilus{os.getpid()}"
    ip("netns", "add", name)
    servers = []
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "wire", "netns", name)
        ip("address", "add", f"{HERE}/30", "dev", name)
        ip("link", "set", name, "up")
        ip("-n", name, "address", "add", f"{THERE}/30", "dev", "wire")
        ip("-n", name, "link", "set", "wire", "up")
        for address, inside in ((HERE, []), (THERE, ["ip", "netns", "exec", name])):
            command = [sys.executable, "-m", "http.server", str(PORT), "--bind", address]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            servers.append(subprocess.Popen([*inside, *command], cwd="/var/lib/misc", **quiet))
        until("both servers", lambda: listens(HERE) and listens(THERE), 10)
        yield HERE, THERE
    finally:
        for server in servers:
            server.kill()
            server.wait()
        ip("netns", "delete", name)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def listens(address: str) -> bool:
    with socket.socket() as wire:
        wire.settimeout(1)
        return wire.connect_ex((address, PORT)) == 0


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """What a command printed that had to work."""
    assert done.returncode == 0, f"{done.args}: {done.stdout}{done.stderr}"
    return done.stdout


def gateway() -> str:
    """An address of this machine that is not loopback: its end of the engine's own network."""
    [bridge] = json.loads(ok(docker("network", "inspect", "bridge")))
    return str(bridge["IPAM"]["Config"][0].get("Gateway", "172.17.0.1"))


def open_ports(address: str) -> set[int]:
    """Every port at an address of this machine that takes connections."""
    found = set()
    for port in range(1, 1 << 16):
        with socket.socket() as wire:
            wire.settimeout(1)
            if wire.connect_ex((address, port)) == 0:
                found.add(port)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def begin(client: httpx.Client, **asked: object) -> str:
    """Begin a recorded run; its id."""
    answer = client.post("/v1/runs", json={"mode": "recorded", **asked})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def state(client: httpx.Client, run: str) -> dict | None:
    """Where a run stands; None while the API or what it needs is away."""
    try:
        answer = client.get(f"/v1/runs/{run}")
    except httpx.TransportError:
        return None
    return answer.json() if answer.is_success else None


def until(what: str, ask: Callable[[], object], seconds: float = SECONDS) -> float:
    """Wait until `ask` says yes; the seconds that it took."""
    started = time.monotonic()
    while not ask():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)
    return time.monotonic() - started


def finish(client: httpx.Client, run: str) -> dict:
    """Wait for the end of a run, which must have no failures; its state."""
    try:
        until(f"run {run}", lambda: (state(client, run) or {}).get("finished"))
    except AssertionError as late:
        jobs = client.get("/v1/jobs").text
        raise AssertionError(f"{late}: {state(client, run)}, {jobs}") from None
    ended = state(client, run)
    assert ended is not None and ended["failures"] == []
    assert ended["largest_error"] < 2e-3
    for kind, counts in ended["counts"].items():
        assert set(counts) <= {"done", "stored"}, kind
    return ended


def ready(client: httpx.Client) -> bool:
    """Whether the API says that work can be done."""
    try:
        return client.get("/readyz", timeout=1).is_success
    except httpx.TransportError:
        return False
