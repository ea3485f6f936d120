"""Whether a program may be generated and compiled: it is small enough, its names are words, and it
makes sense.

What reads a program asks this, and a compile does. The limits come first, so that the rest may walk
the program and ask its instructions what they return.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from tilus.errors import TilusError, asked_by
from tilus.groups import check_groups
from tilus.ir import (
    Binary,
    Do,
    For,
    If,
    Integer,
    Let,
    Pointer,
    Program,
    Scalar,
    Set,
    Shared,
    Statement,
    Tensor,
    ThreadGroup,
    Var,
    While,
    inner_bodies,
)
from tilus.isa.base import Inst
from tilus.limits import BLOCKS_PER_SM, NESTING, SHARED, STATEMENTS, THREADS, UNROLL, require
from tilus.names import check_name, check_names
from tilus.nodes import check_at_least, checked, declarations, shown
from tilus.passes.verify import verify

WARP = 32


def check_program(program: Program) -> None:
    """`TilusError` unless the program is well formed and within the limits."""
    checked(program)
    check_names(program)
    require(THREADS, program.threads, program.name)
    require(BLOCKS_PER_SM, program.blocks_per_sm, program.name)
    check_at_least(1, program.blocks_per_sm, f"{program.name}: blocks_per_sm")
    for blocks in program.cluster:
        check_at_least(1, blocks, f"{program.name}: cluster")
    if program.threads < 1 or program.threads % WARP:
        raise TilusError(
            f"{program.name} has {program.threads} threads: want whole warps of {WARP}"
        )
    for parameter in program.parameters:
        checked(parameter)
        if isinstance(parameter, Integer):
            check_at_least(1, parameter.multiple_of, f"{parameter.name}: multiple_of")
    measure = Measure({p.name for p in program.parameters if isinstance(p, Pointer)})
    for extent in program.grid:
        measure.check_scalar(extent)
    measure.check_body(program.body)
    verify(program)
    check_groups(program)


@dataclass
class Measure:
    """Counts what a program has of everything; `pointers` are the names that are no scalars."""

    pointers: set[str]
    statements: int = 0
    shared_bytes: int = 0

    def check_body(self, body: tuple[Statement, ...], depth: int = 1) -> None:
        require(NESTING, depth, "a body")
        for statement in body:
            self.statements += 1
            require(STATEMENTS, self.statements, "the program")
            checked(statement)
            self.check_statement(statement)
            for inner in inner_bodies(statement):
                self.check_body(inner, depth + 1)

    def check_statement(self, statement: Statement) -> None:
        match statement:
            case Do(_, _, where):
                with asked_by(where):
                    self.check_instruction(statement)
            case Let(Var(name), value):
                check_name(name, "a scalar")
                self.check_scalar(value)
            case Set(_, value):
                self.check_scalar(value)
            case For(Var(name), start, stop, unroll):
                check_name(name, "a scalar")
                self.check_scalar(start)
                self.check_scalar(stop)
                check_unroll(start, stop, unroll)
            case While(condition) | If(condition):
                self.check_scalar(condition)
            case ThreadGroup(first, count):
                check_at_least(0, first, "a group")
                check_at_least(1, count, "a group")

    def check_instruction(self, statement: Do) -> None:
        inst, out = statement.instruction, statement.out
        if not isinstance(inst, Inst):
            raise TilusError(f"not an instruction: {shown(inst)}")
        checked(inst)
        for name, declared in declarations(type(inst)).items():  # type: ignore[arg-type]
            value = getattr(inst, name)
            if declared is Var and value.name not in self.pointers:
                raise TilusError(f"{inst.name}: {value} is not a pointer parameter")
            for each in () if declared is Var else flat(value):
                if isinstance(each, Var | Binary):
                    self.check_scalar(each)
        match out:
            case Tensor(name) | Var(name):
                check_name(name, "a tensor or a scalar")
        match out:
            case Shared(name, dtype, shape):
                views = any(isinstance(t, Shared) for t in inst.operands)
                self.shared_bytes += 0 if views else -(-prod(shape) * dtype.bits // 8)
                require(SHARED, self.shared_bytes, name)

    def check_scalar(self, e: Scalar, depth: int = 1) -> None:
        """`e` is made of numbers and names of scalars, and not too deep."""
        require(NESTING, depth, "an expression")
        match checked(e) if not isinstance(e, int) else e:
            case Var(name) if name in self.pointers:
                raise TilusError(f"{name} is a pointer here, not a scalar")
            case Binary(_, a, b):
                self.check_scalar(a, depth + 1)
                self.check_scalar(b, depth + 1)


def check_unroll(start: Scalar, stop: Scalar, unroll: int) -> None:
    """A compiler can make so many copies of the body, and knows how many."""
    check_at_least(0, unroll, "unroll")
    require(UNROLL, unroll, "unroll")
    if unroll:
        return
    if not (isinstance(start, int) and isinstance(stop, int)):
        raise TilusError(
            f"range({start}, {stop}): it can be unrolled whole only if both are numbers: unroll it"
            " by a number"
        )
    require(UNROLL, stop - start, f"range({start}, {stop})")


def flat(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
