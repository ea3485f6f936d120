"""What is known of scalars, and the checks and widths that follow."""

from collections.abc import Iterator
from math import inf
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tilus.readable import actions, answers, drawn, drawn_arguments, program
from tilus.codegen import generate
from tilus.compiler import run_on_host
from tilus.dtypes import f16, f32
from tilus.interp import RunningBlock, Steps, interpret
from tilus.ir import Do, Global, Integer, Pointer, Program, Shared, Var, ceil_div, walk
from tilus.isa import ISA
from tilus.isa.addressing import alignment, width
from tilus.lang import Tracer, trace
from tilus.layout import local, spatial
from tilus.passes import drop_checks
from tilus.text import from_text, to_text
from tilus.values import values_of

STEPS = program("""
    v0 = 0
    v1 = (n * 2)
    v2 = 5
    for u0 in range(0, n, 1):
        v3 = (u0 * 64)
        v0 = (v0 + 96)
        v1 = (v1 + v0)
        v2 = (v2 + 10)
    for u1 in range(8, 9, 1):
        v4 = (u1 * 3)
    for u2 in range(n, (n + 1), 1):
        v5 = u2
""", multiple_of=12, grid="n, 1, 1")  # fmt: skip


def test_what_divides_every_value_of_a_variable() -> None:
    found = values_of(STEPS).divisors
    assert {name: found[name] for name in ("n", "u0", "v3", "v1", "v2", "v4", "v5")} == {
        "n": 12, "u0": 1, "v3": 64, "v1": 24, "v2": 5, "v4": 24, "v5": 12,
    }  # fmt: skip
    assert found["v0"] == 96
    assert found["block_x"] == 1
    assert found["block_y"] % 4096 == 0, "there is one block, number 0"


class Watched(RunningBlock):
    """Notes every value that a scalar has."""

    seen: list[tuple[str, int]]

    def step(self, statement: Any) -> Iterator[Any]:
        yield from super().step(statement)
        self.seen.extend(self.env.items())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(actions, max_size=10))
def test_divisors_divide_and_bounds_bound(drawn_actions: list[Any]) -> None:
    program = drawn(drawn_actions)
    values, arguments = values_of(program), drawn_arguments()
    pointers = {k: v for k, v in arguments.items() if isinstance(v, np.ndarray)}
    for block in range(2):
        env = {"n": 100, "block_x": block, "block_y": 0, "block_z": 0}
        watched = Watched(pointers, dict(env), program.threads, [], Steps(inf))
        watched.seen = []
        assert not list(watched.run(program.body)), "nobody waits"
        bounded = {
            name: [evaluated(p) for p in values.bounds(Var(name))] for name, _ in set(watched.seen)
        }
        for name, value in watched.seen:
            assert value % values.divisors[name] == 0
            assert value >= 0 or name not in values.never_negative
            assert all(most is None or value <= most for most in bounded[name])


def evaluated(p: Any) -> float | None:
    """A polynomial in n alone, at 100."""
    if any(x != Var("n") for monomial in p for x in monomial):
        return None
    return sum(k * 100 ** len(monomial) for monomial, k in p.items())


def tile_program(
    at: Any, size: Any, grid: Any, multiple_of: int
) -> tuple[Program, tuple[int, ...] | None]:
    """A load of 128 elements of x [size] from `at` on, and the check that drop_checks leaves."""

    def kernel(t: Tracer, x: Var, y: Var, n: Var) -> None:
        place = at(t, n)
        tile = t.load_global(t.view_global(x, f32, (size(n),), (1,)), (place,), TILE)
        t.store_global(t.view_global(y, f32, (4096,), (1,)), tile, (t.blocks[0] * 128,))

    parameters = (Pointer("x", f32), Pointer("y", f32), Integer("n", multiple_of))
    made = trace("kernel", kernel, parameters, lambda x, y, n: (grid(n), 1, 1), 32)
    after = drop_checks(made)
    checks = [
        vars(s.instruction)["check"]
        for s in walk(after.body)
        if isinstance(s, Do) and "layout" in vars(s.instruction)
    ]
    return after, checks[0]


