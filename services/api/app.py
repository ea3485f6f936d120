"""REST in front of the fleet: routes translate, jobs work. Equal requests are one thing."""

import asyncio
import hmac
import math
import shutil
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request, Response
from redis.exceptions import RedisError
from starlette.middleware.base import BaseHTTPMiddleware

from services import notes, runs
from services.api import artifacts, events, figures, jobs, kernels, metrics, problems, web
from services.api import runs as run_routes
from services.api.feed import Feed
from services.api.problems import problem
from services.experiments import MODEL_FIGURES
from services.figures import TABLES
from services.fleet import Fleet
from services.queue import COMPILE, alive
from services.records import ModelRecord, Record, load, load_models, record_paths
from services.store import upkeep

RESUME_SECONDS = 10.0
ACCEPTED_HOURS = 24  # how old a run is at most that a new API goes on with
COLLECT_SECONDS = 3600.0
GOING = "this API is about to end: ask again, another one may answer"
READING = frozenset({"GET", "HEAD", "OPTIONS"})

Next = Callable[[Request], Awaitable[Response]]


def create_app(fleet: Fleet, *, resumes: bool = False) -> FastAPI:
    """The whole API over one fleet; `resumes`: what was accepted before it began is gone on with.

    `app.state.going` says that it is about to end: it is not ready, and takes nothing more.
    """
    watched: set[str] = set()
    asked = metrics.Asked()
    places = events.Places()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if resumes:
            watched.update(await asyncio.to_thread(_accepted, fleet))
        tasks = [
            asyncio.create_task(_resume_for_ever(fleet, watched)),
            asyncio.create_task(_collect_for_ever(fleet)),
        ]
        yield
        for task in tasks:
            task.cancel()

    app = FastAPI(title="tilus fleet", version="1", lifespan=lifespan)
    app.state.going = False
    problems.install(app)
    app.add_middleware(BaseHTTPMiddleware, dispatch=_bounds(fleet))
    app.include_router(metrics.router(fleet, asked))
    app.include_router(kernels.router(fleet, asked))
    app.include_router(jobs.router(fleet))
    app.include_router(kernels.catalogue(fleet))
    app.include_router(run_routes.router(fleet, watched, asked, places))
    app.include_router(events.router(Feed(events.Watch(fleet).look), places))
    app.include_router(figures.router(fleet.settings))
    app.include_router(web.router())
    for router in artifacts.routers(fleet):
        app.include_router(router)

    @app.get("/v1/results", tags=["results"])
    def results(
        figure: Annotated[int, Query(ge=min(TABLES), le=99)], gpu: str | None = None
    ) -> list[Record | ModelRecord]:
        """Every record of a figure, that of one GPU or of all."""
        read = load_models if figure in MODEL_FIGURES else load
        paths = sorted(
            path
            for root in (fleet.settings.recorded, fleet.settings.results)
            for path in record_paths(root, figure)
            if gpu is None or path.parent.name == gpu
        )
        return [record for path in paths for record in read(path)]

    @app.get("/healthz", tags=["health"])
    def healthy() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    def ready() -> dict[str, int]:
        """How many compilers are alive, and the MiB that are free; 503 if nothing can be done."""
        if app.state.going:
            raise HTTPException(503, GOING)
        return _ready(fleet)

    return app


def _ready(fleet: Fleet) -> dict[str, int]:
    try:
        fleet.connection.ping()
        workers = alive(fleet.queue(COMPILE))
    except RedisError as error:
        raise HTTPException(503, f"the queue does not answer: {error}") from None
    free = shutil.disk_usage(fleet.store.root).free
    if not artifacts.has_room(fleet):
        raise HTTPException(503, f"the store has {free >> 20} MiB left: make room")
    return {"compilers": workers, "free_mib": free >> 20}


def _bounds(fleet: Fleet) -> Callable[[Request, Next], Awaitable[Response]]:
    settings = fleet.settings

    async def dispatch(request: Request, call_next: Next) -> Response:
        if request.method in READING:
            return await call_next(request)
        token = artifacts.writing_token(request.url.path, settings)
        if token and not _bears(request, token):
            return problem(401, "writing needs a token", {"WWW-Authenticate": "Bearer"})
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or "transfer-encoding" in request.headers:
            return problem(411, "send the body with its length")
        limit = artifacts.body_limit(request.url.path, settings)
        if int(length) > limit:
            return problem(413, f"the body may have {limit} bytes, not {length}")
        if request.app.state.going:
            return problem(503, GOING, {"Retry-After": "5"})
        if request.method == "POST":
            if not artifacts.has_room(fleet):
                return problem(507, "the store's disk is full: make room, or collect garbage")
            waiting = await asyncio.to_thread(_waiting, fleet)
            if waiting >= settings.queue_limit:
                return problem(429, f"{waiting} jobs are waiting: try later", {"Retry-After": "10"})
        return await call_next(request)

    return dispatch


def _waiting(fleet: Fleet) -> int:
    try:
        return notes.waiting(fleet.connection, COMPILE)
    except RedisError:
        return 0


def _bears(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())


def _accepted(fleet: Fleet) -> set[str]:
    """The runs that were accepted lately and not taken back."""
    since = datetime.now(UTC) - timedelta(hours=ACCEPTED_HOURS)
    return {
        plan.id
        for plan in runs.every(fleet.settings)
        if plan.created_at > since and not runs.is_cancelled(plan, fleet)
    }


async def _collect_for_ever(fleet: Fleet) -> None:
    """Keep the store within the limits of the settings, where there are any."""
    size, days = fleet.settings.store_max_bytes, fleet.settings.store_max_days
    while size or days:
        seconds = days * 86400 or math.inf
        with suppress(OSError):
            await asyncio.to_thread(upkeep.collect, fleet.store, size or math.inf, seconds)
        await asyncio.sleep(COLLECT_SECONDS)


async def _resume_for_ever(fleet: Fleet, watched: set[str]) -> None:
    while True:
        await asyncio.sleep(RESUME_SECONDS)
        for identity in sorted(watched):
            await asyncio.to_thread(_resume, identity, fleet, watched)


def _resume(identity: str, fleet: Fleet, watched: set[str]) -> None:
    """Go on with one run; what is wrong with it stops no other, nor the next try."""
    try:
        plan = runs.find(identity, fleet.settings)
        if plan is None or not runs.resume(plan, fleet):
            watched.discard(identity)
    except RedisError:
        return
    except Exception:
        print(f"run {identity} cannot be gone on with:", file=sys.stderr)
        traceback.print_exc()
