"""The job queue: RQ over Redis, with the holes closed that its defaults leave open.

What is queued is a batch (services.batch); where its pieces stand is in the notes on them. One
worker serves one queue, so that a job cannot be lost between two.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry as Reconnect
from rq import Queue, Retry, Worker
from rq.intermediate_queue import IntermediateQueue
from rq.job import Dependency, Job, JobStatus
from rq.utils import as_text, now
from rq.worker import BaseWorker

from services import notes
from services.batch import GRACE_SECONDS, TRIES, FleetJob, Function, Piece
from services.messages import digest
from services.notes import OVER, Note
from services.signing import Plain, Serializer

COMPILE = "compile"
DRAW = "draw"

# How long a silent worker counts as alive, and how often the others look for dead ones, in seconds.
HEARTBEAT_SECONDS = 15
MAINTENANCE_SECONDS = 5
# How long a batch stays in Redis that is over; what counts is in the store and in the records.
RESULT_SECONDS = 3600
# How often a worker asks for a server that is away, and the pauses between in seconds: 20 in all.
ASKS, FIRST_PAUSE, LONGEST_PAUSE = 25, 0.05, 1.0
# How long a server that is there may take to answer, in seconds: of one that vanished with its host
# or its container no word may come at all. Workers wait on purpose, for less than this.
ANSWER_SECONDS = 15.0
SUBMITTING = "tilus:submitting"

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


class Standing(NamedTuple):
    """Where a piece of work stands: `lost` if it has no end and nobody will work on it."""

    note: Note
    lost: bool = False


class Between(IntermediateQueue):
    """Jobs that a worker took and has not begun; soon it counts as dead."""

    def should_be_cleaned_up(self, job_id: str) -> bool:
        """Whether the worker that took this job has been silent for HEARTBEAT_SECONDS."""
        seen = self.get_first_seen(job_id)
        return seen is not None and now() - seen > timedelta(seconds=HEARTBEAT_SECONDS)


class FleetQueue(Queue):
    """A queue of FleetJobs, written as `serializer` says."""

    job_class = FleetJob

    def __init__(
        self, name: str, connection: Redis, serializer: Serializer | None = None, **options: object
    ) -> None:
        options |= {"serializer": serializer or Plain()}
        super().__init__(name, connection, **options)  # type: ignore[arg-type]

    @property
    def intermediate_queue(self) -> IntermediateQueue:
        """What was taken and is not begun."""
        return Between(self.key, connection=self.connection)

    def acquire_maintenance_lock(self) -> bool:
        """Take the lock; a holder that was killed delays the others by seconds, not minutes."""
        key = self.registry_cleaning_key
        return bool(self.connection.set(key, 1, nx=True, ex=2 * MAINTENANCE_SECONDS))


def connect(url: str, password: str = "", asks: int = 3) -> Redis:
    """A connection to the Redis at `url`: redis://, rediss:// or unix://.

    A server that is away, or says nothing for ANSWER_SECONDS, is asked again `asks` times before
    that is an error.
    """
    retry = Reconnect(ExponentialBackoff(cap=LONGEST_PAUSE, base=FIRST_PAUSE), asks)
    return Redis.from_url(
        url, password=password or None, retry=retry, socket_timeout=ANSWER_SECONDS
    )


def measure_queue(gpu: str) -> str:
    """The queue of the runners that hold a GPU, by the GPU's folder name."""
    return f"measure-{gpu}"


def fetch(queue: Queue, ids: Sequence[str]) -> list[FleetJob | None]:
    """The batches of these ids, None where the queue's server knows none."""
    return queue.job_class.fetch_many(ids, queue.connection, serializer=queue.serializer)  # type: ignore[return-value]


def standings(queue: Queue, ids: Sequence[str]) -> list[Standing | None]:
    """Where these pieces of work stand, in whatever queue; None where nobody knows them."""
    found = notes.read(queue.connection, ids)
    names = sorted({note.batch for note in found if note is not None and note.state not in OVER})
    batches = dict(zip(names, fetch(queue, names), strict=True))
    lost = _stranded(queue, [job for job in batches.values() if job is not None])
    return [None if note is None else _standing(note, batches, lost) for note in found]


def running_ids(queue: Queue) -> list[str]:
    """The pieces of work of this queue that are being done."""
    # to clean up is the workers' part: not everybody who looks may write
    begun = fetch(queue, queue.started_job_registry.get_job_ids(cleanup=False))
    ids = [
        str(identity)
        for job in begun
        if job is not None and not job.refused
        for identity, _ in job.args[0]
    ]
    known = standings(queue, ids)
    return [
        identity
        for identity, standing in zip(ids, known, strict=True)
        if standing is not None and standing.note.state == "running"
    ]


