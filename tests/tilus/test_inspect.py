"""Looking inside: the manual is that of the code, and wrong questions get a sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from tilus import inspect
from tilus.dtypes import ALL
from tilus.errors import TilusError
from tilus.isa import ISA
from tilus.layout import local, spatial

ROOT = Path(__file__).parent.parent.parent


def test_the_manual_is_up_to_date() -> None:
    """If not: python -m tilus.inspect isa > docs/isa.md"""
    assert (ROOT / "docs" / "isa.md").read_text() == inspect.manual() + "\n"


def test_every_instruction_has_a_page() -> None:
    for name in ISA:
        assert f"## {name}(" in inspect.manual()


def test_a_layout_is_drawn() -> None:
    drawn = inspect.answer(["layout", "spatial(8, 4) * local(1, 2)"])
    assert "shape (8, 8), 32 threads, 2 registers" in drawn
    assert drawn.splitlines()[3].split() == [f"{t}:{r}" for t in range(4) for r in range(2)]
    assert inspect.layout_of("(spatial(8, 4) * local(1, 2)) / local(1, 2)") == spatial(8, 4)
    assert inspect.layout_of("reduce(local(2, 3), (0,))") == local(1, 3)


def test_every_format_has_a_line() -> None:
    lines = inspect.answer(["dtypes"]).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [t.name for t in ALL]
    f6 = next(line for line in lines if line.startswith("float6_e3m2"))
    assert f6.split()[1:5] == ["f6e3m2", "6", "-28", "28"] and "two at once" in f6


def test_a_kernel_shows_its_program_text_and_resources() -> None:
    shown = inspect.answer(["kernel", "quantized_matmul", "b_dtype=u2", "zeros=true", "stages=3"])
    for part in ("def quantized_matmul_u2(", "KERNEL(128, 2) tilus_", "Resources(registers="):
        assert part in shown


@pytest.mark.parametrize(("question", "says"), [
    ([], "python -m tilus.inspect isa"),
    (["isa", "fly"], "no instruction 'fly': there are view_global"),
    (["layout", "spatial(8"], "not a layout"),
    (["layout", "__import__('os')"], "not a layout"),
    (["layout", "3 * 4"], "write e.g."),
    (["kernel", "fast"], "no kernel 'fast' in the library: there are quantized_matmul"),
    (["kernel", "quantized_matmul", "zeros"], "write KEY=VALUE"),
])  # fmt: skip
def test_a_question_that_makes_no_sense_gets_a_sentence(question: list[str], says: str) -> None:
    with pytest.raises(TilusError, match=says):
        inspect.answer(question)


def test_the_command_prints_and_says_2_for_nonsense() -> None:
    command = [sys.executable, "-m", "tilus.inspect"]
    good = subprocess.run(
        [*command, "dtypes"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    bad = subprocess.run([*command, "what"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert good.returncode == 0 and "uint4" in good.stdout
    assert bad.returncode == 2 and not bad.stdout and "tilus.inspect" in bad.stderr
