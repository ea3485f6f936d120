"""Text -> a library for this machine's processor -> a run on NumPy arrays.

Any C++17 compiler will do: the one that TILUS_CXX names, g++ or clang++ on the PATH, else the one
in the package ziglang.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tilus import config
from tilus.errors import TilusError
from tilus.runtime import prelude

# A kernel is run once or a few times: to compile it takes longest. Integers wrap, as on a GPU.
FLAGS = ["-Og", "-std=c++17", "-shared", "-fPIC", "-w", "-fno-exceptions", "-fwrapv",
         "-ffp-contract=off"]  # fmt: skip
Argument = npt.NDArray[Any] | int


@cache
def compiler() -> list[str]:
    """The command of a C++ compiler on this machine."""
    if config.CXX:
        return config.CXX
    for name in ("g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-nostdinc++", "-nostdlib++"]
    raise TilusError(
        "running a kernel on the processor needs a C++ compiler: install g++, or"
        " pip install ziglang"
    )


def build(text: str, *options: str) -> Path:
    """A shared library made of `text` with the host prelude; made once, then from the cache.

    `options` are further ones of the compiler.
    """
    command = [*compiler(), *FLAGS, *options, *(f"-I{folder}" for folder in prelude.HOST)]
    decides = "\0".join([text, prelude.text_of(prelude.HOST), *command])
    library = cache_folder() / f"{hashlib.sha256(decides.encode()).hexdigest()}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        source, made = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        source.write_text(text)
        done = subprocess.run(
            [*command, str(source), "-o", str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise TilusError(f"the host compiler refused the kernel: {done.stderr[:4000]}")
        made.replace(library)
    return library


def cache_folder() -> Path:
    """Where libraries are kept."""
    off = str(config.CACHE) == "off"
    folder = Path(tempfile.gettempdir()) / f"tilus-{os.getuid()}" if off else config.CACHE / "host"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(
    library: Path,
    name: str,
    arguments: list[Argument],
    grid: tuple[int, int, int],
    backwards: bool = False,
    watched: bool = False,
) -> str:
    """Call `run_<name>` of `library`; arrays are written in place, ints passed as int32.

    The threads of a block run one after another, in falling order if `backwards`. Where accesses
    are `watched`, gives what was wrong with them, a line each, as `prelude/host/watch.cuh` has it:
    the line of the text, that of the other access, what happened.
    """
    loaded = ctypes.CDLL(str(library))
    kernel, loaded.failure.restype = getattr(loaded, f"run_{name}"), ctypes.c_char_p
    numbers = [ctypes.c_int(a) if isinstance(a, int) else None for a in arguments]
    pointers = [
        ctypes.cast(ctypes.pointer(n), ctypes.c_void_p) if n is not None else address(a)
        for n, a in zip(numbers, arguments, strict=True)
    ]
    sizes = [a.nbytes if isinstance(a, np.ndarray) else 0 for a in arguments]
    stuck = kernel(
        (ctypes.c_void_p * len(pointers))(*pointers),
        (ctypes.c_int * 3)(*grid),
        int(backwards),
        (ctypes.c_int64 * len(sizes))(*sizes) if watched else None,
    )
    if stuck and (failure := loaded.failure()):
        raise TilusError(f"assert_: {failure.decode()}")
    if stuck:
        raise TilusError(
            "the threads of a block wait for each other for ever: a synchronize, or a warp's"
            " load_matrix or dot, is inside a branch that only some of them take, or fewer threads"
            " or bytes than were announced come to a barrier"
        )
    loaded.findings.restype = ctypes.c_char_p
    found: str = loaded.findings().decode()
    return found


def address(array: Argument) -> ctypes.c_void_p:
    """Where the elements of a contiguous array are."""
    assert isinstance(array, np.ndarray) and array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
