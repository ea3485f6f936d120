"""The work of a compile worker: plain functions of plain data, run by name from the queue."""

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import JsonValue

from services.building import TOLERANCE, build_kernel, check_key
from services.executors import EXECUTORS
from services.executors.base import Executor
from services.messages import KernelSpec, Manifest
from services.revision import revision
from services.settings import load
from services.store import Store, open_store


class WrongKernel(Exception):
    """A kernel whose text, run on the CPU, does not compute what it promises."""


def build(message: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The job: compile a KernelSpec into the store."""
    settings = load()
    commit = revision(settings.commit).commit
    spec = KernelSpec.model_validate(message)
    return {"key": build_kernel(spec, open_store(settings), EXECUTORS, commit).key}


def check(message: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The job: run a KernelSpec's text on the CPU against float64 and keep the finding."""
    settings = load()
    commit = revision(settings.commit).commit
    spec = KernelSpec.model_validate(message)
    return {"key": check_kernel(spec, open_store(settings), EXECUTORS, commit).key}


def check_kernel(
    spec: KernelSpec, store: Store, executors: Mapping[str, Executor], commit: str
) -> Manifest:
    """The stored finding on `spec`, fact `relative_error`; WrongKernel if it is too far off."""
    executor = executors[spec.executor]
    key = check_key(executor.key(spec))
    with store.claim(key):
        stored = store.get_manifest(key)
        if stored is not None:
            return store.share(stored)
        started = datetime.now(UTC)
        found = executor.check(spec)
        if found is None:
            raise WrongKernel(f"{spec.executor} has no text that a CPU can run")
        if not found.relative_error < TOLERANCE:
            raise WrongKernel(
                f"{spec.kernel} {spec.parameters}: relative error {found.relative_error:.2e} "
                f"on the CPU, at most {TOLERANCE:.0e} is right"
            )
        manifest = Manifest(
            key=key,
            spec=spec,
            facts={"relative_error": found.relative_error},
            seconds=found.seconds,
            built_by=commit,
            built_at=started.isoformat(timespec="seconds"),
        )
        return store.put(manifest, {})
