"""A batch: pieces of work that a worker's child does one after another.

Every piece has its own note, limit and end, so that a batch whose process is killed goes on with
what has none. It runs the functions that are listed here and no others, and calls nobody back.
"""

import errno
import faulthandler
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

from pydantic import JsonValue
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from services import notes
from services.notes import OVER, Note

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
# How often work is begun whose process is killed, or which the house fails.
TRIES = 5
# How long a piece of work may take after its limit to notice it, before its process is ended.
GRACE_SECONDS = 2


class Piece(NamedTuple):
    """One piece of work: what it is called, and what its function is called with."""

    identity: str
    message: dict[str, JsonValue]


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
