"""Which tensors share bytes of shared memory, and that nobody notices."""

import numpy as np
import pytest

from tests.tilus.readable import ROW, answers, program, same
from tilus.codegen import generate
from tilus.compiler import run_on_host
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Do, Shared
from tilus.isa.memory import ViewShared
from tilus.passes import plan_shared

ALLOCATE = "s{0} = allocate_shared(float32, (1, {1}), swizzle(0, 0, 0))"
STORE = f"r1{{0}} = load_global(gx, ({{0}}, 0), {ROW}, None)\nstore_shared(s{{0}}, r1{{0}}, (0, 0))"
COPY = "copy_async(gx, s{0}, ({0}, 0), (0, 0), (1, 128), None)"
LOAD = f"r2{{0}} = load_shared(s{{0}}, (0, 0), {ROW})\nstore_global(gy, r2{{0}}, ({{0}}, 0), None)"
SYNC, COMMIT, WAIT = "synchronize()", "commit_group()", "wait_group(0)"


def put(k: int) -> list[str]:
    return [STORE.format(k), SYNC]


def take(k: int) -> list[str]:
    return [LOAD.format(k), SYNC]


def inside(head: str, *lines: str) -> str:
    body = "\n".join(lines)
    return head + "\n    " + body.replace("\n", "\n    ")


def text(*lines: str, sizes: tuple[int, ...] = (128, 128)) -> str:
    allocations = [ALLOCATE.format(k, size) for k, size in enumerate(sizes)]
    return "\n".join([*allocations, *lines])


FIRST = [*put(0), *take(0)]
SECOND = [*put(1), *take(1)]
ASYNC = [COPY.format(0), COMMIT, WAIT, SYNC, LOAD.format(0)]
TURN = [COPY.format(0), COMMIT]
LOOP = "for u0 in range(0, 2, 1):"
BRANCH = "if (n < 9):"

