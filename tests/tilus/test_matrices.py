"""Whole 8x8 matrices from the registers of warps to shared memory: what samples do not show."""

from collections.abc import Callable

import numpy as np
import pytest

from tilus.codegen import generate
from tilus.compiler import run_on_host
from tilus.dtypes import bf16, f16, f32
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Pointer, Program, Swizzle, Var
from tilus.isa.matrices import MATRIX, TRANSPOSED, deals_matrices
from tilus.isa.warpgroup import ROWS_SWIZZLED, sums_atom
from tilus.lang import Tracer, trace
from tilus.layout import local, replicate, spatial, transpose

PLAIN = Swizzle(0, 0, 0)


def traced(kernel: Callable[[Tracer, Var, Var], None], threads: int) -> Program:
    return trace("stored", kernel, (Pointer("x", f32), Pointer("y", f16)),
                 lambda x, y: (1, 1, 1), threads)  # fmt: skip


def rounded(arguments: dict[str, np.ndarray], program: Program) -> list[np.ndarray]:
    """`y` of a run by its meaning, and of runs of its text with threads in either order."""
    runs = []
    for run in (
        interpret,
        lambda p, a: run_on_host(p, a, watched=True),
        lambda p, a: run_on_host(p, a, True, watched=True),
    ):
        given = {name: array.copy() for name, array in arguments.items()}
        run(program, given)
        runs.append(given["y"])
    return runs


@pytest.mark.parametrize("swizzle", [PLAIN, ROWS_SWIZZLED], ids=str)
@pytest.mark.parametrize(("teams", "threads"), [(1, 128), (2, 256), (1, 160)])
def test_sums_of_a_transposed_product_come_to_lie_row_by_row(
    swizzle: Swizzle, teams: int, threads: int
) -> None:
    """Four warps hold [64 columns, 64 rows] of C^T in float32; C comes to lie in shared memory.
    Copies that other warps hold, and warps that hold nothing, write nothing."""
    held = replicate(teams, 2) * spatial(4, 1) * sums_atom(64)
    assert deals_matrices(transpose(held), TRANSPOSED)

    def kernel(t: Tracer, x: Var, y: Var) -> None:
        staged = t.allocate_shared(f16, (64, 64), swizzle)
        sums = t.load_global(t.view_global(x, f32, (64, 64), (64, 1)), (0, 0), held)
        halves = t.cast(sums, f16)
        t.store_matrix(staged, t.view(halves, f16, transpose(held)), (0, 0))
        t.synchronize()
        whole = t.load_shared(staged, (0, 0), spatial(16, 8) * local(4, 8))
        t.store_global(t.view_global(y, f16, (64, 64), (64, 1)), whole, (0, 0))

    program = traced(kernel, threads)
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    arguments = {"x": x.ravel(), "y": np.full(64 * 64, np.nan, np.float16)}
    for y in rounded(arguments, program):
        np.testing.assert_array_equal(y.reshape(64, 64), x.T.astype(np.float16))
    text = generate(program, "sm_90").text
    assert text.count("store_matrix_transposed<4>(") == 4  # of 16 matrices a warp


def test_store_matrix_says_what_it_takes() -> None:
    def stored(layout=MATRIX, dtype=f16, of=f16, shape=(16, 16), at=(0, 0), **swizzle):  # type: ignore[no-untyped-def]
        def kernel(t: Tracer, x: Var, y: Var) -> None:
            staged = t.allocate_shared(dtype, shape, **swizzle)
            t.store_matrix(staged, t.allocate_register(of, layout), at)

        return traced(kernel, 32)

    for message, wrong in [
        ("not made of 8x8 matrices .* use store_shared", {"layout": spatial(8, 4)}),
        ("not made of 8x8 matrices", {"layout": spatial(4, 8) * local(2, 1)}),
        ("moves 16-bit elements, not float32: store_shared", {"dtype": f32, "of": f32}),
        ("bfloat16 into float16", {"of": bf16}),
        ("leaves dimension 1", {"at": (0, 16)}),
        ("one index a dimension", {"at": (0,)}),
    ]:
        with pytest.raises(TilusError, match=message):
            stored(**wrong)
    for message, wrong in [
        ("rows at .* not known to be 16-byte aligned: use store_shared", {"at": (0, 4)}),
        ("not known to be 16-byte aligned", {"shape": (16, 12)}),
        ("not known to be 16-byte aligned", {"swizzle": Swizzle(2, 5, 2)}),
        ("spreads over 64 threads", {"layout": spatial(2, 1) * MATRIX}),
    ]:
        with pytest.raises(TilusError, match=message):
            generate(stored(**wrong), "sm_90")
    for arch in ("sm_80", "sm_89"):
        with pytest.raises(TilusError, match=f"store_matrix needs sm_90, .* compiled for {arch}"):
            generate(stored(), arch)
