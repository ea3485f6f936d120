"""Programs whose tiles lie open: the layouts that are found, the answers, the conflicts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tilus.readable import answers, program
from tilus.casts import cast_layout, source_layout
from tilus.compiler import compile, run_on_host
from tilus.dtypes import ALL, DType, bf16, f16, f32
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Do, Integer, Pointer, Program, Register, Var, ceil_div, walk
from tilus.isa import ISA, Inst
from tilus.isa.addressing import coalesced
from tilus.isa.matmul import ATOMS, warp_grid
from tilus.jsonform import from_json, to_json
from tilus.kernels import quantized_matmul
from tilus.lang import Tracer, trace
from tilus.layout import Layout, Open, local, narrow, reduce, replicate, spatial
from tilus.passes import infer_layouts, verify
from tilus.text import from_text, to_text

WAYS = {
    "as it is": interpret,
    "closed": lambda p, a: interpret(infer_layouts(p), a),
    "code": run_on_host,
    "code, backwards": lambda p, a: run_on_host(p, a, backwards=True),
}
MATMUL = [*(Pointer(name, of) for name, of in (("a", f16), ("b", f16), ("c", f32))),
          *(Integer(name) for name in "mnk")]  # fmt: skip


def matmul(
    tile: tuple[int, int, int], threads: int = 128, dtype: DType = f16, shared: bool = False
) -> Program:
    """c = a @ b, and not a word of layouts."""
    bm, bn, bk = tile

    def kernel(t: Tracer, a: Var, b: Var, c: Var, m: Var, n: Var, k: Var) -> None:
        left = t.view_global(a, dtype, (m, k), (k, 1))
        right = t.view_global(b, dtype, (k, n), (n, 1))
        row, column = t.blocks[0] * bm, t.blocks[1] * bn
        sums = t.allocate_register(f32, (bm, bn))
        for i in t.range(0, ceil_div(k, bk)):
            x = t.load_global(left, (row, i * bk), (bm, bk))
            y = t.load_global(right, (i * bk, column), (bk, bn))
            if shared:
                held = t.allocate_shared(dtype, (bm, bk))
                t.store_shared(held, x, (0, 0))
                t.synchronize()
                x = t.load_matrix(held, (0, 0), (bm, bk))
            t.assign(sums, t.dot(x, y, sums))
            t.synchronize()
        t.store_global(t.view_global(c, f32, (m, n), (n, 1)), sums, (row, column))

    parameters = [replace(p, dtype=dtype) if p.name in ("a", "b") else p for p in MATMUL]
    grid = lambda a, b, c, m, n, k: (ceil_div(m, bm), ceil_div(n, bn), 1)  # noqa: E731
    return trace("matmul", kernel, parameters, grid, threads)


def check_matmul(made: Program, m: int, n: int, k: int, dtype: DType, ways: Any = WAYS) -> None:
    rng = np.random.default_rng(m * n * k)
    a, b = (dtype.carry(rng.integers(-8, 9, shape) / 4) for shape in ((m, k), (k, n)))
    c = np.full(m * n, np.nan, np.float32)
    arguments = {"a": a.ravel(), "b": b.ravel(), "c": c, "m": m, "n": n, "k": k}
    want = dtype.values(a).astype(np.float32) @ dtype.values(b).astype(np.float32)
    for way, run in ways.items():
        got = answers(made, arguments, run)["c"].reshape(m, n)
        np.testing.assert_array_equal(got, want, err_msg=way)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("threads", [32, 128, 192])
def test_a_matmul_without_layouts(threads: int, dtype: DType, shared: bool) -> None:
    made = matmul((48, 24, 32), threads, dtype, shared)
    check_matmul(made, 50, 30, 70, dtype)


def test_a_matmul_without_layouts_compiles() -> None:
    compiled = compile(matmul((64, 64, 32)), "sm_80")
    assert compiled.resources.spill_bytes == 0
    assert "mma_m16n8k16_f16" in compiled.source


small = st.integers(1, 3)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(small, small, small, st.sampled_from([1, 2, 3, 4, 6, 8]))
def test_fragments_for_any_tile_and_any_number_of_warps(m: int, n: int, k: int, warps: int) -> None:
    made = matmul((16 * m, 8 * n, 16 * k), 32 * warps)
    closed = infer_layouts(made)
    assert verify(closed) == closed
    ways = {"closed": lambda p, a: interpret(closed, a)}
    check_matmul(made, 16 * m + 3, 8 * n + 1, 16 * k + 5, f16, ways)


@pytest.mark.parametrize("warps", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (4, 8), (1, 16), (8, 1), (3, 5)])
def test_warps_lie_over_a_tile_by_a_simple_law(rows: int, columns: int, warps: int) -> None:
    """As many as fit have parts of their own; each then reads the least of a and b."""
    made = warp_grid(rows, columns, warps)
    assert (made.shape, made.threads) == ((rows, columns), warps)

    def own(i: int, j: int) -> bool:
        return warps % (i * j) == 0 and rows % i == 0 and columns % j == 0

    grids = [(i, j) for i in range(1, 9) for j in range(1, 9) if own(i, j)]
    most = max(i * j for i, j in grids)
    assert warps // made.replicas == most
    reads = min(16 * rows // i + 8 * columns // j for i, j in grids if i * j == most)
    i, j = next((i, j) for i, j in grids if made == law(rows, columns, warps, i, j))
    assert i * j == most and 16 * rows // i + 8 * columns // j == reads


def law(rows: int, columns: int, warps: int, i: int, j: int) -> Layout:
    part = spatial(i, j) * local(rows // i, columns // j)
    return replicate(warps // (i * j), 2) * part


def attention() -> Program:
    """c = (a @ b) @ b transposed: what one dot makes is an operand of the next."""

    def kernel(t: Tracer, a: Var, b: Var, c: Var, m: Var, n: Var, k: Var) -> None:
        left, right = t.view_global(a, f16, (m, k), (k, 1)), t.view_global(b, f16, (k, n), (n, 1))
        turned = t.view_global(b, f16, (n, k), (1, n))
        x, y = t.load_global(left, (0, 0), (64, 32)), t.load_global(right, (0, 0), (32, 16))
        scores = t.dot(x, y, t.allocate_register(f32, (64, 16)))
        scaled = t.mul(scores, t.allocate_register(f32, (64, 16), 0.5))
        back = t.load_global(turned, (0, 0), (16, 32))
        out = t.dot(t.cast(scaled, f16), back, t.allocate_register(f32, (64, 32)))
        t.store_global(t.view_global(c, f32, (m, k), (k, 1)), out, (0, 0))

    return trace("attention", kernel, MATMUL, lambda *p: (1, 1, 1), 128)


def test_the_result_of_a_dot_is_an_operand_of_the_next() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-2, 3, s).astype(np.float16) / 2 for s in ((64, 32), (32, 16)))
    arguments = {"a": a.ravel(), "b": b.ravel(), "c": np.zeros(64 * 32, np.float32),
                 "m": 64, "n": 16, "k": 32}  # fmt: skip
    want = (a @ b * np.float16(0.5)).astype(np.float32) @ b.T.astype(np.float32)
    for run in WAYS.values():
        got = answers(attention(), arguments, run)["c"].reshape(64, 32)
        np.testing.assert_array_equal(got, want)


XY = (Pointer("x", f16), Pointer("y", f32))


def bias(shape: tuple[int, int], first: bool, threads: int) -> Program:
    """y = 2 x + the first row of x - its first column, in float32."""
    m, n = shape

    def kernel(t: Tracer, x: Var, y: Var) -> None:
        source = t.view_global(x, f16, shape, (n, 1))
        parts = {"row": (1, n), "column": (m, 1), "tile": shape}
        order = sorted(parts, reverse=not first)
        loaded = {name: t.cast(t.load_global(source, (0, 0), parts[name]), f32) for name in order}
        two = t.allocate_register(f32, shape, 2)
        sums = t.add(t.mul(two, loaded["tile"]), loaded["row"])
        t.store_global(t.view_global(y, f32, shape, (n, 1)), t.sub(sums, loaded["column"]), (0, 0))

    return trace("bias", kernel, XY, lambda x, y: (1, 1, 1), threads)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.sampled_from([32, 64, 96]))
def test_tiles_of_any_shape_that_are_broadcast(m: int, n: int, first: bool, threads: int) -> None:
    check_bias(m, n, first, threads, {"closed": WAYS["closed"]})


@pytest.mark.parametrize(("m", "n"), [(16, 64), (7, 33), (1, 128), (40, 1)])
@pytest.mark.parametrize("first", [False, True])
def test_code_of_tiles_that_are_broadcast(m: int, n: int, first: bool) -> None:
    check_bias(m, n, first, 64, WAYS)


def check_bias(m: int, n: int, first: bool, threads: int, ways: Any) -> None:
    x = (np.arange(m * n).reshape(m, n) % 50 / 4).astype(np.float16)
    want = 2 * x.astype(np.float32) + x[:1] - x[:, :1]
    for run in ways.values():
        arguments = {"x": x.ravel(), "y": np.zeros(m * n, np.float32)}
        got = answers(bias((m, n), first, threads), arguments, run)["y"]
        np.testing.assert_array_equal(got.reshape(m, n), want)


def registers(made: Program) -> dict[str, Layout]:
    outs = [s.out for s in walk(made.body) if isinstance(s, Do)]
    return {t.name: t.layout for t in outs if isinstance(t, Register)}


def test_loads_are_coalesced_and_what_follows_lies_alike() -> None:
    made = program("""
        r0 = load_global(gx, (0, 0), open(8, 128), None)
        r1 = elementwise('neg', (r0,))
        r2 = load_global(gx, (0, 0), open(1, 128), None)
        r3 = elementwise('add', (r1, r2))
        r4 = slice(r3, 0, 4, 4)
        r5 = cast(r4, float16)
        r6 = allocate_register(float32, open(8, 128), 0)
        assign(r6, r3)
        store_global(gy, r6, (0, 0), None)
        """)
    wide = coalesced((8, 128), 32, f32)
    assert wide == local(8, 1) * spatial(1, 32) * local(1, 4)
    found = registers(infer_layouts(made))
    assert found == {
        "r0": wide, "r1": wide, "r2": reduce(wide, (0,)), "r3": wide, "r4": narrow(wide, 0, 4),
        "r5": narrow(wide, 0, 4), "r6": wide,
    }  # fmt: skip


@pytest.mark.parametrize(("shape", "dtype", "threads", "want"), [
    ((128,), f32, 32, spatial(32) * local(4)),
    ((64,), f32, 32, replicate(2, 1) * spatial(16) * local(4)),
    ((4, 64), f16, 32, spatial(4, 8) * local(1, 8)),
    ((2, 6), f16, 32, replicate(16, 2) * spatial(2, 1) * local(1, 3) * local(1, 2)),
    ((3, 5), f32, 32, replicate(32, 2) * local(3, 5)),
])  # fmt: skip
def test_coalesced_layouts(
    shape: tuple[int, ...], dtype: DType, threads: int, want: Layout
) -> None:
    assert coalesced(shape, threads, dtype) == want


@pytest.mark.parametrize("source", [t for t in ALL if t.bits <= 8 and t.name != "bool"], ids=str)
@pytest.mark.parametrize("target", [f16, bf16, f32], ids=str)
def test_the_layout_before_a_cast_follows_from_that_behind(source: DType, target: DType) -> None:
    for layout in (local(4, 1) * spatial(8, 4) * local(8, 1), local(3) * spatial(32)):
        there = cast_layout(source, target, layout)
        assert source_layout(source, target, there) == layout


def test_open_layouts_survive_text_and_json() -> None:
    for made in (matmul((32, 32, 32)), attention(), bias((8, 8), True, 32)):
        assert "open(" in to_text(made)
        assert from_text(to_text(made)) == from_json(to_json(made)) == made
        closed = infer_layouts(made)
        assert "open(" not in to_text(closed)
        assert from_text(to_text(closed)) == from_json(to_json(closed)) == closed
        assert infer_layouts(closed) is closed
    assert Open((64, 32)) != local(64, 32)
    with pytest.raises(TilusError, match="open: extents"):
        from_text(to_text(bias((8, 8), True, 32)).replace("open(8, 8)", "open(8, 0)"))


def test_a_program_that_says_its_layouts_keeps_them() -> None:
    made = quantized_matmul.program()
    assert infer_layouts(made) is made


def test_open_layouts_say_that_they_are() -> None:
    with pytest.raises(TilusError, match=r"open\(8, 4\) is still open: run .*infer_layouts"):
        print(Open((8, 4)).threads)


GIVEN = spatial(8, 4) * local(1, 2)
TURNED = spatial(4, 8) * local(2, 1)


def conflict(kernel: Any, threads: int = 32) -> str:
    made = trace("kernel", kernel, (Pointer("x", f16), Pointer("y", f32)),
                 lambda *p: (1, 1, 1), threads)  # fmt: skip
    with pytest.raises(TilusError) as caught:
        infer_layouts(made)
    return str(caught.value)


def test_a_conflict_names_both_instructions_and_both_layouts() -> None:
    def added(t: Tracer, x: Var, y: Var) -> None:
        source = t.view_global(x, f16, (8, 8), (8, 1))
        a, b = (t.load_global(source, (0, 0), layout) for layout in (GIVEN, TURNED))
        t.add(a, t.neg(t.neg(b)))  # both are given, so this is refused at once

    with pytest.raises(TilusError, match="give the operand the layout"):
        conflict(added)

    def assigned(t: Tracer, x: Var, y: Var) -> None:
        source = t.view_global(x, f16, (8, 8), (8, 1))
        a, b = (t.load_global(source, (0, 0), layout) for layout in (GIVEN, TURNED))
        opened = t.load_global(source, (0, 0), (8, 8))
        t.add(opened, a)
        t.add(opened, b)

    says = conflict(assigned)
    assert "r1 cannot lie in two ways" in says
    assert repr(GIVEN) in says and repr(TURNED) in says
    assert says.count("asks for") == 2 and "elementwise" in says
    assert "load it again in the other layout" in says


def test_a_conflict_with_a_dot() -> None:
    def twisted(t: Tracer, x: Var, y: Var) -> None:
        source = t.view_global(x, f16, (16, 16), (16, 1))
        a = t.load_global(source, (0, 0), spatial(16, 2) * local(1, 8))
        b = t.load_global(source, (0, 0), (16, 16))
        c = t.allocate_register(f32, spatial(16, 2) * local(1, 8))
        t.dot(a, b, c)

    assert "is not the product of a layout and" in conflict(twisted)

    def wrong_a(t: Tracer, x: Var, y: Var) -> None:
        source = t.view_global(x, f16, (16, 16), (16, 1))
        a = t.load_global(source, (0, 0), spatial(16, 2) * local(1, 8))
        b = t.load_global(source, (0, 0), (16, 16))
        t.dot(a, b, t.allocate_register(f32, local(1, 2) * ATOMS[0].c))

    says = conflict(wrong_a)
    assert "r0 = load_global(...)" in says and "r3 = dot(...)" in says
    assert repr(ATOMS[0].a) in says and repr(spatial(16, 2) * local(1, 8)) in says


def test_the_lines_that_asked_are_said() -> None:
    def mine(t: Tracer, x: Var, y: Var) -> None:
        source = t.view_global(x, f16, (8, 8), (8, 1))
        a, b = (t.load_global(source, (0, 0), layout) for layout in (GIVEN, TURNED))
        opened = t.load_global(source, (0, 0), (8, 8))
        t.add(opened, a)
        t.add(opened, b)

    made = trace("kernel", mine, (Pointer("x", f16), Pointer("y", f32)), lambda *p: (1, 1, 1), 32)
    marked = [replace(s, where=f"kernel.py:{i}") if isinstance(s, Do) else s
              for i, s in enumerate(made.body)]  # fmt: skip
    with pytest.raises(TilusError) as caught:
        infer_layouts(replace(made, body=tuple(marked)))
    says = str(caught.value)
    assert "r1 = load_global(...) [kernel.py:2] asks for" in says
    assert "r4 = elementwise(...) [kernel.py:5] asks for" in says


def test_a_tile_of_which_nobody_says_anything() -> None:
    says = conflict(lambda t, x, y: t.allocate_register(f32, (8, 8)))
    assert "nothing says how r0, a tile (8, 8), is to lie over the threads" in says


def test_products_that_no_fragments_make() -> None:
    def odd(t: Tracer, x: Var, y: Var) -> None:
        source = t.view_global(x, f16, (16, 16), (16, 1))
        a, b = t.load_global(source, (0, 0), (12, 16)), t.load_global(source, (0, 0), (16, 8))
        t.dot(a, b, t.allocate_register(f32, (12, 8)))

    assert "[12, 16] @ [16, 8] is not made of products [16, 16] @ [16, 8]" in conflict(odd)


def test_no_instruction_states_anything_of_layouts_that_it_does_not_take() -> None:
    """What the samples say of their own layouts is that they are right."""
    for sample in (sample for kind in ISA.values() for sample in kind.samples()):
        tiles = {t.name: t for t in sample.operands if isinstance(t, Register)}
        out = sample.result()
        if isinstance(out, Register):
            tiles[""] = out
        known = {name: t.layout for name, t in tiles.items()}
        said = {**sample.demands(known, 32), **sample.relates(known)}
        assert said.items() <= known.items(), sample
        assert isinstance(sample, Inst) and set(sample.prefers(32)) <= set(tiles)
