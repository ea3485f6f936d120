"""A worker: it serves one queue, and its children end with it.

Told to stop (SIGTERM), it lets the piece of work at hand end if that takes no longer than it may,
gives everything else back to the queue, and ends with 0.
"""

import math
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import NamedTuple

from rq import Queue, Worker
from rq.executions import Execution
from rq.job import Job
from rq.registry import StartedJobRegistry

from services import queue as fleet_queue
from services.batch import FleetJob
from services.process import die_with_parent
from services.queue import ASKS, FleetQueue, connect
from services.signing import serializer

# How long a worker that was told to stop waits for the piece of work at hand, in seconds. It looks
# every MAINTENANCE_SECONDS, so that it is gone within 30 s.
DRAIN_SECONDS = 15.0


class Bounds(NamedTuple):
    """What one batch may use at most: bytes of memory of each process, of each file; 0: any."""

    memory: int = 0
    file: int = 0

    def apply(self) -> None:
        """Hold this process and its children to them."""
        for kind, most in ((resource.RLIMIT_DATA, self.memory), (resource.RLIMIT_FSIZE, self.file)):
            if most:
                resource.setrlimit(kind, (most, most))


class FleetWorker(Worker):
    """A forking worker whose death is noticed within HEARTBEAT_SECONDS."""

    job_class = FleetJob
    queue_class: type[Queue] = FleetQueue
    bounds = Bounds()
    drain_seconds = DRAIN_SECONDS
    _leaves_at = math.inf

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Seconds until this worker, if it stays silent, counts as dead."""
        return fleet_queue.HEARTBEAT_SECONDS

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Run one job in the forked child, which dies with its worker."""
        assert isinstance(job, FleetJob)
        die_with_parent()
        signal.signal(signal.SIGUSR1, lambda *_: job.stop())
        if self._stop_requested:
            job.stop()
        self.bounds.apply()
        super().main_work_horse(job, queue)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Take no more work; what was begun may end, until DRAIN_SECONDS are over."""
        self._stop_requested = True  # also where RQ's own way to leave an idle wait is not heard
        self._leaves_at = time.monotonic() + self.drain_seconds
        if self.horse_pid:
            with suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGUSR1)
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Give a sign of life; end what this worker waits for no longer."""
        super().maintain_heartbeats(job, execution)
        if time.monotonic() > self._leaves_at:
            self.kill_horse()

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry | None = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Queue the batch again, unless it is one that no worker runs."""
        assert isinstance(job, FleetJob)
        if job.refused:
            job.retries_left = 0
        elif execution is not None and not self.is_horse:
            job.give_up_what_is_overdue()
        if self._stop_requested and not job.refused:
            job.give_back()
        if job.stopping or self._stop_requested:  # nothing failed: this is no try
            job.retries_left = (job.retries_left or 0) + 1
        super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)


def serve(
    name: str,
    url: str,
    password: str = "",
    key: str = "",
    *,
    burst: bool = False,
    bounds: Bounds = FleetWorker.bounds,
    drain_seconds: float = DRAIN_SECONDS,
) -> None:
    """Work on one queue until told to stop; `burst`: until it is empty.

    Unsigned if others may reach the server at `url` and there is no key.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the worker listens itself
    written = serializer(url, key)
    connection = connect(url, password, ASKS)
    worker = FleetWorker(
        [FleetQueue(name, connection, written)],
        connection=connection,
        serializer=written,
        worker_ttl=fleet_queue.HEARTBEAT_SECONDS + fleet_queue.MAINTENANCE_SECONDS,
        maintenance_interval=fleet_queue.MAINTENANCE_SECONDS,
        job_monitoring_interval=fleet_queue.MAINTENANCE_SECONDS,
    )
    worker.bounds, worker.drain_seconds = bounds, drain_seconds
    worker.work(burst=burst, logging_level="WARNING")
