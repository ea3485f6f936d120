"""An error says which line of the kernel asked, and a statement remembers its line."""

import linecache
from pathlib import Path

import numpy as np
import pytest

from tilus.codegen import generate
from tilus.dtypes import f16, f32, uint
from tilus.errors import TilusError, asked_by
from tilus.interp import interpret
from tilus.ir import Do, Integer, Pointer, Program, Var
from tilus.kernels import matmul_block, quantized_matmul
from tilus.lang import Tracer, trace
from tilus.layout import local, spatial
from tilus.text import from_text, to_text

TILE = spatial(8, 4) * local(1, 2)


def traced(kernel) -> Program:
    return trace("kernel", kernel, (Pointer("x", f32), Integer("n")), lambda *p: (1, 1, 1), 32)


def number_of(text: str) -> int:
    """The only line of this file that begins with `text`, the spaces before it left out."""
    lines = [line.strip() for line in linecache.getlines(__file__)]
    (found,) = (k for k, line in enumerate(lines, start=1) if line.startswith(text))
    return found


def end_of(kernel) -> list[str]:
    """The lines that the error of `kernel` ends with."""
    with pytest.raises(TilusError) as wrong:
        traced(kernel)
    lines = str(wrong.value).splitlines()
    return lines[[line.startswith("  at ") for line in lines].index(True) :]


def marked(kernel) -> str:
    """What stands above the carets."""
    _, line, carets = end_of(kernel)
    return line[carets.index("^") : len(carets)]


def test_the_caret_points_at_the_call() -> None:
    def narrow(t: Tracer, x: Var, n: Var) -> None:
        held = t.allocate_register(f32, TILE)
        seen = [held, t.view(held, f16, TILE)]  # noqa: F841
        t.add(held, held)

    text = "seen = [held, t.view(held, f16, TILE)]  # noqa: F841"
    assert end_of(narrow) == [
        f"  at test_where.py:{number_of(text)}",
        f"      {text}",
        "                    ^^^^^^^^^^^^^^^^^^^^^^^",
    ]


def test_a_call_of_several_lines_is_marked_to_the_end_of_its_first() -> None:
    def tall(t: Tracer, x: Var, n: Var) -> None:
        t.view(t.allocate_register(f32, TILE),
               f16, TILE)  # fmt: skip

    text = "t.view(t.allocate_register(f32, TILE),"
    assert end_of(tall)[1:] == [f"      {text}", f"      {'^' * len(text)}"]


def test_columns_are_characters() -> None:
    def spelled(t: Tracer, x: Var, n: Var) -> None:
        größe = 8; t.wait_group(-größe)  # noqa: E702 # fmt: skip

    assert marked(spelled) == "t.wait_group(-größe)"


def test_the_innermost_line_of_the_kernel_counts() -> None:
    def helper(t: Tracer):
        return t.view(t.allocate_register(f32, TILE), uint(3), TILE)

    def outer(t: Tracer, x: Var, n: Var) -> None:
        with t.when(n < 3):
            for _ in t.range(0, n):
                helper(t)

    text = "return t.view(t.allocate_register(f32, TILE), uint(3), TILE)"
    assert end_of(outer)[0] == f"  at test_where.py:{number_of(text)}"


def test_what_is_wrong_before_an_instruction_is_made_has_a_line_too() -> None:
    assert marked(lambda t, x, n: t.fly()) == "t.fly"
    assert marked(lambda t, x, n: t.let(n) if n < 3 else None) == "n < 3"
    assert marked(lambda t, x, n: local(2) * local(2, 2)) == "local(2) * local(2, 2)"


def test_a_with_that_cannot_be_entered_has_a_line() -> None:
    def hasty(t: Tracer, x: Var, n: Var) -> None:
        with t.otherwise():
            pass

    assert end_of(hasty)[:2] == [
        f"  at test_where.py:{number_of('with t.otherwise():')}", "      with t.otherwise():"
    ]  # fmt: skip


def test_a_line_of_the_kernel_library_counts() -> None:
    for statement in quantized_matmul.program().body:
        if isinstance(statement, Do):
            file, number, code = statement.where.split(":", 2)
            lines = linecache.getlines(str(Path(matmul_block.__file__).with_name(file)))
            assert code.strip() == lines[int(number) - 1].strip()


def beyond(t: Tracer, x: Var, n: Var) -> None:
    t.load_global(t.view_global(x, f32, (n,), (1,)), (0,), spatial(32) * local(2), check=())


BEYOND = "t.load_global(t.view_global(x, f32, (n,), (1,)), (0,), spatial(32) * local(2), check=())"


def uneven(t: Tracer, x: Var, n: Var) -> None:
    t.load_matrix(t.allocate_shared(f16, (8, 12)), (0, 0), spatial(8, 4) * local(1, 2))


UNEVEN = "t.load_matrix(t.allocate_shared(f16, (8, 12)), (0, 0), spatial(8, 4) * local(1, 2))"


def told(run) -> list[str]:
    with pytest.raises(TilusError) as wrong:
        run()
    return str(wrong.value).splitlines()[-2:]


def test_the_interpreter_and_the_code_generator_say_the_line() -> None:
    program = traced(beyond)
    said = [f"  at test_where.py:{number_of(BEYOND)}", f"      {BEYOND}"]
    assert told(lambda: interpret(program, {"x": np.zeros(31, np.float32), "n": 31})) == said
    said = [f"  at test_where.py:{number_of(UNEVEN)}", f"      {UNEVEN}"]
    assert told(lambda: generate(traced(uneven))) == said


def test_a_program_that_was_read_says_the_line_of_its_text() -> None:
    text = to_text(traced(uneven))
    number, line = next(
        (k, line.strip())
        for k, line in enumerate(text.splitlines(), start=1)
        if "load_matrix(" in line
    )
    program = from_text(text)
    assert told(lambda: generate(program)) == [f"  at line {number}", f"      {line[:80]}"]
    assert to_text(program) == text and program == traced(uneven)


def test_the_innermost_place_counts() -> None:
    with (
        pytest.raises(TilusError) as wrong,
        asked_by("outer.py:1: f()"),
        asked_by("inner.py:2: g()"),
    ):
        raise TilusError("no")
    assert str(wrong.value) == "no\n  at inner.py:2\n      g()"
    with pytest.raises(TilusError) as nowhere, asked_by(""):
        raise TilusError("no")
    assert str(nowhere.value) == "no"
