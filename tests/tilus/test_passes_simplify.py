"""`simplify` and `drop_dead`, before and after."""

import pytest

from tests.tilus.readable import program, same
from tilus.isa import ISA, Effect
from tilus.passes import drop_dead, simplify

SIMPLER = {
    "constants go where they are read": ("""
        v0 = 3
        v1 = ((v0 * 4) + 0)
        r0 = load_global(gx, (v1, (v0 - v0)), ROW, None)
        store_global(gy, r0, (v0, 0), None)
        """, """
        r0 = load_global(gx, (12, 0), ROW, None)
        store_global(gy, r0, (3, 0), None)
        """),
    "a variable that is set stays": ("""
        v0 = 3
        while (v0 < n):
            v0 = ((v0 + 1) * 1)
        """, """
        v0 = 3
        while (v0 < n):
            v0 = (v0 + 1)
        """),
    "a branch whose condition is known": ("""
        v0 = 2
        if (v0 < 3):
            synchronize()
        else:
            commit_group()
        if (v0 == 3):
            synchronize()
        else:
            wait_group(0)
        if (v0 > 7):
            wait_group(1)
        """, """
        synchronize()
        wait_group(0)
        """),
    "loops of no turn and of one": ("""
        for u0 in range(3, 3, 1):
            synchronize()
        for u1 in range(2, 3, 1):
            r0 = load_global(gx, (u1, 0), ROW, None)
            store_global(gy, r0, (u1, 0), None)
        for u2 in range(n, (n + 1), 1):
            r1 = load_global(gx, (u2, 0), ROW, None)
            store_global(gy, r1, (u2, 0), None)
        while 0:
            synchronize()
        """, """
        r0 = load_global(gx, (2, 0), ROW, None)
        store_global(gy, r0, (2, 0), None)
        u2 = n
        r1 = load_global(gx, (u2, 0), ROW, None)
        store_global(gy, r1, (u2, 0), None)
        """),
    "a loop of one turn that may be left stays": ("""
        for u0 in range(0, 1, 1):
            if (u0 < n):
                break
            synchronize()
        """, """
        for u0 in range(0, 1, 1):
            if (u0 < n):
                break
            synchronize()
        """),
    "a break of a loop inside leaves that one": ("""
        for u0 in range(0, 1, 1):
            for u1 in range(0, n, 1):
                break
        """, """
        for u1 in range(0, n, 1):
            break
        """),
    "a loop in stages stays": ("""
        s0 = allocate_shared(float32, (1, 128), swizzle(0, 0, 0))
        for u0 in range(0, 1, 1, 2):
            copy_async(gx, s0, (0, 0), (0, 0), (1, 128), None)
        """, """
        s0 = allocate_shared(float32, (1, 128), swizzle(0, 0, 0))
        for u0 in range(0, 1, 1, 2):
            copy_async(gx, s0, (0, 0), (0, 0), (1, 128), None)
        """),
    "scalars that nobody reads": ("""
        v0 = (n + 1)
        v1 = (v0 + 1)
        if (n < 3):
            v2 = v1
        synchronize()
        """, """
        synchronize()
        """),
    "a division by zero is left to the run": ("""
        v0 = 0
        if (n > 5):
            v1 = 1
            v1 = (7 // v0)
        """, """
        v0 = 0
        if (n > 5):
            v1 = 1
            v1 = (7 // v0)
        """),
}  # fmt: skip


@pytest.mark.parametrize("case", SIMPLER)
def test_simplify(case: str) -> None:
    before, after = SIMPLER[case]
    same(simplify(program(before)), program(after))
    same(simplify(program(after)), program(after))


def test_simplify_reaches_the_shapes_of_tensors_and_the_grid() -> None:
    before = program("""
        v0 = 2
        g0 = view_global(x, float32, (v0, (n * 1)), ((n + 0), 1))
        r0 = load_global(g0, (0, 0), ROW, None)
        store_global(gy, r0, (0, 0), None)
        """, grid="(n * 1), (2 + 3), 1")  # fmt: skip
    after = program("""
        g0 = view_global(x, float32, (2, n), (n, 1))
        r0 = load_global(g0, (0, 0), ROW, None)
        store_global(gy, r0, (0, 0), None)
        """, grid="n, 5, 1")  # fmt: skip
    same(simplify(before), after)


ALIVE = {
    "what nobody reads goes, and what only that read": ("""
        g0 = view_global(x, float32, (n,), (1,))
        r0 = load_global(gx, (0, 0), ROW, None)
        r1 = elementwise('neg', (r0,))
        r2 = allocate_register(float32, ROW, 1)
        store_global(gy, r2, (0, 0), None)
        """, """
        r2 = allocate_register(float32, ROW, 1)
        store_global(gy, r2, (0, 0), None)
        """),
    "a tile that is written and not read afterwards": ("""
        r0 = allocate_register(float32, ROW, 0)
        r1 = allocate_register(float32, ROW, 1)
        assign(r0, r1)
        store_global(gy, r0, (0, 0), None)
        assign(r0, r1)
        """, """
        r0 = allocate_register(float32, ROW, 0)
        r1 = allocate_register(float32, ROW, 1)
        assign(r0, r1)
        store_global(gy, r0, (0, 0), None)
        """),
    "what the next turn reads stays": ("""
        r0 = allocate_register(float32, ROW, 0)
        r1 = allocate_register(float32, ROW, 1)
        r5 = allocate_register(float32, ROW, 1)
        v0 = 0
        v1 = 0
        for u0 in range(0, n, 1):
            store_global(gy, r0, (v0, 0), None)
            r2 = elementwise('add', (r1, r1))
            assign(r0, r1)
            assign(r1, r2)
            assign(r5, r1)
            v0 = (v0 + 1)
            v1 = (v1 + 1)
        """, """
        r0 = allocate_register(float32, ROW, 0)
        r1 = allocate_register(float32, ROW, 1)
        v0 = 0
        for u0 in range(0, n, 1):
            store_global(gy, r0, (v0, 0), None)
            r2 = elementwise('add', (r1, r1))
            assign(r0, r1)
            assign(r1, r2)
            v0 = (v0 + 1)
        """),
    "bodies that are empty go with their branch and loop": ("""
        r0 = allocate_register(float32, ROW, 0)
        for u0 in range(0, n, 1):
            if (u0 < 3):
                r1 = elementwise('neg', (r0,))
            else:
                v0 = 3
        synchronize()
        """, """
        synchronize()
        """),
    "what others may see stays, and so does a loop that may not end": ("""
        s0 = allocate_shared(float32, (1, 128), swizzle(0, 0, 0))
        copy_async(gx, s0, (0, 0), (0, 0), (1, 128), None)
        commit_group()
        wait_group(0)
        synchronize()
        v0 = 0
        while (v0 < n):
            v0 = (v0 + 1)
        while 1:
            if (n < 3):
                break
        """, None),
}  # fmt: skip


@pytest.mark.parametrize("case", ALIVE)
def test_drop_dead(case: str) -> None:
    before, after = ALIVE[case]
    same(drop_dead(program(before)), program(before if after is None else after))


@pytest.mark.parametrize("name", ISA)
def test_an_instruction_that_writes_says_what(name: str) -> None:
    """Passes read what is written from the operands in the fields `writes`."""
    for sample in ISA[name].samples():
        if Effect.WRITES in sample.effect:
            assert set(sample.writes) <= set(vars(sample))
        else:
            assert not sample.written
