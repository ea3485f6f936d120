"""The JSON form of a program, and back: from_json(to_json(p)) == p.

A node is an object whose "node" names its class; a dtype is {"dtype": name}, a layout {"layout":
[shape, threads, registers]} or, left open, {"open": shape}. Reading makes only the classes of
`tilus.ir` and instructions, and every result is made anew from its instruction, so a document
cannot say what is not so.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from tilus import ir
from tilus.dtypes import DType, dtype
from tilus.errors import TilusError
from tilus.ir import Do, Program, Tensor, Var, walk
from tilus.isa import ISA, Inst
from tilus.layout import Layout, Open, layout

NODES = {
    name: node for name, node in vars(ir).items() if isinstance(node, type) and is_dataclass(node)
} | ISA  # fmt: skip


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
    try:
        program = decode(document)
    except (TypeError, ValueError, KeyError, RecursionError) as wrong:
        raise TilusError(f"not a program: {wrong}") from wrong
    if not isinstance(program, Program):
        raise TilusError(f"not a program: {type(program).__name__}")
    for statement in walk(program.body):
        if isinstance(statement, Do):
            check_result(statement)
    return program


def decode(value: Any) -> Any:
    match value:
        case list():
            return tuple(decode(v) for v in value)
        case {"dtype": str(name)}:
            return dtype(name)
        case {"open": list(shape)}:
            return Open(tuple(shape))
        case {"layout": [shape, threads, registers]}:
            return layout(tuple(shape), map(tuple, threads), map(tuple, registers))
        case {"node": str(name), **given} if name in NODES:
            return NODES[name](**{str(k): decode(v) for k, v in given.items()})
        case int() | float() | str() | None:
            return value
    raise TilusError(f"not a program: {str(value)[:80]}")


def check_result(statement: Do) -> None:
    """What the document says an instruction returns is what it does return."""
    inst, out = statement.instruction, statement.out
    if not isinstance(inst, Inst):
        raise TilusError(f"not an instruction: {inst}")
    made = inst.result()
    named = (
        replace(made, name=out.name) if isinstance(made, Tensor | Var) and out is not None else made
    )
    if named != out:
        raise TilusError(f"{inst.name} returns {made}, not {out}")
