"""Every pass keeps the answers: of random programs, and of the library's kernels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tilus.readable import actions, answers, drawn, drawn_arguments
from tilus import codegen
from tilus.compiler import run_on_host
from tilus.ir import Program
from tilus.jsonform import from_json, to_json
from tilus.kernels import quantized_matmul as q
from tilus.kernels import streaming_read
from tilus.passes import OPTIONAL, PIPELINE, after_each, lower, verify
from tilus.text import from_text, to_text

EVERY = [*PIPELINE, *OPTIONAL]
SMALL = {"block_n": 32, "block_k": 64, "warps": 2, "stages": 3, "blocks_per_sm": 1}
quick = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(st.lists(actions, max_size=12))
def test_random_programs_keep_their_answers(drawn_actions: list[Any]) -> None:
    program = drawn(drawn_actions)
    want = answers(program, drawn_arguments())["y"]
    for name, after in after_each(program, EVERY):
        got = answers(after, drawn_arguments())["y"]
        np.testing.assert_array_equal(got, want, err_msg=f"{name}:\n{to_text(after)}")
        assert verify(after) == after
        assert from_text(to_text(after)) == from_json(to_json(after)) == after


@pytest.mark.parametrize("seed", range(6))
def test_generated_text_of_random_programs_agrees(seed: int) -> None:
    rng = np.random.default_rng(seed)
    program = drawn(random_actions(rng, 14, 2))
    want = answers(program, drawn_arguments())["y"]
    for backwards in (False, True):
        ready = lower(program, EVERY)
        got = answers(ready, drawn_arguments(), lambda p, a, b=backwards: run_on_host(p, a, b))
        np.testing.assert_array_equal(got["y"], want)


def random_actions(rng: np.random.Generator, count: int, depth: int) -> list[Any]:
    """Actions as above, drawn without hypothesis: these programs are compiled."""

    def pick() -> int:
        return int(rng.integers(10))

    def scalar() -> Any:
        names = ("name", pick())
        return [names, pick(), ("+", names, pick()), ("*", names, 2)][int(rng.integers(4))]

    makers = [
        lambda: ("load", scalar()), lambda: ("store", pick(), scalar()),
        lambda: ("add", pick(), pick()), lambda: ("sub", pick(), pick()),
        lambda: ("assign", pick(), pick()), lambda: ("let", scalar()),
        lambda: ("set", pick(), scalar()), lambda: ("put", pick()), lambda: ("get", pick()),
        lambda: ("for", pick(), scalar(), random_actions(rng, 4, depth - 1)),
        lambda: ("if", scalar(), random_actions(rng, 3, depth - 1)),
    ]  # fmt: skip
    usable = makers if depth else makers[:-2]
    return [usable[int(rng.integers(len(usable)))]() for _ in range(count)]


def library() -> list[Program]:
    return [
        streaming_read.program(),
        q.program(b_dtype="u4", group_size=64, zeros=True, n_multiple=32, **SMALL),
        q.program(b_dtype="f6e3m2", group_size=-1, k_multiple=1, n_multiple=1, **SMALL),
    ]


@pytest.mark.parametrize("program", library(), ids=lambda p: p.name)
def test_the_text_of_library_kernels_is_what_they_say(program: Program) -> None:
    """They leave nothing open and compute nothing in vain that the pipeline would take away."""
    assert codegen.generate(lower(program)).text == codegen.generate(program).text


def test_a_library_kernel_keeps_its_answers() -> None:
    parameters = {"b_dtype": "u4", "group_size": 64, "zeros": True, "n_multiple": 32, **SMALL}
    problem, plan = q.problem_of(parameters), q.schedule_of(parameters)
    case = q.random_case(problem, 9, 64, 192, np.random.default_rng(0))
    program = q.program(**parameters)
    want = answers(program, q.host_arguments(case, problem, plan, 3))
    for name, after in after_each(program, EVERY):
        got = answers(after, q.host_arguments(case, problem, plan, 3))
        np.testing.assert_array_equal(got["c"], want["c"], err_msg=name)
    got = answers(lower(program, EVERY), q.host_arguments(case, problem, plan, 3), run_on_host)
    np.testing.assert_allclose(got["c"], want["c"], rtol=2e-3, atol=1e-3)
