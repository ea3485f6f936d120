"""The canonical text of a program, and back: from_text(to_text(p)) == p.

The text is written in Python's grammar and read with Python's own parser, but nothing in it is ever
executed: it may only name instructions, types, layouts and its own variables. What an instruction
returns follows from its operands and is not written down. The first assignment of a scalar
introduces it, later ones set it.
"""

import ast
import hashlib
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from math import inf
from types import NoneType
from typing import Any, TypeVar

from tilus.admission import check_program
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
from tilus.layout import Layout
from tilus.limits import DOCUMENT, NESTING, Limit, require
from tilus.names import check_name
from tilus.nodes import check_value, checked, made_layout, made_of, made_open

INDENT = "    "
SHOWN = 80  # characters of a program in an error
DEEPEST = Limit(2 * NESTING.most + 12, *NESTING[1:])  # statements, then the values of one


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
    require(DOCUMENT, len(text), "a program")
    try:
        with warnings.catch_warnings(action="error"):  # what a parser only doubts is no program
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, Warning) as wrong:
        raise TilusError(f"not a program: {wrong}") from wrong
    check_tree(tree)
    match tree.body:
        case [ast.FunctionDef() as function]:
            program = Reader(text).program(function)
            check_program(program)
            return program
    raise TilusError("not a program: want one @program(...) def name(...): ...")


def check_tree(tree: ast.AST) -> None:
    """What is read may be walked recursively, and its numbers printed."""
    level, depth = [tree], 0
    while level:
        require(DEEPEST, depth, "a program")
        for node in level:
            if isinstance(node, ast.Constant) and isinstance(node.value, int):
                check_value(node.value, f"line {node.lineno}")
        level, depth = [child for node in level for child in ast.iter_child_nodes(node)], depth + 1


BINARY: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%", ast.Lt: "<",
    ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.BitAnd: "&",
    ast.BitOr: "|", ast.BitXor: "^",
}  # fmt: skip


Node = TypeVar("Node")
KEYWORDS = ["grid", "threads", "blocks_per_sm"]
HEAD = "want @program(grid=(x, y, z), threads=n, blocks_per_sm=b)"


