"""A fleet of plain processes that can be killed and begun again: queue, API, compile workers."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress

import httpx

from services.driver.processes import SOCKET, pings, redis_command, redis_server
from services.settings import ROOT, environment, load
from services.store import Folder


class Standing:
    """The processes of a fleet in a folder; `with` it all end."""

    def __init__(self, folder, workers=2, **variables):
        self.folder, self.workers = folder, workers
        self.data, self.log = folder / "redis", folder / "builds"
        self.redis_url = f"unix://{folder / SOCKET}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        names = ("state", "store", "results", "recorded")
        given = {name: folder / name for name in names} | {"redis_url": self.redis_url}
        self.environment = environment(load().model_copy(update=given)) | variables
        self.store = Folder(folder / "store")
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False)
        self.processes = {}

    def __enter__(self):
        self.begin()
        return self

    def __exit__(self, *_):
        self.kill()
        self.client.close()

    def begin(self):
        """Start what is not there, and wait until it is ready."""
        self.data.mkdir(parents=True, exist_ok=True)
        for name, command in self._commands().items():
            found = self.processes.get(name)
            if found is None or found.poll() is not None:
                self.processes[name] = subprocess.Popen(
                    command, cwd=ROOT, env=self.environment, stdout=subprocess.DEVNULL
                )
            if name == "redis":
                self.wait(lambda: pings(self.redis_url), "redis answers")
        self.wait(lambda: self.ready() and self.alive() >= self.workers, "the fleet is ready")

    def kill(self, *names):
        """End these processes, or all, with no warning."""
        with ExitStack() as stack:
            for name in names or list(self.processes):
                stack.callback(self.processes[name].wait)
                with suppress(ProcessLookupError):
                    os.kill(self.processes[name].pid, signal.SIGKILL)

    def forget(self):
        """Lose all that the queue's server knew."""
        shutil.rmtree(self.data)

    def ready(self):
        try:
            return self.client.get("/readyz", timeout=2).is_success
        except httpx.TransportError:
            return False

    def alive(self):
        return self.client.get("/readyz").json()["compilers"]

    def stored(self, specs):
        return [one for one in specs if self.store.get_manifest(one.key()) is not None]

    def wait(self, ask, what, seconds=60.0):
        """Seconds until `ask` says yes."""
        begun = time.monotonic()
        while not ask():
            waited = time.monotonic() - begun
            assert waited < seconds, f"not within {seconds} s: {what}"
            time.sleep(0.02)
        return time.monotonic() - begun

    def _commands(self):
        module = [sys.executable, "-m"]
        api = [*module, "tests.services.fake_api", str(self.log), "--port", str(self.port)]
        worker = [*module, "tests.services.fake", self.redis_url, str(self.log)]
        return {
            "redis": redis_command(redis_server(), self.folder, self.data),
            "api": api,
            **{f"worker-{n}": worker for n in range(self.workers)},
        }
