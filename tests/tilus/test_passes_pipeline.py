"""Loops in stages: the same answers, with the copies of later turns under way."""

from typing import Any

import numpy as np
import pytest

from tests.tilus.readable import answers, program, same
from tilus.codegen import generate
from tilus.compiler import compile, run_on_host
from tilus.dtypes import f16, f32
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Integer, Pointer, Program, Swizzle, Var, ceil_div
from tilus.isa.matmul import M16N8K16
from tilus.jsonform import from_json, to_json
from tilus.lang import Tracer, trace
from tilus.layout import local, replicate, spatial
from tilus.passes import lower, pipeline
from tilus.text import from_text, to_text

A, B, C = M16N8K16
M, N, K = 32, 16, 32  # a tile, over two warps
LEFT = spatial(2, 1) * local(1, 2) * A
RIGHT = replicate(2, 2) * local(2, 2) * B
SUMS = spatial(2, 1) * local(1, 2) * C


def matmul(stages: int, start: int = 0) -> Program:
    """c [m, n] = a [m, k] @ b [k, n] from turn `start` on."""

    def kernel(t: Tracer, a: Var, b: Var, c: Var, m: Var, n: Var, k: Var) -> None:
        left, right = t.view_global(a, f16, (m, k), (k, 1)), t.view_global(b, f16, (k, n), (n, 1))
        row, column = t.blocks[0] * M, t.blocks[1] * N
        sums = t.allocate_register(f32, SUMS)
        held_a = t.allocate_shared(f16, (M, K), Swizzle(2, 5, 3))
        held_b = t.allocate_shared(f16, (K, N))
        for i in t.range(start, ceil_div(k, K), stages=stages):
            depth = t.let(i * K)
            t.copy_async(left, held_a, (row, depth), (0, 0), (M, K))
            t.copy_async(right, held_b, (depth, column), (0, 0), (K, N))
            product = t.dot(
                t.load_matrix(held_a, (0, 0), LEFT), t.load_shared(held_b, (0, 0), RIGHT), sums
            )
            t.assign(sums, product)
        t.store_global(t.view_global(c, f32, (m, n), (n, 1)), sums, (row, column))

    parameters = [*(Pointer(name, of) for name, of in (("a", f16), ("b", f16), ("c", f32))),
                  *(Integer(name) for name in "mnk")]  # fmt: skip
    grid = lambda a, b, c, m, n, k: (ceil_div(m, M), ceil_div(n, N), 1)  # noqa: E731
    return trace("matmul", kernel, parameters, grid, 64)


def operands(m: int, n: int, k: int) -> tuple[dict[str, Any], np.ndarray]:
    rng = np.random.default_rng(m + n + k)
    a = (rng.integers(-8, 9, (m, k)) / 4).astype(np.float16)
    b = (rng.integers(-8, 9, (k, n)) / 4).astype(np.float16)
    c = np.full(m * n, np.nan, np.float32)
    return {"a": a.ravel(), "b": b.ravel(), "c": c, "m": m, "n": n, "k": k}, a, b  # type: ignore[return-value]


