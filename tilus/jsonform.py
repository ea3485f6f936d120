"""The JSON form of a program, and back: from_json(to_json(p)) == p.

A node is an object whose "node" names its class; a dtype is {"dtype": name}, a layout {"layout":
[shape, threads, registers]} or, left open, {"open": shape}. Reading makes only the classes of
`tilus.ir` and instructions, each field is checked against its declared type, and every result is
made anew from its instruction, so a document cannot say what is not so.
"""

from dataclasses import fields, is_dataclass
from typing import Any

from tilus import ir
from tilus.admission import check_program
from tilus.dtypes import DType, dtype
from tilus.errors import TilusError
from tilus.ir import Expr, Program, Tensor
from tilus.isa import ISA, Inst
from tilus.layout import Layout, Open
from tilus.limits import NESTING, NODES, Limit, require
from tilus.nodes import check_value, made, made_layout, made_open, shown

KINDS = {
    name: kind
    for name, kind in vars(ir).items()
    if isinstance(kind, type) and is_dataclass(kind) and kind not in (Expr, Tensor)
} | ISA
DEEPEST = Limit(3 * NESTING.most + 12, *NESTING[1:])  # a statement is in a list in a statement


def to_json(program: Program) -> dict[str, Any]:
    """The program as JSON values."""
    document: dict[str, Any] = encode(program)
    return document


def encode(value: Any) -> Any:
    match value:
        case DType():
            return {"dtype": value.name}
        case Open(shape):
            return {"open": list(shape)}
        case Layout(shape, threads, registers):
            return {
                "layout": [list(shape), *([list(m) for m in ms] for ms in (threads, registers))]
            }
        case tuple():
            return [encode(v) for v in value]
        case Inst():
            return {"node": value.name, **fields_of(value)}
    return {"node": type(value).__name__, **fields_of(value)} if is_dataclass(value) else value


def fields_of(node: Any) -> dict[str, Any]:
    return {f.name: encode(getattr(node, f.name)) for f in fields(node) if f.compare}


def from_json(document: Any) -> Program:
    """The program of a document; `TilusError` where it is not one."""
    check_size(document)
    program = decode(document)
    if not isinstance(program, Program):
        raise TilusError(f"not a program: {shown(type(program).__name__)}")
    check_program(program)
    return program


def check_size(document: Any) -> None:
    """What is read may be walked recursively, and in little time."""
    level, depth, nodes = [document], 0, 0
    while level:
        depth, nodes = depth + 1, nodes + len(level)
        require(DEEPEST, depth, "a document")
        require(NODES, nodes, "a document")
        level = [inner for value in level for inner in inside(value)]


def inside(value: Any) -> list[Any]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
    return []


def decode(value: Any) -> Any:
    match value:
        case list():
            return tuple(decode(v) for v in value)
        case {"dtype": str(name), **more} if not more:
            return dtype(name)
        case {"open": shape, **more} if not more:
            return made_open(decode(shape))
        case {"layout": [shape, threads, registers], **more} if not more:
            return made_layout(decode(shape), decode(threads), decode(registers))
        case {"node": str(name), **given} if name in KINDS:
            return made(KINDS[name], {str(k): decode(v) for k, v in given.items()})
        case bool():
            raise TilusError(f"not a program: {value} in it")
        case int() | float():
            check_value(value, "a number")
            return value
        case str() | None:
            return value
    raise TilusError(f"not a program: {shown(value)}")
