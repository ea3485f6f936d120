"""/v1/kernels: what is in the store, and asking for what is not."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.responses import PlainTextResponse

import tilus
from services.executors.base import ExecutorError
from services.messages import KernelSpec, KernelState, Key, Manifest
from services.queue import fetch, reason
from services.runs import STATES, Fleet, compile_task, queue_task
from services.store import Damaged


def router(fleet: Fleet) -> APIRouter:
    """The routes under /v1/kernels."""
    routes = APIRouter(prefix="/v1/kernels", tags=["kernels"])

    @routes.post("", status_code=202)
    def build(spec: KernelSpec, response: Response) -> KernelState:
        task = compile_task(kernel_key(spec, fleet), spec, fleet.store)
        response.headers["Location"] = f"/v1/kernels/{task.key}"
        if task.stored:
            response.status_code = 200
        else:
            response.headers["Retry-After"] = "1"
            queue_task(task, "", fleet)
        return standing(task.key, fleet)

    @routes.get("")
    def listed(after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[Key]:
        return [key for key in fleet.store.every_key() if key > after][:limit]

    @routes.get("/{key}")
    def one(key: Key) -> KernelState:
        return standing(key, fleet)

    @routes.get("/{key}/source", response_class=PlainTextResponse)
    def source(key: Key) -> PlainTextResponse:
        return PlainTextResponse(content(key, "source.", fleet))

    @routes.get("/{key}/cubin")
    def cubin(key: Key) -> Response:
        return Response(content(key, "kernel.cubin", fleet), media_type="application/octet-stream")

    return routes


def kernel_key(spec: KernelSpec, fleet: Fleet) -> str:
    """The key of a spec; 422 if no executor here can build it."""
    if spec.executor not in fleet.executors:
        known = ", ".join(sorted(fleet.executors))
        raise HTTPException(422, f"there is no executor {spec.executor}: choose from {known}")
    try:
        return fleet.executors[spec.executor].key(spec)
    except (tilus.TilusError, ExecutorError, KeyError, TypeError, ValueError) as error:
        raise HTTPException(422, f"{spec.executor} cannot build this: {error}") from None


def standing(key: str, fleet: Fleet) -> KernelState:
    """Where the kernel stands; 404 if nobody asked for it."""
    manifest = fleet.store.get_manifest(key)
    if manifest is not None:
        return KernelState(key=key, status="stored", manifest=manifest)
    [job] = fetch(fleet.connection, [f"compile-{key}"])
    if job is None:
        raise HTTPException(404, f"there is no kernel {key}: POST its spec to /v1/kernels")
    match STATES.get(job.get_status(refresh=False)):
        case "failed" | "cancelled":
            return KernelState(key=key, status="failed", reason=reason(job))
        case "running":
            return KernelState(key=key, status="running")
        case _:
            return KernelState(key=key, status="waiting")


def content(key: str, prefix: str, fleet: Fleet) -> bytes:
    """The first file of a kernel whose name starts so, verified; 404 if there is none."""
    manifest = fleet.store.get_manifest(key)
    if manifest is None:
        raise HTTPException(404, f"the kernel {key} is not in the store: see /v1/kernels/{key}")
    try:
        return fleet.store.read(manifest, _named(manifest, prefix))
    except Damaged as error:
        raise HTTPException(404, str(error)) from None


def _named(manifest: Manifest, prefix: str) -> str:
    for name in sorted(manifest.files):
        if name.startswith(prefix):
            return name
    raise HTTPException(404, f"this kernel has {sorted(manifest.files)}, but no {prefix}")
