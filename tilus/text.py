"""The canonical text of a program, and back: from_text(to_text(p)) == p.

The text is written in Python's grammar and read with Python's own parser, but nothing in it is ever
executed: it may only name instructions, types, layouts and its own variables. What an instruction
returns follows from its operands and is not written down. The first assignment of a scalar
introduces it, later ones set it.
"""

import ast
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

from tilus.dtypes import DType, dtype
from tilus.errors import TilusError
from tilus.ir import (
    ALONE,
    GRID,
    Binary,
    Break,
    Do,
    Expr,
    For,
    If,
    Integer,
    Let,
    Parameter,
    Pointer,
    Program,
    Scalar,
    Set,
    Statement,
    Swizzle,
    Tensor,
    ThreadGroup,
    Var,
    While,
)
from tilus.isa import ISA, Inst
from tilus.layout import Layout, Open, layout

INDENT = "    "
LONGEST = 1 << 22  # characters of a program that is read
SHOWN = 80  # characters of it in an error
DEEPEST = 64  # statements or expressions inside each other


def to_text(program: Program) -> str:
    """The canonical text."""
    parameters = ", ".join(parameter_text(p) for p in program.parameters)
    cluster = "" if program.cluster == ALONE else f", cluster={program.cluster}"
    lines = [
        f"@program(grid={value_text(program.grid)}, threads={program.threads},"
        f" blocks_per_sm={program.blocks_per_sm}{cluster})",
        f"def {program.name}({parameters}):",
        *body_text(program.body, 1),
    ]
    return "\n".join(lines) + "\n"


def program_hash(program: Program) -> str:
    """SHA-256 of the canonical text."""
    return hashlib.sha256(to_text(program).encode()).hexdigest()


def parameter_text(p: Parameter) -> str:
    match p:
        case Pointer(name, of):
            return f"{name}: pointer({of})"
        case Integer(name, multiple_of):
            return f"{name}: integer({multiple_of})"


def body_text(body: tuple[Statement, ...], depth: int) -> list[str]:
    lines = [line for statement in body for line in statement_text(statement, depth)]
    return lines or [f"{INDENT * depth}pass"]


def statement_text(statement: Statement, depth: int) -> list[str]:
    pad = INDENT * depth
    match statement:
        case Do(instruction, out):
            assert isinstance(instruction, Inst)
            call = instruction_text(instruction)
            return [f"{pad}{call}" if out is None else f"{pad}{out.name} = {call}"]
        case Let(var, value) | Set(var, value):
            return [f"{pad}{var} = {value_text(value)}"]
        case For(var, start, stop, unroll, body, stages):
            staged = f", {stages}" if stages != 1 else ""
            head = f"for {var} in range({start}, {stop}, {unroll}{staged}):"
            return [pad + head, *body_text(body, depth + 1)]
        case While(condition, body):
            return [f"{pad}while {condition}:", *body_text(body, depth + 1)]
        case If(condition, then, otherwise):
            lines = [f"{pad}if {condition}:", *body_text(then, depth + 1)]
            if otherwise:
                lines += [f"{pad}else:", *body_text(otherwise, depth + 1)]
            return lines
        case ThreadGroup(first, count, body, registers):
            head = f"with group({first}, {count}, {registers}):"
            return [pad + head, *body_text(body, depth + 1)]
        case Break():
            return [f"{pad}break"]


def instruction_text(inst: Inst) -> str:
    return f"{inst.name}({', '.join(value_text(v) for v in vars(inst).values())})"


def value_text(value: Any) -> str:
    """A field of an instruction."""
    match value:
        case Tensor():
            return value.name
        case Swizzle(bits, source, target):
            return f"swizzle({bits}, {source}, {target})"
        case tuple():
            inner = ", ".join(value_text(v) for v in value)
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        case Expr() | DType() | Layout():
            return str(value)
        case float() if abs(value) == inf:
            return "1e999" if value > 0 else "-1e999"  # a literal that Python reads as infinity
    return repr(value)


def from_text(text: str) -> Program:
    """The program of a text; `TilusError` with the line where it is not one."""
    if len(text) > LONGEST:
        raise TilusError(f"a program of {len(text)} characters: at most {LONGEST} are read")
    try:
        tree = ast.parse(text)
    except (SyntaxError, RecursionError, MemoryError) as wrong:
        raise TilusError(f"not a program: {wrong}") from wrong
    match tree.body:
        case [ast.FunctionDef() as function]:
            return Reader(text).program(function)
    raise TilusError("not a program: want one @program(...) def name(...): ...")


BINARY: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%", ast.Lt: "<",
    ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.BitAnd: "&",
    ast.BitOr: "|", ast.BitXor: "^",
}  # fmt: skip


HEAD = "want @program(grid=(x, y, z), threads=n, blocks_per_sm=b)"


