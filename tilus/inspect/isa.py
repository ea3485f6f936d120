"""The manual: what every instruction says of itself."""

from dataclasses import fields
from inspect import cleandoc
from typing import Any

from tilus.errors import TilusError
from tilus.isa import ISA, Inst
from tilus.isa.elementwise import OPS
from tilus.layout import Layout
from tilus.target import OLDEST
from tilus.text import instruction_text

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
    lines[-1] += needs(kind)
    if samples := kind.samples():
        lines += ["", f"    {sample_text(samples[0])}"]
    return "\n".join([*lines, ""])


def needs(kind: type[Inst]) -> str:
    """The architectures that an instruction needs, any of them, where not all will do."""
    each = list(dict.fromkeys(sample.needs for sample in kind.samples())) or [kind.needs]
    if each == [(OLDEST.name,)]:
        return ""
    ways = [" or ".join(some) for some in each]
    return f" Needs: {', '.join(ways)}{', as its operands are' if len(ways) > 1 else ''}."


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