SHARES = {
    "one after the other": text(*FIRST, *SECOND),
    "copied, waited for, synchronised": text(*ASYNC, SYNC, *SECOND),
    "copied in turns of a loop, all waited for behind it": text(
        inside(LOOP, *TURN), WAIT, SYNC, LOAD.format(0), SYNC, *SECOND
    ),
    "all of the first in one loop, of the second in another": text(
        inside(LOOP, *TURN, WAIT, SYNC), WAIT, SYNC, inside("for u1 in range(0, 3, 1):", *SECOND)
    ),
}
APART = {
    "both at once": text(*put(0), *put(1), *take(0), *take(1)),
    "no synchronize in between": text(*put(0), LOAD.format(0), *SECOND),
    "no synchronize that is certain": text(*put(0), LOAD.format(0), inside(BRANCH, SYNC), *SECOND),
    "none in a loop that may have no turn": text(
        *put(0), LOAD.format(0), inside("for u0 in range(0, n, 1):", SYNC), *SECOND
    ),
    "the same loop touches both": text(inside(LOOP, *FIRST, *SECOND)),
    "copies that are not closed": text(COPY.format(0), WAIT, SYNC, *SECOND),
    "copies that are closed too late": text(COPY.format(0), WAIT, COMMIT, SYNC, *SECOND),
    "copies that are closed in a branch": text(
        COPY.format(0), inside(BRANCH, COMMIT), WAIT, SYNC, *SECOND
    ),
    "copies that are not waited for": text(COPY.format(0), COMMIT, SYNC, *SECOND),
    "copies of which some are not waited for": text(
        COPY.format(0), COMMIT, "wait_group(1)", SYNC, *SECOND
    ),
    "copies that are waited for behind the synchronize": text(
        COPY.format(0), COMMIT, SYNC, WAIT, *SECOND
    ),
    "copies that a break leaves open": text(
        inside("for u0 in range(0, 2, 1):", COPY.format(0), "if (n < u0):\n    break", COMMIT),
        WAIT, SYNC, *SECOND,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARES)
def test_tensors_whose_lives_are_apart_share(case: str) -> None:
    before = program(SHARES[case])
    after = plan_shared(before)
    assert (generate(before).shared_bytes, generate(after).shared_bytes) == (1024, 512)
    keeps_its_answers(before, after)


@pytest.mark.parametrize("case", APART)
def test_tensors_whose_lives_may_meet_are_kept_apart(case: str) -> None:
    before = program(APART[case])
    same(plan_shared(before), before)


def keeps_its_answers(before, after) -> None:
    x = np.arange(4 * 128, dtype=np.float32)
    arguments = {"x": x, "y": np.full(4 * 128, -1, np.float32), "n": 4}
    want = answers(before, arguments)["y"]
    assert (want != -1).sum() >= 128
    for run in (interpret, run_on_host, lambda p, a: run_on_host(p, a, backwards=True)):
        np.testing.assert_array_equal(answers(after, arguments, run)["y"], want)


def test_the_plan_is_in_the_program() -> None:
    before = program(text(*FIRST, *SECOND))
    after = program(
        "\n".join([
            "s22 = allocate_shared(uint8, (512,), swizzle(0, 0, 0))",
            "s0 = view_shared(s22, float32, (1, 128), swizzle(0, 0, 0), 0)",
            "s1 = view_shared(s22, float32, (1, 128), swizzle(0, 0, 0), 0)",
            *FIRST, *SECOND,
        ])
    )  # fmt: skip
    planned = plan_shared(before)
    assert planned.body[0] == after.body[2], "the memory comes first"
    assert [s for s in planned.body[1:] if s not in before.body] == list(after.body[3:5])
    same(plan_shared(planned), planned)


def test_places_fit_between_what_lives_at_the_same_time() -> None:
    """0 and 1 live first, 1 lives on while 2, twice as large as 0, and 3 come."""
    lines = [*put(0), *put(1), *take(0), *put(2), *put(3), *take(3), *take(2), *take(1)]
    before = program(text(*lines, sizes=(128, 128, 256, 100 + 28)))
    after = plan_shared(before)
    offsets = {
        s.out.name: s.instruction.offset
        for s in after.body
        if isinstance(s, Do) and isinstance(s.instruction, ViewShared) and isinstance(s.out, Shared)
    }
    assert offsets == {"s0": 0, "s1": 512, "s2": 1024, "s3": 0}
    assert generate(before).shared_bytes == 512 * 5
    assert generate(after).shared_bytes == 512 * 4
    keeps_its_answers(before, after)


def test_a_view_is_aligned_and_inside() -> None:
    view = "s5 = view_shared(s0, float32, (1, 64), swizzle(0, 0, 0), (n * {}))\nsynchronize()"
    generate(program(text(view.format(16))))
    with pytest.raises(TilusError, match=r"offset \(n \* 8\) is not known to be a multiple of 16"):
        generate(program(text(view.format(8))))
    arguments = {"x": np.zeros(128, np.float32), "y": np.zeros(128, np.float32)}
    interpret(program(text(view.format(16))), {**arguments, "n": 16})
    with pytest.raises(TilusError, match=r"bytes 272 to 528 of 512: .* lie inside"):
        interpret(program(text(view.format(16))), {**arguments, "n": 17})
    with pytest.raises(TilusError, match="takes 1024 bytes, but s0 has 512"):
        program(text(view.format(16).replace("64", "256")))


def test_what_a_view_touches_its_tensor_touches() -> None:
    view = "s5 = view_shared(s0, float32, (1, 128), swizzle(0, 0, 0), 0)"
    lines = [view, STORE.format(5).replace("(5, 0), layout", "(1, 0), layout"), SYNC]
    early = program(text(*lines, *take(0), *SECOND))
    assert generate(plan_shared(early)).shared_bytes == 512
    late = program(text(*lines, *SECOND, LOAD.format(5).replace("gy, r25, (5", "gy, r25, (3")))
    same(plan_shared(late), late)
