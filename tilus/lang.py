"""Writing a program in Python: every instruction is a method, named after its class.

    def double(t, x, y, n):
        block, _, _ = t.blocks
        a = t.load_global(t.view_global(x, f32, (n,), (1,)), (block * 128,), spatial(128))
        t.store_global(t.view_global(y, f32, (n,), (1,)), t.add(a, a), (block * 128,))

    trace("double", double, (Pointer("x", f32), Pointer("y", f32), Integer("n")),
          grid=lambda x, y, n: (ceil_div(n, 128), 1, 1), threads=128)

`for i in t.range(start, stop)` is a loop that runs on the device: its body is traced once. A plain
Python `for` writes its body again and again. A shape in place of a layout leaves the layout open:
`tilus.passes.infer_layouts` finds one.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from tilus import config
from tilus.errors import TilusError
from tilus.ir import (
    ALONE,
    GRID,
    Break,
    Do,
    For,
    Global,
    If,
    Let,
    Parameter,
    Program,
    Register,
    Scalar,
    Set,
    Shared,
    Statement,
    Tensor,
    ThreadGroup,
    Var,
    While,
)
from tilus.isa import ISA, Inst
from tilus.isa.elementwise import OPS, Elementwise
from tilus.layout import Layout, Open
from tilus.names import check_names
from tilus.where import calling_line, mark

Grid = tuple[Scalar, Scalar, Scalar]
PREFIX: dict[type, str] = {Register: "r", Shared: "s", Global: "g", Var: "v"}


class Tracer:
    """The program so far. Statements are added where the last `range`, `when` or `loop` is open."""

    def __init__(self, cluster: tuple[int, int, int] = ALONE) -> None:
        self.blocks = tuple(Var(name) for name in GRID)
        self.cluster = cluster
        self._bodies: list[list[Statement]] = [[]]
        self._counts: dict[str, int] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in OPS:
            return lambda *args: self.perform(Elementwise(name, args))
        if name not in ISA:
            raise TilusError(f"no instruction {name!r}: there are {', '.join([*ISA, *OPS])}")

        def perform(*args: Any, **kwargs: Any) -> Any:
            named = {key: number(value) for key, value in kwargs.items()}
            return self.perform(opened(ISA[name](*map(number, args), **named)))

        return perform

    @property
    def rank(self) -> Scalar:
        """The number of this block in its cluster."""
        x, y, z = (block % extent for block, extent in zip(self.blocks, self.cluster, strict=True))
        return x + (y + z * self.cluster[1]) * self.cluster[0]

    def perform(self, inst: Inst) -> Any:
        """Add an instruction; gives what it returns, named."""
        out = inst.result()
        if isinstance(out, Tensor | Var):
            out = replace(out, name=self._fresh(PREFIX[type(out)]))
        self._add(Do(inst, out, calling_line()))
        return out

    def let(self, value: Scalar) -> Var:
        """A name for the value that `value` has here."""
        var = Var(self._fresh("v"))
        self._add(Let(var, number(value)))
        return var

    def set(self, var: Var, value: Scalar) -> None:
        """Give the name another value."""
        self._add(Set(var, number(value)))

    def range(self, start: Scalar, stop: Scalar, unroll: int = 1, stages: int = 1) -> Iterator[Var]:
        """A counted loop; `unroll` is 1 for none, n for n turns at a time, 0 for all.

        With `stages` above 1 its body starts with asynchronous copies into shared memory, which are
        there when the rest of it starts; the copies of so many turns are under way at once.
        """
        var = Var(self._fresh("u"))
        body: list[Statement] = []
        self._bodies.append(body)
        yield var
        self._bodies.pop()
        self._add(For(var, number(start), number(stop), unroll, tuple(body), stages))

    @contextmanager
    def loop(self, condition: Scalar) -> Iterator[None]:
        """Repeat while `condition` holds."""
        with self._collected() as body:
            yield
        self._add(While(number(condition), tuple(body)))

    def leave(self) -> None:
        """Leave the innermost loop."""
        self._add(Break())

    @contextmanager
    def when(self, condition: Scalar) -> Iterator[None]:
        """Only where `condition` holds; it must be the same for all threads of a block."""
        with self._collected() as body:
            yield
        self._add(If(number(condition), tuple(body)))

    @contextmanager
    def group(self, first: int, count: int, registers: int = 0) -> Iterator[None]:
        """For the threads first .. first + count - 1 alone, who count from 0 in there.

        Groups that follow each other run at the same time. Each thread may use so many `registers`.
        """
        with self._collected() as body:
            yield
        self._add(ThreadGroup(first, count, tuple(body), registers))

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """Where the condition of the `when` just before did not hold."""
        last = self._bodies[-1].pop() if self._bodies[-1] else None
        if not isinstance(last, If) or last.otherwise:
            raise TilusError("otherwise: it must follow a `when` directly")
        with self._collected() as body:
            yield
        self._add(replace(last, otherwise=tuple(body)))

    @contextmanager
    def _collected(self) -> Iterator[list[Statement]]:
        body: list[Statement] = []
        self._bodies.append(body)
        yield body
        self._bodies.pop()

    def _add(self, statement: Statement) -> None:
        self._bodies[-1].append(statement)

    def _fresh(self, prefix: str) -> str:
        number = self._counts.get(prefix, 0)
        self._counts[prefix] = number + 1
        return f"{prefix}{number}"

    def finish(self) -> tuple[Statement, ...]:
        """The whole body."""
        return tuple(self._bodies[0])


def opened(inst: Inst) -> Inst:
    """`inst` with a shape in place of a layout read as a layout that is left open."""
    shapes = {f.name: getattr(inst, f.name) for f in fields(inst) if f.type is Layout}  # type: ignore[arg-type]
    given = {name: Open(shape) for name, shape in shapes.items() if isinstance(shape, tuple)}
    return replace(inst, **given) if given else inst  # type: ignore[type-var]


def number(value: Any) -> Any:
    """`value`; what Python knew to be true or false is 1 or 0, in a tuple too."""
    match value:
        case bool():
            return int(value)
        case tuple():
            return tuple(map(number, value))
    return value


PARTS = 2  # the debug level that says what the parts of a compile take


def trace(
    name: str,
    kernel: Callable[..., None],
    parameters: Sequence[Parameter],
    grid: Callable[..., Grid],
    threads: int,
    blocks_per_sm: int = 1,
    cluster: tuple[int, int, int] = ALONE,
) -> Program:
    """The program that `kernel` writes when it is called with a tracer and its parameters.

    An error that it meets ends with the line of the kernel that asked.
    """
    start = time.perf_counter()
    arguments = [Var(p.name) for p in parameters]
    tracer = Tracer(cluster)
    try:
        kernel(tracer, *arguments)
    except TilusError as wrong:
        mark(wrong)
        raise
    body = tracer.finish()
    program = Program(
        name, tuple(parameters), grid(*arguments), threads, body, blocks_per_sm, cluster
    )
    check_names(program)
    if config.DEBUG >= PARTS:
        print(f"{name}: traced in {1e3 * (time.perf_counter() - start):.1f} ms", file=sys.stderr)
    return program
