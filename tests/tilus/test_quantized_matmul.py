"""The quantised matmul, its generated text run on this machine's processor, against float64."""

from dataclasses import asdict
from itertools import product

import numpy as np
import pytest

from tilus.compiler import compile, run_on_host
from tilus.dtypes import ALL, DType, dtype
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.jsonform import from_json, to_json
from tilus.kernels import quantized_matmul as q
from tilus.kernels.schedule import strip
from tilus.target import ARCHITECTURES
from tilus.text import from_text, to_text

TOLERANCE = 1e-3
SMALL = {"block_n": 32, "block_k": 64, "warps": 2, "stages": 3, "blocks_per_sm": 1}
GROUPS = {**SMALL, "block_n": 64, "warps": 4, "warpgroups": True, "engine": True}
WHOLE = {"k_multiple": 256, "n_multiple": 64}  # what lets the copy engine bring all operands
FIGURE = [("u8", 128, True), ("f6e3m2", -1, False), ("u4", 128, True), ("i4", 128, False),
          ("u2", 128, True), ("u1", 128, True)]  # fmt: skip


def error_of(parameters: dict, m: int, n: int, k: int, blocks: int, **options: bool) -> float:
    """The relative error of one launch of so many blocks."""
    problem, plan = q.problem_of(parameters), q.schedule_of(parameters)
    case = q.random_case(problem, m, n, k, np.random.default_rng(m + n + k))
    arguments = q.host_arguments(case, problem, plan, blocks)
    run_on_host(q.program(**parameters), arguments, **options)
    assert not arguments["counters"].any(), "every launch leaves its counters at zero"
    return q.relative_error(q.result(arguments, problem, m, n), case.reference(problem))


@pytest.mark.parametrize(("b_dtype", "group_size", "zeros"), FIGURE)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 64, 256), (7, 96, 384), (16, 32, 128), (33, 64, 256)]
)
def test_any_number_of_rows(
    b_dtype: str, group_size: int, zeros: bool, m: int, n: int, k: int
) -> None:
    parameters = {"b_dtype": b_dtype, "group_size": group_size, "zeros": zeros,
                  "n_multiple": 32, **SMALL}  # fmt: skip
    assert error_of(parameters, m, n, k, blocks=3) < TOLERANCE


@pytest.mark.parametrize("schedule", [SMALL, GROUPS], ids=["warps", "warpgroups"])
@pytest.mark.parametrize("t", [t for t in ALL if t.bits <= 8 and t.name != "bool"], ids=str)
def test_every_format(t: DType, schedule: dict) -> None:
    parameters = {"b_dtype": t.name, "group_size": 64, "zeros": t.kind == "int", "n_multiple": 32,
                  **schedule}  # fmt: skip
    assert error_of(parameters, 5, 96, 192, blocks=2) < TOLERANCE


@pytest.mark.parametrize(("b_dtype", "group_size", "zeros"), FIGURE)
@pytest.mark.parametrize("schedule", [
    GROUPS,
    {**GROUPS, "stages": 2},
    {**GROUPS, "block_m": 8, "block_k": 128, "teams": 2},
    {**GROUPS, "block_k": 256, "teams": 4, "stages": 2},
    {**SMALL, "block_m": 8, "engine": True},
], ids=["warpgroups", "no slack", "two teams", "four teams", "warps"])  # fmt: skip
def test_what_the_copy_engine_brings(
    b_dtype: str, group_size: int, zeros: bool, schedule: dict
) -> None:
    parameters = {"b_dtype": b_dtype, "group_size": group_size, "zeros": zeros, **schedule, **WHOLE}
    for backwards in (False, True):
        error = error_of(parameters, 11, 128, 512, blocks=3, backwards=backwards, watched=True)
        assert error < TOLERANCE


@pytest.mark.parametrize("t", [t for t in ALL if t.bits <= 8 and t.name != "bool"], ids=str)
def test_teams_without_the_copy_engine(t: DType) -> None:
    parameters = {"b_dtype": t.name, "group_size": 32, "zeros": t.kind == "uint", "n_multiple": 32,
                  **GROUPS, "block_k": 128, "teams": 2}  # fmt: skip
    assert error_of(parameters, 5, 96, 192, blocks=2) < TOLERANCE