def names(connection: Redis) -> list[str]:
    """Every queue that ever had work."""
    prefix = len(Queue.redis_queue_namespace_prefix)
    return sorted(as_text(each)[prefix:] for each in connection.smembers(Queue.redis_queues_keys))


def living(queue: Queue) -> list[BaseWorker]:
    """The workers of a queue that gave a sign of life within HEARTBEAT_SECONDS."""
    workers = Worker.all(
        queue.connection,
        job_class=queue.job_class,
        queue_class=type(queue),
        queue=queue,
        serializer=queue.serializer,
    )
    since = now() - timedelta(seconds=HEARTBEAT_SECONDS)
    return [
        worker
        for worker in workers
        if worker.last_heartbeat is not None and worker.last_heartbeat > since
    ]


def alive(queue: Queue) -> int:
    """How many workers of a queue gave a sign of life within HEARTBEAT_SECONDS."""
    return len(living(queue))


def submit(
    queue: Queue,
    function: Function,
    pieces: Sequence[Piece],
    *,
    title: str,
    seconds: int,
    after: Sequence[str] = (),
) -> None:
    """Queue, as one batch, those of these pieces of work that neither wait nor run already.

    `seconds` is the limit of one piece. `after` names pieces to wait for, whether they succeed or
    not, as far as they are on their way.
    """
    connection = queue.connection
    with connection.lock(SUBMITTING, timeout=60):
        known = standings(queue, [piece.identity for piece in pieces])
        new = [piece for piece, one in zip(pieces, known, strict=True) if not _is_on_its_way(one)]
        if not new:
            return
        _forget(queue, [s.note.batch for s in known if s is not None and s.lost])
        waits = [s.note.batch for s in standings(queue, after) if s is not None and not s.lost]
        identity = (
            f"{function.rpartition('.')[2]}-{digest(f'{time.time_ns()} {new}'.encode())[:24]}"
        )
        note = Note(queue=queue.name, function=function, batch=identity)
        notes.wait(connection, [piece.identity for piece in new], note)
        queue.enqueue_call(
            function,
            args=(new, seconds),
            job_id=identity,
            description=title,
            timeout=len(new) * TRIES * (seconds + GRACE_SECONDS),
            result_ttl=RESULT_SECONDS,
            failure_ttl=RESULT_SECONDS,
            retry=Retry(max=TRIES * (len(new) + 1), enqueue_at_front=True),
            depends_on=Dependency(sorted(set(waits)), allow_failure=True) if waits else None,
        )


def cancel(queue: Queue, ids: Sequence[str]) -> None:
    """Take those of these pieces of work back that still wait; what runs is finished."""
    for identity, standing in zip(ids, standings(queue, ids), strict=True):
        if standing is not None and standing.note.state == "waiting":
            cancelled = standing.note.model_copy(update={"state": "cancelled"})
            notes.end(queue.connection, identity, cancelled, 0.0)


def reason(job: Job) -> str | None:
    """The sentence of what a failed batch raised; None for any other."""
    result = job.latest_result()
    text = (result.exc_string or "").strip() if result is not None else ""
    if not text:
        return None
    name, _, sentence = text.splitlines()[-1].partition(": ")
    return f"{name.rpartition('.')[2]}: {sentence}" if sentence else name


def _standing(
    note: Note, batches: dict[str, FleetJob | None], stranded: frozenset[str]
) -> Standing:
    if note.state in OVER:
        return Standing(note)
    job = batches[note.batch]
    if job is not None and job.get_status(refresh=False) is JobStatus.FAILED:
        refused = {
            "state": "failed",
            "cause": "house",
            "reason": reason(job) or "no worker runs it",
        }
        return Standing(note.model_copy(update=refused))
    lost = not _is_live(job) or note.batch in stranded
    begun = job is not None and job.get_status(refresh=False) is JobStatus.STARTED
    return Standing(note if begun else note.model_copy(update={"state": "waiting"}), lost)


def _stranded(queue: Queue, jobs: Sequence[FleetJob]) -> frozenset[str]:
    """The batches that wait for others which are over: who should have told them was killed."""
    deferred = [job for job in jobs if job.get_status(refresh=False) is JobStatus.DEFERRED]
    names = sorted({name for job in deferred for name in job._dependency_ids})
    live = {name for name, job in zip(names, fetch(queue, names), strict=True) if _is_live(job)}
    return frozenset(job.id for job in deferred if live.isdisjoint(job._dependency_ids))


def _forget(queue: Queue, batches: Sequence[str]) -> None:
    for job in fetch(queue, sorted(set(batches))):
        if job is not None and job.get_status(refresh=False) is JobStatus.DEFERRED:
            job.delete()


def _is_on_its_way(standing: Standing | None) -> bool:
    return standing is not None and standing.note.state not in OVER and not standing.lost


def _is_live(job: FleetJob | None) -> bool:
    return job is not None and job.get_status(refresh=False) in LIVE
