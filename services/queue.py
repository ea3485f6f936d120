"""The job queue: RQ over Redis, with the holes closed that its defaults leave open.

Jobs travel as JSON and may name only the functions listed here; callbacks and web hooks in a job
are dropped. One worker serves one queue, so that a job cannot be lost between two, and a worker
takes its children with it when it dies.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from pydantic import JsonValue
from redis import Redis
from rq import Queue, Retry, Worker
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.executions import Execution
from rq.job import Dependency, Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

Function = Literal[
    "services.compiler.jobs.build",
    "services.compiler.jobs.check",
    "services.plotter.jobs.draw",
    "services.runner.jobs.measure",
]
FUNCTIONS: frozenset[str] = frozenset(get_args(Function))
# What these raise, they would raise again: only a killed process is worth another try.
DETERMINISTIC: frozenset[Function] = frozenset(
    {
        "services.compiler.jobs.build",
        "services.compiler.jobs.check",
        "services.plotter.jobs.draw",
    }
)
COMPILE = "compile"
DRAW = "draw"

# How long a silent worker counts as alive, and how often the others look for dead ones, in seconds.
HEARTBEAT_SECONDS = 15
MAINTENANCE_SECONDS = 5
# How long a result stays in Redis; what counts is in the store and in the records.
RESULT_SECONDS = 3600
# How often a job is tried again that was killed or, measuring, raised.
RETRIES = 2

LIVE = frozenset(
    {
        JobStatus.CREATED,
        JobStatus.QUEUED,
        JobStatus.DEFERRED,
        JobStatus.SCHEDULED,
        JobStatus.STARTED,
        JobStatus.READY_TO_ENQUEUE,
    }
)
PR_SET_PDEATHSIG = 1


class NotAllowed(PermissionError):
    """A job names a function that no worker runs."""


class FleetJob(Job):
    """A job that runs only the functions of this project and calls nobody back."""

    @property
    def func(self) -> Callable[..., JsonValue]:
        """The function to run; NotAllowed unless it is listed in FUNCTIONS."""
        name = self.func_name
        if name not in FUNCTIONS or self.instance is not None:
            raise NotAllowed(f"no worker runs {name!r}")
        function: Callable[..., JsonValue] = super().func
        return function

    def restore(self, raw_data: dict[str, bytes]) -> None:
        """Fill the job from its Redis hash, without the names of callbacks and web hooks."""
        super().restore(raw_data)
        self._success_callback_name = None
        self._failure_callback_name = None
        self._stopped_callback_name = None
        self.webhooks = []


class FleetQueue(Queue):
    """A queue of FleetJobs in JSON."""

    job_class = FleetJob

    def __init__(self, name: str, connection: Redis, **options: object) -> None:
        options |= {"serializer": JSONSerializer}
        super().__init__(name, connection, **options)  # type: ignore[arg-type]

    def acquire_maintenance_lock(self) -> bool:
        """Take the lock; a holder that was killed delays the others by seconds, not minutes."""
        key = self.registry_cleaning_key
        return bool(self.connection.set(key, 1, nx=True, ex=2 * MAINTENANCE_SECONDS))


class FleetWorker(Worker):
    """A forking worker whose death is noticed within HEARTBEAT_SECONDS."""

    job_class = FleetJob
    queue_class: type[Queue] = FleetQueue

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Seconds until this worker, if it stays silent, counts as dead."""
        return HEARTBEAT_SECONDS

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Run one job in the forked child, which dies with its worker."""
        die_with_parent()
        super().main_work_horse(job, queue)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry | None = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Fail the job, or queue it again if that may help."""
        if self.is_horse and job.func_name in DETERMINISTIC:
            job.retries_left = 0
        super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, also if that already happened."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def connect(url: str, password: str = "") -> Redis:
    """A connection to the Redis at `url`: redis://, rediss:// or unix://."""
    return Redis.from_url(url, password=password or None)


def measure_queue(gpu: str) -> str:
    """The queue of the runners that hold a GPU, by the GPU's folder name."""
    return f"measure-{gpu}"


def fetch(connection: Redis, ids: Sequence[str]) -> list[FleetJob | None]:
    """The jobs of these ids, None where the queue knows none."""
    return FleetJob.fetch_many(ids, connection=connection, serializer=JSONSerializer)  # type: ignore[return-value]


def submit(
    queue: Queue,
    function: Function,
    message: dict[str, JsonValue],
    identity: str,
    *,
    title: str,
    seconds: int,
    after: Sequence[str] = (),
) -> Job:
    """The job called `identity`: the one that waits or runs, else a new one with this work.

    `after` names jobs to wait for, whether they succeed or not, as far as the queue has them.
    Submitting twice at once is safe without `after`; with it, one process submits.
    """
    try:
        job = queue.job_class.fetch(identity, queue.connection, serializer=JSONSerializer)
        if job.get_status(refresh=False) in LIVE:
            return job
        job.delete()
    except NoSuchJobError:
        pass
    waits = [job.id for job in fetch(queue.connection, after) if job is not None]
    try:
        return queue.enqueue_call(
            function,
            args=(message,),
            job_id=identity,
            description=title,
            timeout=seconds,
            result_ttl=RESULT_SECONDS,
            failure_ttl=RESULT_SECONDS,
            retry=Retry(max=RETRIES),
            depends_on=Dependency(waits, allow_failure=True) if waits else None,
            unique=not waits,
        )
    except DuplicateJobError:
        return queue.job_class.fetch(identity, queue.connection, serializer=JSONSerializer)


def reason(job: Job) -> str | None:
    """The sentence of what a failed job raised; None for any other job."""
    result = job.latest_result()
    text = (result.exc_string or "").strip() if result is not None else ""
    if not text:
        return None
    name, _, sentence = text.splitlines()[-1].partition(": ")
    return f"{name.rpartition('.')[2]}: {sentence}" if sentence else name


def serve(name: str, url: str, password: str = "", *, burst: bool = False) -> None:
    """Work on one queue until told to stop, then finish the job at hand; `burst`: until empty."""
    connection = connect(url, password)
    worker = FleetWorker(
        [FleetQueue(name, connection)],
        connection=connection,
        serializer=JSONSerializer,
        worker_ttl=HEARTBEAT_SECONDS + MAINTENANCE_SECONDS,
        maintenance_interval=MAINTENANCE_SECONDS,
        job_monitoring_interval=MAINTENANCE_SECONDS,
    )
    worker.work(burst=burst, logging_level="WARNING")
