"""The job queue: RQ over Redis, with the holes closed that its defaults leave open.

A job is a batch: a function of those listed here and the pieces of work to call it for, one after
another. Every piece has its own note, limit and end, so that a batch whose process is killed goes
on with what has none. Callbacks and web hooks in a job are dropped. One worker serves one queue,
so that a job cannot be lost between two.
"""

import ctypes
import errno
import faulthandler
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, NamedTuple, get_args

from pydantic import JsonValue
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry as Reconnect
from rq import Queue, Retry, Worker
from rq.exceptions import DeserializationError
from rq.intermediate_queue import IntermediateQueue
from rq.job import Dependency, Job, JobStatus
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from rq.utils import as_text, now
from rq.worker import BaseWorker

from services import notes
from services.messages import digest
from services.notes import OVER, Note
from services.signing import Plain, Serializer

Function = Literal[
    "services.compiler.jobs.build",
    "services.compiler.jobs.check",
    "services.plotter.jobs.draw",
    "services.runner.jobs.measure",
]
FUNCTIONS: frozenset[str] = frozenset(get_args(Function))
# What these raise, they would raise again, but for what the machine lacked.
DETERMINISTIC: frozenset[str] = frozenset(
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
# How long a batch stays in Redis that is over; what counts is in the store and in the records.
RESULT_SECONDS = 3600
# How often work is begun whose process is killed, or which the house fails.
TRIES = 5
# How long a piece of work may take after its limit to notice it, before its process is ended.
GRACE_SECONDS = 2
# How often a worker asks for a server that is away, and the pauses between in seconds: 20 in all.
ASKS, FIRST_PAUSE, LONGEST_PAUSE = 25, 0.05, 1.0
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
PR_SET_PDEATHSIG = 1


class Piece(NamedTuple):
    """One piece of work: what it is called, and what its function is called with."""

    identity: str
    message: dict[str, JsonValue]


class Standing(NamedTuple):
    """Where a piece of work stands: `lost` if it has no end and nobody will work on it."""

    note: Note
    lost: bool = False


class Unfit(Exception):
    """This machine, not the work, is at fault: its worker stops, and another one does the work."""


class Stopped(Exception):
    """A worker was told to stop: what is left of the batch is for others."""


class NotAllowed(DeserializationError):
    """A job that no worker runs: its function is not listed, or this fleet did not write it."""


class FleetJob(Job):
    """A batch of work that runs only the functions of this project and calls nobody back.

    `stopping`: its worker was told to stop, and begins nothing more.
    """

    stopping = False

    @property
    def func(self) -> Callable[[dict[str, JsonValue]], JsonValue]:
        """The function to run; NotAllowed unless it is listed in FUNCTIONS."""
        name = self.func_name
        if name not in FUNCTIONS or self.instance is not None:
            raise NotAllowed(f"no worker runs {name!r}")
        function: Callable[[dict[str, JsonValue]], JsonValue] = super().func
        return function

    @property
    def refused(self) -> bool:
        """Whether no worker runs this, and never will."""
        try:
            return self.func_name not in FUNCTIONS or self.instance is not None
        except NotAllowed:
            return True

    def restore(self, raw_data: dict[str, bytes]) -> None:
        """Fill the job from its Redis hash, without the names of callbacks and web hooks."""
        super().restore(raw_data)
        self._success_callback_name = None
        self._failure_callback_name = None
        self._stopped_callback_name = None
        self.webhooks = []

    def _deserialize_data(self) -> None:
        try:
            super()._deserialize_data()  # type: ignore[no-untyped-call]
        except DeserializationError as error:
            raise NotAllowed(f"no worker runs this: {error.__cause__}") from None

    def _execute(self) -> None:
        """Do every piece of work that has no end yet; what the house failed comes again last."""
        function = self.func
        pieces, seconds = self.args
        todo = deque(Piece(*each) for each in pieces)
        while todo:
            if self.stopping:
                raise Stopped("this worker was told to stop")
            piece = todo.popleft()
            note = self._begin(piece.identity, seconds)
            if note is not None and self._end(piece, note, function, seconds).state == "waiting":
                todo.append(piece)

    def stop(self) -> None:
        """Begin nothing more."""
        self.stopping = True

    def _begin(self, identity: str, seconds: int) -> Note | None:
        """The note on a piece that is to be done now; None if it is over, or is so from here."""
        [known] = notes.read(self.connection, [identity])
        note = known or Note(queue=self.origin, function=self.func_name or "", batch=self.id)
        if note.state in OVER:
            return None
        if note.state == "running" and note.tries >= TRIES:
            failed = {"cause": "killed", "reason": f"its process was killed {note.tries} times"}
            self._fail(identity, note, failed)
            return None
        begun = note.model_copy(
            update={
                "state": "running",
                "tries": note.tries + 1,
                "began": time.time(),
                "batch": self.id,
                "cause": None,
                "reason": None,
            }
        )
        notes.write(self.connection, identity, begun)
        return begun

    def give_up_what_is_overdue(self) -> None:
        """Fail the piece whose process has just ended because it was deaf to its limit."""
        _, seconds = self.args
        for identity, note in self._begun():
            if time.time() - note.began >= seconds:
                failed = {"cause": "timeout", "reason": f"no end after {seconds} s, deaf to it"}
                self._fail(identity, note, failed)

    def give_back(self) -> None:
        """Let what was begun wait again, as if it had not been."""
        for identity, note in self._begun():
            self._give_back(identity, note)

    def _begun(self) -> list[tuple[str, Note]]:
        pieces, _ = self.args
        ids = [Piece(*each).identity for each in pieces]
        found = zip(ids, notes.read(self.connection, ids), strict=True)
        return [
            (identity, note)
            for identity, note in found
            if note is not None and note.state == "running" and note.batch == self.id
        ]

    def _give_back(self, identity: str, note: Note, **why: str) -> None:
        waiting = note.model_copy(update={"state": "waiting", "tries": note.tries - 1} | why)
        notes.write(self.connection, identity, waiting)

    def _fail(self, identity: str, note: Note, why: dict[str, str]) -> None:
        failed = note.model_copy(update={"state": "failed"} | why)
        notes.end(self.connection, identity, failed, time.time() - note.began)

    def _end(
        self,
        piece: Piece,
        note: Note,
        function: Callable[[dict[str, JsonValue]], JsonValue],
        seconds: int,
    ) -> Note:
        started = time.perf_counter()
        try:
            ended = note.model_copy(update=_outcome(function, piece.message, seconds, note))
        except Unfit as error:
            self._give_back(piece.identity, note, cause="gpu", reason=str(error))
            self.stop()
            os.kill(os.getppid(), signal.SIGTERM)
            raise
        if ended.state == "waiting":
            notes.write(self.connection, piece.identity, ended)
        else:
            notes.end(self.connection, piece.identity, ended, time.perf_counter() - started)
        return ended


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


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, also if that already happened."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def connect(url: str, password: str = "", asks: int = 3) -> Redis:
    """A connection to the Redis at `url`: redis://, rediss:// or unix://.

    A server that is away is asked again `asks` times before that is an error.
    """
    pauses = ExponentialBackoff(cap=LONGEST_PAUSE, base=FIRST_PAUSE)
    return Redis.from_url(url, password=password or None, retry=Reconnect(pauses, asks))


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


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise JobTimeoutException in what takes longer; end the process if it does not hear it."""
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True)
    try:
        with UnixSignalDeathPenalty(seconds, JobTimeoutException):  # type: ignore[no-untyped-call]
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _outcome(
    function: Callable[[dict[str, JsonValue]], JsonValue],
    message: dict[str, JsonValue],
    seconds: int,
    note: Note,
) -> dict[str, str]:
    """What the note on a piece of work is to say once its function was called."""
    try:
        with limited(seconds):
            function(message)
    except Unfit:
        raise
    except JobTimeoutException:
        return {"state": "failed", "cause": "timeout", "reason": f"no end after {seconds} s"}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if note.function in DETERMINISTIC and not _is_lack(error):
            return {"state": "failed", "cause": "kernel", "reason": reason}
        state = "waiting" if note.tries < TRIES else "failed"
        return {"state": state, "cause": "house", "reason": reason}
    return {"state": "done"}


def _is_lack(error: Exception) -> bool:
    """Whether the machine lacked something; a file beyond what a piece may write is its own."""
    return isinstance(error, (OSError, MemoryError)) and getattr(error, "errno", 0) != errno.EFBIG


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
