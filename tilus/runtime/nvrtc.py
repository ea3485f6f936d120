"""CUDA text -> cubin, in process, with NVRTC from a wheel: no toolkit, no driver, no GPU needed."""

import io
import re
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from cuda.bindings import nvrtc
from cuda.core import Program, ProgramOptions

from tilus.errors import TilusError
from tilus.runtime import prelude
from tilus.target import target

PACKAGE = "nvidia-cuda-nvrtc"
FLAGS = ("-std=c++17", "-v")


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
    options = ProgramOptions(
        name=entry,
        arch=arch,
        std="c++17",
        ptxas_options=["-v"],
        include_path=[str(folder) for folder in prelude.CUDA],
        no_cache=True,
    )
    log = io.StringIO()
    try:
        cubin = bytes(Program(text, "c++", options).compile("cubin", logs=log).code)
    except Exception as failure:
        raise TilusError(f"{entry} does not compile for {arch}: {failure}") from failure
    said = log.getvalue().strip("\0\n")
    return Binary(cubin, resources_of(said, shared_bytes), said, time.perf_counter() - start)


def compile_ptx(text: str, entry: str, arch: str) -> str:
    """The PTX of `text`, on its way to a cubin; cuda.core makes none where there is no driver."""
    target(arch)
    includes = [f"-I{folder}" for folder in prelude.CUDA]
    flags = [f"-arch={arch.replace('sm', 'compute')}", *FLAGS[:1], *includes]
    status, made = nvrtc.nvrtcCreateProgram(text.encode(), entry.encode(), 0, [], [])
    (failed,) = nvrtc.nvrtcCompileProgram(made, len(flags), [flag.encode() for flag in flags])
    if status or failed:
        raise TilusError(f"{entry} does not compile for {arch}: {status or failed}")
    _, size = nvrtc.nvrtcGetPTXSize(made)
    ptx = bytearray(size)
    nvrtc.nvrtcGetPTX(made, ptx)
    nvrtc.nvrtcDestroyProgram(made)
    return ptx.decode().rstrip("\0")


def resources_of(log: str, shared_bytes: int) -> Resources:
    """What ptxas reports of the one kernel of a text."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes spill stores", log)
    if registers is None:
        raise TilusError(f"the compiler reported no registers: {log!r}")
    serialized = "instructions are serialized" in log
    return Resources(int(registers[1]), shared_bytes, sum(map(int, spills)), serialized)
