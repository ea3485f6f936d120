"""Every example means what it says: interpreted, as text on this processor, and compiled."""

import ast
import subprocess
import sys

import numpy as np
import pytest

import tilus
from tests.examples.found import EXAMPLES, FILES, FOLDER, TOLERANCE, case, error
from tilus import interpret, run_on_host
from tilus.jsonform import from_json, to_json
from tilus.passes import after_each
from tilus.text import from_text, to_text

RUNS = {
    "interpreted": interpret,
    "upwards": run_on_host,
    "downwards": lambda program, given: run_on_host(program, given, backwards=True),
}
PUBLIC = {"tilus": tilus.__all__, "typing": ["Any"]}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("way", RUNS)
@pytest.mark.parametrize("times", [1, 2])
def test_an_example_is_right(name: str, way: str, times: int) -> None:
    given, want = case(name, times)
    around = np.full(want.size + 4096, np.nan, given["out"].dtype)
    given["out"] = around[: want.size]
    RUNS[way](EXAMPLES[name].program(), given)
    assert error(given["out"], want) < TOLERANCE
    assert np.isnan(around[want.size :]).all()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_compiles_without_spills(name: str) -> None:
    for arch in ("sm_80", "sm_90"):
        assert tilus.compile(EXAMPLES[name].program(), arch).resources.spill_bytes == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_survives_text_and_json(name: str) -> None:
    program = EXAMPLES[name].program()
    for _, after in [("", program), *after_each(program)]:
        assert from_text(to_text(after)) == after
        assert from_json(to_json(after)) == after


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_from_its_file(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"],
        cwd=FOLDER.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    _, _, told = line.partition("error ")
    assert float(told.split(";")[0]) < TOLERANCE


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_says_its_idea_in_public_names(path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                assert {alias.name for alias in names} <= {"numpy"}
            case ast.ImportFrom(module, names):
                assert {alias.name for alias in names} <= set(PUBLIC[str(module)])


def test_the_list_of_examples_names_each_once() -> None:
    text = (FOLDER / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [row.split("(")[1].split(")")[0] for row in rows] == [path.name for path in FILES]


@pytest.mark.parametrize("of", ["u1", "i2", "f3e1m1", "f4e2m1", "f6e2m3", "f7e3m3", "f8e4m3"])
def test_the_custom_format_is_any_format(of: str) -> None:
    text = (FOLDER / "09_custom_format.py").read_text()
    assert text.count('dtype("float5_e3m1")') == 1
    names = {"__name__": of}
    exec(text.replace("float5_e3m1", of), names)
    given, want = names["case"](np.random.default_rng(0))
    run_on_host(names["program"](), given)
    assert error(given["out"], want) < TOLERANCE
