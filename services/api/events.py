"""/v1/events: runs, queues and workers as they change, for a page that stays open.

The places for listeners are numbered: each holds a connection for as long as it likes.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import JsonValue
from redis.exceptions import RedisError
from rq.worker import BaseWorker

from services import notes, runs
from services.api.feed import Feed, Topic
from services.fleet import Fleet
from services.messages import FleetState, QueueState, WorkerState
from services.queue import COMPILE, DRAW, fetch, living, names

LISTENERS = 64
RUNS = 50  # the newest ones
RETRY_MILLISECONDS = 2000  # after which a browser asks again whose connection ended
QUEUES = Topic("queues", "")
# A table of other numbers is long, and does not change.
UNSAID = {"request": {"reference": {"text"}}}
LastEventId = Annotated[str, Header(alias="Last-Event-ID", max_length=100)]


class Places:
    """The places for listeners."""

    def __init__(self) -> None:
        self.taken = 0

    async def take(self) -> AsyncIterator[None]:
        """Take a place for as long as an answer lasts; 503 where all are taken."""
        if self.taken >= LISTENERS:
            raise HTTPException(
                503, f"{LISTENERS} listen already: try later", {"Retry-After": "10"}
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Watch:
    """Where the newest runs and all queues stand; a run that is over is not looked at again."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._over: dict[Path, tuple[int, JsonValue]] = {}

    def look(self) -> dict[Topic, JsonValue]:
        """How every topic stands now."""
        try:
            return self._runs() | {QUEUES: self._queues().model_dump(mode="json")}
        except RedisError as error:
            away = FleetState(problem=f"the queue does not answer: {error}")
            return {QUEUES: away.model_dump(mode="json")}

    def _queues(self) -> FleetState:
        known = {COMPILE, DRAW, *names(self._fleet.connection)}
        return FleetState(queues=tuple(self._queue(name) for name in sorted(known)))

    def _queue(self, name: str) -> QueueState:
        queue = self._fleet.queue(name)
        begun = fetch(queue, queue.started_job_registry.get_job_ids(cleanup=False))
        titles = {job.worker_name: job.description or job.id for job in begun if job is not None}
        return QueueState(
            name=name,
            waiting=notes.waiting(self._fleet.connection, name),
            workers=tuple(
                WorkerState(name=_short(worker), batch=titles.get(worker.name))
                for worker in sorted(living(queue), key=lambda worker: worker.name)
            ),
        )

    def _runs(self) -> dict[Topic, JsonValue]:
        paths = runs.written(self._fleet.settings)[-RUNS:]
        self._over = {path: self._over[path] for path in paths if path in self._over}
        return {Topic("run", path.stem): self._run(path) for path in paths}

    def _run(self, path: Path) -> JsonValue:
        changed = path.stat().st_mtime_ns
        since, said = self._over.get(path, (0, None))
        if since == changed:
            return said
        state = runs.state(runs.read(path), self._fleet)
        said = state.model_dump(mode="json", exclude=UNSAID)
        if state.finished:
            self._over[path] = changed, said
        return said


def router(feed: Feed, places: Places) -> APIRouter:
    """The route /v1/events."""
    routes = APIRouter(prefix="/v1/events", tags=["events"])

    @routes.get("", response_class=EventSourceResponse, dependencies=[Depends(places.take)])
    async def events(last_event_id: LastEventId = "") -> AsyncIterator[ServerSentEvent]:
        """Events `run` and `queues`: each says how that stands now, and there is no last one.

        Who sends the id of the last event that it saw is only sent what changed since.
        """
        yield ServerSentEvent(retry=RETRY_MILLISECONDS)
        async for event in feed.follow(feed.number(last_event_id)):
            yield ServerSentEvent(event=event.topic.kind, id=feed.identity(event), data=event.data)

    return routes


def _short(worker: BaseWorker) -> str:
    """A worker's process on its machine, or the name that it was given."""
    hostname, pid = worker.hostname, worker.pid
    return f"{hostname} {pid}" if hostname and pid else worker.name[:12]
