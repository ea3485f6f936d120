"""Whether a program makes sense as a whole: what is named, where, as what, and how much of it.

Everything that a name means follows from the statement that introduced it. A name is introduced
once in a program and has its meaning until its body ends, as in C.
"""

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from tilus.errors import TilusError, asked_by
from tilus.groups import check_groups
from tilus.ir import (
    GRID,
    Binary,
    Break,
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
    Var,
    While,
    inner_bodies,
    variables,
)
from tilus.isa.base import Inst
from tilus.limits import (
    BLOCKS_PER_SM,
    NESTING,
    SHARED,
    STATEMENTS,
    THREADS,
    UNROLL,
    require,
)
from tilus.names import check_name, check_names
from tilus.nodes import check_at_least, checked, declarations, shown

WARP = 32

Meaning = Tensor | str  # a scalar is one of these words
POINTER, CONSTANT, VARIABLE = "a pointer", "a constant", "a variable"


def check_program(program: Program) -> None:
    """`TilusError` unless the program is well formed and within the limits."""
    checked(program)
    check_names(program)
    require(THREADS, program.threads, program.name)
    require(BLOCKS_PER_SM, program.blocks_per_sm, program.name)
    check_at_least(1, program.blocks_per_sm, f"{program.name}: blocks_per_sm")
    if program.threads < 1 or program.threads % WARP:
        raise TilusError(
            f"{program.name} has {program.threads} threads: want whole warps of {WARP}"
        )
    for blocks in program.cluster:
        check_at_least(1, blocks, f"{program.name}: cluster")
    walker = Walker()
    scope: dict[str, Meaning] = dict.fromkeys(GRID, CONSTANT)
    for parameter in program.parameters:
        checked(parameter)
        if isinstance(parameter, Integer):
            check_at_least(1, parameter.multiple_of, f"{parameter.name}: multiple_of")
        walker.introduce(
            parameter.name, POINTER if isinstance(parameter, Pointer) else CONSTANT, scope
        )
    for extent in program.grid:
        walker.check_scalar(extent, scope)
        if not variables(extent) <= {p.name for p in program.parameters}:
            raise TilusError(f"{program.name}: the grid {extent} reads more than parameters")
    walker.check_body(program.body, scope, loops=0, depth=1)
    check_groups(program)


@dataclass
class Walker:
    """Goes through a program once; `introduced` holds every name so far."""

    introduced: set[str] = field(default_factory=set)
    statements: int = 0
    shared_bytes: int = 0

    def check_body(
        self, body: tuple[Statement, ...], outer: dict[str, Meaning], loops: int, depth: int
    ) -> None:
        require(NESTING, depth, "a body")
        scope = dict(outer)
        for statement in body:
            self.statements += 1
            require(STATEMENTS, self.statements, "the program")
            checked(statement)
            self.check_statement(statement, scope, loops)
            inside = loops + isinstance(statement, For | While)
            if isinstance(statement, For):
                self.introduce(statement.var.name, CONSTANT, scope)
            for inner in inner_bodies(statement):
                self.check_body(inner, scope, inside, depth + 1)
            if isinstance(statement, For):
                del scope[statement.var.name]

    def check_statement(self, statement: Statement, scope: dict[str, Meaning], loops: int) -> None:
        match statement:
            case Do(_, _, where):
                with asked_by(where):
                    self.check_instruction(statement, scope)
            case Let(Var(name), value):
                self.check_scalar(value, scope)
                self.introduce(name, VARIABLE, scope)
            case Set(Var(name), value):
                self.check_scalar(value, scope)
                if scope.get(name) != VARIABLE:
                    raise TilusError(
                        f"{name} is {told(scope.get(name))}: only what a `let` named can be set"
                    )
            case For(_, start, stop, unroll):
                self.check_scalar(start, scope)
                self.check_scalar(stop, scope)
                check_unroll(start, stop, unroll)
            case While(condition) | If(condition):
                self.check_scalar(condition, scope)
            case Break() if not loops:
                raise TilusError("a break outside of a loop: there is nothing to leave")

    def check_instruction(self, statement: Do, scope: dict[str, Meaning]) -> None:
        inst, out = statement.instruction, statement.out
        if not isinstance(inst, Inst):
            raise TilusError(f"not an instruction: {shown(inst)}")
        checked(inst)
        for name, declared in declarations(type(inst)).items():  # type: ignore[arg-type]
            value = getattr(inst, name)
            if declared is Var and scope.get(value.name) != POINTER:
                raise TilusError(f"{inst.name}: {value} is {told(scope.get(value.name))}, not"
                                 " a pointer parameter")  # fmt: skip
            for each in () if declared is Var else flat(value):
                self.check_operand(inst, each, scope)
        made = inst.result()
        named = made
        if isinstance(made, Tensor | Var) and isinstance(out, Tensor | Var):
            named = replace(made, name=out.name)
        if named != out:
            raise TilusError(f"{inst.name} returns {shown(made)}, not {shown(out)}")
        match out:
            case Shared(name, dtype, shape):
                views = any(isinstance(t, Shared) for t in inst.operands)
                self.shared_bytes += 0 if views else -(-prod(shape) * dtype.bits // 8)
                require(SHARED, self.shared_bytes, name)
        match out:
            case Tensor(name):
                self.introduce(name, out, scope)
            case Var(name):
                self.introduce(name, CONSTANT, scope)

    def check_operand(self, inst: Inst, value: Any, scope: dict[str, Meaning]) -> None:
        match value:
            case Tensor(name):
                if scope.get(name) != value:
                    raise TilusError(f"{inst.name}: {shown(value)} is {told(scope.get(name))} here")
            case Var() | Binary():
                self.check_scalar(value, scope)

    def check_scalar(self, e: Scalar, scope: dict[str, Meaning], depth: int = 1) -> None:
        """Every name in `e` is that of a scalar."""
        require(NESTING, depth, "an expression")
        match checked(e) if not isinstance(e, int) else e:
            case Var(name) if scope.get(name) not in (CONSTANT, VARIABLE):
                raise TilusError(f"{name} is {told(scope.get(name))} here, not a scalar")
            case Binary(_, a, b):
                self.check_scalar(a, scope, depth + 1)
                self.check_scalar(b, scope, depth + 1)

    def introduce(self, name: str, meaning: Meaning, scope: dict[str, Meaning]) -> None:
        check_name(name, "a tensor or a scalar")
        if name in self.introduced:
            raise TilusError(f"{name} is named twice: take another name for one of them")
        self.introduced.add(name)
        scope[name] = meaning


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


def told(meaning: Meaning | None) -> str:
    """What a name means, for messages."""
    match meaning:
        case None:
            return "not known"
        case Tensor():
            return f"a tensor {shown(meaning)}"
    return meaning