class Reader:
    """Reads one program; `names` holds what its text has named so far."""

    def __init__(self, text: str) -> None:
        self.lines = re.split(r"\r\n?|\n", text)
        self.names: dict[str, Tensor | Var] = {name: Var(name) for name in GRID}

    def program(self, function: ast.FunctionDef) -> Program:
        match function:
            case ast.FunctionDef(
                args=ast.arguments(
                    posonlyargs=[], args=arguments, vararg=None, kwonlyargs=[], kwarg=None,
                    defaults=[],
                ),
                decorator_list=[ast.Call(func=ast.Name("program"), args=[], keywords=given)],
                returns=None,
            ):  # fmt: skip
                parameters = tuple(self.parameter(a) for a in arguments)
            case _:
                raise self.wrong(function, HEAD)
        self.names |= {p.name: Var(p.name) for p in parameters}
        if [k.arg for k in given] not in (KEYWORDS, [*KEYWORDS, "cluster"]):
            raise self.wrong(function, HEAD)
        grid, threads, *more = (self.value(k.value) for k in given)
        body = self.body(function.body)
        return self.made(
            function, lambda: Program(function.name, parameters, grid, threads, body, *more)
        )

    def parameter(self, argument: ast.arg) -> Parameter:
        self.told(argument, lambda: check_name(argument.arg, "a parameter"))
        match argument.annotation:
            case ast.Call(func=ast.Name("pointer"), args=[ast.Name(of)]):
                return self.made(argument, lambda: Pointer(argument.arg, dtype(of)))
            case ast.Call(func=ast.Name("integer"), args=[ast.Constant(int(multiple_of))]):
                return self.made(argument, lambda: Integer(argument.arg, multiple_of))
        raise self.wrong(argument, "want name: pointer(dtype) or name: integer(multiple_of)")

    def body(self, nodes: list[ast.stmt]) -> tuple[Statement, ...]:
        return tuple(self.statement(n) for n in nodes if not isinstance(n, ast.Pass))

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
                ast.Name(name),
                ast.Call(func=ast.Name("range"), args=[_, _, _, *stages] as args, keywords=[]),
                orelse=[],
            ) if len(stages) <= 1:
                var = self.introduce(name, node)
                start, stop, unroll, *more = (self.value(a) for a in args)
                body = self.body(node.body)
                return self.made(node, lambda: For(var, start, stop, unroll, body, *more))
            case ast.While(test, inner, orelse=[]):
                condition, body = self.value(test), self.body(inner)
                return self.made(node, lambda: While(condition, body))
            case ast.If(test, inner, other):
                condition, body, otherwise = self.value(test), self.body(inner), self.body(other)
                return self.made(node, lambda: If(condition, body, otherwise))
            case ast.With(
                [ast.withitem(ast.Call(func=ast.Name("group"), args=[a, b, c], keywords=[]), None)],
                inner,
            ):
                first, count, registers = self.value(a), self.value(b), self.value(c)
                body = self.body(inner)
                return self.made(node, lambda: ThreadGroup(first, count, body, registers))
            case ast.Break():
                return Break()
        raise self.wrong(node, "not a statement of a program")

    def instruction(self, call: ast.Call) -> Inst:
        match call:
            case ast.Call(func=ast.Name(name), args=args, keywords=[]) if name in ISA:
                values = [self.value(a) for a in args]
                inst: Inst = self.told(call, lambda: made_of(ISA[name], values))
                return inst
        raise self.wrong(call, f"not an instruction: there are {', '.join(ISA)}")

    def named(self, name: str, inst: Inst, node: ast.stmt) -> Statement:
        self.told(node, lambda: check_name(name, "a tensor or a scalar"))
        out = self.told(node, inst.result)
        if name in self.names or not isinstance(out, Tensor | Var):
            raise self.wrong(node, f"{inst.name} cannot be given the name {name}")
        self.names[name] = named = replace(out, name=name)
        return Do(inst, named, self.where(node))

    def scalar(self, name: str, value: Scalar, node: ast.stmt) -> Statement:
        known = self.names.get(name)
        if isinstance(known, Var):
            return self.made(node, lambda: Set(known, value))
        var = self.introduce(name, node)
        return self.made(node, lambda: Let(var, value))

    def introduce(self, name: str, node: ast.AST) -> Var:
        self.told(node, lambda: check_name(name, "a scalar"))
        if name in self.names:
            raise self.wrong(node, f"{name} has a meaning already")
        self.names[name] = var = Var(name)
        return var

    def value(self, node: ast.expr) -> Any:
        """A field of an instruction, or a scalar."""
        match node:
            case ast.Constant(constant) if type(constant) in (int, float, str, NoneType):
                return self.checked_number(node, constant)
            case ast.UnaryOp(ast.USub(), ast.Constant(constant)) if type(constant) in (int, float):
                return self.checked_number(node, -constant)  # type: ignore[operator]
            case ast.Name(name) if name in self.names:
                return self.names[name]
            case ast.Name(name):
                return self.told(node, lambda: dtype(name))
            case ast.Tuple(items):
                return tuple(self.value(item) for item in items)
            case ast.BinOp(a, op, b) if type(op) in BINARY:
                return self.binary(node, BINARY[type(op)], a, b)
            case ast.Compare(a, [op], [b]) if type(op) in BINARY:
                return self.binary(node, BINARY[type(op)], a, b)
            case ast.Call(func=ast.Name(function), args=args, keywords=keywords):
                return self.call(node, function, args, keywords)
        raise self.wrong(node, "not a value")

    def call(
        self, node: ast.expr, function: str, args: list[ast.expr], keywords: list[ast.keyword]
    ) -> Any:
        values = [self.value(a) for a in args]
        named = {k.arg: self.value(k.value) for k in keywords}
        match function, values, named:
            case "min" | "max", [a, b], _ if not named:
                return self.made(node, lambda: Binary(function, a, b))
            case "swizzle", [bits, source, target], _ if not named:
                return self.made(node, lambda: Swizzle(bits, source, target))
            case "open", shape, _ if not named:
                return self.told(node, lambda: made_open(tuple(shape)))
            case "layout", [shape], {"threads": threads, "registers": registers, **more} if (
                not more
            ):
                return self.told(node, lambda: made_layout(shape, threads, registers))
        raise self.wrong(node, f"{function}: not a value")

    def binary(self, node: ast.expr, op: str, a: ast.expr, b: ast.expr) -> Any:
        left, right = self.value(a), self.value(b)
        return self.made(node, lambda: Binary(op, left, right))

    def checked_number(self, node: ast.expr, constant: Any) -> Any:
        """A constant that a field may hold, or an operation's name."""
        if not isinstance(constant, str):
            self.told(node, lambda: check_value(constant, "a number"))
        return constant

    def made(self, node: ast.AST, make: Callable[[], Node]) -> Node:
        """The node that `make` gives, if its fields hold what they declare."""
        return self.told(node, lambda: checked(make()))

    def told(self, node: ast.AST, do: Callable[[], Node]) -> Node:
        """What `do` gives, its complaints with the line in front."""
        try:
            return do()
        except TilusError as wrong:
            raise self.wrong(node, str(wrong)) from wrong

    def where(self, node: ast.stmt) -> str:
        """The line, for errors that come later."""
        return f"line {node.lineno}: {self.lines[node.lineno - 1].strip()[:SHOWN]}"

    def wrong(self, node: ast.AST, why: str) -> TilusError:
        line = getattr(node, "lineno", 0)
        return TilusError(f"line {line}: {ast.unparse(node)[:SHOWN]}: {why}")
