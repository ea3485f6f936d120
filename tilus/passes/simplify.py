"""Less to compute."""

from dataclasses import replace

from tilus.ir import (
    Break,
    For,
    If,
    Let,
    Program,
    Scalar,
    Set,
    Statement,
    While,
    inner_bodies,
    substitute,
    walk,
)
from tilus.isa.base import Body
from tilus.passes.rewrite import reads, rewrite, with_scalars
from tilus.values import runs_once


def simplify(program: Program) -> Program:
    """The same effects from simpler statements: numbers that are known are put where they are read,
    branches that are never taken and scalars that nobody reads go, a loop of one turn is its body.
    """
    while True:
        x, y, z = (substitute(extent, {}) for extent in program.grid)
        simpler = replace(
            program, grid=(x, y, z), body=without_unread(with_constants(program.body))
        )
        if simpler == program:
            return program
        program = simpler


def with_constants(body: Body) -> Body:
    """`body` with the values of lets that are numbers and never change, and what follows."""
    changing = {s.var.name for s in walk(body) if isinstance(s, Set)}
    constants: dict[str, Scalar] = {}
    for statement in walk(body):
        if isinstance(statement, Let) and statement.var.name not in changing:
            value = substitute(statement.value, constants)
            constants |= {statement.var.name: value} if isinstance(value, int) else {}
    simpler = rewrite(body, lambda s: [with_scalars(s, lambda e: substitute(e, constants))])
    return rewrite(simpler, unwrapped)


def unwrapped(statement: Statement) -> Body:
    """What is left of a statement where its condition or its range is known."""
    match statement:
        case If(int(condition), then, otherwise):
            return then if condition else otherwise
        case If(_, (), ()) | While(0, _) | For(body=()):
            return ()
        case For(start=int(start), stop=int(stop)) if stop <= start:
            return ()
        case For(var, start, stop, _, body, 1) if runs_once(start, stop) and not leaves(body):
            return (Let(var, start), *body)
    return (statement,)


def leaves(body: Body) -> bool:
    """Whether a break in `body` leaves the loop that it is the body of."""
    match body:
        case ():
            return False
        case (Break(), *_):
            return True
        case (For() | While(), *rest):
            return leaves(tuple(rest))
        case (statement, *rest):
            return any(map(leaves, inner_bodies(statement))) or leaves(tuple(rest))
    return False


def without_unread(body: Body) -> Body:
    """`body` without the scalars that nobody reads."""
    lets = {s.var.name: reads(s) for s in walk(body) if isinstance(s, Let)}
    read = {s.var.name for s in walk(body) if isinstance(s, Set)}
    read |= {name for s in walk(body) if not isinstance(s, Let) for name in reads(s)}
    found = [*read]
    while found:
        more = lets.get(found.pop(), set()) - read
        read |= more
        found += more
    return rewrite(body, lambda s: () if isinstance(s, Let) and s.var.name not in read else (s,))