class Reader:
    """Reads one program; `names` holds what its text has named so far."""

    def __init__(self, text: str) -> None:
        self.lines = re.split(r"\r\n?|\n", text)
        self.names: dict[str, Tensor | Var] = {name: Var(name) for name in GRID}
        self.depth = 0

    def program(self, function: ast.FunctionDef) -> Program:
        parameters = tuple(self.parameter(a) for a in function.args.args)
        self.names |= {p.name: Var(p.name) for p in parameters}
        match function.decorator_list:
            case [ast.Call(func=ast.Name("program"), keywords=given)]:
                keywords = {k.arg: self.value(k.value) for k in given}
            case _:
                raise self.wrong(function, HEAD)
        cluster = keywords.pop("cluster", ALONE)
        if set(keywords) != {"grid", "threads", "blocks_per_sm"} or len(keywords["grid"]) != 3:
            raise self.wrong(function, HEAD)
        body = self.body(function.body)
        grid, threads, blocks = (keywords[k] for k in ("grid", "threads", "blocks_per_sm"))
        return Program(function.name, parameters, grid, threads, body, blocks, cluster)

    def parameter(self, argument: ast.arg) -> Parameter:
        match argument.annotation:
            case ast.Call(func=ast.Name("pointer"), args=[ast.Name(of)]):
                return Pointer(argument.arg, dtype(of))
            case ast.Call(func=ast.Name("integer"), args=[ast.Constant(int(multiple_of))]):
                return Integer(argument.arg, multiple_of)
        raise self.wrong(argument, "want name: pointer(dtype) or name: integer(multiple_of)")

    def body(self, nodes: list[ast.stmt]) -> tuple[Statement, ...]:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.wrong(nodes[0], f"more than {DEEPEST} levels")
        statements = tuple(self.statement(n) for n in nodes if not isinstance(n, ast.Pass))
        self.depth -= 1
        return statements

    def statement(self, node: ast.stmt) -> Statement:
        match node:
            case ast.Expr(ast.Call() as call):
                return Do(self.instruction(call), None, self.where(node))
            case ast.Assign([ast.Name(name)], ast.Call(func=ast.Name(function)) as call) if (
                function in ISA
            ):
                return self.named(name, self.instruction(call), node)
            case ast.Assign([ast.Name(name)], value):
                return self.scalar(name, self.value(value), node)
            case ast.For(
                ast.Name(name), ast.Call(func=ast.Name("range"), args=[_, _, _, *stages] as args)
            ) if len(stages) <= 1:
                var = self.introduce(name, node)
                start, stop, unroll, *more = (self.value(a) for a in args)
                return For(var, start, stop, unroll, self.body(node.body), *more)
            case ast.While(condition, body):
                return While(self.value(condition), self.body(body))
            case ast.If(condition, then, otherwise):
                return If(self.value(condition), self.body(then), self.body(otherwise))
            case ast.With([ast.withitem(ast.Call(func=ast.Name("group"), args=[a, b, c]))], body):
                first, count, registers = self.value(a), self.value(b), self.value(c)
                return ThreadGroup(first, count, self.body(body), registers)
            case ast.Break():
                return Break()
        raise self.wrong(node, "not a statement of a program")

    def instruction(self, call: ast.Call) -> Inst:
        match call:
            case ast.Call(func=ast.Name(name), args=args, keywords=[]) if name in ISA:
                values = [self.value(a) for a in args]
                inst: Inst = self.made(call, lambda: ISA[name](*values))
                return inst
        raise self.wrong(call, f"not an instruction: there are {', '.join(ISA)}")

    def named(self, name: str, inst: Inst, node: ast.stmt) -> Statement:
        out = self.made(node, inst.result)
        if name in self.names or not isinstance(out, Tensor | Var):
            raise self.wrong(node, f"{inst.name} cannot be given the name {name}")
        self.names[name] = named = replace(out, name=name)
        return Do(inst, named, self.where(node))

    def scalar(self, name: str, value: Scalar, node: ast.stmt) -> Statement:
        known = self.names.get(name)
        if isinstance(known, Var):
            return Set(known, value)
        return Let(self.introduce(name, node), value)

    def introduce(self, name: str, node: ast.AST) -> Var:
        if name in self.names:
            raise self.wrong(node, f"{name} has a meaning already")
        self.names[name] = var = Var(name)
        return var

    def value(self, node: ast.expr) -> Any:
        """A field of an instruction, or a scalar."""
        match node:
            case ast.Constant(int() | float() | str() | None as constant):
                return constant
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as constant)):
                return -constant
            case ast.Name(name) if name in self.names:
                return self.names[name]
            case ast.Name(name):
                return self.made(node, lambda: dtype(name))
            case ast.Tuple(items):
                return tuple(self.value(item) for item in items)
            case ast.BinOp(a, op, b) if type(op) in BINARY:
                return Binary(BINARY[type(op)], self.value(a), self.value(b))
            case ast.Compare(a, [op], [b]) if type(op) in BINARY:
                return Binary(BINARY[type(op)], self.value(a), self.value(b))
            case ast.Call(func=ast.Name(function), args=args, keywords=keywords):
                return self.call(node, function, args, keywords)
        raise self.wrong(node, "not a value")

    def call(
        self, node: ast.expr, function: str, args: list[ast.expr], keywords: list[ast.keyword]
    ) -> Any:
        values = [self.value(a) for a in args]
        named = {k.arg: self.value(k.value) for k in keywords}
        match function, values, named:
            case "min" | "max", [a, b], {}:
                return Binary(function, a, b)
            case "swizzle", [bits, source, target], {}:
                return Swizzle(bits, source, target)
            case "open", shape, {}:
                return self.made(node, lambda: Open(tuple(shape)))
            case "layout", [shape], {"threads": threads, "registers": registers}:
                return self.made(node, lambda: layout(shape, threads, registers))
        raise self.wrong(node, f"{function}: not a value")

    def made(self, node: ast.AST, make: Callable[[], Any]) -> Any:
        """What `make` gives, its complaints with the line in front."""
        try:
            return make()
        except (TilusError, TypeError, ValueError, AttributeError) as wrong:
            raise self.wrong(node, str(wrong)) from wrong

    def where(self, node: ast.stmt) -> str:
        """The line, for errors that come later."""
        return f"line {node.lineno}: {self.lines[node.lineno - 1].strip()[:SHOWN]}"

    def wrong(self, node: ast.AST, why: str) -> TilusError:
        line = getattr(node, "lineno", 0)
        return TilusError(f"line {line}: {ast.unparse(node)[:SHOWN]}: {why}")
