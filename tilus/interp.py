"""The reference machine: run a program on NumPy arrays. An instruction means its `run`.

Blocks run one after another. Asynchronous copies happen when they are waited for, so that a kernel
that forgets to wait reads garbage here too; fresh shared memory is garbage.

What may have to wait for others is a coroutine (`Waits`): it yields what it waits for, always the
same object until it goes on.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import inf, prod
from typing import Any

import numpy as np

from tilus.dtypes import DType
from tilus.errors import TilusError, asked_by
from tilus.ir import (
    PLAIN,
    Break,
    Do,
    Expr,
    For,
    Global,
    If,
    Let,
    Program,
    Register,
    Scalar,
    Set,
    Shared,
    Statement,
    Swizzle,
    Tensor,
    Var,
    While,
    evaluate,
)
from tilus.isa.base import Inst, Tile
from tilus.limits import check_grid

Arguments = dict[str, Any]  # a flat array in its carrier type for a pointer, an int for an integer


def interpret(program: Program, arguments: Arguments, steps: float = inf) -> None:
    """Run `program` on `arguments`, by parameter name; arrays are written in place.

    `TilusError` after so many `steps` (statements and turns of loops), for programs that may run
    for ever.
    """
    wanted = {p.name for p in program.parameters}
    if set(arguments) != wanted:
        raise TilusError(f"{program.name} takes {sorted(wanted)}, not {sorted(arguments)}")
    scalars = {name: int(v) for name, v in arguments.items() if not isinstance(v, np.ndarray)}
    pointers = {name: v for name, v in arguments.items() if isinstance(v, np.ndarray)}
    extents = [evaluate(extent, scalars) for extent in program.grid]
    check_grid(program.name, (extents[0], extents[1], extents[2]))
    for z, y, x in itertools.product(*(range(n) for n in reversed(extents))):
        env = {**scalars, "block_x": x, "block_y": y, "block_z": z}
        block = RunningBlock(pointers, env, program.threads, steps)
        for waiting in block.run(program.body):
            raise TilusError(f"{program.name} waits for ever: {waiting.what}")
        steps = block.steps


class Waiting:
    """Something that a part of the program waits for, in words."""

    def __init__(self, what: str) -> None:
        self.what = what


Waits = Iterator[Waiting]


@dataclass
class Elements:
    """A tensor in memory: a flat array and the offset of each index."""

    array: Tile
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    swizzle: Swizzle = PLAIN

    def read(self, index: tuple[Tile, ...]) -> Tile:
        inside, offset = self._locate(index)
        values = self.array[np.where(inside, offset, 0)]
        return np.where(inside, values, np.zeros((), values.dtype))

    def write(self, index: tuple[Tile, ...], values: Tile) -> None:
        inside, offset = self._locate(index)
        self.array[offset[inside]] = np.broadcast_to(values, inside.shape)[inside]

    def _locate(self, index: tuple[Tile, ...]) -> tuple[Tile, Tile]:
        inside = np.logical_and.reduce(
            [(i >= 0) & (i < n) for i, n in zip(index, self.shape, strict=True)]
        )
        offset: Any = sum(i * s for i, s in zip(index, self.strides, strict=True))
        if self.swizzle.bits:
            offset = self.swizzle(offset)
        if inside.any() and offset[inside].max() >= self.array.size:
            raise TilusError(
                f"index {offset[inside].max()} of a tensor of shape {self.shape} lies beyond the"
                f" {self.array.size} elements behind its pointer"
            )
        return inside, offset


class Left(Exception):
    """A `break` on its way to its loop."""


@dataclass
class RunningBlock:
    """One thread block: what its names stand for."""

    pointers: dict[str, Tile]
    env: dict[str, int]
    threads: int
    steps: float = inf  # that may still be made
    tiles: dict[str, Tile] = field(default_factory=dict)
    shared: dict[str, Tile] = field(default_factory=dict)
    groups: dict[str, list[list[Callable[[], None]]]] = field(default_factory=dict)

    def run(self, body: tuple[Statement, ...]) -> Waits:
        for statement in body:
            yield from self.step(statement)

    def count(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise TilusError("the program made all the steps that it was given: give it more")

    def step(self, statement: Statement) -> Waits:
        self.count()
        match statement:
            case Do(instruction, out, where):
                assert isinstance(instruction, Inst)
                with asked_by(where):
                    yield from self.perform(instruction, out)
            case Let(var, value) | Set(var, value):
                self.env[var.name] = evaluate(value, self.env)
            case If(condition, then, otherwise):
                yield from self.run(then if evaluate(condition, self.env) else otherwise)
            case Break():
                raise Left
            case For() | While():
                try:
                    yield from self.loop(statement)
                except Left:
                    return

    def loop(self, statement: For | While) -> Waits:
        match statement:
            case For(var, start, stop, _, body):
                for i in range(evaluate(start, self.env), evaluate(stop, self.env)):
                    self.count()
                    self.env[var.name] = i
                    yield from self.run(body)
            case While(condition, body):
                while evaluate(condition, self.env):
                    self.count()
                    yield from self.run(body)

    def perform(self, inst: Inst, out: Tensor | Var | None) -> Waits:
        operands = [self.operand(t) for t in inst.operands]
        valued = replace(inst, **self.valued_fields(inst))  # type: ignore[type-var]
        waiting = Waiting(f"{inst.name} of {valued}")
        while not valued.ready(self, *operands):
            yield waiting
        value = valued.run(self, *operands)
        match out:
            case Register(name):
                self.tiles[name] = value
            case Shared(name):
                self.shared[name] = value
            case Var(name):
                self.env[name] = value

    def operand(self, tensor: Tensor) -> Any:
        match tensor:
            case Register(name):
                return self.tiles[name]
            case Global() | Shared():
                return self.memory(tensor)
        raise AssertionError(tensor)

    def memory(self, tensor: Global | Shared) -> Elements:
        match tensor:
            case Global(_, dtype, shape, strides, pointer):
                array = self.pointers[pointer].view(dtype.carrier)
                return Elements(array, dtype, self.valued(shape), self.valued(strides))
            case Shared(name, dtype, shape, swizzle):
                steps = tuple(prod(shape[d + 1 :]) for d in range(len(shape)))
                return Elements(self.shared[name], dtype, shape, steps, swizzle)

    def valued(self, extents: tuple[Scalar, ...]) -> tuple[int, ...]:
        return tuple(evaluate(e, self.env) for e in extents)

    def valued_fields(self, inst: Inst) -> dict[str, Any]:
        """The fields of `inst` that hold expressions, as numbers (pointers keep their names)."""
        found: dict[str, Any] = {}
        for name, field_value in vars(inst).items():
            match field_value:
                case Var(pointer) if pointer in self.pointers:
                    continue
                case Expr():
                    found[name] = evaluate(field_value, self.env)
                case tuple() if any(isinstance(e, Expr) for e in field_value):
                    found[name] = self.valued(field_value)
        return found

    def defer(self, action: Callable[[], None], kind: str = "copies") -> None:
        self.groups.setdefault(kind, [[]])[-1].append(action)

    def commit(self, kind: str = "copies") -> None:
        self.groups.setdefault(kind, [[]]).append([])

    def wait(self, pending: int, kind: str = "copies") -> None:
        groups = self.groups.setdefault(kind, [[]])
        while len(groups) - 1 > pending:
            for action in groups.pop(0):
                action()

    def pointer(self, name: str) -> Tile:
        return self.pointers[name]

    def allocate(self, dtype: DType, elements: int) -> Tile:
        bytes = elements * np.dtype(dtype.carrier).itemsize
        return np.frombuffer(bytearray(b"\xff" * bytes), dtype.carrier)
