"""What `verify` refuses, in the words that it says, and what it lets through."""

from dataclasses import replace
from typing import Any

import pytest

from tests.tilus.readable import ROW, program
from tilus.dtypes import f32
from tilus.errors import TilusError
from tilus.ir import Break, Do, For, Global, If, Let, Program, Register, Set, Statement, Var, While
from tilus.isa.elementwise import Elementwise
from tilus.isa.memory import LoadGlobal, StoreGlobal
from tilus.isa.registers import AllocateRegister
from tilus.isa.synchronization import Synchronize
from tilus.kernels import quantized_matmul
from tilus.layout import local, spatial
from tilus.passes import verify

GOOD = program(f"""\
    v0 = 0
    r0 = load_global(gx, (0, 0), {ROW}, None)
    for u0 in range(0, n, 1):
        v0 = (v0 + u0)
        if (u0 < 3):
            synchronize()
            break
        r1 = elementwise('add', (r0, r0))
        assign(r0, r1)
    while (v0 < n):
        v0 = (v0 + 1)
    store_global(gy, r0, (v0, 0), None)
""")
WIDE = spatial(1, 32) * local(1, 4)
TILE = AllocateRegister(f32, WIDE)
R0, R1, R7 = (Register(name, f32, WIDE) for name in ("r0", "r1", "r7"))
G = Global("gx", f32, (Var("n"), 128), (128, 1), "x")
V0, V1, N = Var("v0"), Var("v1"), Var("n")


def test_programs_that_make_sense_pass_unchanged() -> None:
    for good in (GOOD, quantized_matmul.program()):
        assert verify(good) is good


WRONG: list[tuple[str, tuple[Statement, ...]]] = [
    ("r7 has no meaning here: define it before", (Do(Elementwise("add", (R7, R7)), R1),)),
    ("r1 has no meaning here", (If(N, (Do(TILE, R1),)), Do(Elementwise("neg", (R1,)), R7))),
    ("r1 has no meaning here", (If(N, (Do(TILE, R1),), (Do(Elementwise("neg", (R1,)), R7),)),)),
    ("u0 has no meaning here", (For(Var("u0"), 0, N, 1, ()), Let(V1, Var("u0")))),
    ("r1 has a meaning already", (Do(TILE, R1), Do(TILE, R1))),
    ("v1 has a meaning already", (If(N, (Let(V1, 1),), (Let(V1, 2),)),)),
    ("r1 = elementwise.* returns .*float32.* not .*", (
        Do(TILE, R0), Do(Elementwise("neg", (R0,)), replace(R1, layout=spatial(1, 32))))),
    ("synchronize returns None, and .* is named", (Do(Synchronize(), R1),)),
    ("returns .*, and None is named", (Do(TILE, None),)),
    ("r0 is .*, not", (
        Do(TILE, R0), Do(Elementwise("neg", (replace(R0, layout=spatial(1, 32)),)), R1))),
    ("takes one of .* cast first", (Do(TILE, R0), Do(Elementwise("xor", (R0, R0)), R1))),
    ("n is set, and no let has made it", (Set(N, 3),)),
    ("u0 is set, and no let", (For(Var("u0"), 0, 3, 1, (Set(Var("u0"), 3),)),)),
    ("break: there is no loop to leave", (If(N, (Break(),)),)),
    ("r1 lies over 64 threads, and there are 32", (
        Do(AllocateRegister(f32, spatial(1, 64)), Register("r1", f32, spatial(1, 64))),)),
    ("its body sets v1, which it counts to", (
        Let(V1, 3), For(Var("u0"), 0, V1, 1, (Set(V1, 1),)))),
    ("0 stages", (For(Var("u0"), 0, N, 1, (), 0),)),
    ("17 stages, unroll 1: want 1 to 16", (For(Var("u0"), 0, N, 1, (), 17),)),
    ("thread has no meaning here", (If(Var("thread"), (Do(Synchronize(), None),)),)),
    ("r0 is a tensor, and a number is asked for", (Do(TILE, R0), While(Var("r0"), ()))),
    ("store_global.*v1 has no meaning here", (Do(TILE, R0), Do(StoreGlobal(G, R0, (V1, 0)), None))),
    (r"kernel\.py:3: t\.neg\(a\)\]: r7 has no meaning", (
        Do(Elementwise("neg", (R7,)), R1, "kernel.py:3: t.neg(a)"),)),
    ("want one index a dimension", (Do(LoadGlobal(G, (0,), WIDE), R1),)),
]  # fmt: skip


@pytest.mark.parametrize(("says", "body"), WRONG, ids=range(len(WRONG)))
def test_what_makes_no_sense_is_refused(says: str, body: tuple[Statement, ...]) -> None:
    with pytest.raises(TilusError, match=says):
        verify(replace(GOOD, body=(GOOD.body[0], *body)))


VIEWED = """
    r0 = allocate_register(float32, ROW, 0)
    r1 = allocate_register(float32, ROW, 1)
    r2 = view(r0, float32, ROW)
    for u0 in range(0, n, 1):
        r3 = view(r0, float32, ROW)
        store_global(gy, r3, (0, 0), None)
        assign(r0, r1)
    """


def test_registers_that_are_overwritten_under_another_name_are_not_read() -> None:
    """A view is in the registers of its tile; it means what they held when it was made."""
    verify(program(VIEWED))
    verify(program(VIEWED.replace("assign(r0, r1)", "store_global(gy, r2, (0, 0), None)")))
    for read in (VIEWED.replace("gy, r3", "gy, r2"),
                 VIEWED.replace("r0, r1)", "r0, r1)\n        store_global(gy, r3, (0, 0), None)"),
                 VIEWED.replace("assign(r0, r1)", "assign(r2, r1)"),
                 VIEWED + "if (n < 3):\n        store_global(gy, r2, (0, 0), None)"):  # fmt: skip
        with pytest.raises(TilusError, match=r"is in registers that assign.* has overwritten"):
            verify(program(read))


@pytest.mark.parametrize(("says", "change"), [
    ("y is no pointer of kernel", lambda p: replace(p, parameters=(p.parameters[0],
                                                                   p.parameters[2], Var("y")))),
    ("two parameters have one name", lambda p: replace(p, parameters=p.parameters * 2)),
    (r"the grid reads \['k'\]", lambda p: replace(p, grid=(Var("k"), 1, 1))),
])  # fmt: skip
def test_a_wrong_head_is_refused(says: str, change: Any) -> None:
    wrong: Program = change(GOOD)
    with pytest.raises(TilusError, match=says):
        verify(wrong)
