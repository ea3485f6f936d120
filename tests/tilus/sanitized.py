"""Generated text under the sanitizers of the C++ compiler, in a process that starts with them.

    python -m tests.tilus.sanitized          every sample and small library kernels; 0 if clean
    python -m tests.tilus.sanitized BUG      a kernel with one of `BUGS`, which must not end well

`start` runs it so. Arrays and shared memory are blocks of the heap, so that what lies beside them
is nobody's.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.tilus.harness import case_of
from tilus import codegen
from tilus.dtypes import f32
from tilus.ir import Integer, Pointer, Program, Var
from tilus.isa import ISA
from tilus.kernels import quantized_matmul as q
from tilus.lang import Tracer, trace
from tilus.layout import local, spatial
from tilus.runtime import host
from tilus.target import HOST

ROOT = Path(__file__).parents[2]
OPTIONS = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
MATMULS = (
    {"b_dtype": "u4", "group_size": 64, "zeros": True, "n_multiple": 32, "block_n": 32,
     "block_k": 64, "warps": 2, "stages": 3, "blocks_per_sm": 1},
    {"b_dtype": "f6e3m2", "group_size": -1, "n_multiple": 1, "k_multiple": 1, "block_n": 32,
     "block_k": 64, "warps": 1, "stages": 2, "blocks_per_sm": 1},
)  # fmt: skip


def missing() -> str:
    """Why the sanitizers cannot be had on this machine, or nothing."""
    if not shutil.which("g++"):
        return "no g++"
    return "" if runtime().is_absolute() else "g++ has no libasan.so"


def runtime() -> Path:
    """The library that has to be loaded before all others."""
    asked = ["g++", "-print-file-name=libasan.so"]
    return Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())


def start(*bug: str) -> subprocess.CompletedProcess[str]:
    """This module, in a process of its own."""
    options = "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0"
    return subprocess.run(
        [sys.executable, "-m", "tests.tilus.sanitized", *bug],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(runtime()), "ASAN_OPTIONS": options,
             "TILUS_CXX": "g++"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


def run(programs: list[tuple[Program, dict[str, Any]]]) -> None:
    """All as one library, each with its arguments, in both orders of threads."""
    text = ""
    for program, _ in programs:
        source = codegen.generate(program, HOST)
        text += source.text + codegen.host_entry(program, source)
    library = host.build(text, *OPTIONS)
    for program, arguments in programs:
        values = [arguments[p.name] for p in program.parameters]
        for backwards in (False, True):
            host.run(library, program.name, values, codegen.grid_of(program, arguments), backwards)


def clean() -> list[tuple[Program, dict[str, Any]]]:
    found = []
    for parameters in MATMULS:
        problem, plan = q.problem_of(parameters), q.schedule_of(parameters)
        n, k = (64, 192) if parameters["n_multiple"] != 1 else (33, 130)
        case = q.random_case(problem, 7, n, k, np.random.default_rng(0))
        found.append((q.program(**parameters), q.host_arguments(case, problem, plan, 2)))
    for name, cls in ISA.items():
        for i, sample in enumerate(cls.samples()):
            case = case_of(sample, np.random.default_rng(i))
            program = case.program
            fields = (program.parameters, program.grid, program.threads, program.body)
            found.append((Program(f"{name}_{i}", *fields), case.arguments))
    return found


def beyond_array(t: Tracer, x: Var, n: Var) -> None:
    tile = t.allocate_register(f32, spatial(32), 1)
    t.store_global(t.view_global(x, f32, (64,), (1,)), tile, (n,), check=())


def beyond_shared(t: Tracer, x: Var, n: Var) -> None:
    held = t.allocate_shared(f32, (32,))
    t.store_shared(held, t.allocate_register(f32, local(1), 1), (n + 256,))


BUGS = {"beyond_array": beyond_array, "beyond_shared": beyond_shared}


def broken(bug: str) -> list[tuple[Program, dict[str, Any]]]:
    parameters = (Pointer("x", f32), Integer("n"))
    program = trace(bug, BUGS[bug], parameters, lambda x, n: (1, 1, 1), 32)
    return [(program, {"x": np.zeros(32, np.float32), "n": 1})]


if __name__ == "__main__":
    run(broken(sys.argv[1]) if len(sys.argv) > 1 else clean())
