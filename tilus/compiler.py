"""Program -> cubin: the text, its key, the binary."""

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tilus import codegen, config, debug, passes
from tilus.admission import check_program
from tilus.errors import TilusError
from tilus.ir import Program
from tilus.isa.base import TensorMap
from tilus.runtime import host, nvrtc, prelude
from tilus.runtime.nvrtc import Resources
from tilus.target import DEFAULT, HOST
from tilus.text import to_text

# what is done to a program before its text is written
PASSES: tuple[debug.Pass, ...] = tuple((one.__name__, one) for one in passes.PIPELINE)


@dataclass(frozen=True)
class Compiled:
    """A kernel for one architecture: what to load, what a launch needs, what it was made from."""

    key: str
    arch: str
    cubin: bytes
    source: str
    program: str
    entry: str
    threads: int
    shared_bytes: int
    resources: Resources
    log: str
    seconds: float
    maps: tuple[TensorMap, ...] = ()


def compiler_versions() -> dict[str, str]:
    """What takes part in a compile."""
    return {"nvrtc": nvrtc.compiler_version()}


def kernel_key(program: Program, arch: str) -> str:
    """SHA-256 over all that decides the bytes: program, generated text, prelude, compiler, arch."""
    check_program(program)
    return _key(program, text_of(program, arch), arch)


@cache
def package_digest() -> str:
    """SHA-256 over the files of this package: they decide what a run on the processor gives."""
    found = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.cuh")]):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root)} {len(content)}\0".encode() + content)
    return found.hexdigest()


def compile(program: Program, arch: str = DEFAULT) -> Compiled:
    """`program` as a cubin for `arch`; needs no GPU. Says and keeps what the settings ask for."""
    done = run_stages(program, arch)
    if config.DEBUG:
        print(debug.report(done, config.DEBUG), file=sys.stderr)
    debug.keep(done, config.KEEP, config.OUT)
    source, built = done.source, done.binary
    return Compiled(
        key=_key(program, source, arch),
        arch=arch,
        cubin=built.cubin,
        source=source.text,
        program=to_text(program),
        entry=source.entry,
        threads=source.threads,
        shared_bytes=source.shared_bytes,
        resources=built.resources,
        log=built.log,
        seconds=built.seconds,
        maps=source.maps,
    )


@dataclass(frozen=True)
class Loadable:
    """What to load of a program, and what a launch of it needs."""

    program: Program
    source: codegen.Source
    cubin: bytes


def loadable(program: Program, arch: str) -> Loadable:
    """`program` for `arch`, compiled unless the folder TILUS_CACHE has its cubin."""
    source = text_of(program, arch)
    if str(config.CACHE) == "off":
        return Loadable(program, source, cubin_of(source, arch))
    kept = config.CACHE / "cubin" / f"{_key(program, source, arch)}.cubin"
    if kept.exists():
        return Loadable(program, source, kept.read_bytes())
    cubin = cubin_of(source, arch)
    kept.parent.mkdir(parents=True, exist_ok=True)
    aside = kept.with_suffix(f".{os.getpid()}")  # others see a whole file, or none
    aside.write_bytes(cubin)
    aside.replace(kept)
    return Loadable(program, source, cubin)


def cubin_of(source: codegen.Source, arch: str) -> bytes:
    """The compiled text."""
    return nvrtc.compile_cubin(source.text, source.entry, arch, source.shared_bytes).cubin


def run_stages(program: Program, arch: str = DEFAULT) -> debug.Compile:
    """Every stage of a compile, to look at."""
    start = time.perf_counter()
    check_program(program)
    checking = time.perf_counter() - start
    steps = debug.run_passes(program, PASSES)
    start = time.perf_counter()
    source = codegen.generate(steps[-1].program, arch)
    writing = time.perf_counter() - start
    built = nvrtc.compile_cubin(source.text, source.entry, arch, source.shared_bytes)
    return debug.Compile(arch, steps, source, writing, built, checking)


def text_of(program: Program, arch: str) -> codegen.Source:
    """The CUDA text of `program` after the passes."""
    return codegen.generate(debug.run_passes(program, PASSES)[-1].program, arch)


def run_on_host(
    program: Program,
    arguments: dict[str, host.Argument],
    backwards: bool = False,
    arch: str = HOST,
    watched: bool = False,
) -> None:
    """Run the generated text of `program` on this processor; arrays are written in place.

    Where accesses to memory are `watched`, those that lie outside of every array, and those whose
    order nothing but luck decides, are a `TilusError` (`prelude/host/watch.cuh` says which are).
    """
    source = text_of(program, arch)
    library = host.build(source.text + codegen.host_entry(program, source))
    found = host.run(
        library,
        program.name,
        [arguments[p.name] for p in program.parameters],
        codegen.grid_of(program, arguments),
        backwards,
        watched,
    )
    if found:
        raise TilusError(f"{program.name}: {described(source.text, found)}")


def described(text: str, found: str) -> str:
    """The first of the findings of a watched run, with the instructions that it is about."""
    line, other, what = found.splitlines()[0].split(" ", 2)
    here, there = (instruction_at(text, int(n)) for n in (line, other))
    return f"{here}: {what} ({there}): a synchronize or wait_group is missing, or a mask"


def instruction_at(text: str, line: int) -> str:
    """Which instruction wrote a line of generated text."""
    above = [entry.strip() for entry in text.splitlines()[:line]]
    name = next((entry for entry in reversed(above) if entry.startswith("// ")), "// ")
    return f"{name[3:]} (line {line})"


def _key(program: Program, source: codegen.Source, arch: str) -> str:
    decides = [
        to_text(program), source.text, prelude.text_of(prelude.CUDA), arch, *nvrtc.FLAGS,
        *compiler_versions().values(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()
