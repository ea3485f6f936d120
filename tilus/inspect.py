"""Look inside.

python -m tilus.inspect isa [NAME]               the manual, or one page of it
python -m tilus.inspect layout EXPRESSION        who holds what: 'spatial(8, 4) * local(1, 2)'
python -m tilus.inspect dtypes                   every number format
python -m tilus.inspect kernel NAME [KEY=VALUE]  a library kernel: program, text, resources
"""

import ast
import operator
import sys
from collections.abc import Callable
from dataclasses import fields
from inspect import cleandoc
from typing import Any

from tilus import codegen
from tilus.casts import fast_row
from tilus.compiler import compile
from tilus.dtypes import ALL, DType, f16
from tilus.errors import TilusError
from tilus.isa import ISA, Inst
from tilus.isa.elementwise import OPS
from tilus.kernels import LIBRARY
from tilus.layout import (
    Layout,
    column_local,
    column_spatial,
    grid,
    local,
    reduce,
    replicate,
    spatial,
)
from tilus.text import instruction_text, to_text

MAKERS: dict[str, Callable[..., Any]] = {
    maker.__name__: maker
    for maker in (local, spatial, column_local, column_spatial, replicate, reduce)
}
HEAD = """\
# The instruction set

Made by `python -m tilus.inspect isa` from the instructions themselves. A program is written with
these as methods of the tracer that `tilus.trace` hands out. The operations of `elementwise` are
methods of their own: {operations}.
"""


def manual() -> str:
    """Every instruction, in the order of the source."""
    head = HEAD.format(operations=", ".join(f"`{name}`" for name in OPS))
    return "\n".join([head, *(page(name) for name in ISA)])


def page(name: str) -> str:
    """What an instruction says of itself."""
    if name not in ISA:
        raise TilusError(f"no instruction {name!r}: there are {', '.join(ISA)}")
    kind = ISA[name]
    operands = ", ".join(f"{f.name}: {type_name(f.type)}" for f in fields(kind))  # type: ignore[arg-type]
    effect = " and ".join(flag.name.lower() for flag in kind.effect if flag.name) or "none"
    lines = [f"## {name}({operands})", "", cleandoc(kind.__doc__ or ""), "", f"Effect: {effect}."]
    if samples := kind.samples():
        lines += ["", f"    {sample_text(samples[0])}"]
    return "\n".join([*lines, ""])


def type_name(of: Any) -> str:
    """A field's type as the manual spells it."""
    spelled = of.__name__ if isinstance(of, type) else str(of).replace("tilus.ir.", "")
    return spelled.replace("Expr | int", "Scalar")


def sample_text(sample: Inst) -> str:
    """A sample as a program has it, its layouts left out."""
    text = instruction_text(sample)
    for value in vars(sample).values():
        if isinstance(value, Layout):
            text = text.replace(str(value), f"<{'x'.join(map(str, value.shape))} layout>")
    return text


def layout_of(text: str) -> Layout:
    """The layout that an expression of makers, `*` and `/` means; nothing else is evaluated."""
    try:
        found = value_of(ast.parse(text, mode="eval").body)
    except SyntaxError as wrong:
        raise TilusError(f"not a layout: {text!r}: {wrong.msg}") from wrong
    if not isinstance(found, Layout):
        raise TilusError(f"not a layout: {text!r}: write e.g. spatial(8, 4) * local(1, 2)")
    return found


def value_of(node: ast.expr) -> Any:
    match node:
        case ast.Constant(int(number)):
            return number
        case ast.Tuple(items):
            return tuple(value_of(item) for item in items)
        case ast.BinOp(a, ast.Mult() | ast.Div() as op, b):
            apply = operator.mul if isinstance(op, ast.Mult) else operator.truediv
            return apply(value_of(a), value_of(b))
        case ast.Call(func=ast.Name(name), args=args, keywords=[]) if name in MAKERS:
            return MAKERS[name](*map(value_of, args))
    raise TilusError(f"not a layout: {ast.unparse(node)!r}: there are {', '.join(MAKERS)}, * and /")


def describe_layout(text: str) -> str:
    """A layout's facts, and `thread:register` for each element."""
    found = layout_of(text)
    copies = f", {found.replicas} threads hold each element" if found.replicas > 1 else ""
    facts = f"shape {found.shape}, {found.threads} threads, {found.registers} registers{copies}"
    return f"{found}\n{facts}\n\n{grid(found)}"


def describe_dtypes() -> str:
    """A line a number format."""
    rows = [("name", "short", "bits", "smallest", "largest", "to float16")]
    rows += [(t.name, t.short, str(t.bits), f"{t.min:g}", f"{t.max:g}", way_to_f16(t)) for t in ALL]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def way_to_f16(t: DType) -> str:
    if t == f16:
        return ""
    row = fast_row(t, f16)
    return f"two at once, {row.function}" if row else "one by one"


def describe_kernel(name: str, settings: list[str]) -> str:
    """A library kernel: its program, its CUDA text, what a block of it takes on sm_90."""
    if name not in LIBRARY:
        raise TilusError(f"no kernel {name!r} in the library: there are {', '.join(LIBRARY)}")
    program = LIBRARY[name].program(**dict(map(setting, settings)))
    made = compile(program)
    return "\n".join([to_text(program), codegen.generate(program).text, str(made.resources)])


def setting(text: str) -> tuple[str, int | bool | str]:
    """KEY=VALUE, where a value is a number, true, false or a word."""
    key, equals, value = text.partition("=")
    if not equals:
        raise TilusError(f"{text!r}: write KEY=VALUE, e.g. b_dtype=u4")
    words = {"true": True, "false": False}
    return key, words[value] if value in words else int(value) if is_number(value) else value


def is_number(text: str) -> bool:
    return text.lstrip("-").isdigit()


def answer(arguments: list[str]) -> str:
    """What the command line asks for."""
    match arguments:
        case ["isa"]:
            return manual()
        case ["isa", name]:
            return page(name)
        case ["layout", expression]:
            return describe_layout(expression)
        case ["dtypes"]:
            return describe_dtypes()
        case ["kernel", name, *settings]:
            return describe_kernel(name, settings)
    raise TilusError(cleandoc(__doc__ or ""))


def main() -> int:
    """Print the answer; 2 where the question makes no sense."""
    try:
        print(answer(sys.argv[1:]))
    except TilusError as wrong:
        print(wrong, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