TILE = spatial(32) * local(4)
FREE: dict[str, tuple[Any, ...]] = {
    "a block a tile": (lambda t, n: t.blocks[0] * 128, lambda n: n,
                       lambda n: ceil_div(n, 128), 128),
    "through a let": (lambda t, n: t.let(t.let(t.blocks[0]) * 128), lambda n: n,
                      lambda n: n // 128, 128),
    "the remainder of a number": (lambda t, n: t.blocks[0] % 3 * 128, lambda n: 384,
                                  lambda n: n, 1),
    "the quotient of a number": (lambda t, n: t.blocks[0] // 4 * 128, lambda n: n,
                                 lambda n: ceil_div(n, 128) * 4, 128),
    "a constant in a constant": (lambda t, n: 128, lambda n: 256, lambda n: 1, 1),
    "more than is asked for": (lambda t, n: t.blocks[0] * 128, lambda n: n + 5,
                               lambda n: ceil_div(n, 128), 256),
}  # fmt: skip
BOUND: dict[str, tuple[Any, ...]] = {
    "a size of any kind": (lambda t, n: t.blocks[0] * 128, lambda n: n,
                           lambda n: ceil_div(n, 128), 64),
    "a block too many": (lambda t, n: t.blocks[0] * 128, lambda n: n, lambda n: n // 128 + 1, 128),
    "one element further": (lambda t, n: t.blocks[0] * 128 + 1, lambda n: n,
                            lambda n: n // 128, 128),
    "below the first": (lambda t, n: t.blocks[0] * 128 - 1, lambda n: n, lambda n: n // 128, 128),
    "a variable that is set": (lambda t, n: moving(t, t.blocks[0] * 128 + 3), lambda n: n,
                               lambda n: n // 128, 128),
    "a constant too large": (lambda t, n: 129, lambda n: 256, lambda n: 1, 1),
}  # fmt: skip


def moving(t: Tracer, to: Any) -> Var:
    place = t.let(t.blocks[0] * 128)
    t.set(place, to)
    return place


@pytest.mark.parametrize("case", FREE)
def test_a_tile_that_cannot_leave_is_not_checked(case: str) -> None:
    after, check = tile_program(*FREE[case])
    assert check == ()
    x = np.arange(600, dtype=np.float32)
    n = 256 if FREE[case][3] > 1 else 2
    wants = answers(after, {"x": x, "y": np.zeros(4096, np.float32), "n": n})
    got = answers(after, {"x": x, "y": np.zeros(4096, np.float32), "n": n}, run_on_host)
    np.testing.assert_array_equal(got["y"], wants["y"])
    loads = [line for line in generate(after).text.splitlines() if "load_global<" in line]
    assert loads and not any(" < " in line for line in loads)


@pytest.mark.parametrize("case", BOUND)
def test_a_tile_that_can_leave_is_checked(case: str) -> None:
    _, check = tile_program(*BOUND[case])
    assert check is None


def test_loops_over_steps_of_k() -> None:
    """A [64, n] in steps of 32: columns are inside where 32 divides n, rows always."""
    for multiple_of, left in ((32, ()), (16, (1,))):
        made = program("""
            g0 = view_global(x, float16, (64, n), (n, 1))
            s0 = allocate_shared(float16, (64, 32), swizzle(0, 0, 0))
            for u0 in range(0, ((n + 31) // 32), 1):
                copy_async(g0, s0, (0, (u0 * 32)), (0, 0), (64, 32), None)
            """, multiple_of=multiple_of)  # fmt: skip
        text = generate(drop_checks(made)).text
        loop = next(s for s in drop_checks(made).body if hasattr(s, "body"))
        assert vars(loop.body[0].instruction)["check"] == left
        assert ("true" in text) == (not left)


@pytest.mark.parametrize("name", ISA)
def test_an_instruction_with_a_check_says_what_it_checks(name: str) -> None:
    for sample in ISA[name].samples():
        assert ("check" in vars(sample)) == (sample.window() is not None)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(actions, max_size=12), st.integers(1, 40))
def test_no_check_that_is_needed_goes(drawn_actions: list[Any], n: int) -> None:
    """An access that leaves a dimension which it does not check is refused when it runs."""
    made = drop_checks(drawn(drawn_actions))
    arguments = {**drawn_arguments(), "n": 4 * n}
    arguments["x"], arguments["y"] = np.zeros(400, np.int32), np.zeros(800, np.int32)
    interpret(made, arguments)


def width_of(program: Program, at: Any, rows: Any, checked: tuple[int, ...]) -> int:
    """How wide a row of 8 float16 is read at (0, at) of a tensor [n, rows], known what is."""
    tensor = Global("g0", f16, (Var("n"), rows), (rows, 1), "x")
    cu: Any = SimpleNamespace(facts=values_of(program).divisors)
    layout = spatial(1, 4) * local(1, 8)
    return width(layout, tensor, alignment(tensor, (0, at), frozenset(checked), cu))


def test_vectors_are_as_wide_as_values_allow() -> None:
    n = Var("n")
    twelve, eight = STEPS, program("pass", multiple_of=8)
    assert width_of(eight, 0, n, (0, 1)) == 8
    assert width_of(twelve, 0, n, (0, 1)) == 4
    assert width_of(twelve, Var("v0"), 64, (0, 1)) == 8, "it goes in steps of 96"
    assert width_of(twelve, Var("v1"), 64, (0,)) == 8
    assert width_of(twelve, Var("v2"), 64, (0,)) == 1
    assert width_of(twelve, Var("u0"), 64, (0,)) == 1
    assert width_of(twelve, Var("v3"), 64, (0,)) == 8
    assert width_of(twelve, Var("block_y"), 64, (0,)) == 8, "which is 0"
    assert width_of(eight, 0, 20, (0, 1)) == 4
    assert width_of(eight, 4, 64, (0,)) == 4
    shared = Shared("s0", f16, (4, 64))
    cu: Any = SimpleNamespace(facts=values_of(twelve).divisors)
    assert alignment(shared, (0, Var("v0")), frozenset(), cu) == 32  # 96 and 64


def test_code_reads_wide_where_a_variable_goes_in_steps() -> None:
    made = program("""
        g0 = view_global(x, float16, (n, 256), (256, 1))
        s0 = allocate_shared(float16, (1, 256), swizzle(0, 0, 0))
        v0 = 0
        while (v0 < 256):
            copy_async(g0, s0, (0, v0), (0, 0), (1, 64), (0,))
            v0 = (v0 + 64)
        """)
    assert "copy_async<16>" in generate(made).text
    uneven = from_text(to_text(made).replace("(v0 + 64)", "(v0 + 63)"))
    assert "copy_async<2>" in generate(uneven).text
