"""What an instruction is.

A subclass of `Inst` states, in one place, everything the system knows about an instruction:

    docstring  what it means, for the manual
    fields     its operands (tensors) and attributes, in call order
    effect     what it does besides returning a value
    whole_block whether all threads of a block must take part, so that no group of them can
    needs      the architectures, any of them, without which there is no code for it
    together   how many neighbouring threads perform it as one
    writes     the fields that hold what it writes, if it writes
    window     the tile of global memory whose edges its field `check` masks
    demands, relates, prefers    how the registers it takes and gives lie over the threads
    result     the type of the value (its name is empty), or None; raises `TilusError` if the
               operands make no sense
    run        its meaning on whole tiles: NumPy in, NumPy out
    ready      whether it can be performed now, or waits for others
    cuda       its code for one thread, written with calls of prelude functions
    completion what to perform until all that it began has happened, where that is later
    samples    small uses of it, for the tests and the manual

The interpreter, the code generator, the passes, the manual and the tests read all they know from
there; none of them knows an instruction by name.
"""

import enum
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform

import numpy as np
import numpy.typing as npt

from tilus.dtypes import DType
from tilus.ir import (
    Do,
    Expr,
    Global,
    Instruction,
    Register,
    Scalar,
    Shared,
    Statement,
    Tensor,
    Var,
    walk,
)
from tilus.layout import Layout
from tilus.target import OLDEST, Target

ISA: dict[str, type["Inst"]] = {}

Tile = npt.NDArray[Any]  # a whole tile, in its dtype's carrier type
Result = Tensor | Var | None
Known = dict[str, Layout]  # layouts by the names of registers; that of the result has the name ""
Window = tuple[Global, tuple[Scalar, ...], tuple[int, ...]]  # a tensor, a corner and a shape


class Effect(enum.Flag):
    PURE = 0
    READS = enum.auto()  # memory that others may write
    WRITES = enum.auto()  # memory, or an operand's registers
    SYNC = enum.auto()  # the order in which others see memory


@dataclass(frozen=True)
class Local(Expr):
    """A scalar of generated text, by its name there. No program holds one."""

    name: str

    def __str__(self) -> str:
        return self.name


class Memory(Protocol):
    """A tensor in global or shared memory, as `run` sees it."""

    shape: tuple[int, ...]
    dtype: DType
    array: Tile  # the elements as they lie, or their bytes below 8 bits

    def read(self, index: tuple[Tile, ...]) -> Tile:
        """The elements at `index`; those outside the shape are zero."""

    def write(self, index: tuple[Tile, ...], values: Tile) -> None:
        """Store `values` at `index`; those outside the shape are dropped."""


class Block(Protocol):
    """The running thread block, or group of its threads, as `run` sees it."""

    threads: int

    def defer(self, action: Callable[[], None], kind: str = "copies") -> None:
        """Put an asynchronous copy, or another kind, into its open group: it happens when it is
        waited for."""

    def commit(self, kind: str = "copies") -> None:
        """Close the open group."""

    def wait(self, pending: int, kind: str = "copies") -> None:
        """Let all but the newest `pending` groups happen."""

    def pointer(self, name: str) -> Tile:
        """The flat array that a pointer parameter stands for."""

    def meet(self) -> bool:
        """Come to the cluster's next meeting; whether all its blocks are there."""

    def of_peer(self, rank: int, tensor: Shared) -> Memory:
        """What `tensor` is in another block of the cluster."""

    @property
    def index(self) -> tuple[int, int, int]:
        """Which block of the grid this is."""

    def print(self, text: str) -> None:
        """Show a text and end the line."""

    def exit(self) -> None:
        """End the block."""

    def allocate(self, dtype: DType, elements: int) -> Tile:
        """New shared memory, full of garbage."""


@dataclass(frozen=True)
class TensorMap:
    """What the copy engine is told of the tensor behind `pointer`: elements of so many `bytes`, the
    box to move, and by how many bytes a box is swizzled in shared memory, 0 for not at all."""

    pointer: str
    bytes: int
    shape: tuple[Scalar, ...]
    strides: tuple[Scalar, ...]
    box: tuple[int, ...]
    swizzle: int


class Writer(Protocol):
    """The CUDA text of one program, as `cuda` sees it."""

    threads: int  # of the block, or of the group
    barrier: int  # at which they synchronise: 0 is that of the block
    target: Target
    facts: dict[str, int]  # what divides each variable

    def line(self, text: str) -> None:
        """Add a line of code."""

    def scope(self, opening: str = "") -> AbstractContextManager[None]:
        """Braces around the lines written inside."""

    def expr(self, e: Scalar) -> str:
        """`e` in C, a 32-bit int."""

    def words(self, t: Register) -> str:
        """The name of the array of 32-bit words that holds a thread's part of `t`."""

    def alias(self, new: Register, old: Register) -> None:
        """Let `new` name the words of `old`."""

    def base(self, t: Global | Shared) -> str:
        """A byte pointer to the first element of `t`."""

    def define(self, t: Global | Shared, code: str) -> None:
        """Let `base(t)` be `code`."""

    def tensor_map(self, map: TensorMap) -> str:
        """The name of the parameter that brings the map, whose numbers follow from parameters."""

    def reserve(self, bytes: int) -> int:
        """The offset of so many new bytes of shared memory, 128-byte aligned."""


