"""Who may import whom: what is left of the colon may import itself and what is right of it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPILER = (
    "tilus.errors tilus.dtypes tilus.layout tilus.target tilus.casts tilus.ir tilus.values"
    " tilus.isa tilus.limits numpy"
)
SHARED = (
    "tilus pydantic services.messages services.settings services.revision services.store "
    "services.batch services.queue services.process services.worker services.notes "
    "services.signing services.gpu services.figures "
    "services.models "
    "services.experiments services.records services.selection services.reference "
    "services.comparison "
    "services.executors services.building services.fleet services.tasks services.planning "
    "services.runs redis rq"
)
MAY_IMPORT = {
    "tilus.errors": "",
    "tilus.config": "",
    "tilus.layout": "tilus.errors",
    "tilus.target": "tilus.errors",
    "tilus.dtypes": "tilus.errors numpy",
    "tilus.casts": "tilus.errors tilus.dtypes tilus.layout tilus.target numpy",
    "tilus.ir": "tilus.errors tilus.dtypes tilus.layout numpy",
    "tilus.values": "tilus.errors tilus.ir",
    "tilus.isa": COMPILER,
    "tilus.passes": COMPILER,
    "tilus.groups": f"{COMPILER} tilus.passes",
    "tilus.interp": f"{COMPILER} tilus.groups",
    "tilus.codegen": f"{COMPILER} tilus.groups",
    "tilus.limits": "tilus.errors",
    "tilus.names": "tilus.errors tilus.dtypes tilus.ir tilus.limits tilus.runtime.prelude",
    "tilus.nodes": f"{COMPILER} tilus.names",
    "tilus.admission": f"{COMPILER} tilus.groups tilus.names tilus.nodes tilus.passes",
    "tilus.where": "tilus.errors",
    "tilus.lang": f"{COMPILER} tilus.codegen tilus.config tilus.names tilus.where",
    "tilus.text": f"{COMPILER} tilus.names tilus.nodes tilus.admission",
    "tilus.runtime": "tilus.config tilus.errors tilus.target numpy cuda torch",
    "tilus": "numpy",
    "services.messages": "pydantic",
    "services.settings": "pydantic pydantic_settings",
    "services.revision": "services.settings",
    "services.store": "httpx pydantic services.messages services.settings",
    "services.signing": "pydantic",
    "services.notes": "pydantic redis services.messages",
    "services.access": "services.messages",
    "services.batch": "pydantic rq services.notes",
    "services.queue": "redis rq services.batch services.messages services.notes services.signing",
    "services.process": "",
    "services.worker": "rq services.batch services.process services.queue services.signing",
    "services.gpu": "",
    "services.figures": "",
    "services.models": "",
    "services.experiments": "tilus services.figures services.messages services.models",
    "services.records": "tilus pydantic services.figures services.messages",
    "services.selection": (
        "tilus services.figures services.messages services.experiments services.records"
    ),
    "services.reference": (
        "services.messages services.models services.experiments services.records services.selection"
    ),
    "services.comparison": (
        "services.messages services.experiments services.records services.reference"
    ),
    "services.executors": "tilus numpy services.messages torch triton",
    "services.building": "tilus services.messages services.store services.executors",
    "services.fleet": (
        "redis services.executors services.queue services.settings services.signing services.store"
    ),
    "services.tasks": (
        "services.batch services.building services.fleet services.messages services.queue "
        "services.store"
    ),
    "services.planning": (
        "tilus services.executors services.experiments services.figures services.fleet "
        "services.messages services.records services.reference services.selection services.tasks"
    ),
    "services.runs": (
        "services.fleet services.messages services.queue services.records services.settings "
        "services.store services.tasks"
    ),
    "services.compiler": SHARED,
    "services.runner": f"{SHARED} numpy torch",
    "services.plotter": f"{SHARED} matplotlib",
    "services.api": f"{SHARED} fastapi starlette uvicorn prometheus_client",
    "services.driver": f"{SHARED} services.access httpx rich",
    "services": "",
}
# What is optional or must not be touched before a fork is imported where it is used.
MAY_IMPORT_LATE = ("tilus.runtime", "services.executors", "services.runner")
READS_ENVIRONMENT = ("tilus.config", "services.settings")
FILES = [path for package in ("tilus", "services") for path in (ROOT / package).rglob("*.py")]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def inside(name: str, packages: Iterator[str] | tuple[str, ...] | list[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def layer(name: str) -> str:
    """The row of the longest prefix."""
    return max((row for row in MAY_IMPORT if inside(name, [row])), key=len)


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that the tree names in an import, `from a import b` as a.b."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module, names):
                yield from (f"{module}.{alias.name}" for alias in names)


def offences(name: str, source: str) -> list[str]:
    """What the module called `name` must not do, in words."""
    tree = ast.parse(source)
    row = layer(name)
    allowed = [row, *MAY_IMPORT[row].split(), *sys.stdlib_module_names]
    found = [f"imports {one}" for one in imported(tree) if not inside(one, allowed)]
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not inside(name, MAY_IMPORT_LATE):
                found += [f"imports {one} inside {node.name}" for one in imported(node)]
            case ast.Attribute(ast.Name("os"), "environ" | "getenv" | "putenv"):
                if name not in READS_ENVIRONMENT:
                    found.append(f"reads os.{node.attr}")
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_downwards(path):
    assert offences(name_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("tilus.ir", "import tilus.isa.base"),
        ("tilus.ir", "from tilus import interp"),
        ("tilus.codegen.text", "import cuda.core"),
        ("tilus.dispatch", "import torch"),
        ("tilus.compiler", "from services.store import Store"),
        ("tilus.kernels.f", "import redis"),
        ("services.api.app", "from services.compiler.jobs import build"),
        ("services.api.app", "from services import driver"),
        ("services.batch", "from services.queue import submit"),
        ("services.tasks", "from services.planning import plan"),
        ("services.planning", "from services import runs"),
        ("services.runner.jobs", "import services.plotter"),
        ("services.store", "import tilus"),
        ("services.driver.app", "def f():\n    import json"),
        ("services.driver.app", "import os\nos.environ['A']"),
        ("tilus.runtime.nvrtc", "import os\nos.getenv('A')"),
    ],
)
def test_what_points_upwards_is_noticed(name, source):
    assert offences(name, source) != []
