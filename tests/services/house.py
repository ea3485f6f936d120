"""A store, a build log, and compile workers on them: what the tests of the queue stand in."""

import subprocess
import sys
import time

from services.batch import Piece
from services.queue import COMPILE, FleetQueue, alive, standings, submit
from services.settings import ROOT, environment, load
from services.store import Folder
from tests.services.fake import built

BUILD = "services.compiler.jobs.build"
WAIT = 60  # seconds for what has no limit of its own, on a machine that has much else to do


class House:
    """Everything of one test, in a folder of its own."""

    def __init__(self, folder, redis, redis_url):
        self.store = Folder(folder / "store")
        self.log = folder / "builds"
        self.url = redis_url
        self.queue = FleetQueue(COMPILE, redis)
        given = load().model_copy(update={"redis_url": redis_url, "store": folder / "store"})
        self.environment = environment(given)

    def worker(self, *flags):
        command = [sys.executable, "-m", "tests.services.fake", self.url, str(self.log)]
        return subprocess.Popen([*command, *flags], cwd=ROOT, env=self.environment)

    def work(self):
        with self.worker("burst") as worker:
            pass
        assert worker.returncode == 0

    def await_worker(self, workers=1, seconds=WAIT):
        deadline = time.monotonic() + seconds
        while alive(self.queue) < workers:
            assert time.monotonic() < deadline, f"{alive(self.queue)} of {workers} workers"
            time.sleep(0.02)

    def submit(self, one, after=()):
        self.submit_batch([one], after)

    def submit_batch(self, specs, after=(), seconds=60):
        pieces = [Piece(one.key(), one.model_dump(mode="json")) for one in specs]
        submit(self.queue, BUILD, pieces, title="fake", seconds=seconds, after=after)

    def note(self, one):
        [standing] = standings(self.queue, [one.key()])
        return None if standing is None else standing.note

    def state(self, one):
        return self.note(one).state


def await_builds(house, number, seconds=WAIT):
    deadline = time.monotonic() + seconds
    while len(built(house.log)) < number:
        assert time.monotonic() < deadline, f"no build {number} within {seconds} s"
        time.sleep(0.02)


def await_state(house, one, state, seconds=WAIT):
    deadline = time.monotonic() + seconds
    while house.state(one) != state:
        assert time.monotonic() < deadline, f"{house.note(one)} is not {state} within {seconds} s"
        time.sleep(0.02)
