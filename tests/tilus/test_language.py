"""Writing programs: control flow, names, and the sentences that wrong ones get."""

import numpy as np
import pytest

import tilus
from tilus import codegen
from tilus.compiler import compile, kernel_key, run_on_host
from tilus.dtypes import f16, f32, i32, sint, u8, uint
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Integer, Pointer, Program, Register, Var, ceil_div, equal
from tilus.isa.base import Local
from tilus.isa.matmul import ATOMS, Dot
from tilus.lang import Tracer, trace
from tilus.layout import local, permute_registers, reduce, spatial
from tilus.runtime import host
from tilus.text import from_text, to_text

ROW = spatial(32)


def traced(kernel, parameters=(), threads: int = 32) -> Program:
    return trace("kernel", kernel, parameters, lambda *p: (1, 1, 1), threads)


def both_ways(program: Program, arguments: dict) -> dict:
    """What the interpreter and the generated text make of the arguments, which must be the same."""
    one = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    other = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    interpret(program, one)
    run_on_host(program, other)
    for name in arguments:
        np.testing.assert_array_equal(one[name], other[name])
    return one


def test_a_vector_is_doubled_edges_and_all() -> None:
    def double(t: Tracer, x: Var, y: Var, n: Var) -> None:
        start = t.blocks[0] * 64
        layout = spatial(32) * local(2)
        a = t.load_global(t.view_global(x, f32, (n,), (1,)), (start,), layout)
        t.store_global(t.view_global(y, f32, (n,), (1,)), t.add(a, a), (start,))

    program = trace("double", double, (Pointer("x", f32), Pointer("y", f32), Integer("n")),
                    lambda x, y, n: (ceil_div(n, 64), 1, 1), 32)  # fmt: skip
    x = np.arange(100, dtype=np.float32)
    done = both_ways(program, {"x": x, "y": np.full(103, -1, np.float32), "n": 100})
    np.testing.assert_array_equal(done["y"][:100], 2 * x)
    assert (done["y"][100:] == -1).all()


def test_loops_branches_and_variables() -> None:
    """The sum of the odd numbers below n, but no more than 25, by every kind of statement."""

    def odd(t: Tracer, out: Var, n: Var) -> None:
        total = t.let(n * 0)
        for i in t.range(0, n):
            with t.when(equal(i % 2, 1)):
                t.set(total, total + i)
            with t.otherwise():
                t.set(total, total + 0)
        with t.loop(total > 25):
            with t.when(total < 30):
                t.leave()
            t.set(total, total - 5)
        one = t.allocate_register(i32, local(1), 1)
        target = t.view_global(out, i32, (64,), (1,))
        t.store_global(target, one, (total,))

    program = traced(odd, (Pointer("out", i32), Integer("n")))
    for n, place in ((0, 0), (5, 4), (10, 25), (13, 26)):
        done = both_ways(program, {"out": np.zeros(64, np.int32), "n": n})
        assert done["out"].nonzero()[0].tolist() == [place]


def test_copies_that_are_not_waited_for_have_not_happened() -> None:
    def hasty(t: Tracer, x: Var, y: Var, wait: bool) -> None:
        held = t.allocate_shared(f32, (32,))
        t.copy_async(t.view_global(x, f32, (32,), (1,)), held, (0,), (0,), (32,))
        t.commit_group()
        t.wait_group(0 if wait else 1)
        t.synchronize()
        t.store_global(t.view_global(y, f32, (32,), (1,)), t.load_shared(held, (0,), ROW), (0,))

    x = np.arange(32, dtype=np.float32)
    for wait in (True, False):
        program = traced(lambda t, x, y, w=wait: hasty(t, x, y, w),
                         (Pointer("x", f32), Pointer("y", f32)))  # fmt: skip
        for run in (interpret, run_on_host):
            arguments = {"x": x, "y": np.zeros(32, np.float32)}
            run(program, arguments)
            assert np.array_equal(arguments["y"], x) == wait


@pytest.mark.parametrize("backwards", [False, True])
def test_a_forgotten_synchronize_gives_wrong_numbers_in_one_order(backwards: bool) -> None:
    def turned(t: Tracer, y: Var, careful: bool) -> None:
        held = t.allocate_shared(f32, (64,))
        t.store_shared(held, t.allocate_register(f32, spatial(64), 3), (0,))
        if careful:
            t.synchronize()
        swapped = t.load_shared(held, (0,), tilus.layout((64,), ((2, 0, 1), (32, 0, 2)), ()))
        t.store_global(t.view_global(y, f32, (64,), (1,)), swapped, (0,))

    right = []
    for careful in (True, False):
        program = traced(lambda t, y, c=careful: turned(t, y, c), (Pointer("y", f32),), 64)
        arguments = {"y": np.zeros(64, np.float32)}
        run_on_host(program, arguments, backwards)
        right.append(bool((arguments["y"] == 3).all()))
    assert right == [True, False]


