"""/v1/jobs: the queue's jobs, one by one."""

from fastapi import APIRouter, HTTPException, Response
from rq.job import JobStatus

from services.api.kernels import kernel_key
from services.messages import JobRequest, JobState
from services.queue import COMPILE, LIVE, FleetJob, FleetQueue, fetch, reason
from services.runs import Fleet, check_task, compile_task, queue_task


def router(fleet: Fleet) -> APIRouter:
    """The routes under /v1/jobs."""
    routes = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    @routes.post("", status_code=202)
    def ask(request: JobRequest, response: Response) -> JobState:
        key = kernel_key(request.spec, fleet)
        make = compile_task if request.kind == "compile" else check_task
        task = make(key, request.spec, fleet.store)
        response.headers["Location"] = f"/v1/jobs/{task.id}"
        if task.stored:
            response.status_code = 200
            return JobState(id=task.id, function=request.kind, status="finished")
        queue_task(task, "", fleet)
        return state(found(task.id, fleet))

    @routes.get("")
    def waiting() -> list[JobState]:
        queue = FleetQueue(COMPILE, fleet.connection)
        ids = [*queue.started_job_registry.get_job_ids(), *queue.get_job_ids()]
        return [state(job) for job in fetch(fleet.connection, ids) if job is not None]

    @routes.get("/{identity}")
    def one(identity: str) -> JobState:
        return state(found(identity, fleet))

    @routes.delete("/{identity}")
    def cancel(identity: str) -> JobState:
        job = found(identity, fleet)
        if job.get_status() not in LIVE - {JobStatus.STARTED}:
            raise HTTPException(
                409, f"the job is {job.get_status().value}: only a waiting one can go"
            )
        job.cancel()
        return state(job)

    return routes


def found(identity: str, fleet: Fleet) -> FleetJob:
    """The job; 404 if the queue has none of that id."""
    [job] = fetch(fleet.connection, [identity])
    if job is None:
        raise HTTPException(404, f"the queue has no job {identity}: its result may be stored")
    return job


def state(job: FleetJob) -> JobState:
    """The job as a message."""
    return JobState(
        id=job.id,
        function=job.func_name or "",
        status=job.get_status().value,
        position=job.get_position(),
        reason=reason(job),
    )
