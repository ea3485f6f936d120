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
    Variable("TILUS_DEBUG", "0", "0 quiet, 1 kernels, 2 times, 3 IR, 4 CUDA, 5 registers, spills"),
    Variable("TILUS_CXX", "", "the C++ compiler of the host prelude, as a command"),
)  # fmt: skip

_VALUES = {v.name: os.environ.get(v.name, v.default) for v in VARIABLES}
CACHE = Path(_VALUES["TILUS_CACHE"]).expanduser()
DEBUG = int(_VALUES["TILUS_DEBUG"])
CXX = _VALUES["TILUS_CXX"].split()
