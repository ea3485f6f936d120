"""A kernel at the stages of its compile."""

import inspect
import runpy
from collections.abc import Callable
from pathlib import Path

from tilus import debug
from tilus.compiler import run_stages
from tilus.errors import TilusError
from tilus.ir import Program
from tilus.kernels import LIBRARY

SHOWN = ("ir", "cuda", "resources")  # unless one stage is asked for


def describe_kernel(name: str, settings: list[str], stage: str, arch: str) -> str:
    """One stage of a kernel, or its program, its CUDA text and what a block takes."""
    if stage and stage not in debug.STAGES:
        raise TilusError(f"no stage {stage!r}: there are {', '.join(debug.STAGES)}")
    done = run_stages(program_of(name, settings), arch)
    return "\n".join(debug.stage(done, each) for each in ([stage] if stage else SHOWN))


def program_of(name: str, settings: list[str]) -> Program:
    """The kernel of that name with these KEY=VALUE settings."""
    make, given = maker_of(name), dict(map(setting, settings))
    try:
        inspect.signature(make).bind(**given)
    except TypeError as wrong:
        raise TilusError(f"{name}: {wrong}: it takes {inspect.signature(make)}") from wrong
    program: Program = make(**given)
    return program


def maker_of(name: str) -> Callable[..., Program]:
    """`program` of the library's kernel of that name, or of a Python file."""
    if name in LIBRARY:
        make: Callable[..., Program] = LIBRARY[name].program
        return make
    if not Path(name).is_file():
        raise TilusError(
            f"no kernel {name!r} in the library: there are {', '.join(LIBRARY)}; or name a Python"
            " file with a function program()"
        )
    names = runpy.run_path(name)
    if "program" not in names:
        raise TilusError(f"{name} has no function program() that gives a kernel: write one")
    found: Callable[..., Program] = names["program"]
    return found


def setting(text: str) -> tuple[str, int | bool | str]:
    """KEY=VALUE, where a value is a number, true, false or a word."""
    key, equals, value = text.partition("=")
    if not equals:
        raise TilusError(f"{text!r}: write KEY=VALUE, e.g. b_dtype=u4")
    words = {"true": True, "false": False}
    return key, words[value] if value in words else int(value) if is_number(value) else value


def is_number(text: str) -> bool:
    return text.removeprefix("-").isdigit()