@pytest.mark.parametrize(("n", "wide"), [(57344, 448), (28672 * 2, 448), (33792, 256), (8192, None),
                                         (50000, None)])  # fmt: skip
def test_a_strip_is_what_each_multiprocessor_takes(n: int, wide: int | None) -> None:
    found = strip(n)
    assert found == wide
    if found is not None:
        launch = q.launch({"b_dtype": "u4", "block_n": found, "blocks_per_sm": 1}, 16, n, 8192, 132)
        assert launch.grid[0] == n // found


@pytest.mark.parametrize("t", [t for t in ALL if t.bits <= 8 and t.name != "bool"], ids=str)
def test_every_format_with_bfloat16(t: DType) -> None:
    """The result's own rounding is 8 times as coarse as float16's."""
    parameters = {"a_dtype": "bfloat16", "b_dtype": t.name, "group_size": 64,
                  "zeros": t.kind == "uint", "n_multiple": 32, **SMALL}  # fmt: skip
    assert error_of(parameters, 5, 64, 192, blocks=2) < 3e-3


@pytest.mark.parametrize("group_size", [16, 32, 48, 64, 128, 192, -1])
@pytest.mark.parametrize("zeros", [False, True])
def test_any_group_that_divides_k(group_size: int, zeros: bool) -> None:
    """Groups shorter, longer and across the stored tiles and the steps."""
    parameters = {"b_dtype": "u4", "group_size": group_size, "zeros": zeros, "n_multiple": 32,
                  **SMALL, "block_k": 128}  # fmt: skip
    assert error_of(parameters, 9, 32, 384, blocks=2) < TOLERANCE


@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 7, 12, 13])
def test_any_number_of_blocks_gives_the_same_bits(blocks: int) -> None:
    """12 units of work in tiles of 3: blocks end in, between and beyond tiles."""
    parameters = {"b_dtype": "u4", "group_size": 64, "zeros": True, "n_multiple": 32, **SMALL}
    assert error_of(parameters, 20, 64, 192, blocks) < TOLERANCE


@pytest.mark.parametrize(("m", "n", "k"), [(3, 17, 100), (16, 33, 65), (5, 1, 7), (1, 40, 192)])
def test_edges_that_no_multiple_promises(m: int, n: int, k: int) -> None:
    parameters = {"b_dtype": "f6e3m2", "group_size": -1, "k_multiple": 1, "n_multiple": 1, **SMALL}
    assert error_of(parameters, m, n, k, blocks=2) < TOLERANCE


@pytest.mark.parametrize("schedule", [
    {"block_m": 32, "block_n": 64, "warps": 2, "stages": 2},
    {"block_m": 64, "block_n": 32, "warps": 1, "stages": 4},
    {"block_m": 16, "block_n": 128, "block_k": 256, "warps": 8, "stages": 3},
    {"block_m": 128, "block_n": 64, "block_k": 64, "warps": 2, "stages": 2},
    {"block_m": 8, "block_n": 128, "block_k": 128, "warps": 4, "stages": 3, "warpgroups": True},
    {"block_m": 64, "block_n": 128, "block_k": 64, "warps": 8, "stages": 2, "warpgroups": True},
    {"block_m": 16, "block_n": 256, "block_k": 128, "warps": 4, "stages": 2, "warpgroups": True},
])  # fmt: skip
def test_any_schedule_computes_the_same(schedule: dict) -> None:
    parameters = {"b_dtype": "u4", "group_size": 128, "zeros": True, **schedule}
    assert error_of(parameters, 40, 128, 512, blocks=3) < TOLERANCE


WARPS, TALL = {**SMALL, "block_m": 32}, {**GROUPS, "block_m": 32}


@pytest.mark.parametrize(
    "schedule", [WARPS, TALL, {**TALL, "block_n": 128, "weights_scaled": True}]
)
@pytest.mark.parametrize(("m", "n", "k", "blocks"), [
    (530, 128, 256, 3), (530, 64, 256, 9), (200, 192, 256, 4), (40, 192, 256, 2),
])  # fmt: skip
def test_whole_tiles_by_turns_and_then_shares(
    schedule: dict, m: int, n: int, k: int, blocks: int
) -> None:
    """Bands of 16 rows of tiles and a rest; blocks with and without whole tiles of their own."""
    parameters = {"b_dtype": "u4", "group_size": 64, "zeros": True, **schedule, **WHOLE}
    for unusual in (False, True):
        error = error_of(parameters, m, n, k, blocks, backwards=unusual, watched=unusual)
        assert error < TOLERANCE


