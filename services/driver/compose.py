"""The fleet in containers, driven through Docker Compose.

python -m services.driver.compose      makes the secrets that are not there, and nothing else
"""

import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from services.access import ROLES, users
from services.driver.processes import CannotStart, Household, answers
from services.messages import RunState
from services.settings import ROOT, Settings, environment, load
from services.store import write_atomic

API_PORT = 18080
KERNELS = ("tilus-fleet_store", "tilus-fleet_kernels")
# What writing needs, beside the queue's key and the passwords of the roles.
TOKENS = ("token", "store_token")
WAIT_SECONDS = 60.0


@contextmanager
def fleet(
    settings: Settings, gpu: str | None, *, empty: bool
) -> Iterator[tuple[Household, httpx.Client]]:
    """The containers, up for as long as the block lasts, and a client of their API.

    `empty` forgets the kernels that earlier containers compiled.
    """
    port = settings.api_port or API_PORT
    command = _command(gpu)
    make_secrets(settings.secrets)
    if empty:
        _docker("volume", "rm", "--force", *KERNELS, settings=settings, port=port)
    _docker(*command, "up", "--build", "--detach", settings=settings, port=port)
    try:
        with client_of(f"http://127.0.0.1:{port}", settings.secrets) as client:
            _await(client)
            yield Household(settings.state), client
    finally:
        _docker(*command, "down", settings=settings, port=port)


def client_of(address: str, folder: Path) -> httpx.Client:
    """A client of the API at `address` that may begin runs: its token is in the folder."""
    bearer = {"Authorization": f"Bearer {(folder / 'token').read_text()}"}
    return httpx.Client(base_url=address, headers=bearer, timeout=60, trust_env=False)


def fetch_figures(client: httpx.Client, states: list[RunState], results: Path) -> None:
    """Copy the figures of the runs out of the containers."""
    for state in states:
        for name in state.figures:
            answer = client.get(
                f"/v1/runs/{state.id}/figures/{name.removeprefix('figure')}"
            ).raise_for_status()
            write_atomic(results / name, answer.content)


def make_secrets(folder: Path) -> None:
    """Make the passwords, tokens and key that are not there; the folder is the owner's alone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    passwords = {role: _secret(folder / f"redis_{role}") for role in ROLES}
    for name in ("queue_key", *TOKENS):
        _secret(folder / name)
    _write(folder / "redis_users", users(passwords))


def _secret(path: Path) -> str:
    if not path.exists():
        _write(path, secrets.token_urlsafe(32))
    return path.read_text()


def _write(path: Path, text: str) -> None:
    write_atomic(path, text.encode())
    path.chmod(0o644)  # the containers' users read it; others do not get into the folder


def _command(gpu: str | None) -> list[str]:
    base = ["compose", "--file", "compose.yaml"]
    if gpu is None:
        return base
    return [*base, "--file", "compose.gpu.yaml", "--profile", "gpu"]


def _docker(*arguments: str, settings: Settings, port: int) -> None:
    docker = shutil.which("docker")
    if docker is None:
        raise CannotStart("--mode compose needs Docker with Compose: install it, or --mode local")
    given = environment(settings) | {
        "TILUS_API_PORT": str(port),
        "TILUS_SECRETS": str(settings.secrets),
    }
    done = subprocess.run([docker, *arguments], cwd=ROOT, env=given, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise CannotStart(f"docker {' '.join(arguments)} ended with {done.returncode}: see above")


def _await(client: httpx.Client) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not answers(client):
        if time.monotonic() > deadline:
            raise CannotStart("the containers' api does not answer: see docker compose logs")
        time.sleep(0.2)


if __name__ == "__main__":
    make_secrets(load().secrets)
