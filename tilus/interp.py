"""The reference machine: run a program on NumPy arrays. An instruction means its `run`.

Blocks run one after another. Asynchronous copies happen when they are waited for, so that a kernel
that forgets to wait reads garbage here too; fresh shared memory is garbage.

What may have to wait for others is a coroutine (`Waits`): it yields what it waits for, always the
same object until it goes on.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf, prod
from typing import Any, TextIO

import numpy as np

from tilus.dtypes import DType
from tilus.errors import TilusError, asked_by
from tilus.groups import check_clusters, check_groups, side_by_side
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
    ThreadGroup,
    Var,
    While,
    evaluate,
)
from tilus.isa.base import Inst, Tile, split_copies
from tilus.limits import check_grid

# for a pointer a flat array in its carrier type, packed bytes below 8 bits; an int for an integer
Arguments = dict[str, Any]


def interpret(program: Program, arguments: Arguments, steps: float = inf) -> None:
    """Run `program` on `arguments`, by parameter name; arrays are written in place.

    `TilusError` after so many `steps` (statements and turns of loops), for programs that may run
    for ever.
    """
    wanted = {p.name for p in program.parameters}
    if set(arguments) != wanted:
        raise TilusError(f"{program.name} takes {sorted(wanted)}, not {sorted(arguments)}")
    check_groups(program)
    scalars = {name: int(v) for name, v in arguments.items() if not isinstance(v, np.ndarray)}
    pointers = {name: v for name, v in arguments.items() if isinstance(v, np.ndarray)}
    extents = [evaluate(extent, scalars) for extent in program.grid]
    check_grid(program.name, (extents[0], extents[1], extents[2]))
    check_clusters(program, extents)
    budget = Steps(steps)
    turns = (range(0, n, step) for n, step in zip(extents, program.cluster, strict=True))
    for corner in itertools.product(*reversed(list(turns))):
        cluster: list[RunningBlock] = []
        for moved in itertools.product(*(range(n) for n in reversed(program.cluster))):
            z, y, x = (a + b for a, b in zip(corner, moved, strict=True))
            env = {**scalars, "block_x": x, "block_y": y, "block_z": z}
            cluster.append(RunningBlock(pointers, env, program.threads, cluster, budget))
        for waiting in together([block.whole(program.body) for block in cluster]):
            raise TilusError(f"{program.name} waits for ever: {waiting.what}")


@dataclass
class Steps:
    """How many steps may still be made, by all blocks together."""

    left: float

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TilusError("the program made all the steps that it was given: give it more")


class Waiting:
    """Something that a part of the program waits for, in words."""

    def __init__(self, what: str) -> None:
        self.what = what


Waits = Iterator[Waiting]


def together(parts: list[Waits]) -> Waits:
    """Run all in turns, each until it has to wait; wait where none of them goes on."""
    held: dict[Waits, Waiting | None] = dict.fromkeys(parts)
    waiting: Waiting | None = None
    while held:
        now = {part: next(part, None) for part in held}
        stuck = now == held
        held = {part: what for part, what in now.items() if what is not None}
        if stuck and held:
            waiting = waiting or Waiting(", and ".join(w.what for w in held.values() if w))
            yield waiting
        else:
            waiting = None


@dataclass
class Elements:
    """A tensor in memory: a flat array and the offset of each index.

    Elements of less than a byte lie packed in an array of bytes, as `dtype.pack` does it.
    """

    array: Tile
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    swizzle: Swizzle = PLAIN

    def read(self, index: tuple[Tile, ...]) -> Tile:
        inside, offset = self._locate(index)
        values = self._held(np.where(inside, offset, 0))
        return np.where(inside, values, np.zeros((), values.dtype))

    def write(self, index: tuple[Tile, ...], values: Tile) -> None:
        inside, offset = self._locate(index)
        self._hold(offset[inside], np.broadcast_to(values, inside.shape)[inside])

    def _held(self, offset: Tile) -> Tile:
        bits = self.dtype.bits
        if bits >= 8:
            return np.asarray(self.array[offset])
        place = offset * bits
        low, high = place // 8, np.minimum(place // 8 + 1, self.array.size - 1)
        both = self.array[low] | self.array[high].astype(np.uint16) << 8
        return np.asarray(both >> place % 8 & (1 << bits) - 1).astype(np.uint8)

    def _hold(self, offset: Tile, values: Tile) -> None:
        bits = self.dtype.bits
        if bits >= 8:
            self.array[offset] = values
            return
        for bit in range(bits):  # several elements may lie in one byte
            place = offset * bits + bit
            mask = np.uint8(1) << (place % 8).astype(np.uint8)
            np.bitwise_and.at(self.array, place // 8, ~mask)
            np.bitwise_or.at(self.array, place // 8, mask * (values >> bit & 1))

    def _locate(self, index: tuple[Tile, ...]) -> tuple[Tile, Tile]:
        inside = np.logical_and.reduce(
            [(i >= 0) & (i < n) for i, n in zip(index, self.shape, strict=True)]
        )
        offset: Any = sum(i * s for i, s in zip(index, self.strides, strict=True))
        if self.swizzle.bits:
            offset = self.swizzle(offset)
        elements = (
            self.array.size * 8 // self.dtype.bits if self.dtype.bits < 8 else self.array.size
        )
        if inside.any() and offset[inside].max() >= elements:
            raise TilusError(
                f"index {offset[inside].max()} of a tensor of shape {self.shape} lies beyond the"
                f" {elements} elements behind its pointer"
            )
        return inside, offset


class Ended(Exception):
    """An `exit` on its way out of the block."""


class Left(Exception):
    """A `break` on its way to its loop."""


@dataclass
class RunningBlock:
    """One thread block: what its names stand for."""

    pointers: dict[str, Tile]
    env: dict[str, int]
    threads: int
    cluster: list["RunningBlock"]
    steps: "Steps"
    meetings: int = 0  # of the cluster that it came to, and that it left
    left: int = 0
    tiles: dict[str, Tile] = field(default_factory=dict)
    shared: dict[str, Tile] = field(default_factory=dict)
    groups: dict[str, list[list[Callable[[], None]]]] = field(default_factory=dict)
    output: TextIO | None = None  # of what is printed; None is stdout

    def whole(self, body: tuple[Statement, ...]) -> Waits:
        """All that the block does, to its end or its `exit`."""
        with suppress(Ended):
            yield from self.run(body)

    def run(self, body: tuple[Statement, ...]) -> Waits:
        for statement in side_by_side(body):
            match statement:
                case list(groups):
                    yield from together([self.part(group) for group in groups])
                case _:
                    yield from self.step(statement)

    def part(self, group: ThreadGroup) -> Waits:
        """A group of the block's threads, with asynchronous copies of its own."""
        part = replace(self, threads=group.count, groups={})
        yield from part.run(group.body)

    def step(self, statement: Statement) -> Waits:
        self.steps.count()
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
            case For(var, start, stop, _, body, stages):
                copies, rest = split_copies(body) if stages > 1 else ((), body)
                for i in range(evaluate(start, self.env), evaluate(stop, self.env)):
                    self.steps.count()
                    self.env[var.name] = i
                    yield from self.run(copies)
                    if copies:
                        self.commit()
                        self.wait(0)
                    yield from self.run(rest)
            case While(condition, body):
                while evaluate(condition, self.env):
                    self.steps.count()
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

    def meet(self) -> bool:
        if self.meetings == self.left:
            self.meetings += 1
        if any(other.meetings < self.meetings for other in self.cluster):
            return False
        self.left = self.meetings
        return True

    def of_peer(self, rank: int, tensor: Shared) -> Elements:
        if not 0 <= rank < len(self.cluster):
            raise TilusError(f"block {rank} of a cluster of {len(self.cluster)}: count from 0")
        if tensor.name not in self.cluster[rank].shared:
            raise TilusError(f"block {rank} has no {tensor.name} yet: synchronize_cluster first")
        return self.cluster[rank].memory(tensor)

    def pointer(self, name: str) -> Tile:
        return self.pointers[name]

    @property
    def index(self) -> tuple[int, int, int]:
        return self.env["block_x"], self.env["block_y"], self.env["block_z"]

    def print(self, text: str) -> None:
        print(text, file=self.output or sys.stdout)

    def exit(self) -> None:
        raise Ended

    def allocate(self, dtype: DType, elements: int) -> Tile:
        bytes = -(-elements * dtype.bits // 8)
        return np.frombuffer(bytearray(b"\xff" * bytes), dtype.carrier)
