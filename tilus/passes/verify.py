"""Whether a program makes sense, said before anything is made of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tilus.errors import TilusError
from tilus.ir import (
    GRID,
    Break,
    Do,
    For,
    Global,
    If,
    Let,
    Pointer,
    Program,
    Register,
    Set,
    Statement,
    Tensor,
    ThreadGroup,
    Var,
    While,
    inner_bodies,
    walk,
)
from tilus.isa.base import Body, Inst, performed
from tilus.passes.rewrite import reads, site

MOST_STAGES = 16


def verify(program: Program) -> Program:
    """The program itself: every name has one meaning, which what reads it agrees with.

    `TilusError` otherwise, with the statement. All scalars are the same for all threads of a block,
    so a branch is taken by all of them, and may synchronise.
    """
    names = {p.name for p in program.parameters}
    if len(names) < len(program.parameters):
        raise TilusError(f"{program.name}: two parameters have one name: rename one")
    for extent in program.grid:
        if unknown := reads(Let(Var("grid"), extent)) - names:
            raise TilusError(f"{program.name}: the grid reads {sorted(unknown)}: no parameters")
    scalars = {name: Var(name) for name in [*names, *GRID]}
    Scope(program, program.threads, dict(scalars), set(), set(scalars)).check(program.body, False)
    Views(owners(program.body), {}).check(program.body)
    return program


@dataclass(frozen=True)
class Scope:
    """What the statements of a body may name, and which scalars they may set.

    `taken` are the names of the whole program so far: none has two meanings.
    """

    program: Program
    threads: int
    names: dict[str, Tensor | Var]
    lets: set[str]
    taken: set[str]

    def check(self, body: Body, looping: bool) -> None:
        for statement in body:
            self.check_statement(statement, looping)

    def check_statement(self, statement: Statement, looping: bool) -> None:
        self.check_names(statement)
        match statement:
            case Do(_, out):
                self.check_performed(statement)
                if out is not None:
                    self.define(statement, out)
            case Let(var):
                self.define(statement, var)
                self.lets.add(var.name)
            case Set(Var(name)) if name not in self.lets:
                raise wrong(statement, f"{name} is set, and no let has made it: let it first")
            case Break() if not looping:
                raise wrong(statement, "there is no loop to leave")
            case For(var, body=body):
                self.check_bounds(statement)
                self.inner(statement, var).check(body, True)
            case While(_, body):
                self.inner().check(body, True)
            case ThreadGroup(count=count, body=body):
                replace(self.inner(), threads=count).check(body, looping)
            case If():
                for body in inner_bodies(statement):
                    self.inner().check(body, looping)

    def inner(self, statement: Statement | None = None, var: Var | None = None) -> "Scope":
        """The scope of a body inside: what it names is not known outside."""
        scope = replace(self, names=dict(self.names), lets=set(self.lets))
        if statement is not None and var is not None:
            scope.define(statement, var)
        return scope

    def define(self, statement: Statement, value: Tensor | Var) -> None:
        if value.name in self.taken:
            raise wrong(statement, f"{value.name} has a meaning already: take another name")
        self.taken.add(value.name)
        self.names[value.name] = value

    def check_names(self, statement: Statement) -> None:
        unknown = sorted(name for name in reads(statement) if name not in self.names)
        if unknown:
            raise wrong(statement, f"{', '.join(unknown)} has no meaning here: define it before")
        tensors = operands(statement)
        scalars = reads(statement) - {t.name for t in tensors}
        for name in sorted(scalars):
            if isinstance(self.names[name], Tensor):
                raise wrong(statement, f"{name} is a tensor, and a number is asked for")
        for tensor in tensors:
            if self.names[tensor.name] != tensor:
                raise wrong(statement, f"{tensor.name} is {self.names[tensor.name]}, not {tensor}")

    def check_performed(self, statement: Do) -> None:
        inst, out, program = statement.instruction, statement.out, self.program
        assert isinstance(inst, Inst)
        try:
            made = inst.result()
        except TilusError as why:
            raise wrong(statement, str(why)) from why
        if (made is None) != (out is None):
            raise wrong(statement, f"{inst.name} returns {made}, and {out} is named")
        if made is not None and out is not None and replace(made, name=out.name) != out:
            raise wrong(statement, f"{inst.name} returns {made}, not {out}")
        match out:
            case Register(layout=layout) if not layout.is_open and layout.threads > self.threads:
                raise wrong(
                    statement,
                    f"{out.name} lies over {layout.threads} threads, and there are"
                    f" {self.threads}: take fewer, or more for the block",
                )
            case Global(pointer=pointer) if pointer not in pointers(program.parameters):
                raise wrong(statement, f"{pointer} is no pointer of {program.name}")

    def check_bounds(self, loop: For) -> None:
        """The device looks at the end of a loop again and again."""
        changed = {s.var.name for s in walk(loop.body) if isinstance(s, Set)}
        if both := sorted(reads(loop) & changed):
            raise wrong(loop, f"its body sets {', '.join(both)}, which it counts to: let it before")
        if loop.stages not in range(1, MOST_STAGES + 1) or loop.unroll < 0:
            raise wrong(
                loop,
                f"{loop.stages} stages, unroll {loop.unroll}: want 1 to {MOST_STAGES}, and 0 or"
                " more",
            )


@dataclass(frozen=True)
class Views:
    """Which tiles are in the same registers, as the name of the first of them, and those that were
    overwritten under another name since: nobody may read them."""

    owner: dict[str, str]
    lost: dict[str, Do]

    def check(self, body: Body) -> None:
        for statement in body:
            match statement:
                case Do():
                    self.check_performed(statement)
                case For() | While():
                    for _, do in performed(statement.body):
                        self.overwrite(do)  # in the turn before
                    self.check(statement.body)
                case If() | ThreadGroup():
                    for inner in inner_bodies(statement):
                        self.check(inner)

    def check_performed(self, statement: Do) -> None:
        inst, out = statement.instruction, statement.out
        assert isinstance(inst, Inst)
        written = {t.name for t in inst.written}
        for tile in inst.operands:
            if tile.name in self.lost and tile.name not in written:
                raise wrong(
                    statement,
                    f"{tile.name} is in registers that {site(self.lost[tile.name])} has overwritten"
                    " under another name: view the tile again",
                )
        self.overwrite(statement)
        if isinstance(out, Register):
            self.lost.pop(out.name, None)

    def overwrite(self, statement: Do) -> None:
        assert isinstance(statement.instruction, Inst)
        for tile in statement.instruction.written:
            alike = self.owner.get(tile.name)
            for name, owner in self.owner.items():
                if owner == alike and name != tile.name:
                    self.lost[name] = statement


def owners(body: Body) -> dict[str, str]:
    """For every tile the first of those in the same registers."""
    found: dict[str, str] = {}
    for inst, do in performed(body):
        if isinstance(do.out, Register):
            first = inst.operands[0].name if inst.renames else do.out.name
            found[do.out.name] = found.get(first, first)
    return found


def operands(statement: Statement) -> list[Tensor]:
    match statement:
        case Do(Inst() as inst):
            return inst.operands
    return []


def pointers(parameters: Iterable[object]) -> set[str]:
    return {p.name for p in parameters if isinstance(p, Pointer)}


def wrong(statement: Statement, why: str) -> TilusError:
    return TilusError(f"{described(statement)}: {why}")


def described(statement: Statement) -> str:
    """A statement in a few words."""
    match statement:
        case Do():
            return site(statement)
        case Let(var, value):
            return f"{var} = {value}"
        case Set(var, value):
            return f"{var} = {value}"
        case For(var, start, stop):
            return f"for {var} in range({start}, {stop})"
        case While(condition):
            return f"while {condition}"
        case If(condition):
            return f"if {condition}"
    return "break"
