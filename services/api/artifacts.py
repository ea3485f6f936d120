"""/ac and /cas: the store as an HTTP cache, for workers and readers on other machines.

Whoever may write `ac` decides what runs on the GPUs that read it. So writing takes the token, and
where there is none, a client on this machine.
"""

import asyncio
import ipaddress
import shutil
from collections.abc import Callable

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from starlette.requests import ClientDisconnect

from services.api.kernels import Binary
from services.fleet import Fleet
from services.messages import Key
from services.settings import Settings
from services.store import Space, fault, unseal

SPACES: tuple[Space, ...] = ("ac", "cas")
# An object never changes; a manifest may be built again.
LIFETIMES: dict[Space, str] = {"cas": "public, max-age=31536000, immutable", "ac": "no-cache"}


def routers(fleet: Fleet) -> list[APIRouter]:
    """The routes under /ac and those under /cas."""
    return [_router(space, fleet) for space in SPACES]


def body_limit(path: str, settings: Settings) -> int:
    """How many bytes a request to this path may have."""
    return settings.artifact_limit if _is_artifact(path) else settings.body_limit


def writing_token(path: str, settings: Settings) -> str:
    """The token that writing to this path takes; empty if it takes none.

    Artifacts may have one of their own: who begins runs does not decide what runs on GPUs.
    """
    own = settings.store_token if _is_artifact(path) else settings.token
    return (own if own.get_secret_value() else settings.token).get_secret_value()


def _is_artifact(path: str) -> bool:
    return path.startswith(tuple(f"/{space}/" for space in SPACES))


def has_room(fleet: Fleet) -> bool:
    """Whether the store's disk has room for more."""
    return shutil.disk_usage(fleet.store.root).free >= fleet.settings.free_limit


def _router(space: Space, fleet: Fleet) -> APIRouter:
    routes = APIRouter(prefix=f"/{space}", tags=["artifacts"])
    trusted = _trusted(writing_token(f"/{space}/", fleet.settings))

    @routes.head("/{name}", response_class=Binary)
    @routes.get("/{name}", response_class=Binary)
    def read(name: Key) -> Response:
        """The bytes under a name, verified."""
        content = fleet.store.get(space, name)
        if content is None:
            raise HTTPException(404, f"there is no {space}/{name} here")
        headers = {"Cache-Control": LIFETIMES[space]}
        return Response(content, headers=headers, media_type="application/octet-stream")

    @routes.put("/{name}", status_code=204, dependencies=[Depends(trusted)])
    async def write(name: Key, request: Request) -> None:
        """Store bytes under their name: an object, or a manifest after all of its files."""
        try:
            content = await request.body()
        except ClientDisconnect:
            raise HTTPException(400, "the body ended early: send it again") from None
        await asyncio.to_thread(_store, space, name, content, fleet)

    return routes


def _trusted(token: str) -> Callable[[Request], None]:
    def trusted(request: Request) -> None:
        if not token and not _is_here(request):
            raise HTTPException(
                403, "artifacts are written from this machine, or with a token: set TILUS_TOKEN"
            )

    return trusted


def _is_here(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _store(space: Space, name: str, content: bytes, fleet: Fleet) -> None:
    store = fleet.store
    why = fault(space, name, content)
    if why is not None:
        raise HTTPException(422, why)
    manifest = unseal(content) if space == "ac" else None
    files = {} if manifest is None else manifest.files
    absent = [file for file, found in files.items() if store.get("cas", found) is None]
    if absent:
        raise HTTPException(422, f"put the files before the manifest: {', '.join(absent)}")
    if not has_room(fleet):
        raise HTTPException(507, "the store's disk is full: make room, or collect garbage")
    store.set(space, name, content)
