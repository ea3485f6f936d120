"""Protocols of several threads: barriers, copies that report to them, groups of threads.

Each program runs by its meaning, and as generated text in both orders of threads.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.tilus.protocols import (
    CLUSTER,
    COLUMNS,
    DATA,
    GRID,
    LINES,
    MATRICES,
    PROTOCOLS,
    ROWS,
    TILE,
    Arguments,
    X,
    Y,
    boxes,
    neighbours,
    ring,
    specialised,
    traced,
)
from tilus.codegen import generate
from tilus.compiler import compile, run_on_host
from tilus.dtypes import f16, f32, i32, u64
from tilus.errors import TilusError
from tilus.interp import interpret
from tilus.ir import Do, Global, Integer, Pointer, Program, Shared, Swizzle, Var
from tilus.isa import ISA, Inst
from tilus.jsonform import from_json, to_json
from tilus.lang import Tracer, trace
from tilus.layout import spatial
from tilus.text import from_text, to_text


def code_of(inst: Inst, arch: str = "sm_90a") -> str:
    """Its generated text, alone in a program whose operands nobody made."""
    inst.result()
    return generate(Program("alone", (), (1, 1, 1), 128, (Do(inst, None),)), arch).text


def both_ways(program: Program, arguments: Arguments) -> list[Arguments]:
    """What the interpreter, and threads that take turns upwards and downwards, make of them."""
    runs: list[Callable[[Arguments], None]] = [
        lambda given: interpret(program, given),
        lambda given: run_on_host(program, given),
        lambda given: run_on_host(program, given, backwards=True),
    ]
    made = []
    for run in runs:
        given = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
        run(given)
        made.append(given)
    return made


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol(name: str) -> None:
    program, arguments, y = PROTOCOLS[name]
    for made in both_ways(program, arguments):
        np.testing.assert_array_equal(made["y"], y)


@pytest.mark.parametrize("arch", ["sm_90a", "sm_100a", "sm_120a"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_compiles(name: str, arch: str) -> None:
    assert compile(PROTOCOLS[name].program, arch).resources.spill_bytes == 0


def impatient(phases: tuple[int, ...]) -> Callable[..., None]:
    """A copy, waiting for these phases; that of the copy is phase 0."""

    def copied(t: Tracer, x: Var, y: Var) -> None:
        source = t.view_global(x, f32, (ROWS, COLUMNS), (COLUMNS, 1))
        stage, full = t.allocate_shared(f32, (ROWS, COLUMNS)), t.allocate_barriers(1)
        t.init_barriers(full, 1)
        t.expect(full, 0, ROWS * COLUMNS * 4)
        t.copy_bulk(source, stage, (0, 0), (0, 0), (ROWS, COLUMNS), full, 0)
        for phase in phases:
            t.wait_barrier(full, 0, phase)
            t.synchronize()  # or a late thread would wait for phase 1
        target = t.view_global(y, f32, (ROWS, COLUMNS), (COLUMNS, 1))
        t.store_global(target, t.load_shared(stage, (0, 0), TILE), (0, 0))

    return copied


@pytest.mark.parametrize("phases", [(), (-1,)], ids=str)
def test_who_does_not_wait_for_the_right_phase_reads_garbage(phases: tuple[int, ...]) -> None:
    for made in both_ways(traced(impatient(phases), 64), {"x": DATA, "y": 0 * DATA}):
        assert np.isnan(made["y"][: ROWS * COLUMNS]).all()
    for made in both_ways(traced(impatient((*phases, 0)), 64), {"x": DATA, "y": 0 * DATA}):
        np.testing.assert_array_equal(made["y"][: ROWS * COLUMNS], DATA[: ROWS * COLUMNS])


@pytest.mark.parametrize("wrong", [{"bytes": ROWS * COLUMNS * 4 + 16}, {"warps": 1}], ids=str)
@pytest.mark.parametrize("run", [interpret, run_on_host])
def test_a_phase_that_never_ends_is_reported(run: Callable[..., None], wrong: dict) -> None:
    """More bytes announced than come; more arrivals than there are."""
    with pytest.raises(TilusError, match=r"wait.* for ever"):
        run(traced(ring(**wrong), 64), {"x": DATA, "y": 0 * DATA})


def test_more_arrivals_than_announced_are_an_error() -> None:
    def crowd(t: Tracer, x: Var, y: Var) -> None:
        barriers = t.allocate_barriers(1)
        t.init_barriers(barriers, 1)
        t.arrive(barriers, 0)

    with pytest.raises(TilusError, match="2 arrive at a barrier that waits for 1 more"):
        interpret(traced(crowd, 64), {"x": DATA, "y": DATA})


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_survives_text_and_json(name: str) -> None:
    program = PROTOCOLS[name].program
    assert from_text(to_text(program)) == program
    assert from_json(to_json(program)) == program


def test_who_never_releases_a_stage_stops_the_others() -> None:
    program = traced(specialised(release=False), 160)
    with pytest.raises(TilusError, match=r"waits for ever: .*wait_barrier.* and .*wait_barrier"):
        interpret(program, {"x": DATA, "y": 0 * DATA})
    with pytest.raises(TilusError, match="for ever"):
        run_on_host(program, {"x": DATA, "y": 0 * DATA})


def inside(first: int, count: int, body: Callable[[Tracer, Any], None]) -> Callable[..., None]:
    """`body` in a group; it gets registers and two numbers: one is read outside, one set there."""

    def kernel(t: Tracer, x: Var, y: Var) -> None:
        outer = t.allocate_register(f32, spatial(64), 0), t.let(3), t.let(4)
        for _ in t.range(0, 2):
            with t.group(first, count):
                body(t, outer)
            t.set(outer[2], outer[1])

    return kernel


def nested(t: Tracer, outer: Any) -> None:
    with t.group(0, 32):
        pass


@pytest.mark.parametrize(("first", "count", "body", "says"), [
    (0, 48, lambda t, outer: None, "want whole warps"),
    (32, 64, lambda t, outer: None, "want whole warps"),
    (32, 32, nested, "holds another"),
    (32, 32, lambda t, outer: t.set(outer[1], 4), "sets v0, which other threads use"),
    (32, 32, lambda t, outer: t.set(outer[2], 4), "sets v1, which other threads use"),
    (32, 32, lambda t, outer: t.add(outer[0], outer[0]), "uses the registers r0"),
    (32, 32, lambda t, outer: t.leave(), "leaves a loop"),
    (32, 32, lambda t, outer: t.exit(), "cannot exit"),
])  # fmt: skip
def test_what_crosses_the_border_of_a_group_is_refused(
    first: int, count: int, body: Callable[[Tracer, Any], None], says: str
) -> None:
    program = traced(inside(first, count, body), 64)
    for run in (interpret, run_on_host):
        with pytest.raises(TilusError, match=says):
            run(program, {"x": DATA, "y": DATA})


def test_a_group_counts_once() -> None:
    """Groups of 32 and 64 threads add 1 and 10; each hands out what it found to all its threads."""

    def kernel(t: Tracer, x: Var, y: Var) -> None:
        counters = t.view_global(x, i32, (2,), (1,))
        found = t.view_global(y, i32, (96,), (1,))
        for first, count, added in ((0, 32, 1), (32, 64, 10)):
            with t.group(first, count):
                for _ in t.range(0, 3):
                    was = t.atomic_add(counters, (first // 32,), added)
                    t.atomic(found, (first,), "max", was)

    program = trace("counts", kernel, [Pointer("x", i32), Pointer("y", i32)],
                    lambda *p: (1, 1, 1), 96)  # fmt: skip
    for run in (interpret, run_on_host):
        x, y = np.zeros(2, np.int32), np.full(96, -1, np.int32)
        run(program, {"x": x, "y": y})
        assert x.tolist() == [3, 30]
        assert (y[0], y[32]) == (2, 20)


def test_a_number_of_a_group_lasts_while_only_it_uses_it() -> None:
    """Warp 1 counts the turns of a loop that all are in; warp 0 counts its own twice as fast."""

    def kernel(t: Tracer, x: Var, y: Var) -> None:
        found = t.view_global(y, i32, (2,), (1,))
        counts = [t.let(0), t.let(5)]
        for _ in t.range(0, 3):
            for warp, count in enumerate(counts):
                with t.group(32 * warp, 32):
                    t.set(count, count + 2 - warp)
        for warp, count in enumerate(counts):
            with t.group(32 * warp, 32):
                t.atomic(found, (warp,), "max", count)

    program = trace("lasts", kernel, [Pointer("x", i32), Pointer("y", i32)],
                    lambda *p: (1, 1, 1), 64)  # fmt: skip
    for run in (interpret, run_on_host):
        y = np.zeros(2, np.int32)
        run(program, {"x": y.copy(), "y": y})
        assert y.tolist() == [6, 8]


def test_registers_do_not_leave_a_group() -> None:
    def kernel(t: Tracer, x: Var, y: Var) -> None:
        with t.group(0, 32):
            made = t.allocate_register(f32, spatial(32), 0)
        t.add(made, made)

    with pytest.raises(TilusError, match="r0 was made inside a group"):
        interpret(traced(kernel, 64), {"x": DATA, "y": DATA})


def split(registers: int, rest: int = 24) -> Program:
    def kernel(t: Tracer, x: Var, y: Var) -> None:
        for first in (0, 128, 256):
            with t.group(first, 128, registers if first == 0 else rest):
                t.synchronize()

    return traced(kernel, 384)


def test_registers_move_between_groups_on_chips_that_can() -> None:
    assert "set_registers<240, 170>" in compile(split(240), "sm_90a").source
    with pytest.raises(TilusError, match="ask for 67584 registers together, and a block has 65536"):
        compile(split(240, 144), "sm_90a")
    for arch, registers, says in (("sm_90", 240, "on sm_90"), ("sm_90a", 100, "multiple of 8")):
        with pytest.raises(TilusError, match=says):
            compile(split(registers), arch)


def test_who_does_not_commit_stores_stores_nothing() -> None:
    program = traced(boxes(commit=False), 160, (X, Y, Integer("n")))
    for made in both_ways(program, MATRICES):
        assert not made["y"].any()


def test_blocks_that_do_not_meet_read_garbage() -> None:
    given = {"x": LINES, "y": 0 * LINES}
    with pytest.raises(TilusError, match="has no s0 yet: synchronize_cluster first"):
        interpret(neighbours(meetings=0), dict(given))
    run_on_host(neighbours(meetings=0), given)
    assert not np.array_equal(given["y"], PROTOCOLS["neighbours"].y)


def test_clusters_fit_the_grid_and_the_chip() -> None:
    for arch, cluster, says in (
        ("sm_89", (2, 1, 1), "need sm_90"), ("sm_90", (4, 4, 1), "want at most 8"),
    ):  # fmt: skip
        with pytest.raises(TilusError, match=says):
            generate(replace(neighbours(), cluster=cluster), arch)
    odd = replace(neighbours(), grid=(3, 2, 1))
    for run in (interpret, run_on_host):
        with pytest.raises(TilusError, match=r"\(3, 2, 1\) blocks is not made of clusters"):
            run(odd, {"x": LINES, "y": 0 * LINES})


def test_a_meeting_that_one_block_misses_is_reported() -> None:
    def kernel(t: Tracer, x: Var, y: Var) -> None:
        with t.when(t.rank > 0):
            t.synchronize_cluster()

    program = trace("lonely", kernel, (X, Y), lambda *p: GRID, 64, cluster=CLUSTER)
    for run in (interpret, run_on_host):
        with pytest.raises(TilusError, match="for ever"):
            run(program, {"x": LINES, "y": 0 * LINES})


SOURCE = Global("g0", f16, (20, 24), (24, 1), "p0")
BARRIERS = Shared("s1", u64, (2,))


@pytest.mark.parametrize(("dst", "at", "shape", "options", "says"), [
    (Shared("s0", f16, (16, 16)), (0, 4), (16, 16), {}, "pieces of 32 bytes, known to be 8-byte"),
    (Shared("s0", f16, (16, 16)), (0, 8), (16, 4), {}, "pieces of 8 bytes"),
    (Shared("s0", f16, (16, 20)), (0, 8), (16, 8), {}, "known to be 8-byte"),
    (Shared("s0", f16, (16, 16), Swizzle(1, 4, 3)), (0, 8), (16, 16), {}, "allocate it plain"),
    (Shared("s0", f32, (16, 16)), (0, 8), (16, 16), {}, "cast or view"),
    (Shared("s0", f16, (16, 16)), (0, 8), (16, 16), {"cache": "never"}, "no cache policy 'never'"),
    (Shared("s0", f16, (16, 16)), (0, 8), (16, 16), {"barriers": Shared("s1", f32, (2,))},
     "make them with allocate_barriers"),
])  # fmt: skip
def test_a_copy_that_the_engine_cannot_make_is_refused(
    dst: Shared, at: tuple[int, int], shape: tuple[int, int], options: dict, says: str
) -> None:
    given = {"barriers": BARRIERS, "index": 0, **options}
    with pytest.raises(TilusError, match=says):
        code_of(ISA["copy_bulk"](SOURCE, dst, at, (0, 0), shape, **given))
