"""Making a program out of another: what every pass is written with."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tilus.ir import (
    Do,
    Expr,
    For,
    Global,
    If,
    Let,
    Program,
    Scalar,
    Set,
    Statement,
    Tensor,
    ThreadGroup,
    Var,
    While,
    variables,
    walk,
)
from tilus.isa.base import Body, Inst

Rule = Callable[[Statement], Iterable[Statement]]


def rewrite(body: Body, rule: Rule) -> Body:
    """`body` with what `rule` makes of each statement in its place, inner statements first."""
    return tuple(
        new
        for statement in body
        for new in rule(with_bodies(statement, lambda inner: rewrite(inner, rule)))
    )


def with_bodies(statement: Statement, change: Callable[[Body], Body]) -> Statement:
    """`statement` with `change` of the bodies that it holds."""
    match statement:
        case For() | While() | ThreadGroup():
            return replace(statement, body=change(statement.body))
        case If():
            then, otherwise = change(statement.then), change(statement.otherwise)
            return replace(statement, then=then, otherwise=otherwise)
    return statement


def with_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` of the expressions and tensors in it; opens instructions and tuples."""
    match value:
        case Expr() | Tensor():
            return change(value)
        case tuple():
            return tuple(with_leaves(v, change) for v in value)
        case Inst():
            return replace(value, **{k: with_leaves(v, change) for k, v in vars(value).items()})  # type: ignore[type-var]
    return value


def with_scalars(statement: Statement, change: Callable[[Scalar], Scalar]) -> Statement:
    """`statement` with `change` of the scalars that it reads itself, those of tensors too."""

    def leaf(value: Any) -> Any:
        match value:
            case Global(shape=shape, strides=strides):
                shape, strides = with_leaves(shape, change), with_leaves(strides, change)
                return replace(value, shape=shape, strides=strides)
            case Tensor():
                return value
        return change(value)

    match statement:
        case Do(instruction, out):
            named = out if isinstance(out, Var) else with_leaves(out, leaf)
            return replace(statement, instruction=with_leaves(instruction, leaf), out=named)
        case Let() | Set():
            return replace(statement, value=change(statement.value))
        case For():
            return replace(statement, start=change(statement.start), stop=change(statement.stop))
        case While() | If():
            return replace(statement, condition=change(statement.condition))
    return statement


def reads(statement: Statement) -> set[str]:
    """The names that `statement` reads itself, and those of what it writes into."""
    names: set[str] = set()

    def note(e: Scalar) -> Scalar:
        names.update(variables(e))
        return e

    with_scalars(statement, note)
    if isinstance(statement, Do):
        assert isinstance(statement.instruction, Inst)
        names.update(t.name for t in statement.instruction.operands)
    return names


def remade(body: Body, change: Callable[[Inst, Do], Inst]) -> Body:
    """`body` with `change` of every instruction; the results that follow from it are made anew."""
    now: dict[str, Tensor] = {}

    def current(value: Any) -> Any:
        return now.get(value.name, value) if isinstance(value, Tensor) else value

    def rule(statement: Statement) -> list[Statement]:
        if not isinstance(statement, Do):
            return [statement]
        inst = change(with_leaves(statement.instruction, current), statement)
        out = statement.out
        if isinstance(out, Tensor):
            out = now[out.name] = named(inst, out.name)
        return [replace(statement, instruction=inst, out=out)]

    return rewrite(body, rule)


def named(inst: Inst, name: str) -> Tensor:
    """What `inst` returns, under a name."""
    out = inst.result()
    assert isinstance(out, Tensor), f"{inst.name} returns no tensor"
    return replace(out, name=name)


def defined(statement: Statement) -> str | None:
    """The name that `statement` gives a meaning to."""
    match statement:
        case Do(_, Tensor(name) | Var(name)) | Let(Var(name)) | For(Var(name)):
            return name
    return None


def renamed(body: Body, names: dict[str, str]) -> Body:
    """`body` with other names for what it reads and defines."""

    def leaf(value: Any) -> Any:
        match value:
            case Global(name, shape=shape, strides=strides):
                return replace(
                    value,
                    name=names.get(name, name),
                    shape=with_leaves(shape, leaf),
                    strides=with_leaves(strides, leaf),
                )
            case Tensor(name) | Var(name):
                return replace(value, name=names.get(name, name))
        return replace(value, a=with_leaves(value.a, leaf), b=with_leaves(value.b, leaf))

    def rule(statement: Statement) -> list[Statement]:
        match statement:
            case Do(instruction, out):
                inst = with_leaves(instruction, leaf)
                return [replace(statement, instruction=inst, out=with_leaves(out, leaf))]
            case Let(var) | Set(var) | For(var):
                statement = replace(statement, var=leaf(var))
        return [with_scalars(statement, lambda e: with_leaves(e, leaf))]

    return rewrite(body, rule)


class Names:
    """Names that `program` does not use yet, numbered on."""

    def __init__(self, program: Program) -> None:
        taken = [defined(s) or "" for s in walk(program.body)]
        numbered = [re.fullmatch(r"[a-z](\d+)", name) for name in taken]
        self.next = 1 + max((int(m[1]) for m in numbered if m), default=-1)

    def fresh(self, like: str) -> str:
        """A name with the first letter of `like`."""
        self.next += 1
        return f"{like[0]}{self.next - 1}"


def site(statement: Do) -> str:
    """An instruction as an error names it: what it returns, its name, the line that asked."""
    inst, out = statement.instruction, statement.out
    assert isinstance(inst, Inst)
    returned = f"{out.name} = " if out is not None else ""
    return f"{returned}{inst.name}(...)" + (f" [{statement.where}]" if statement.where else "")
