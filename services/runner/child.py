"""A process with a hard time limit, for work that may hang in a driver or take its process down."""

import json
import os
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from services.process import die_with_parent

Event = dict[str, JsonValue]
Send = Callable[[Event], None]
REAP_SECONDS = 10.0
PIECE = 1 << 16


class Unkillable(Exception):
    """A child that stays after SIGKILL: its device is not to be used until a person has looked."""


@dataclass(frozen=True)
class End:
    """How a child ended and all that it said; `detail`: its exit code or signal."""

    how: Literal["exit", "signal", "timeout"]
    detail: str
    events: tuple[Event, ...]


def run(work: Callable[[Send], None], seconds: float) -> End:
    """Run `work` in a forked child for at most `seconds`; this process goes on regardless."""
    readable, writable = os.pipe()
    pid = _fork()
    if pid == 0:
        os.close(readable)
        _work(work, writable)
    os.close(writable)
    in_time = False
    try:
        said, in_time = _listen(readable, time.monotonic() + seconds)
    finally:
        os.close(readable)
        status = _end(pid, 1.0 if in_time else 0.0)
    return _ended(status, in_time, _events(said))


@contextmanager
def beside(work: Callable[[Send], None]) -> Iterator[Callable[[], tuple[Event, ...]]]:
    """Run `work` in a forked child until the block ends; what it yields gives all that it said."""
    readable, writable = os.pipe()
    pid = _fork()
    if pid == 0:
        os.close(readable)
        _work(work, writable)
    os.close(writable)
    os.set_blocking(readable, False)
    heard = bytearray()

    def said() -> tuple[Event, ...]:
        with suppress(BlockingIOError):
            while piece := os.read(readable, PIECE):
                heard.extend(piece)
        return _events(bytes(heard))

    try:
        yield said
    finally:
        _kill(pid)
        said()
        os.close(readable)


def _fork() -> int:
    with warnings.catch_warnings():
        # the child opens its own device and leaves by _exit: it waits for no lock of ours
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _work(work: Callable[[Send], None], writable: int) -> None:
    code = 1
    try:
        die_with_parent()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        work(lambda event: _send(writable, event))
        code = 0
    except BaseException as error:
        _send(writable, {"error": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(code)


def _send(writable: int, event: Event) -> None:
    line = json.dumps(event).encode() + b"\n"
    while line:
        line = line[os.write(writable, line) :]


def _listen(readable: int, deadline: float) -> tuple[bytes, bool]:
    said = b""
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([readable], [], [], left)
        if not ready:
            break
        piece = os.read(readable, PIECE)
        if not piece:
            return said, True
        said += piece
    return said, False


def _end(pid: int, seconds: float) -> int:
    """Its status, killed if it is still there so many seconds after its last word."""
    status = _reap(pid, seconds)
    if status is not None:
        return status
    return _kill(pid)


def _kill(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)
    status = _reap(pid, REAP_SECONDS)
    if status is None:
        raise Unkillable(f"process {pid} does not die: its device hangs in the driver")
    return status


def _reap(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    pause = 0.0002
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.005)


def _ended(status: int, in_time: bool, events: tuple[Event, ...]) -> End:
    if not in_time:
        return End("timeout", "killed", events)
    if os.WIFSIGNALED(status):
        return End("signal", signal.Signals(os.WTERMSIG(status)).name, events)
    return End("exit", str(os.WEXITSTATUS(status)), events)


def _events(said: bytes) -> tuple[Event, ...]:
    *lines, _torn = said.split(b"\n")
    return tuple(json.loads(line) for line in lines)