@pytest.mark.parametrize("backwards", [False, True])
def test_sums_one_after_another_do_not_mix(backwards: bool) -> None:
    """They take the same shared memory in every turn of a loop."""

    def sums(t: Tracer, y: Var) -> None:
        tile = t.allocate_register(i32, spatial(2, 32), 1)
        total = t.allocate_register(i32, reduce(tile.layout, (0,)))
        for _ in t.range(0, 5):
            grown = t.add(tile, t.reduce(tile, 0, "sum"))
            t.assign(tile, grown)
        t.assign(total, t.reduce(tile, 0, "sum"))
        t.store_global(t.view_global(y, i32, (1, 32), (32, 1)), total, (0, 0))

    arguments = {"y": np.zeros(32, np.int32)}
    run_on_host(traced(sums, (Pointer("y", i32),), 64), arguments, backwards)
    assert (arguments["y"] == 2 * 3**5).all()


def test_a_value_is_exchanged_where_the_expected_one_is() -> None:
    def kernel(t: Tracer, x: Var) -> None:
        place = t.view_global(x, i32, (4,), (1,))
        first = t.atomic_compare_exchange(place, (0,), 0, 9)
        second = t.atomic_compare_exchange(place, (0,), 0, 5)
        t.store_release(place, (1,), first + 1)
        t.store_release(place, (2,), second + 1)
        t.store_release(place, (3,), t.load_acquire(place, (2,)) * 2)

    done = both_ways(traced(kernel, (Pointer("x", i32),)), {"x": np.zeros(4, np.int32)})
    assert done["x"].tolist() == [9, 1, 10, 20]


def test_a_tile_is_printed_alike_by_interpreter_and_text(capfd: pytest.CaptureFixture) -> None:
    def kernel(t: Tracer, x: Var) -> None:
        tile = t.load_global(
            t.view_global(x, f32, (2, 3), (3, 1)), (0, 0), spatial(2, 1) * local(1, 3)
        )
        t.print_tensor(tile, "x")
        t.print_tensor(t.cast(tile, i32), "whole")

    x = np.array([[1, -0.0, np.nan], [np.inf, 0.1, -3e20]], np.float32).ravel()
    program = traced(kernel, (Pointer("x", f32),))
    shown = []
    for run in (interpret, run_on_host):
        run(program, {"x": x.copy()})
        shown.append(capfd.readouterr().out)
    assert shown[0] == shown[1]
    lines = shown[0].splitlines()
    assert lines[:3] == [
        "x: float32 (2, 3) of block 0 0 0",
        "1 -0 nan",
        "inf 0.100000001 -3.00000006e+20",
    ]
    assert lines[4:] == ["1 0 0", "2147483647 0 -2147483648"]


@pytest.mark.parametrize("run", [interpret, run_on_host])
def test_an_assertion_stops_the_kernel_and_exit_the_block(run) -> None:
    def kernel(t: Tracer, x: Var, n: Var) -> None:
        place = t.view_global(x, i32, (8,), (1,))
        t.assert_(n < 3, "n is small")
        t.store_release(place, (t.blocks[0],), 1)
        with t.when(equal(t.blocks[0], 1)):
            t.exit()
        t.store_release(place, (t.blocks[0] + 4,), 1)

    program = trace("kernel", kernel, (Pointer("x", i32), Integer("n")), lambda x, n: (3, 1, 1), 64)
    x = np.zeros(8, np.int32)
    run(program, {"x": x, "n": 2})
    assert x.tolist() == [1, 1, 1, 0, 1, 0, 1, 0]
    with pytest.raises(TilusError, match="assert_: n is small"):
        run(program, {"x": x, "n": 3})


def test_threads_that_wait_for_ever_are_told() -> None:
    """A branch that not all threads take: no program that is verified has one."""

    def split(t: Tracer, y: Var) -> None:
        with t.when(Local("thread") < 3):
            t.synchronize()

    program = traced(split, (Pointer("y", f32),))
    with pytest.raises(TilusError, match="thread has no meaning here"):
        run_on_host(program, {"y": np.zeros(1, np.float32)})
    source = codegen.generate(program)
    library = host.build(source.text + codegen.host_entry(program, source))
    with pytest.raises(TilusError, match="wait for each other for ever"):
        host.run(library, program.name, [np.zeros(1, np.float32)], (1, 1, 1))


def refused(says: str, kernel) -> None:
    with pytest.raises(TilusError, match=says):
        traced(kernel, (Pointer("x", f32), Integer("n")))


