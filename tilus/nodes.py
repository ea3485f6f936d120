"""What may stand in a field of a node: a value of the field's declared type, within the limits.

A node that comes from outside is checked here when it is made, before anything else looks at it.
"""

from dataclasses import MISSING, fields
from functools import cache
from math import isnan, prod
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from tilus.errors import TilusError
from tilus.ir import OPERATORS, Binary, Swizzle
from tilus.layout import Layout, Open, layout
from tilus.limits import (
    ELEMENTS,
    INTEGER,
    MODES,
    RANK,
    REGISTERS,
    SMALLEST,
    STRING,
    SWIZZLE,
    THREADS,
    require,
)

Node = TypeVar("Node")


def checked(node: Node) -> Node:
    """`node`, once each of its fields holds what the field declares."""
    name = type(node).__name__
    for field, declared in declarations(type(node)).items():  # type: ignore[arg-type]
        value = getattr(node, field)
        if not fits(value, declared):
            raise TilusError(
                f"{name}: {field} is {type(value).__name__} {shown(value)}:"
                f" want {spelled(declared)}"
            )
        if (type(node), field) != (Binary, "op"):
            check_value(value, f"{name}: {field}")
    match node:
        case Binary(op, _, b):
            check_operation(op, b)
        case Swizzle(bits, source, target):
            for number in (bits, source, target):
                check_at_least(0, number, name)
                require(SWIZZLE, number, name)
    return node


def made(kind: type, given: dict[str, Any]) -> Any:
    """The node of a class with these fields: all that have no default, and no other."""
    known = [f for f in fields(kind) if f.compare]
    needed = {f.name for f in known if f.default is MISSING}
    if not needed <= set(given) <= {f.name for f in known}:
        there = ", ".join(f.name for f in known)
        raise TilusError(
            f"not a program: {kind.__name__} has the fields {there}, not {shown(', '.join(given))}"
        )
    return checked(kind(**given))


def made_of(kind: type, values: list[Any]) -> Any:
    """The node of a class whose first fields are `values`."""
    known = list(declarations(kind))
    if len(values) > len(known):
        raise TilusError(f"{kind.__name__} takes {', '.join(known)}, not {len(values)} values")
    return made(kind, dict(zip(known, values, strict=False)))


def made_layout(shape: Any, threads: Any, registers: Any) -> Layout:
    """The layout of plain tuples; `TilusError` where they are none, or it is too large."""
    if not fits(shape, tuple[int, ...]):
        raise TilusError(f"layout: the shape is {shown(shape)}: want a tuple of integers")
    for modes in (threads, registers):
        if not fits(modes, tuple[tuple[int, int, int], ...]):
            raise TilusError(f"layout: {shown(modes)}: want tuples (size, dim, stride)")
        require(MODES, len(modes), "layout")
    check_value((shape, threads, registers), "layout")
    found = layout(shape, threads, registers)
    check_layout(found)
    return found


def made_open(shape: Any) -> Layout:
    """The open layout of a plain tuple; `TilusError` where it is none, or it is too large."""
    if not fits(shape, tuple[int, ...]):
        raise TilusError(f"open: the shape is {shown(shape)}: want integers")
    check_value(shape, "open")
    found = Open(shape)
    check_layout(found)
    return found


def check_layout(of: Layout) -> None:
    """A block holds such a tile, and `every` of it is a small array."""
    if not of.rank:
        raise TilusError("layout: a tile has at least one dimension")
    require(RANK, of.rank, "layout")
    require(ELEMENTS, prod(of.shape), "layout")
    if of.is_open:
        return
    require(THREADS, of.threads, "layout")
    require(REGISTERS, of.registers, "layout")
    require(ELEMENTS, of.threads * of.registers, "layout")


def check_value(value: Any, where: str) -> None:
    """The plain values in `value` are within the limits."""
    match value:
        case tuple():
            for each in value:
                check_value(each, where)
        case int():
            check_at_least(SMALLEST, value, where)
            require(INTEGER, value, where)
        case float() if isnan(value):
            raise TilusError(f"{where} is {value}: want a number")
        case str():
            check_plain(value, where)
        case Layout():
            check_layout(value)


def check_plain(text: str, where: str) -> None:
    """What a C string holds as it is; what else a field may say its instruction knows."""
    require(STRING, len(text), where)
    if not (text.isascii() and text.isprintable()) or set(text) & set('"\\'):
        raise TilusError(f"{where}: {text!r}: want printable ASCII without quotes and \\")


def check_operation(op: str, b: Any) -> None:
    """`op` is an operator, and does not divide by zero or by what is negative."""
    if op not in OPERATORS:
        raise TilusError(f"no operator {shown(op)}: there are {' '.join(OPERATORS)}")
    if op in ("//", "%") and isinstance(b, int):
        check_at_least(1, b, f"the divisor of {op}")


def check_at_least(least: int, asked: int, where: str) -> None:
    if asked < least:
        raise TilusError(f"{where}: {shown(asked)}: want at least {least}")


@cache
def declarations(kind: Any) -> dict[str, Any]:
    """The declared type of each field that a document may give."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind) if f.compare}


def fits(value: Any, declared: Any) -> bool:
    """Whether `value` is of a declared type; True is no integer, and an integer is a float."""
    arguments = get_args(declared)
    match get_origin(declared):
        case origin if origin in (Union, UnionType):
            return any(fits(value, one) for one in arguments)
        case origin if origin is tuple and arguments[1:] == (...,):
            return type(value) is tuple and all(fits(each, arguments[0]) for each in value)
        case origin if origin is tuple:
            return (
                type(value) is tuple
                and len(value) == len(arguments)
                and all(map(fits, value, arguments))
            )
    if declared is float:
        return type(value) in (int, float)
    if declared in (int, str, NoneType):
        return type(value) is declared
    return isinstance(value, declared)


def spelled(declared: Any) -> str:
    """A declared type as a message has it."""
    text = declared.__name__ if isinstance(declared, type) and not get_args(declared) else declared
    return str(text).replace("tilus.ir.", "").replace("tilus.dtypes.", "")


def shown(value: Any) -> str:
    """The beginning of a value, however large it is."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    return (value if isinstance(value, str) else repr(value))[:80]
