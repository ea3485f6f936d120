"""/v1/kernels: what is in the store, and asking for what is not."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.responses import PlainTextResponse

import tilus
from services.api.metrics import Asked
from services.building import check_key
from services.executors.base import ExecutorError
from services.fleet import Fleet
from services.messages import Artifact, Artifacts, KernelSpec, KernelState, Key, Manifest
from services.queue import COMPILE, standings
from services.store import Damaged
from services.tasks import compile_task, queue_tasks, title
from tilus.runtime.sass import disassemble


class Binary(Response):
    """An answer that is bytes."""

    media_type = "application/octet-stream"


def router(fleet: Fleet, asked: Asked) -> APIRouter:
    """The routes under /v1/kernels."""
    routes = APIRouter(prefix="/v1/kernels", tags=["kernels"])

    @routes.post("", status_code=202, responses={200: {"model": KernelState}})
    def build(spec: KernelSpec, response: Response) -> KernelState:
        """Have a kernel compiled; 200 where it is stored already."""
        task = compile_task(kernel_key(spec, fleet), spec, fleet.store)
        asked.count((task,))
        response.headers["Location"] = f"/v1/kernels/{task.key}"
        if task.stored:
            response.status_code = 200
        else:
            response.headers["Retry-After"] = "1"
            queue_tasks([task], "", fleet)
        return standing(task.key, fleet)

    @routes.get("")
    def listed(after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[Key]:
        """The keys of stored kernels and findings, in order, those behind `after`."""
        return [key for key in fleet.store.every_key() if key > after][:limit]

    @routes.get("/{key}")
    def one(key: Key) -> KernelState:
        """Where one kernel stands."""
        return standing(key, fleet)

    @routes.get("/{key}/source", response_class=PlainTextResponse)
    def source(key: Key) -> PlainTextResponse:
        """The text that was compiled."""
        return PlainTextResponse(content(key, "source.", fleet))

    @routes.get("/{key}/log", response_class=PlainTextResponse)
    def log(key: Key) -> PlainTextResponse:
        """What the compiler said; 404 where it kept silent."""
        return PlainTextResponse(content(key, "compile.log", fleet))

    @routes.get("/{key}/sass", response_class=PlainTextResponse)
    def sass(key: Key) -> PlainTextResponse:
        """The instructions that the chip runs; 501 where this machine cannot show them."""
        cubin = content(key, "kernel.cubin", fleet)
        try:
            return PlainTextResponse(disassemble(cubin))
        except tilus.TilusError as error:
            raise HTTPException(501, str(error)) from None

    @routes.get("/{key}/cubin", response_class=Binary)
    def cubin(key: Key) -> Response:
        """What the GPU loads."""
        return Response(content(key, "kernel.cubin", fleet), media_type="application/octet-stream")

    return routes


def catalogue(fleet: Fleet) -> APIRouter:
    """The route /v1/artifacts."""
    routes = APIRouter(prefix="/v1/artifacts", tags=["kernels"])

    @routes.get("")
    def stored(
        find: Annotated[str, Query(max_length=200)] = "",
        after: Annotated[str, Query(max_length=64)] = "",
        limit: Annotated[int, Query(ge=1, le=200)] = 25,
    ) -> Artifacts:
        """Stored kernels whose key begins with, or whose title has, each of the words to find."""
        words = find.lower().split()
        found = (one for one in _artifacts(after, fleet) if _has(one, words))
        kernels = list(islice(found, limit + 1))
        more = len(kernels) > limit
        return Artifacts(
            kernels=tuple(kernels[:limit]), after=kernels[limit - 1].manifest.key if more else None
        )

    return routes


def _artifacts(after: str, fleet: Fleet) -> Iterator[Artifact]:
    for key in fleet.store.every_key():
        manifest = fleet.store.known(key) if key > after else None
        if manifest is None or not manifest.files:
            continue
        check = fleet.store.known(check_key(key))
        yield Artifact(
            manifest=manifest,
            title=title(manifest.spec),
            sizes=fleet.store.sizes(manifest),
            relative_error=None if check is None else float(check.facts["relative_error"]),
        )


def _has(one: Artifact, words: Sequence[str]) -> bool:
    said = one.title.lower()
    return all(word in said or one.manifest.key.startswith(word) for word in words)


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
    [found] = standings(fleet.queue(COMPILE), [f"compile-{key}"])
    if found is None:
        raise HTTPException(404, f"there is no kernel {key}: POST its spec to /v1/kernels")
    match found.note.state:
        case "failed" | "cancelled":
            return KernelState(key=key, status="failed", reason=found.note.reason)
        case "running":
            return KernelState(key=key, status="running")
        case "waiting" | "done":
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
