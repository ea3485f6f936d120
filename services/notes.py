"""What Redis knows of one piece of work: which batch carries it, how often it was begun, its end.

Notes are about what is on its way; they expire, and what counts lies in the store and the records.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, cast

from redis import Redis
from redis.client import Pipeline

from services.messages import Cause, Data

State = Literal["waiting", "running", "done", "failed", "cancelled"]
OVER: frozenset[State] = frozenset({"done", "failed", "cancelled"})

# How long a note stays after it was last written, in seconds.
KEPT_SECONDS = 3600
# Upper ends of the classes of the histograms, in seconds.
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, math.inf)
WAITING, ENDED, TOOK = "tilus:waiting:", "tilus:ended", "tilus:took"
DEVICES = "tilus:devices"


class Note(Data):
    """One piece of work on its way: `began` is the Unix time of the try at hand."""

    queue: str
    function: str
    batch: str
    state: State = "waiting"
    tries: int = 0
    began: float = 0.0
    cause: Cause | None = None
    reason: str | None = None


class Ends(NamedTuple):
    """How pieces of work of one function ended: how many in each state for each cause."""

    function: str
    state: State
    cause: Cause | None
    number: int


class Took(NamedTuple):
    """How long work of one function took: how many up to each of SECONDS, and seconds in all."""

    function: str
    numbers: tuple[int, ...]
    seconds: float


def read(connection: Redis, ids: Sequence[str]) -> list[Note | None]:
    """The notes on these pieces of work, None where there is none."""
    texts = connection.mget([_key(identity) for identity in ids]) if ids else []
    return [None if text is None else Note.model_validate_json(text) for text in texts]


def wait(connection: Redis, ids: Iterable[str], note: Note) -> None:
    """Note that these begin to wait, each with the same words."""
    with connection.pipeline() as pipe:
        for identity in ids:
            _write(pipe, identity, note)
            pipe.zadd(WAITING + note.queue, {identity: time.time()})
        pipe.execute()


def write(connection: Redis, identity: str, note: Note) -> None:
    """Note how a piece of work stands, and that it waits no longer unless that is how."""
    with connection.pipeline() as pipe:
        _write(pipe, identity, note)
        _unlist(pipe, identity, note)
        pipe.execute()


def end(connection: Redis, identity: str, note: Note, seconds: float) -> None:
    """Note the end of a piece of work, and count it."""
    with connection.pipeline() as pipe:
        _write(pipe, identity, note)
        _unlist(pipe, identity, note)
        pipe.hincrby(ENDED, f"{note.function} {note.state} {note.cause or ''}", 1)
        pipe.hincrby(TOOK, f"{note.function} {bisect_left(SECONDS, seconds)}", 1)
        pipe.hincrbyfloat(TOOK, f"{note.function} seconds", seconds)
        pipe.execute()


def waiting(connection: Redis, queue: str) -> int:
    """How many pieces of work wait in a queue."""
    return connection.zcard(WAITING + queue)


def waiting_ids(connection: Redis, queue: str, limit: int) -> list[str]:
    """The pieces of work that wait in a queue, those that came first before the others."""
    found = cast(list[bytes], connection.zrange(WAITING + queue, 0, limit - 1))
    return [each.decode() for each in found]


def position(connection: Redis, identity: str, note: Note) -> int | None:
    """How many wait in front of this one; None if it does not wait."""
    return cast(int | None, connection.zrank(WAITING + note.queue, identity))


def ends(connection: Redis) -> list[Ends]:
    """How all work ended since the queue's server was empty."""
    return sorted(_ends(field, number) for field, number in _counted(connection, ENDED).items())


def took(connection: Redis) -> list[Took]:
    """How long all work took since the queue's server was empty."""
    found = _counted(connection, TOOK)
    functions = sorted({field.split()[0] for field in found})
    return [
        Took(
            function,
            tuple(int(found.get(f"{function} {each}", 0)) for each in range(len(SECONDS))),
            float(found[f"{function} seconds"]),
        )
        for function in functions
    ]


def tell_device(connection: Redis, uuid: str, why: str | None) -> None:
    """Note why a GPU is not fit to be measured on; None if it is."""
    connection.hset(DEVICES, uuid, why or "")


def devices(connection: Redis) -> dict[str, str | None]:
    """Why each GPU that a runner asked is not fit, by its uuid; None if it is."""
    found = _counted(connection, DEVICES)
    return {uuid: why.decode() or None for uuid, why in found.items()}


def _ends(field: str, number: bytes) -> Ends:
    function, state, cause = field.split(" ")
    note = Note.model_validate(
        {"queue": "", "batch": "", "function": function, "state": state, "cause": cause or None}
    )
    return Ends(note.function, note.state, note.cause, int(number))


def _counted(connection: Redis, key: str) -> Mapping[str, bytes]:
    found = cast(dict[bytes, bytes], connection.hgetall(key))
    return {field.decode(): number for field, number in found.items()}


def _write(pipe: Pipeline, identity: str, note: Note) -> None:
    pipe.set(_key(identity), note.model_dump_json(), ex=KEPT_SECONDS)


def _unlist(pipe: Pipeline, identity: str, note: Note) -> None:
    if note.state != "waiting":
        pipe.zrem(WAITING + note.queue, identity)


def _key(identity: str) -> str:
    return f"tilus:note:{identity}"