@pytest.mark.parametrize("schedule", [
    {**GROUPS, "block_n": 128}, {**GROUPS, "block_m": 64}, {**GROUPS, "block_m": 256, "stages": 4},
    {**GROUPS, "block_k": 256, "teams": 2}, {**GROUPS, "stages": 2},
    {**GROUPS, "block_n": 128, "warps": 8, "block_m": 64},
], ids=["panels", "64 rows", "256 rows", "teams", "no slack", "warps"])  # fmt: skip
@pytest.mark.parametrize(("b_dtype", "group_size", "zeros"), [
    ("u4", 128, True), ("u1", 32, True), ("f6e3m2", -1, False), ("f7e6m0", 16, False),
    ("i3", -1, True),
])  # fmt: skip
def test_scales_may_meet_weights(
    b_dtype: str, group_size: int, zeros: bool, schedule: dict
) -> None:
    parameters = {"b_dtype": b_dtype, "group_size": group_size, "zeros": zeros, **schedule, **WHOLE,
                  "weights_scaled": True}  # fmt: skip
    assert error_of(parameters, 71, 128, 256, blocks=3, watched=True) < TOLERANCE


@pytest.mark.parametrize(("b_dtype", "group_size", "m"), [
    ("u1", -1, 16), ("u4", -1, 16), ("f7e6m0", -1, 16), ("u4", 128, 16), ("u4", 128, 32),
    ("u4", 128, 64), ("u4", 128, 128), ("u8", 128, 512), ("u4", 128, 512),
])  # fmt: skip
def test_products_of_the_schedules_do_not_wait_for_each_other(
    b_dtype: str, group_size: int, m: int
) -> None:
    """A kernel whose products were made to is half as fast, and nothing else tells."""
    schedule = q.schedules(b_dtype, group_size, m, 57344, "sm_90a")[0]
    problem = {"b_dtype": b_dtype, "group_size": group_size, "k_multiple": 1024,
               "n_multiple": 3584, "zeros": group_size != -1}  # fmt: skip
    made = compile(q.program(**problem, **schedule), "sm_90a")
    assert (made.resources.serialized, made.resources.spill_bytes) == (False, 0)


@pytest.mark.parametrize("backwards", [False, True])
def test_no_result_depends_on_the_order_of_threads(backwards: bool) -> None:
    parameters = {"b_dtype": "u4", "group_size": 128, "zeros": True, "n_multiple": 32, **SMALL}
    assert error_of(parameters, 16, 64, 256, blocks=3, backwards=backwards) < TOLERANCE


@pytest.mark.parametrize("schedule", [
    {"block_k": 64}, {"block_n": 128}, {"block_k": 128, "teams": 2},
    {"block_m": 32, "block_n": 128}, {"block_m": 32},
])  # fmt: skip
def test_no_weights_are_overwritten_before_they_are_multiplied(schedule: dict) -> None:
    """The interpreter multiplies as late as may be."""
    parameters = {"b_dtype": "u4", "group_size": -1, **GROUPS, "stages": 4, **WHOLE, **schedule}
    problem, plan = q.problem_of(parameters), q.schedule_of(parameters)
    case = q.random_case(problem, 9, 128, 512, np.random.default_rng(0))
    arguments = q.host_arguments(case, problem, plan, 2)
    interpret(q.program(**parameters), arguments)
    found = q.result(arguments, problem, 9, 128)
    assert q.relative_error(found, case.reference(problem)) < TOLERANCE


