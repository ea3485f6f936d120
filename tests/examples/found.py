"""The examples that there are: every numbered file in examples/.

An example has `program()`, `case(rng, **sizes)`, which gives arguments and what `out` must become,
and `main()`. Its default sizes do not divide its tiles.
"""

import inspect
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[2] / "examples"
FILES = sorted(FOLDER.glob("[0-9]*.py"))
TOLERANCE = 1e-3  # results are rounded to float16


def loaded(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"example_{path.stem}", path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


EXAMPLES = {path.stem: loaded(path) for path in FILES}


def case(name: str, times: int = 1) -> tuple[dict[str, Any], np.ndarray]:
    """Arguments and the result they must give, all sizes so many times the default ones."""
    make = EXAMPLES[name].case
    sizes = {
        p.name: times * p.default
        for p in inspect.signature(make).parameters.values()
        if isinstance(p.default, int)
    }
    given, want = make(np.random.default_rng(times), **sizes)
    given["out"][...] = np.nan  # all of it must be written
    return given, want


def error(out: np.ndarray, want: np.ndarray) -> float:
    """norm(out - want) / norm(want); NaN anywhere gives NaN."""
    return float(np.linalg.norm(out - want) / np.linalg.norm(want))
