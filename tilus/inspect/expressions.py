"""Layouts that are written down: expressions of makers, `*` and `/`, and nothing else."""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any, TypeVar

from tilus.errors import TilusError
from tilus.layout import (
    Layout,
    column_local,
    column_spatial,
    local,
    reduce,
    replicate,
    spatial,
)
from tilus.shared_layout import SharedLayout, column_major, row_major

Made = TypeVar("Made", Layout, SharedLayout)
Makers = dict[str, Callable[..., Any]]


def named(*makers: Callable[..., Any]) -> Makers:
    return {maker.__name__: maker for maker in makers}


HELD = named(local, spatial, column_local, column_spatial, replicate, reduce)
SHARED = named(row_major, column_major)
HELD_EXAMPLE = "spatial(8, 4) * local(1, 2)"
SHARED_EXAMPLE = "row_major(16, 64) swizzle(3, 6, 3)"


def layout_of(text: str) -> Layout:
    """The register layout that an expression means."""
    return meaning(text, Layout, HELD, HELD_EXAMPLE)


def shared_layout_of(text: str) -> SharedLayout:
    """The shared layout that an expression means; swizzles follow what they apply to."""
    dotted = re.sub(r"\)\s*\.?\s*swizzle\(", ").swizzle(", text)
    return meaning(dotted, SharedLayout, SHARED, SHARED_EXAMPLE)


def meaning(text: str, kind: type[Made], makers: Makers, example: str) -> Made:
    """The value of an expression, which must be of this kind."""
    try:
        found = value_of(ast.parse(text.strip(), mode="eval").body, makers)
    except (SyntaxError, TypeError, ValueError, AttributeError, IndexError) as wrong:
        raise TilusError(f"not a layout: {text!r}: {wrong}: write e.g. {example}") from wrong
    if not isinstance(found, kind):
        raise TilusError(f"not a layout: {text!r}: write e.g. {example}")
    return found


def value_of(node: ast.expr, makers: Makers) -> Any:
    """What a node means; only makers, `*`, `/` and `.swizzle` are known."""
    match node:
        case ast.Constant(int(number)):
            return number
        case ast.Tuple(items):
            return tuple(value_of(item, makers) for item in items)
        case ast.BinOp(a, ast.Mult() | ast.Div() as op, b):
            apply = operator.mul if isinstance(op, ast.Mult) else operator.truediv
            return apply(value_of(a, makers), value_of(b, makers))
        case ast.Call(func=ast.Name(name), args=args, keywords=[]) if name in makers:
            return makers[name](*(value_of(arg, makers) for arg in args))
        case ast.Call(func=ast.Attribute(of, "swizzle"), args=args, keywords=[]):
            return value_of(of, makers).swizzle(*(value_of(arg, makers) for arg in args))
    raise TilusError(f"not a layout: {ast.unparse(node)!r}: there are {', '.join(makers)}, * and /")