WAYS = {
    "untransformed": interpret,
    "transformed": lambda p, a: interpret(pipeline(p), a),
    "code": run_on_host,
    "code, backwards": lambda p, a: run_on_host(p, a, backwards=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_matmul_in_stages_is_the_same(stages: int, way: str) -> None:
    """Fewer turns than stages, as many, more; sizes that tiles do not divide."""
    made = matmul(stages)
    for m, n, k in ((32, 16, 32), (32, 16, 96), (40, 20, 150), (5, 17, 7), (33, 1, 256)):
        arguments, a, b = operands(m, n, k)  # type: ignore[misc]
        got = answers(made, arguments, WAYS[way])["c"].reshape(m, n)
        np.testing.assert_array_equal(got, a.astype(np.float32) @ b.astype(np.float32))


@pytest.mark.parametrize("way", WAYS)
def test_turns_need_not_start_at_zero(way: str) -> None:
    arguments, a, b = operands(33, 20, 200)  # type: ignore[misc]
    got = answers(matmul(3, start=2), arguments, WAYS[way])["c"].reshape(33, 20)
    wide = [x.astype(np.float32) for x in (a[:, 64:], b[64:])]
    np.testing.assert_array_equal(got, wide[0] @ wide[1])


def test_stages_survive_text_and_json() -> None:
    made = matmul(3)
    assert "for u0 in range(0, ((k + 31) // 32), 1, 3):" in to_text(made)
    assert from_text(to_text(made)) == from_json(to_json(made)) == made
    assert "range(0, ((k + 31) // 32), 1):" in to_text(pipeline(made))
    assert from_text(to_text(pipeline(made))) == pipeline(made)


def test_stages_take_so_many_times_the_memory_and_compile() -> None:
    sizes = [generate(lower(matmul(stages))).shared_bytes for stages in (2, 3, 4)]
    assert sizes == [stages * (M * K + K * N) * 2 for stages in (2, 3, 4)]
    assert compile(matmul(3), "sm_80").resources.spill_bytes == 0


def test_code_is_made_of_loops_without_stages() -> None:
    with pytest.raises(TilusError, match=r"has 2 stages: run tilus\.passes\.pipeline first"):
        generate(matmul(2))


BEFORE = """
    s0 = allocate_shared(float32, (1, 128), swizzle(0, 0, 0))
    for u0 in range(1, n, 4, 3):
        v0 = (u0 * 2)
        copy_async(gx, s0, (v0, 0), (0, 0), (1, 128), None)
        r0 = load_shared(s0, (0, 0), ROW)
        store_global(gy, r0, (v0, 0), None)
    """
AFTER = """
    s1 = allocate_shared(uint8, (3, 512), swizzle(0, 0, 0))
    if (1 < n):
        s3 = view_shared(s1, float32, (1, 128), swizzle(0, 0, 0), 0)
        v2 = 2
        copy_async(gx, s3, (v2, 0), (0, 0), (1, 128), None)
    commit_group()
    if (2 < n):
        s5 = view_shared(s1, float32, (1, 128), swizzle(0, 0, 0), 512)
        v4 = 4
        copy_async(gx, s5, (v4, 0), (0, 0), (1, 128), None)
    commit_group()
    for u0 in range(1, n, 4):
        wait_group(1)
        synchronize()
        if ((u0 + 2) < n):
            s7 = view_shared(s1, float32, (1, 128), swizzle(0, 0, 0), ((((u0 - 1) + 2) % 3) * 512))
            v6 = ((u0 + 2) * 2)
            copy_async(gx, s7, (v6, 0), (0, 0), (1, 128), None)
        commit_group()
        s8 = view_shared(s1, float32, (1, 128), swizzle(0, 0, 0), (((u0 - 1) % 3) * 512))
        v0 = (u0 * 2)
        r0 = load_shared(s8, (0, 0), ROW)
        store_global(gy, r0, (v0, 0), None)
    wait_group(0)
    synchronize()
    """


def test_what_a_loop_in_stages_becomes() -> None:
    same(pipeline(program(BEFORE)), program(AFTER))
    same(pipeline(program(AFTER)), program(AFTER))


LOOP = """
    s0 = allocate_shared(float32, (1, 128), swizzle(0, 0, 0))
    v0 = 0
    for u0 in range(0, n, 1, 2):
        v1 = u0
        copy_async(gx, s0, (v1, 0), (0, 0), (1, 128), None)
        r0 = load_shared(s0, (0, 0), ROW)
        store_global(gy, r0, (u0, 0), None)
        v0 = (v0 + 1)
    synchronize()
    """


@pytest.mark.parametrize(("old", "new", "says"), [
    ("        copy_async(gx, s0, (v1, 0), (0, 0), (1, 128), None)\n", "", "starts with copy_async"),
    ("v1 = u0", "v1 = v0", "follow from v0, which the body sets"),
    ("v1 = u0", "v1 = u0\n        synchronize()", "synchronize.* comes before its last copy"),
    ("store_global(gy", "store_global(gx", "store_global.* writes x, from which later turns copy"),
    ("    synchronize()\n", "    r1 = load_shared(s0, (0, 0), ROW)\n",
     "r1 = load_shared.* uses s0 outside"),
    ("s0 = allocate_shared(float32, (1, 128), swizzle(0, 0, 0))",
     "s1 = allocate_shared(uint8, (512,), swizzle(0, 0, 0))\n"
     "    s0 = view_shared(s1, float32, (1, 128), swizzle(0, 0, 0), 0)", "is no allocation"),
])  # fmt: skip
def test_loops_that_cannot_be_staged_are_refused(old: str, new: str, says: str) -> None:
    pipeline(program(LOOP))
    assert old in LOOP
    with pytest.raises(TilusError, match=f"the loop over u0 in . stages: .*{says}"):
        pipeline(program(LOOP.replace(old, new)))


def test_a_loop_of_no_stages_is_no_program() -> None:
    with pytest.raises(TilusError, match="0 stages, unroll 1: want 1 to 16"):
        program(LOOP.replace("n, 1, 2", "n, 1, 0"))


NESTED = """
    s0 = allocate_shared(float32, (1, 128), swizzle(0, 0, 0))
    v9 = 0
    for u1 in range(0, 3, 1):
        for u0 in range(u1, n, 1, 3):
            if (u0 < 5):
                copy_async(gx, s0, (u0, 0), (0, 0), (1, 128), None)
            r0 = load_shared(s0, (0, 0), TURNED)
            store_global(gy, r0, (v9, 0), None)
            v9 = (v9 + 1)
            if (u0 > 3):
                break
    """.replace("TURNED", "layout((1, 128), threads=((32, 1, 1),), registers=((4, 1, 32),))")


@pytest.mark.parametrize("way", WAYS)
def test_loops_inside_loops_copies_in_branches_and_breaks(way: str) -> None:
    x = np.arange(16 * 128, dtype=np.float32)
    arguments = {"x": x, "y": np.full(16 * 128, -1, np.float32), "n": 16}
    got = answers(program(NESTED, grid="1, 1, 1"), arguments, WAYS[way])["y"].reshape(16, 128)
    rows = [u0 for u1 in range(3) for u0 in range(u1, 5)]
    np.testing.assert_array_equal(got[: len(rows)], x.reshape(16, 128)[rows])
    assert (got[len(rows) :] == -1).all()
