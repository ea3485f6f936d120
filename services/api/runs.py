"""/v1/runs: figures in the making, and the figures."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Response
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services import planning, runs
from services.api.events import LastEventId, Places
from services.api.metrics import Asked
from services.fleet import Fleet
from services.messages import Plan, RunRequest, RunState, digest
from services.runs import FORMATS

POLL_SECONDS = 0.5
MEDIA = {
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "csv": "text/csv",
    "txt": "text/plain",
}

Identity = Annotated[str, Path(pattern=r"^[A-Za-z0-9]{1,64}$")]


class Drawn(FileResponse):
    """A figure, in one of its formats."""

    media_type = "application/octet-stream"


def router(fleet: Fleet, watched: set[str], asked: Asked, places: Places) -> APIRouter:
    """The routes under /v1/runs; ids of runs that somebody follows are added to `watched`."""
    routes = APIRouter(prefix="/v1/runs", tags=["runs"])

    def found(identity: Identity) -> Plan:
        plan = runs.find(identity, fleet.settings)
        if plan is None:
            raise HTTPException(404, f"there is no run {identity}: POST one to /v1/runs")
        watched.add(plan.id)
        return plan

    @routes.post("", status_code=202)
    def begin(request: RunRequest, response: Response) -> RunState:
        """Begin a run, or go on with it: the same request is the same run."""
        plan = planning.plan(request, fleet)
        asked.count(plan.tasks)
        runs.start(plan, fleet)
        watched.add(plan.id)
        response.headers["Location"] = f"/v1/runs/{plan.id}"
        response.headers["Retry-After"] = "1"
        return runs.state(plan, fleet)

    @routes.get("")
    def every() -> list[RunState]:
        """Every run that was ever begun here."""
        return [runs.state(plan, fleet) for plan in runs.every(fleet.settings)]

    Found = Annotated[Plan, Depends(found)]

    @routes.get("/{identity}")
    def one(plan: Found) -> RunState:
        """Where a run stands."""
        return runs.state(plan, fleet)

    @routes.delete("/{identity}")
    def cancel(plan: Found) -> RunState:
        """Take back what waits; what runs is finished."""
        watched.discard(plan.id)
        runs.cancel(plan, fleet)
        return runs.state(plan, fleet)

    @routes.get(
        "/{identity}/events",
        response_class=EventSourceResponse,
        dependencies=[Depends(places.take)],
    )
    async def events(
        plan: Found, last_event_id: LastEventId = ""
    ) -> AsyncIterator[ServerSentEvent]:
        """Where a run stands, each time that it changes, until it is over.

        An event's id is of what it says, so whoever sends the last one is not told the same again.
        """
        while True:
            now = await asyncio.to_thread(runs.state, plan, fleet)
            said = digest(now.model_dump_json().encode())[:16]
            if said != last_event_id:
                yield ServerSentEvent(event="state", id=said, data=now.model_dump(mode="json"))
            if now.finished:
                return
            last_event_id = said
            await asyncio.sleep(POLL_SECONDS)

    @routes.get("/{identity}/figures/{name}", response_class=Drawn)
    def figure(plan: Found, name: str) -> FileResponse:
        """One file of a run's figure."""
        names = {f"{plan.request.figure}.{kind}": kind for kind in FORMATS}
        if name not in names:
            raise HTTPException(404, f"this run draws {', '.join(names)}, not {name}")
        path = fleet.settings.results / f"figure{name}"
        if not path.exists():
            raise HTTPException(404, f"{path.name} is not drawn yet: see /v1/runs/{plan.id}")
        return FileResponse(path, media_type=MEDIA[names[name]], filename=path.name)

    return routes
