"""Programs for the tests of passes: written in the canonical text, and drawn at random."""

from textwrap import dedent, indent
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tilus.dtypes import i32
from tilus.interp import interpret
from tilus.ir import Expr, Integer, Pointer, Program, Scalar, Var, minimum
from tilus.lang import Tracer, trace
from tilus.layout import local, spatial
from tilus.text import from_text, to_text

HEAD = """\
@program(grid=({grid}), threads=32, blocks_per_sm=1)
def kernel(x: pointer(float32), y: pointer(float32), n: integer({multiple_of})):
"""
VIEWS = {name: f"g{name} = view_global({name}, float32, (n, 128), (128, 1))" for name in "xy"}
ROW = "layout((1, 128), threads=((32, 1, 4),), registers=((4, 1, 1),))"


def program(body: str, multiple_of: int = 1, grid: str = "n, 1, 1") -> Program:
    """A program of two float32 tensors gx and gy [n, 128]; ROW stands for a layout of a row.

    It names those of the two that `body` does.
    """
    views = [view for name, view in VIEWS.items() if f"g{name}" in body]
    lines = "\n".join([*views, dedent(body).replace("ROW", ROW)])
    return from_text(HEAD.format(multiple_of=multiple_of, grid=grid) + indent(lines, "    "))


def same(got: Program, want: Program) -> None:
    """The two are one program; their texts show where not."""
    assert to_text(got) == to_text(want)
    assert got == want


def answers(program: Program, arguments: dict[str, Any], run: Any = interpret) -> dict[str, Any]:
    """What a run makes of a copy of the arguments."""
    copies = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    run(program, copies)
    return copies


TILE = spatial(8) * local(2)
SIZE = 64

number = st.integers(0, 12)
scalar_trees: st.SearchStrategy[Any] = st.recursive(
    st.tuples(st.just("name"), st.integers(0, 9)) | number,
    lambda inner: st.tuples(st.sampled_from(["+", "*", "//", "%", "min", "<"]), inner, inner),
    max_leaves=4,
)
picks = st.integers(0, 9)
simple_actions: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("load"), scalar_trees),
    st.tuples(st.just("store"), picks, scalar_trees),
    st.tuples(st.sampled_from(["add", "xor", "max", "sub"]), picks, picks),
    st.tuples(st.just("assign"), picks, picks),
    st.tuples(st.just("let"), scalar_trees),
    st.tuples(st.just("set"), picks, scalar_trees),
    st.tuples(st.just("put"), picks),
    st.tuples(st.just("get"), picks),
    st.tuples(st.just("synchronize")),
    st.tuples(st.just("leave"), scalar_trees),
)
actions: st.SearchStrategy[Any] = st.recursive(
    simple_actions,
    lambda inner: st.one_of(
        st.tuples(st.just("for"), number, scalar_trees, st.lists(inner, max_size=4)),
        st.tuples(st.just("if"), scalar_trees, st.lists(inner, max_size=3)),
    ),
    max_leaves=12,
)


class Drawn:
    """Writes the program that a list of actions means; whatever it picks is in scope."""

    def __init__(self, t: Tracer, x: Any, y: Any, n: Expr) -> None:
        self.t, self.loops = t, 0
        self.x = t.view_global(x, i32, (n,), (1,))
        self.y = t.view_global(y, i32, (2, n), (n, 1))  # a row a block: nobody shares
        self.tiles = [t.allocate_register(i32, TILE, k) for k in range(2)]
        self.scalars: list[Scalar] = [n, t.blocks[0], 3]
        self.variables = [t.let(n % 5), t.let(0)]
        self.shared: list[Any] = []

    def write(self, actions: list[Any]) -> None:
        for action in actions:
            self.act(action)

    def inside(self, actions: list[Any], *scalars: Scalar) -> None:
        """A body: what it names is forgotten behind it."""
        before = (self.tiles, self.scalars, self.variables, self.shared)
        self.tiles, self.scalars = [*self.tiles], [*self.scalars, *scalars]
        self.variables, self.shared = [*self.variables], [*self.shared]
        self.write(actions)
        self.tiles, self.scalars, self.variables, self.shared = before

    def act(self, action: Any) -> None:
        t = self.t
        match action:
            case "load", at:
                self.tiles.append(t.load_global(self.x, (self.scalar(at) % SIZE,), TILE))
            case "store", tile, at:
                t.synchronize()  # what threads stored before at the same place is overwritten
                place = (t.blocks[0], self.scalar(at) % SIZE)
                t.store_global(self.y, self.of(self.tiles, tile), place)
            case "add" | "xor" | "max" | "sub" as op, a, b:
                tile = getattr(t, op)(self.of(self.tiles, a), self.of(self.tiles, b))
                self.tiles.append(tile)
            case "assign", a, b:
                t.assign(self.of(self.tiles, a), self.of(self.tiles, b))
            case "let", value:
                var = t.let(self.scalar(value) % 50)
                self.scalars.append(var)
                self.variables.append(var)
            case "set", var, value:
                t.set(self.of(self.variables, var), self.scalar(value) % 50)
            case "put", tile:
                self.shared.append(t.allocate_shared(i32, TILE.shape))
                t.store_shared(self.shared[-1], self.of(self.tiles, tile), (0,))
                t.synchronize()
            case "get", which if self.shared:
                self.tiles.append(t.load_shared(self.of(self.shared, which), (0,), TILE))
            case ("synchronize",):
                t.synchronize()
            case "leave", condition if self.loops:
                with t.when(self.scalar(condition) % 2):
                    t.leave()
            case "for", start, stop, body:
                stop = t.let(minimum(self.scalar(stop), start + 3))
                self.loops += 1
                for i in t.range(start, stop):
                    self.inside(body, i)
                self.loops -= 1
            case "if", condition, body:
                with t.when(self.scalar(condition) % 2):
                    self.inside(body)

    def of(self, things: list[Any], pick: int) -> Any:
        return things[pick % len(things)]

    def scalar(self, tree: Any) -> Any:
        match tree:
            case "name", pick:
                return self.of(self.scalars + self.variables, pick)
            case "min", a, b:
                return minimum(self.scalar(a), self.scalar(b))
            case ("//" | "%") as op, a, b:
                positive = self.scalar(b) + 1
                return self.scalar(a) // positive if op == "//" else self.scalar(a) % positive
            case "+", a, b:
                return self.scalar(a) + self.scalar(b)
            case "*", a, b:
                return self.scalar(a) % 100 * (self.scalar(b) % 100)
            case "<", a, b:
                return self.scalar(a) + 0 < self.scalar(b)
        return tree


def drawn(actions: list[Any]) -> Program:
    """The program that `actions` mean, which stores its first tiles at last."""

    def kernel(t: Tracer, x: Var, y: Var, n: Var) -> None:
        made = Drawn(t, x, y, n)
        made.write(actions)
        t.synchronize()
        for k, tile in enumerate(made.tiles[:2]):
            t.store_global(made.y, tile, (t.blocks[0], SIZE + 16 * k))

    parameters = (Pointer("x", i32), Pointer("y", i32), Integer("n", 4))
    return trace("drawn", kernel, parameters, lambda x, y, n: (2, 1, 1), 32)


def drawn_arguments() -> dict[str, Any]:
    x = np.arange(100, dtype=np.int32) * 7 % 61
    return {"x": x, "y": np.full(200, -1, np.int32), "n": 100}
