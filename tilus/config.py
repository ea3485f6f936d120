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
)  # fmt: skip

_VALUES = {v.name: os.environ.get(v.name, v.default) for v in VARIABLES}
CACHE = Path(_VALUES["TILUS_CACHE"]).expanduser()
CXX = _VALUES["TILUS_CXX"].split()