def test_interpreter_and_generated_text_agree() -> None:
    parameters = {"b_dtype": "u4", "group_size": 64, "zeros": True, "n_multiple": 32, **SMALL}
    problem, plan = q.problem_of(parameters), q.schedule_of(parameters)
    case = q.random_case(problem, 9, 64, 192, np.random.default_rng(0))
    program = q.program(**parameters)
    one, other = (q.host_arguments(case, problem, plan, 3) for _ in range(2))
    interpret(program, one)
    run_on_host(program, other)
    np.testing.assert_allclose(one["c"], other["c"], rtol=2e-3, atol=1e-3)
    # the interpreter adds in float64; sums of lifted numbers are up to 1000 times those of weights
    np.testing.assert_allclose(one["workspace"], other["workspace"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("b_dtype", "group_size", "zeros"), FIGURE)
def test_every_shipped_schedule_passes_its_check(
    b_dtype: str, group_size: int, zeros: bool
) -> None:
    """The best guess for a small m and for a large one."""
    for m in (16, 64):
        schedule = q.schedules(b_dtype, group_size, m, 8192)[0]
        parameters = {"b_dtype": b_dtype, "group_size": group_size, "zeros": zeros, **schedule}
        assert q.check(parameters, seed=0).relative_error < TOLERANCE


def test_the_check_makes_blocks_share_tiles() -> None:
    for m in (16, 1000):
        for schedule in q.schedules("u1", 128, m, 57344, "sm_90a"):
            plan = q.Schedule(**schedule)
            for steps in (2, 3, 4, 7):
                n, k = 2 * plan.block_n, steps * plan.block_k
                blocks = q.sharing_blocks(plan, plan.block_m, n, k)
                assert -(-2 * steps // blocks) < steps  # units of the first block


def test_there_are_schedules_for_every_format() -> None:
    for t in ALL:
        for m, n, arch in product((1, 16, 17, 64, 1000), (100, 8192, 57344), ("sm_80", "sm_90a")):
            if t.bits <= 8:
                assert q.schedules(t.name, 128, m, n, arch), (t, m, n, arch)


def test_library_kernel_survives_text_and_json() -> None:
    program = q.program(b_dtype="u3", group_size=48, k_multiple=48, zeros=True)
    assert from_text(to_text(program)) == program
    assert from_json(to_json(program)) == program


@pytest.mark.parametrize(("wrong", "says"), [
    ({"b_dtype": "u9"}, "no dtype 'u9'"),
    ({"b_dtype": "f16"}, "weights of 1 to 8 bits, not float16"),
    ({"a_dtype": "float32"}, "A in float16 or bfloat16, not float32"),
    ({"group_size": 24}, "group size 24: the kernel takes -1"),
    ({"b_dtype": "f6e3m2", "zeros": True}, "zero points are for integers"),
    ({"block_q": 3}, "'block_m': 16"),
    ({"block_n": 24}, "16 \\* warps divides block_n"),
    ({"block_k": 96}, "block_k is a power of two from 64"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_with_a_sentence(wrong: dict, says: str) -> None:
    with pytest.raises(TilusError, match=says):
        q.program(**{"b_dtype": "u4", **wrong})


def test_launch_shares_the_work_evenly() -> None:
    parameters = asdict(q.Schedule()) | {"b_dtype": "u4"}
    launch = q.launch(parameters, 16, 57344, 8192, multiprocessors=132)
    assert launch.grid == (264, 1, 1)
    assert launch.counters == 57344 // 128
    assert q.launch(parameters, 1, 128, 128, multiprocessors=132).grid == (1, 1, 1)


@pytest.mark.parametrize("name", ["u1", "u3", "i6", "f6e3m2", "u8"])
def test_one_stored_format_whatever_the_schedule(name: str) -> None:
    """unpack(pack(w)) == w, and a lane's words hold its 32 elements low bits first."""
    t = dtype(name)
    codes = np.random.default_rng(0).integers(0, 1 << t.bits, (100, 37)).astype(np.uint8)
    words = q.pack(codes, name)
    assert words.dtype == np.int32 and words.shape == (2, 3 * 32 * t.bits)
    np.testing.assert_array_equal(q.weights.unpack(words, t, 100, 37), codes)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("b_dtype", "group_size", "zeros"), FIGURE[1:3])
def test_it_compiles_for_every_target_without_spills(
    b_dtype: str, group_size: int, zeros: bool, arch: str
) -> None:
    schedule = q.schedules(b_dtype, group_size, 16, 8192, arch)[0]
    promises = {"k_multiple": 512, "n_multiple": 512}
    parameters = {"b_dtype": b_dtype, "group_size": group_size, "zeros": zeros, **promises}
    made = compile(q.program(**parameters, **schedule), arch)
    assert made.cubin[:4] == b"\x7fELF"
    assert made.resources.spill_bytes == 0