class Inst(Instruction):
    name: ClassVar[str]
    effect: ClassVar[Effect] = Effect.PURE
    whole_block: ClassVar[bool] = False
    needs: tuple[str, ...] = (OLDEST.name,)  # or a property, where the operands decide
    together: ClassVar[int] = 1
    writes: ClassVar[tuple[str, ...]] = ("dst",)
    closes_group: ClassVar[bool] = False  # of asynchronous copies
    meets: ClassVar[bool] = False  # all threads of the block arrive before any goes on
    renames: ClassVar[bool] = False  # its result is in the registers of its operand

    @property
    def asynchronous(self) -> bool:
        """Whether it joins the open group of asynchronous copies."""
        return any(step.closes_group for step in self.completion())

    @property
    def completes(self) -> bool:
        """Whether all closed groups of asynchronous copies are complete after it."""
        return False

    def result(self) -> Result:
        """The type of what the instruction returns; `TilusError` where the operands don't fit."""
        raise NotImplementedError(f"{self.name} states no result")

    def run(self, block: Block, *operands: Any) -> Any:
        """The meaning, on whole tiles (registers) and `Memory` (global, shared)."""
        raise NotImplementedError(f"{self.name} states no meaning")

    def ready(self, block: Block, *operands: Any) -> bool:
        """Whether it can be performed now, or has to wait until others have done something."""
        return True

    def cuda(self, cu: Writer, out: Any) -> None:
        """The code of one thread; `out` is the named result."""
        raise NotImplementedError(f"{self.name} states no code")

    def window(self) -> Window | None:
        """The tile of global memory that it touches, if it has a field `check`."""
        return None

    def demands(self, known: Known, threads: int) -> Known:
        """Layouts without which there is no code for it."""
        return {}

    def relates(self, known: Known) -> Known:
        """Layouts that follow from those that are known."""
        return {}

    def prefers(self, threads: int) -> Known:
        """Layouts with which it is fast."""
        return {}

    @classmethod
    def samples(cls) -> list["Inst"]:
        """Small uses, their operands distinct and named."""
        raise NotImplementedError(f"{cls.name} has no samples")

    def completion(self) -> list["Inst"]:
        """What a program performs, in order, until all that this one began has happened."""
        return []

    @property
    def operands(self) -> list[Tensor]:
        """The tensors among the fields, in order, tuples opened."""
        return tensors(getattr(self, f.name) for f in fields(self))  # type: ignore[arg-type]

    @property
    def undecided(self) -> bool:
        """Whether the layout of an operand, or of what it is to return, is still open."""
        layouts = [t.layout for t in self.operands if isinstance(t, Register)]
        layouts += [v for v in vars(self).values() if isinstance(v, Layout)]
        return any(layout.is_open for layout in layouts)

    @property
    def written(self) -> list[Tensor]:
        """The operands that it changes."""
        if Effect.WRITES not in self.effect:
            return []
        return tensors(getattr(self, name) for name in self.writes)


def tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among `values`, tuples opened."""
    flat = [x for v in values for x in (v if isinstance(v, tuple) else (v,))]
    return [x for x in flat if isinstance(x, Tensor)]


def performed(body: tuple[Statement, ...]) -> Iterator[tuple[Inst, Do]]:
    """Every instruction of `body` and what is in it, in program order."""
    for statement in walk(body):
        if isinstance(statement, Do):
            assert isinstance(statement.instruction, Inst)
            yield statement.instruction, statement


Body = tuple[Statement, ...]


def split_copies(body: Body) -> tuple[Body, Body]:
    """`body` cut behind the last statement with an asynchronous copy in it."""
    copies = [
        i for i, s in enumerate(body) if any(inst.asynchronous for inst, _ in performed((s,)))
    ]
    cut = copies[-1] + 1 if copies else 0
    return body[:cut], body[cut:]


InstType = TypeVar("InstType", bound=Inst)


@dataclass_transform(frozen_default=True)
def instruction(cls: type[InstType]) -> type[InstType]:
    """Make `cls` a frozen dataclass and enter it in the ISA under its snake-case name."""
    cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
    assert cls.__doc__, f"{cls.name} needs a docstring: it is its page in the manual"
    ISA[cls.name] = made = dataclass(frozen=True)(cls)
    return made


def every(layout: Any) -> tuple[Tile, ...]:
    """Index arrays of shape (threads, registers) that pick a tile apart, thread by thread."""
    index = layout(np.arange(layout.threads)[:, None], np.arange(layout.registers)[None, :])
    return tuple(np.broadcast_to(i, (layout.threads, layout.registers)) for i in index)
