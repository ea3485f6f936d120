"""The API in a process of its own, with executors that compile what they are told to.

python -m tests.services.fake_api LOG [--port N]
"""

import os
import sys
from pathlib import Path

from services import queue
from services.api import __main__ as api
from services.api import app
from services.executors import EXECUTORS
from tests.services.fake import Fake

if __name__ == "__main__":
    if "TESTS_HEARTBEAT" in os.environ:
        queue.HEARTBEAT_SECONDS = int(os.environ["TESTS_HEARTBEAT"])
        queue.MAINTENANCE_SECONDS = 1
    log = Path(sys.argv.pop(1))
    EXECUTORS.clear()
    EXECUTORS.update({name: Fake(name, log) for name in ("fake", "tilus")})
    app.RESUME_SECONDS = 0.5
    api.main()
