"""What a watched run on the processor finds: each missing synchronize, wait and mask, always."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tilus.compiler import run_on_host
from tilus.dtypes import f16, f32, i32
from tilus.errors import TilusError
from tilus.ir import (
    Do,
    For,
    If,
    Integer,
    Pointer,
    Program,
    Statement,
    Var,
    While,
    inner_bodies,
    walk,
)
from tilus.isa import ISA, Inst
from tilus.kernels import quantized_matmul as q
from tilus.kernels import streaming_read
from tilus.lang import Tracer, trace
from tilus.layout import layout, local, replicate, spatial

SMALL = {"block_n": 32, "block_k": 64, "warps": 2, "stages": 3, "blocks_per_sm": 1}
TALL = {"block_m": 32, "block_n": 32, "block_k": 64, "warps": 2, "stages": 2}
KERNELS = {
    "u4": {"b_dtype": "u4", "group_size": 64, "zeros": True, "n_multiple": 32, **SMALL},
    "f6e3m2": {"b_dtype": "f6e3m2", "group_size": -1, "n_multiple": 1, "k_multiple": 1, **SMALL},
    "i3 tall": {"b_dtype": "i3", "group_size": 32, "n_multiple": 32, **TALL},
}
GROUPS = {"block_n": 64, "block_k": 64, "warps": 4, "stages": 2, "warpgroups": True}
KERNELS |= {
    "u4 by warpgroups": {"b_dtype": "u4", "group_size": 64, "n_multiple": 64, **GROUPS},
}
ORDERS = ("synchronize", "wait_group", "commit_group", "wait_barrier", "expect")
BOTH = pytest.mark.parametrize("backwards", [False, True], ids=["up", "down"])


def matmul_arguments(parameters: dict[str, Any], blocks: int = 3) -> dict[str, Any]:
    problem, plan = q.problem_of(parameters), q.schedule_of(parameters)
    n, k = (64, 256) if parameters["n_multiple"] > 1 else (33, 130)
    case = q.random_case(problem, 7, n, k, np.random.default_rng(0))
    return q.host_arguments(case, problem, plan, blocks)


def orderings(body: tuple[Statement, ...]) -> list[str]:
    """The statements that only order others, by instruction, in the order of the text."""
    return [
        s.instruction.name
        for s in walk(body)
        if isinstance(s, Do) and isinstance(s.instruction, Inst) and only_orders(s.instruction)
    ]


def only_orders(inst: Inst) -> bool:
    return inst.name in ORDERS


def without(program: Program, which: int) -> Program:
    """The program without the statement that is number `which` of `orderings`."""
    return replace(program, body=tuple(kept(program.body, iter(range(-which, 10_000)))))


def kept(body: tuple[Statement, ...], count: Iterator[int]) -> Iterator[Statement]:
    for statement in body:
        match statement:
            case Do(Inst() as inst) if only_orders(inst) and next(count) == 0:
                continue
            case For() | While():
                yield replace(statement, body=tuple(kept(statement.body, count)))
            case If(_, then, otherwise):
                first = tuple(kept(then, count))
                yield replace(statement, then=first, otherwise=tuple(kept(otherwise, count)))
            case _:
                yield statement


@BOTH
@pytest.mark.parametrize("name", KERNELS)
def test_the_library_is_clean(name: str, backwards: bool) -> None:
    arguments = matmul_arguments(KERNELS[name])
    run_on_host(q.program(**KERNELS[name]), arguments, backwards, watched=True)
    assert not np.isnan(arguments["c"].astype(np.float32)).any()


def test_the_streaming_read_is_clean() -> None:
    x = np.arange(4 * streaming_read.WORDS, dtype=np.uint32)
    out = np.zeros(2 * streaming_read.WORDS, np.uint32)
    given = {"x": x, "out": out, "words": x.size, "blocks": 2}
    run_on_host(streaming_read.program(), given, watched=True)


def removals() -> list[tuple[str, int]]:
    return [
        (name, i)
        for name, parameters in KERNELS.items()
        for i in range(len(orderings(q.program(**parameters).body)))
    ]


@pytest.mark.parametrize(("name", "which"), removals())
def test_nothing_that_orders_can_be_left_out_of_the_library(name: str, which: int) -> None:
    """In both orders of threads: what is found does not depend on luck. One block goes round."""
    broken = without(q.program(**KERNELS[name]), which)
    for backwards in (False, True):
        with pytest.raises(TilusError, match=r"no order|not been waited for|for ever"):
            run_on_host(broken, matmul_arguments(KERNELS[name], 1), backwards, watched=True)


TURNED = layout((64,), ((2, 0, 1), (32, 0, 2)), ())


def exchanged(t: Tracer, x: Var, y: Var) -> None:
    """Through one shared tile, again and again: written, read by others, written anew."""
    held = t.allocate_shared(f32, (64,))
    source, target = (
        t.view_global(x, f32, (4, 64), (64, 1)),
        t.view_global(y, f32, (4, 64), (64, 1)),
    )
    for u in t.range(0, 4):
        t.store_shared(held, t.load_global(source, (u, 0), spatial(64)), (0,))
        t.synchronize()
        t.store_global(target, t.load_shared(held, (0,), TURNED), (u, 0))
        t.synchronize()


def pipelined(t: Tracer, x: Var, y: Var) -> None:
    """Two copies under way, in two places in turn."""
    held = t.allocate_shared(f32, (2, 64))
    source, target = (
        t.view_global(x, f32, (4, 64), (64, 1)),
        t.view_global(y, f32, (4, 64), (64, 1)),
    )
    t.copy_async(source, held, (0, 0), (0, 0), (1, 64))
    t.commit_group()
    for u in t.range(0, 4):
        with t.when(u < 3):
            t.copy_async(source, held, (u + 1, 0), ((u + 1) % 2, 0), (1, 64))
        t.commit_group()
        t.wait_group(1)
        t.synchronize()
        t.store_global(target, t.load_shared(held, (u % 2, 0), TURNED), (u, 0))
        t.synchronize()


def copied_back(t: Tracer, x: Var, y: Var) -> None:
    """Through global memory, which needs a barrier just so."""
    target = t.view_global(y, f32, (4, 64), (64, 1))
    source = t.view_global(x, f32, (4, 64), (64, 1))
    t.store_global(target, t.load_global(source, (1, 0), spatial(64)), (0, 0))
    t.synchronize()
    t.store_global(target, t.load_global(target, (0, 0), TURNED), (1, 0))


PARAMETERS = (Pointer("x", f32), Pointer("y", f32))
EXAMPLES = {
    kernel.__name__: trace(kernel.__name__, kernel, PARAMETERS, lambda x, y: (1, 1, 1), 64)
    for kernel in (exchanged, pipelined, copied_back)
}


def given() -> dict[str, Any]:
    return {"x": np.arange(256, dtype=np.float32), "y": np.zeros(256, np.float32)}


@BOTH
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_clean(name: str, backwards: bool) -> None:
    run_on_host(EXAMPLES[name], given(), backwards, watched=True)


@BOTH
@pytest.mark.parametrize(
    ("name", "which"),
    [(name, i) for name, p in EXAMPLES.items() for i in range(len(orderings(p.body)))],
)
def test_nothing_that_orders_can_be_left_out_of_the_examples(
    name: str, which: int, backwards: bool
) -> None:
    with pytest.raises(TilusError, match=r"no order|not been waited for|for ever"):
        run_on_host(without(EXAMPLES[name], which), given(), backwards, watched=True)


@pytest.mark.parametrize("careful", [True, False])
def test_a_wait_is_for_the_copies_of_a_thread_alone(careful: bool) -> None:
    """Others need a synchronize after it, even where all have waited: the lanes of a warp come
    to load_matrix together."""

    def waited(t: Tracer, x: Var, y: Var) -> None:
        held = t.allocate_shared(f16, (8, 8))
        t.copy_async(t.view_global(x, f16, (8, 8), (8, 1)), held, (0, 0), (0, 0), (8, 8))
        t.commit_group()
        if not careful:
            t.synchronize()
        t.wait_group(0)
        if careful:
            t.synchronize()
        tile = t.load_matrix(held, (0, 0), spatial(8, 4) * local(1, 2))
        t.store_global(t.view_global(y, f16, (8, 8), (8, 1)), tile, (0, 0))

    program = trace("waited", waited, (Pointer("x", f16), Pointer("y", f16)),
                    lambda x, y: (1, 1, 1), 32)  # fmt: skip
    arguments = {"x": np.ones(64, np.float16), "y": np.zeros(64, np.float16)}
    if careful:
        run_on_host(program, arguments, watched=True)
        return
    for backwards in (False, True):
        with pytest.raises(TilusError, match="reads with no order what was written"):
            run_on_host(program, arguments, backwards, watched=True)


def test_an_early_wait_is_found() -> None:
    body = EXAMPLES["pipelined"].body
    loop = next(s for s in body if isinstance(s, For))
    late = ISA["wait_group"](2)
    inner = tuple(
        replace(s, instruction=late)
        if isinstance(s, Do) and isinstance(s.instruction, ISA["wait_group"])
        else s
        for s in loop.body
    )
    program = replace(
        EXAMPLES["pipelined"], body=tuple(replace(s, body=inner) if s is loop else s for s in body)
    )
    with pytest.raises(
        TilusError, match=r"load_shared \(line \d+\): .* not been waited for, copied"
    ):
        run_on_host(program, given(), watched=True)


def shared_sum(t: Tracer, x: Var, counters: Var, careful: bool) -> None:
    """The last block to arrive adds up what all left in global memory."""
    parts = t.view_global(x, f32, (4, 32), (32, 1))
    tile = t.allocate_register(f32, spatial(32), 1)
    t.store_global(parts, tile, (t.blocks[0], 0))
    counter = t.view_global(counters, i32, (1,), (1,))
    last = t.atomic_add(counter, (0,), 1) if careful else t.blocks[0] + 0
    with t.when(last > 2):
        for u in t.range(0, 4):
            t.assign(tile, t.add(tile, t.load_global(parts, (u, 0), spatial(32))))
        t.store_global(parts, tile, (0, 0))


@pytest.mark.parametrize("careful", [True, False])
def test_blocks_that_read_each_other_need_an_atomic(careful: bool) -> None:
    parameters = (Pointer("x", f32), Pointer("counters", i32))
    program = trace("shared_sum", lambda t, x, c: shared_sum(t, x, c, careful), parameters,
                    lambda x, c: (4, 1, 1), 32)  # fmt: skip
    arguments = {"x": np.zeros(128, np.float32), "counters": np.zeros(1, np.int32)}
    if careful:
        run_on_host(program, arguments, watched=True)
        assert arguments["x"][0] == 5
        return
    with pytest.raises(TilusError, match="reads with no order what was written by"):
        run_on_host(program, arguments, watched=True)


def test_two_blocks_that_write_one_place_are_found() -> None:
    def same(t: Tracer, x: Var) -> None:
        t.store_global(
            t.view_global(x, f32, (32,), (1,)), t.allocate_register(f32, spatial(32), 1), (0,)
        )

    program = trace("same", same, (Pointer("x", f32),), lambda x: (2, 1, 1), 32)
    with pytest.raises(TilusError, match="overwrites with no order what was written"):
        run_on_host(program, {"x": np.zeros(32, np.float32)}, watched=True)


@pytest.mark.parametrize("size", [124, 128])
def test_an_access_beyond_an_array_is_found_and_not_made(size: int) -> None:
    """A row that no mask cuts: in bounds of the tensor that the kernel names, not of the array."""

    def row(t: Tracer, x: Var, y: Var, n: Var) -> None:
        tile = t.load_global(t.view_global(x, f32, (n,), (1,)), (0,), spatial(32) * local(4))
        t.store_global(t.view_global(y, f32, (128,), (1,)), tile, (0,), check=())

    program = trace("row", row, (*PARAMETERS, Integer("n")), lambda x, y, n: (1, 1, 1), 32)
    wide, narrow = np.zeros(128, np.float32), np.zeros(size, np.float32)
    if size == 128:
        run_on_host(program, {"x": wide, "y": narrow, "n": 128}, watched=True)
        return
    for x, y, name in ((narrow, wide, "load_global"), (wide, narrow, "store_global")):
        with pytest.raises(TilusError, match=rf"{name} \(line \d+\): .*touches what no array has"):
            run_on_host(program, {"x": x, "y": y, "n": 128}, watched=True)


def test_the_last_of_many_readers_does_not_hide_the_others() -> None:
    """Thread 31 reads first, as it comes last to the barrier; then thread 0 reads, and writes."""

    def overwritten(t: Tracer, x: Var, y: Var) -> None:
        held = t.allocate_shared(f32, (32,))
        one = t.allocate_register(f32, local(1), 1)
        t.store_shared(held, one, (0,))
        t.synchronize()
        read = t.load_shared(held, (0,), replicate(32, 1))
        t.store_shared(held, one, (0,))
        t.store_global(t.view_global(y, f32, (1,), (1,)), read, (0,))

    program = trace("overwritten", overwritten, PARAMETERS, lambda x, y: (1, 1, 1), 32)
    with pytest.raises(TilusError, match="overwrites with no order what was read"):
        run_on_host(program, given(), watched=True)


def test_statements_are_all_walked() -> None:
    """`kept` and `walk` number alike."""
    for program in EXAMPLES.values():
        count = len(orderings(program.body))
        assert count == sum(
            len(orderings(without(program, i).body)) == count - 1 for i in range(count)
        )
        assert any(inner_bodies(s) for s in program.body) or count == 1
