"""What follows the sums of a product: activations by themselves, then with a bias in the kernel."""

from itertools import product
from math import erf

import numpy as np
import pytest

from tests.tilus.test_quantized_matmul import GROUPS, SMALL, TOLERANCE, WHOLE, error_of
from tilus.compiler import compile, run_on_host
from tilus.dtypes import f16, f32
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Pointer, Program, Var
from tilus.kernels import quantized_matmul as q
from tilus.kernels.activations import ACTIVATIONS
from tilus.lang import Tracer, trace
from tilus.layout import local, spatial
from tilus.text import program_hash

TILE = spatial(32, 4) * local(1, 4)
NUMBERS = np.arange(1 << 16, dtype=np.uint16).view(np.float16)  # all there are
FINITE = np.isfinite(NUMBERS)
FOLLOWS = [(b, a) for b, a in product((False, True), ACTIVATIONS) if b or a != "none"]


def elementwise(name: str) -> Program:
    """y = the activation of x, both [4096, 16], float16 and float32."""

    def kernel(t: Tracer, x: Var, y: Var) -> None:
        at, (rows, columns) = (t.blocks[0] * TILE.shape[0], 0), (4096, TILE.shape[1])
        read = t.load_global(t.view_global(x, f16, (rows, columns), (columns, 1)), at, TILE)
        made = ACTIVATIONS[name].traced(t, t.cast(read, f32))
        t.store_global(t.view_global(y, f32, (rows, columns), (columns, 1)), made, at)

    grid = 4096 // TILE.shape[0]
    return trace(name, kernel, [Pointer("x", f16), Pointer("y", f32)], lambda x, y: (grid, 1, 1),
                 TILE.threads)  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_instructions_mean_what_numpy_does(name: str) -> None:
    """On all float16; tails below 1e-12 may be nothing."""
    want = ACTIVATIONS[name].meaning(NUMBERS[FINITE].astype(np.float64))
    for run in (run_on_host, interpret):
        y = np.full(NUMBERS.size, 7, np.float32)
        run(elementwise(name), {"x": NUMBERS, "y": y})
        np.testing.assert_allclose(y[FINITE], want, rtol=1e-5, atol=1e-12)
        assert np.isnan(y[np.isnan(NUMBERS)]).all()
        assert np.isposinf(y[np.isposinf(NUMBERS)]).all()


def test_activations_are_those_of_the_field() -> None:
    x = np.linspace(-12, 12, 4801)
    meaning = {name: row.meaning(x) for name, row in ACTIVATIONS.items()}
    np.testing.assert_array_equal(meaning["none"], x)
    np.testing.assert_array_equal(meaning["relu"], np.where(x > 0, x, 0))
    np.testing.assert_allclose(meaning["silu"], x / (1 + np.exp(-x)), atol=1e-14)
    by_errors = [v * (1 + erf(v / np.sqrt(2))) / 2 for v in x]
    np.testing.assert_allclose(meaning["gelu"], by_errors, atol=5e-4)  # an approximation
    assert meaning["gelu"][2600] == pytest.approx(0.8411919906, abs=1e-10)  # of 1


@pytest.mark.parametrize(("bias", "activation"), FOLLOWS)
@pytest.mark.parametrize(("layout", "n", "k"), [
    ({"block_m": 8, "block_n": 16, "warps": 1, "stages": 2, "n_multiple": 32}, 32, 320),
    ({**SMALL, "b_dtype": "f6e3m2", "group_size": -1, "n_multiple": 1, "k_multiple": 1}, 45, 140),
    ({**GROUPS, "block_n": 128, "block_m": 32, "n_multiple": 32}, 160, 192),
    ({**GROUPS, "block_n": 128, "block_m": 32, "group_size": -1}, 192, 192),
    ({**GROUPS, "block_k": 128, "teams": 2, "n_multiple": 32}, 96, 320),
], ids=["one warp", "edges", "slab", "one group", "teams"])  # fmt: skip
def test_a_bias_and_an_activation_follow_the_sums(
    layout: dict, n: int, k: int, bias: bool, activation: str
) -> None:
    """In tiles that blocks share and tiles of one, which m and n do not fill."""
    parameters = {"b_dtype": "u4", "group_size": 64, "bias": bias, "activation": activation,
                  **layout}  # fmt: skip
    assert error_of(parameters, 19, n, k, blocks=5, watched=True) < TOLERANCE


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_they_follow_what_the_copy_engine_brings(activation: str) -> None:
    """Many blocks to a tile, and warps in another order."""
    parameters = {"b_dtype": "i3", "group_size": 64, "bias": True, "activation": activation,
                  **GROUPS, **WHOLE}  # fmt: skip
    for backwards in (False, True):
        error = error_of(parameters, 5, 128, 512, blocks=7, backwards=backwards, watched=True)
        assert error < TOLERANCE


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_they_follow_with_bfloat16(activation: str) -> None:
    parameters = {"a_dtype": "bfloat16", "b_dtype": "u4", "group_size": 64, "zeros": True,
                  "n_multiple": 32, "bias": True, "activation": activation, **SMALL}  # fmt: skip
    assert error_of(parameters, 5, 64, 192, blocks=2) < 3e-3


def test_the_interpreter_does_the_same() -> None:
    parameters = {"b_dtype": "u4", "group_size": 64, "n_multiple": 32, "bias": True,
                  "activation": "gelu", **SMALL}  # fmt: skip
    problem, plan = q.problem_of(parameters), q.schedule_of(parameters)
    case = q.random_case(problem, 9, 96, 192, np.random.default_rng(0))
    arguments = q.host_arguments(case, problem, plan, 4)
    interpret(q.program(**parameters), arguments)
    found = q.result(arguments, problem, 9, 96)
    assert q.relative_error(found, case.reference(problem)) < TOLERANCE


def test_the_check_of_a_kernel_has_a_bias_too() -> None:
    parameters = {"b_dtype": "u4", "bias": True, "activation": "silu", **SMALL}
    assert q.check(parameters, seed=0).relative_error < TOLERANCE


def test_what_nobody_asks_for_leaves_no_trace() -> None:
    """Kernels that were measured before there was a bias are the same kernels."""
    plain = q.problem_of({"b_dtype": "u4", **SMALL})
    assert not {"bias", "activation"} & set(plain.parameters)
    asked = {"b_dtype": "u4", "bias": False, "activation": "none"}
    assert program_hash(q.program(**asked)) == program_hash(q.program("u4"))
    hashes = set()
    for bias, activation in [(False, "none"), *FOLLOWS]:
        problem = q.problem_of({"b_dtype": "u4", "bias": bias, "activation": activation})
        assert q.problem_of(problem.parameters) == problem
        hashes.add(program_hash(q.program(**problem.parameters)))
    assert len(hashes) == 1 + len(FOLLOWS)


@pytest.mark.parametrize("m", [16, 128])
def test_products_do_not_wait_for_what_follows(m: int) -> None:
    schedule = q.schedules("u4", 128, m, 57344, "sm_90a")[0]
    problem = {"b_dtype": "u4", "k_multiple": 1024, "n_multiple": 3584, "zeros": True}
    made = compile(q.program(**problem, **schedule, bias=True, activation="gelu"), "sm_90a")
    assert not made.resources.serialized


def test_an_activation_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(TilusError, match="no activation 'tanh': there are none, relu, silu, gelu"):
        q.program("u4", activation="tanh")
