"""The API server: `python -m services.api [--fd N | --host H --port P]`.

Told to stop (SIGTERM), it says at once that it is not ready, answers for a moment to those who have
not heard, and ends with 0.
"""

import argparse
import signal
import sys
import threading
from types import FrameType

import uvicorn

from services.api.app import create_app
from services.executors import EXECUTORS
from services.fleet import Fleet
from services.queue import COMPILE, connect
from services.settings import load
from services.store import open_store

DRAIN_SECONDS = 2.0  # so long that whoever asks each second whether it is ready has heard
# How long answers may take then: whoever listens to events listens for ever.
LAST_SECONDS = 2


class Server(uvicorn.Server):
    """Ends a while after it was told to."""

    def __init__(self, config: uvicorn.Config, drain_seconds: float) -> None:
        super().__init__(config)
        self.drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Be not ready from here on, and end soon; a second signal ends at once."""
        state = self.config.app.state  # type: ignore[union-attr]
        wait = 0.0 if state.going else self.drain_seconds
        state.going = True
        threading.Timer(wait, super().handle_exit, (sig, frame)).start()


def main() -> None:
    """Serve until told to stop, on an open socket or an address."""
    settings = load()
    parser = argparse.ArgumentParser(prog="python -m services.api")
    parser.add_argument("--fd", type=int, default=None, help="an open listening socket")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=settings.api_port)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    connection = connect(settings.redis_url, settings.redis_password.get_secret_value())
    fleet = Fleet(settings, open_store(settings), connection, EXECUTORS)
    fleet.queue(COMPILE)  # raises where work could not be signed
    # A driver that lends its socket ends with its fleet, and says itself what is to be done.
    alone = options.fd is None
    config = uvicorn.Config(
        create_app(fleet, resumes=alone),
        fd=options.fd,
        host=options.host,
        port=options.port,
        log_level="warning",
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    Server(config, DRAIN_SECONDS if alone else 0.0).run()


if __name__ == "__main__":
    main()
