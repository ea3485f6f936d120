"""The API server: `python -m services.api [--fd N | --host H --port P]`."""

import argparse

import uvicorn

from services.api.app import create_app
from services.executors import EXECUTORS
from services.queue import COMPILE, connect
from services.runs import Fleet
from services.settings import load
from services.store import open_store

# How long answers may take once it is told to stop: whoever listens to events listens for ever.
LEAVE_SECONDS = 2


def main() -> None:
    """Serve until told to stop, on an open socket or an address."""
    settings = load()
    parser = argparse.ArgumentParser(prog="python -m services.api")
    parser.add_argument("--fd", type=int, default=None, help="an open listening socket")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=settings.api_port)
    options = parser.parse_args()
    connection = connect(settings.redis_url, settings.redis_password.get_secret_value())
    fleet = Fleet(settings, open_store(settings), connection, EXECUTORS)
    fleet.queue(COMPILE)  # raises where work could not be signed
    app = create_app(fleet)
    uvicorn.run(
        app,
        fd=options.fd,
        host=options.host,
        port=options.port,
        log_level="warning",
        timeout_graceful_shutdown=LEAVE_SECONDS,
    )


if __name__ == "__main__":
    main()
