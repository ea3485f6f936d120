"""The API on a real port of loopback, for tests of what stays open."""

import socket
import threading
import time
from contextlib import contextmanager

import uvicorn

from services.api.app import create_app

SECONDS = 20.0


class Heard:
    """An ASGI application, and the values of one header that it was sent."""

    def __init__(self, app, path, header):
        self.app = app
        self.path, self.header = path, header.lower().encode()
        self.values = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == self.path:
            self.values.append(dict(scope["headers"]).get(self.header, b"").decode())
        await self.app(scope, receive, send)


@contextmanager
def served(fleet, port=0):
    """The address of an API in front of that fleet, and what was last seen by who listened."""
    heard = Heard(create_app(fleet), "/v1/events", "Last-Event-ID")
    config = uvicorn.Config(heard, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        await_(lambda: server.started)
        try:
            host, number = listener.getsockname()
            yield f"http://{host}:{number}", heard.values
        finally:
            server.should_exit = True
            thread.join(SECONDS)


def await_(there):
    """What `there` says, once it says something."""
    deadline = time.monotonic() + SECONDS
    while not (found := there()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found
