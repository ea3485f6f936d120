"""Every environment variable that the package reads, in one table, read once."""

import os
from pathlib import Path
from typing import NamedTuple


class Variable(NamedTuple):
    name: str
    default: str
    meaning: str


VARIABLES = (
    Variable("TILUS_CACHE", "~/.cache/tilus", "folder of compiled kernels, or off"),
    Variable("TILUS_CXX", "", "the C++ compiler of the host prelude, as a command"),
    Variable("TILUS_DEBUG", "0", "what a compile says on stderr: 0 nothing, 1 a line a kernel, "
             "2 its parts, 3 programs, 4 CUDA, 5 registers and blocks per multiprocessor"),
    Variable("TILUS_KEEP", "", "what a compile keeps: any of ir,cuda,ptx,sass"),
    Variable("TILUS_OUT", "out", "the folder that it keeps them in, as <kernel>/<stage>"),
)  # fmt: skip


def level(text: str) -> int:
    """A rung of the debug ladder."""
    if text not in tuple("012345"):
        raise ValueError(f"TILUS_DEBUG={text}: there are the levels 0 to 5")
    return int(text)


VALUES = {v.name: os.environ.get(v.name, v.default) for v in VARIABLES}
CACHE = Path(VALUES["TILUS_CACHE"]).expanduser()
CXX = VALUES["TILUS_CXX"].split()
DEBUG = level(VALUES["TILUS_DEBUG"] or "0")
KEEP = tuple(stage.strip() for stage in VALUES["TILUS_KEEP"].split(",") if stage.strip())
OUT = Path(VALUES["TILUS_OUT"]).expanduser()
