"""CUDA text -> cubin, in process, with NVRTC from a wheel: no toolkit, no driver, no GPU needed."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cuda.bindings import nvrtc

from tilus.errors import TilusError
from tilus.runtime import prelude
from tilus.target import target

PACKAGE = "nvidia-cuda-nvrtc"
FLAGS = ("-std=c++17", "-v")  # the second is for ptxas

# Of what it takes from its own cache NVRTC, where there is a driver, tells nothing in the log.
NOTHING_KEPT = "--no-cache"

Handle = Any  # a program of NVRTC


@dataclass(frozen=True)
class Resources:
    """What one block of a kernel takes: registers a thread, shared bytes, spilled bytes.

    Where ptxas could not tell which registers products by warpgroups still read or write, it made
    them wait for each other: they are `serialized`, and the kernel is slow.
    """

    registers: int
    shared_bytes: int
    spill_bytes: int
    serialized: bool


@dataclass(frozen=True)
class Binary:
    """A compiled kernel and what the compiler said of it."""

    cubin: bytes
    resources: Resources
    log: str
    seconds: float


def compiler_version() -> str:
    """The version of the NVRTC package."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError as missing:
        raise TilusError(f"no CUDA compiler: pip install {PACKAGE}") from missing


def compile_cubin(text: str, entry: str, arch: str, shared_bytes: int) -> Binary:
    """The cubin of `text` for `arch`; the same text gives the same bytes."""
    target(arch)
    start = time.perf_counter()
    flags = (f"-arch={arch}", FLAGS[0], f"--ptxas-options={FLAGS[1]}")
    cubin, log = compiled(text, entry, arch, flags, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    return Binary(cubin, resources_of(log, shared_bytes), log, time.perf_counter() - start)


def compile_ptx(text: str, entry: str, arch: str) -> str:
    """The PTX of `text`, on its way to a cubin."""
    target(arch)
    flags = (f"-arch={arch.replace('sm', 'compute')}", FLAGS[0])
    ptx, _ = compiled(text, entry, arch, flags, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    return ptx.decode().rstrip("\0")


def compiled(
    text: str,
    entry: str,
    arch: str,
    flags: Sequence[str],
    size: Callable[[Handle], tuple[Any, int]],
    get: Callable[[Handle, bytearray], Any],
) -> tuple[bytes, str]:
    """What `get` gets of a compiled text, so many bytes as `size` says, and the compiler's log."""
    given = [*flags, NOTHING_KEPT, *(f"-I{folder}" for folder in prelude.CUDA)]
    _, made = nvrtc.nvrtcCreateProgram(text.encode(), entry.encode(), 0, [], [])
    try:
        (failed,) = nvrtc.nvrtcCompileProgram(made, len(given), [flag.encode() for flag in given])
        log = told(made, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
        said = log.decode().strip("\0\n")
        if failed:
            wrong = [line for line in said.splitlines() if "error" in line.lower()]
            raise TilusError(
                f"{entry} does not compile for {arch}: {'; '.join(wrong) or said or failed}"
            )
        return told(made, size, get), said
    finally:
        nvrtc.nvrtcDestroyProgram(made)


def told(
    made: Handle, size: Callable[[Handle], tuple[Any, int]], get: Callable[[Handle, bytearray], Any]
) -> bytes:
    """What NVRTC has of a program."""
    _, length = size(made)
    found = bytearray(length)
    get(made, found)
    return bytes(found)


def resources_of(log: str, shared_bytes: int) -> Resources:
    """What ptxas reports of the one kernel of a text."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes spill stores", log)
    if registers is None:
        raise TilusError(f"the compiler reported no registers: {log!r}")
    serialized = "instructions are serialized" in log
    return Resources(int(registers[1]), shared_bytes, sum(map(int, spills)), serialized)