def test_wrong_programs_are_refused_with_a_sentence() -> None:
    tile, turned = spatial(8, 4) * local(1, 2), reduce(spatial(4, 8) * local(2, 1), (0,))

    def held(t: Tracer, dtype=f32, layout=tile):
        return t.allocate_register(dtype, layout)

    def whole(t: Tracer, x: Var, n: Var):
        return t.view_global(x, f32, (n,), (1,))

    refused("no instruction 'fly': there are view_global", lambda t, x, n: t.fly())
    refused("takes 32 bytes, but s0 has 4", lambda t, x, n: t.view_shared(
        t.allocate_shared(uint(4), (8,)), f32, (8,)))  # fmt: skip
    refused("2 extents .* and 1 strides", lambda t, x, n: t.view_global(x, f32, (n, 2), (1,)))
    refused(
        "32 threads hold 64 bits of float32 each, but the view as float16 asks for 32 bits",
        lambda t, x, n: t.view(held(t), f16, tile),
    )
    refused("add takes one of .* cast first", lambda t, x, n: t.add(held(t, u8), held(t, u8)))
    refused("does not broadcast", lambda t, x, n: t.add(held(t), held(t, f32, ROW)))
    refused("give the operand the layout", lambda t, x, n: t.add(held(t), held(t, f32, turned)))
    refused("otherwise: it must follow a `when`", lambda t, x, n: t.otherwise().__enter__())
    refused("known only when the kernel runs", lambda t, x, n: t.let(n) if n < 3 else None)
    refused(
        "want one index a dimension", lambda t, x, n: t.load_global(whole(t, x, n), (0, 0), ROW)
    )
    refused(
        "not made of 8x8 matrices",
        lambda t, x, n: t.load_matrix(t.allocate_shared(f16, (32,)), (0,), ROW),
    )


def test_dot_says_which_operand_a_warp_lacks() -> None:
    def lacking(t: Tracer, x: Var, n: Var) -> None:
        atom = ATOMS[0]
        a = t.allocate_register(f16, spatial(2, 1) * atom.a)
        b = t.allocate_register(f16, spatial(1, 2) * atom.b)
        c = t.allocate_register(f32, spatial(2, 1) * local(1, 2) * atom.c)
        t.dot(a, b, c)

    with pytest.raises(TilusError, match="not the part of b that makes it"):
        traced(lacking, (Pointer("x", f32), Integer("n")), 64)


def test_dot_wants_its_sums_in_the_order_of_the_instruction() -> None:
    atom = ATOMS[0]
    turned = permute_registers(atom.c, (2, 2), (1, 0))
    a, b, c = (
        Register("", t, of) for t, of in zip(atom.types, (atom.a, atom.b, turned), strict=True)
    )
    with pytest.raises(TilusError, match=r"registers \[0, 2, 1, 3\] of c .* want them in a row"):
        Dot(a, b, c).result()


def test_what_is_less_than_a_byte_is_not_stored_alone() -> None:
    def kernel(t: Tracer, x: Var, n: Var) -> None:
        target = t.view_global(x, sint(6), (8, 32), (32, 1))
        t.store_global(target, t.allocate_register(sint(6), spatial(8, 4) * local(1, 2)), (0, 0))

    program = traced(kernel, (Pointer("x", sint(6)), Integer("n")))
    with pytest.raises(TilusError, match="let each hold 4 neighbours of the last dimension"):
        compile(program)


def test_what_python_knows_to_be_true_is_a_number() -> None:
    def kernel(t: Tracer, x: Var) -> None:
        with t.when(2 < 3):
            t.set(t.let(3 < 2), 1 == 1)
        with t.loop(3 < 2):
            t.leave()

    program = traced(kernel, (Pointer("x", f32),))
    assert from_text(to_text(program)) == program
    assert "True" not in to_text(program)


def test_parameters_have_names_without_another_meaning() -> None:
    for name in ("block_x", "i0", "not a name"):
        with pytest.raises(TilusError, match="a parameter cannot be called"):
            trace("kernel", lambda t, x: None, (Integer(name),), lambda x: (1, 1, 1), 32)


def test_an_access_that_leaves_unchecked_dimensions_is_found() -> None:
    def beyond(t: Tracer, x: Var, n: Var) -> None:
        t.load_global(t.view_global(x, f32, (n,), (1,)), (0,), ROW, check=())

    program = traced(beyond, (Pointer("x", f32), Integer("n")))
    with pytest.raises(TilusError, match="leaves dimension 0"):
        interpret(program, {"x": np.zeros(31, np.float32), "n": 31})


def test_the_same_program_gives_the_same_bytes_and_another_another_key() -> None:
    def store(value: float):
        def kernel(t: Tracer, x: Var, n: Var) -> None:
            tile = t.allocate_register(f32, ROW, value)
            t.store_global(t.view_global(x, f32, (n,), (1,)), tile, (0,))

        return traced(kernel, (Pointer("x", f32), Integer("n")))

    one, again, other = (compile(store(v)) for v in (1.0, 1.0, 2.0))
    assert (one.key, one.cubin) == (again.key, again.cubin)
    assert one.key != other.key
    assert one.key == kernel_key(store(1.0), "sm_90") != kernel_key(store(1.0), "sm_80")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(TilusError, match="cannot compile for 'sm_12': there are sm_80"):
        compile(traced(lambda t: None), "sm_12")
