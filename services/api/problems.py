"""Errors as RFC 9457 has them: every answer that is not a success is application/problem+json."""

from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from services.messages import Problem
from services.selection import BadRequest
from services.store import Unreachable

MEDIA = "application/problem+json"


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error answer with a sentence that says what to do."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, headers=headers, media_type=MEDIA)


# What an answer other than a success can be, and what it then says.
ANYWHERE = {
    "422": "the request says something that cannot be",
    "503": "queue or store do not answer, too many listen, or this API is about to end",
}
WRITING = {
    "401": "writing needs the token",
    "411": "the body has no length",
    "413": "the body is too long",
}
POSTING = {
    "400": "the body cannot be read",
    "429": "too much is waiting: Retry-After says how long to wait",
    "507": "the store's disk is full",
}
SOMEWHERE = {
    ("get", "/v1/kernels/{key}"): {"404": "nobody asked for such a kernel"},
    ("get", "/v1/kernels/{key}/source"): {"404": "no such kernel is stored"},
    ("get", "/v1/kernels/{key}/log"): {
        "404": "no such kernel is stored, or its compiler kept silent"
    },
    ("get", "/v1/kernels/{key}/cubin"): {"404": "no such kernel is stored"},
    ("get", "/v1/kernels/{key}/sass"): {
        "404": "no such kernel is stored",
        "501": "nothing here shows instructions",
    },
    ("get", "/v1/jobs/{identity}"): {"404": "the queue has no such job"},
    ("delete", "/v1/jobs/{identity}"): {
        "404": "the queue has no such job",
        "409": "the job waits no longer",
    },
    ("get", "/v1/runs/{identity}"): {"404": "there is no such run"},
    ("delete", "/v1/runs/{identity}"): {"404": "there is no such run"},
    ("get", "/v1/runs/{identity}/events"): {"404": "there is no such run"},
    ("get", "/v1/figures/{number}"): {"404": "there is no such figure, or no such records of it"},
    ("get", "/v1/runs/{identity}/figures/{name}"): {"404": "no such file is drawn"},
    **{
        (method, f"/{space}/{{name}}"): said
        for space in ("ac", "cas")
        for method, said in {
            "get": {"404": "no such bytes are stored"},
            "head": {"404": "no such bytes are stored"},
            "put": {
                "400": "the body ended early",
                "403": "without a token only this machine writes",
                "507": "the store's disk is full",
            },
        }.items()
    },
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI of `app` with every problem that it answers with."""
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = described["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = Problem.model_json_schema()
        for path, operations in described["paths"].items():
            for method, operation in operations.items():
                operation["responses"] |= {
                    status: {
                        "description": words,
                        "content": {MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}},
                    }
                    for status, words in _problems(method, path).items()
                }
        app.openapi_schema = described
    return app.openapi_schema


def _problems(method: str, path: str) -> dict[str, str]:
    writing = WRITING if method in ("post", "put", "delete") else {}
    posting = POSTING if method == "post" else {}
    return ANYWHERE | writing | posting | SOMEWHERE.get((method, path), {})


def install(app: FastAPI) -> None:
    """Have `app` answer every error with a problem, and say so."""
    app.openapi = partial(describe, app)  # type: ignore[method-assign]

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def ill_formed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return problem(422, f"{field}: {first['msg']}")

    @app.exception_handler(BadRequest)
    async def impossible(_: Request, error: BadRequest) -> JSONResponse:
        return problem(422, str(error))

    @app.exception_handler(RedisError)
    async def no_queue(_: Request, error: RedisError) -> JSONResponse:
        return problem(503, f"the queue does not answer: {error}", {"Retry-After": "2"})

    @app.exception_handler(Unreachable)
    async def no_store(_: Request, error: Unreachable) -> JSONResponse:
        return problem(503, str(error), {"Retry-After": "2"})

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return problem(500, f"{type(error).__name__}: see the server's log")
