"""Compiling ahead, where there is no GPU, what the cells of a figure would try on one."""

import argparse
import time

from services.building import build_kernel
from services.executors import EXECUTORS
from services.executors.base import ExecutorError
from services.messages import KernelSpec, RunRequest
from services.revision import revision
from services.selection import BadRequest, selected
from services.settings import Settings
from services.store import Folder
from services.tasks import title

OK, FAILED = 0, 1


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What is compiled, and for which chip."""
    parser.add_argument("--figure", type=int, default=9, metavar="N")
    parser.add_argument("--executors", type=_names, metavar="A,B")
    parser.add_argument("--dtypes", type=_names, metavar="u4,f6e3m2")
    parser.add_argument("--arch", default="sm_90", metavar="sm_90")


def compiled(folder: Folder, options: argparse.Namespace, settings: Settings) -> int:
    """A line for each kernel that was not there; code 1 where one cannot be."""
    commit = revision(settings.commit).commit
    failed = 0
    for spec in wanted(options):
        if folder.get_manifest(EXECUTORS[spec.executor].key(spec)) is not None:
            continue
        began = time.monotonic()
        try:
            key = build_kernel(spec, folder, EXECUTORS, commit).key
        except ExecutorError as error:
            failed += 1
            print(f"failed  {title(spec)}: {error}", flush=True)
            continue
        print(f"{key}  {time.monotonic() - began:>5.1f} s  {title(spec)}", flush=True)
    return FAILED if failed else OK


def wanted(options: argparse.Namespace) -> list[KernelSpec]:
    """The kernels that the cells would choose from, each once; BadRequest if there are none."""
    request = RunRequest(
        figure=options.figure,
        mode="recorded",
        arch=options.arch,
        executors=options.executors,
        dtypes=options.dtypes,
    )
    found = {
        spec.key(): spec
        for cell in selected(request)
        if (executor := EXECUTORS.get(cell.executor)) and executor.refusal(cell.workload) is None
        for spec in executor.candidates(cell.workload, request.arch)
    }
    if not found:
        raise BadRequest(f"no kernel of figure {options.figure} is compiled ahead")
    return list(found.values())


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))
