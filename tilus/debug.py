"""What a compile says of itself (TILUS_DEBUG) and what it leaves behind (TILUS_KEEP)."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tilus import codegen
from tilus.errors import TilusError
from tilus.ir import Program, walk
from tilus.occupancy import blocks_per_multiprocessor
from tilus.runtime import nvrtc, sass
from tilus.runtime.nvrtc import Binary
from tilus.text import to_text

Pass = tuple[str, Callable[[Program], Program]]


class Step(NamedTuple):
    """A pass that was run, how long it took, and the program that it made."""

    name: str
    seconds: float
    program: Program


class Compile(NamedTuple):
    """One compile, start to end; the first step is the program as it came."""

    arch: str
    steps: tuple[Step, ...]
    source: codegen.Source
    writing: float  # seconds that the text took
    binary: Binary
    checking: float = 0.0  # seconds that the check of the program took


def run_passes(program: Program, passes: Sequence[Pass]) -> tuple[Step, ...]:
    """The program as it came and as each pass left it."""
    steps = [Step("program", 0.0, program)]
    for name, change in passes:
        start = time.perf_counter()
        program = change(program)
        steps.append(Step(name, time.perf_counter() - start, program))
    return tuple(steps)


def report(done: Compile, level: int) -> str:
    """What a debug level has to say; each level says what those below it say."""
    rungs = (kernel_line, time_lines, program_texts, cuda_text, resources_line)
    return "\n".join(rung(done) for rung in rungs[:level])


def kernel_line(done: Compile) -> str:
    """The kernel, what it takes, and where the time went."""
    passes, resources = sum(step.seconds for step in done.steps), done.binary.resources
    total = done.checking + passes + done.writing + done.binary.seconds
    return (
        f"{done.steps[0].program.name} {done.arch}: {resources.registers} registers,"
        f" {resources.shared_bytes} shared bytes, {total:.2f} s"
        f" (check {done.checking:.2f}, passes {passes:.2f},"
        f" text {done.writing:.2f}, nvrtc {done.binary.seconds:.2f})"
    )


def time_lines(done: Compile) -> str:
    """A line for each part of the compile: the check, the passes, the text, NVRTC."""
    width = max(len(step.name) for step in done.steps)
    parts = {"check": done.checking, "text": done.writing, "nvrtc": done.binary.seconds}
    check, text, nvrtc = (
        f"  {name.ljust(width)} {1e3 * seconds:7.1f} ms" for name, seconds in parts.items()
    )
    return "\n".join([check, pass_lines(done), text, nvrtc])


def pass_lines(done: Compile) -> str:
    """A line a pass: time and statements left."""
    width = max(len(step.name) for step in done.steps)
    return "\n".join(
        f"  {step.name.ljust(width)} {1e3 * step.seconds:7.1f} ms {size(step.program):6} statements"
        for step in done.steps
    )


def size(program: Program) -> int:
    return sum(1 for _ in walk(program.body))


def program_texts(done: Compile) -> str:
    """The program as it came, and after each pass that changed it."""
    texts, last = [], None
    for step in done.steps:
        if step.program != last:
            texts.append(f"# {step.name}\n{to_text(step.program)}")
        last = step.program
    return "\n".join(texts)


def cuda_text(done: Compile) -> str:
    return done.source.text


def resources_line(done: Compile) -> str:
    """What a block takes, and how many of them share a multiprocessor."""
    return resources_text(done.arch, done.source.threads, done.binary.resources)


def resources_text(arch: str, threads: int, resources: nvrtc.Resources) -> str:
    registers, shared_bytes = resources.registers, resources.shared_bytes
    blocks, scarcest = blocks_per_multiprocessor(arch, threads, registers, shared_bytes)
    return (
        f"{registers} registers a thread, {resources.spill_bytes} bytes spilled; {threads} threads"
        f" and {shared_bytes} shared bytes a block; {blocks} blocks a multiprocessor of {arch},"
        f" limited by {scarcest}"
    )


STAGES: dict[str, Callable[[Compile], str]] = {
    "ir": lambda done: to_text(done.steps[-1].program),
    "cuda": cuda_text,
    "ptx": lambda done: nvrtc.compile_ptx(done.source.text, done.source.entry, done.arch),
    "sass": lambda done: sass.disassemble(done.binary.cubin),
    "resources": resources_line,
}


def stage(done: Compile, name: str) -> str:
    """The text of one stage of a compile."""
    if name not in STAGES:
        raise TilusError(f"no stage {name!r}: there are {', '.join(STAGES)}")
    return STAGES[name](done)


def keep(done: Compile, stages: Sequence[str], folder: Path) -> None:
    """Write each stage to folder/<kernel>/<stage>; a kernel compiled again replaces its files."""
    for name in stages:
        text = stage(done, name)
        file = folder / done.steps[0].program.name / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
