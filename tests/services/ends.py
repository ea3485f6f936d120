"""Far ends of the store on this machine: the fleet's own API, and nginx as the manual has it."""

import re
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import uvicorn
from redis import Redis

from services.api.app import create_app
from services.fleet import Fleet
from services.settings import ROOT, load
from services.store import Folder

NGINX = shutil.which("nginx")


class End(NamedTuple):
    """Where it is, and the folder that it keeps."""

    url: str
    root: Path


@contextmanager
def serving(app):
    """Serve on loopback for as long as the block lasts; the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield "http://{}:{}".format(*listener.getsockname())
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def api_end(root: Path, **changes):
    settings = load().model_copy(update={"store": root, "state": root / "state", **changes})
    nobody = Redis.from_url(f"unix://{root}/none.sock")
    with serving(create_app(Fleet(settings, Folder(root), nobody, {}))) as url:
        yield End(url, root)


@contextmanager
def nginx_end(root: Path):
    if NGINX is None:
        pytest.skip("there is no nginx on PATH: apt-get install nginx-light")
    [text] = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs/store.md").read_text(), re.DOTALL)
    (root / "tmp").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # One process, that of the user who runs the tests.
    text = "master_process off;\n" + text.replace("/srv/artifacts", str(root))
    (root / "nginx.conf").write_text(text.replace(":8080", f":{port}"))
    log = ["-e", str(root / "error.log"), "-c", str(root / "nginx.conf"), "-p", str(root)]
    with subprocess.Popen([NGINX, *log]) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _await(url, server, root / "error.log")
            yield End(url, root)
        finally:
            server.terminate()


def _await(url, server, log):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(log.read_text())


ENDS = {"api": api_end, "nginx": nginx_end}
