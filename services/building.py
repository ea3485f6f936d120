"""A kernel of the store, built if nobody has, and the name of what its CPU check found."""

import resource
from collections.abc import Mapping
from datetime import UTC, datetime

from services.executors.base import Built, Executor
from services.messages import KernelSpec, Manifest, digest
from services.store import Store
from tilus.compiler import package_digest

# Relative to the float64 reference, in the Frobenius norm; f16 inputs and outputs stay well below.
TOLERANCE = 2e-3


def check_key(kernel_key: str) -> str:
    """The name of what the CPU check of a kernel found: the kernel, the check and what is right.

    The check is code of the package: it writes the text, runs it and computes the reference.
    """
    return digest(f"check {kernel_key} {package_digest()} {TOLERANCE}".encode())


def build_kernel(
    spec: KernelSpec, store: Store, executors: Mapping[str, Executor], commit: str
) -> Manifest:
    """The stored kernel of `spec`, compiled only if no one has; builders of one key take turns."""
    executor = executors[spec.executor]
    key = executor.key(spec)
    with store.claim(key):
        stored = store.get_manifest(key)
        if stored is not None:
            return store.share(stored)
        started, (cpu_before, _) = datetime.now(UTC), used()
        built = executor.build(spec)
        cpu_after, peak_mib = used()
        manifest = Manifest(
            key=key,
            spec=spec,
            facts=dict(built.facts),
            versions=dict(built.versions),
            seconds=(datetime.now(UTC) - started).total_seconds(),
            cpu_seconds=round(cpu_after - cpu_before, 3),
            peak_mib=peak_mib,
            built_by=commit,
            built_at=started.isoformat(timespec="seconds"),
        )
        return store.put(manifest, built.files)


def used() -> tuple[float, int]:
    """What this process and those it waited for used: processor seconds, and MiB at most of one."""
    all_of_it = [
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    seconds = sum(one.ru_utime + one.ru_stime for one in all_of_it)
    return seconds, max(one.ru_maxrss for one in all_of_it) >> 10


def built_kernel(store: Store, key: str) -> Built | None:
    """What a launch needs of a stored kernel; None if it is not there whole."""
    manifest = store.get_manifest(key)
    if manifest is None:
        return None
    return Built(
        files={"kernel.cubin": store.read(manifest, "kernel.cubin")},
        facts=manifest.facts,
        versions=manifest.versions,
    )
