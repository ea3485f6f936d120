"""/v1/jobs: what waits for a compile worker and what is at work, piece by piece."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Response

from services import notes
from services.api.kernels import kernel_key
from services.fleet import Fleet
from services.messages import JobRequest, JobState
from services.queue import COMPILE, cancel, running_ids, standings
from services.tasks import check_task, compile_task, queue_tasks

LISTED = 1000
Identity = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,128}$")]


def router(fleet: Fleet) -> APIRouter:
    """The routes under /v1/jobs."""
    routes = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    @routes.post("", status_code=202, responses={200: {"model": JobState}})
    def ask(request: JobRequest, response: Response) -> JobState:
        """Queue one compilation or check; 200 where its result is stored already."""
        key = kernel_key(request.spec, fleet)
        make = compile_task if request.kind == "compile" else check_task
        task = make(key, request.spec, fleet.store)
        response.headers["Location"] = f"/v1/jobs/{task.id}"
        if task.stored:
            response.status_code = 200
            return JobState(id=task.id, function=request.kind, status="stored")
        queue_tasks([task], "", fleet)
        return found(task.id, fleet)

    @routes.get("")
    def waiting() -> list[JobState]:
        """What is at work and what waits, the first of them before the others."""
        queue = fleet.queue(COMPILE)
        ids = [*running_ids(queue), *notes.waiting_ids(fleet.connection, queue.name, LISTED)]
        return [state for state in states(ids[:LISTED], fleet) if state is not None]

    @routes.get("/{identity}")
    def one(identity: Identity) -> JobState:
        """Where one piece of work stands."""
        return found(identity, fleet)

    @routes.delete("/{identity}")
    def take_back(identity: Identity) -> JobState:
        """Take one piece of work back that still waits."""
        state = found(identity, fleet)
        if state.status != "waiting":
            raise HTTPException(409, f"the job is {state.status}: only a waiting one can go")
        cancel(fleet.queue(COMPILE), [identity])
        return found(identity, fleet)

    return routes


def found(identity: str, fleet: Fleet) -> JobState:
    """Where a piece of work stands; 404 if the queue knows none of that id."""
    [state] = states([identity], fleet)
    if state is None:
        raise HTTPException(404, f"the queue has no job {identity}: its result may be stored")
    return state


def states(ids: list[str], fleet: Fleet) -> list[JobState | None]:
    """Where pieces of work stand, None for those that the queue does not know."""
    return [
        None
        if standing is None
        else JobState(
            id=identity,
            function=standing.note.function,
            status=standing.note.state,
            position=notes.position(fleet.connection, identity, standing.note),
            cause=standing.note.cause,
            reason=standing.note.reason,
        )
        for identity, standing in zip(ids, standings(fleet.queue(COMPILE), ids), strict=True)
    ]
