"""How generated text spells a type: the prelude's tag for it, and what it is computed in."""

import numpy as np

from tilus.dtypes import DType, bf16, boolean, f16, f32
from tilus.errors import TilusError

STANDARD = {f16: "F16", bf16: "BF16", f32: "F32", boolean: "Bool"}
SPECIALS = {"none": "NONE", "fn": "FN", "ieee": "IEEE"}


def kind(t: DType) -> str:
    """The prelude's name of `t`: U<4>, I<4>, F<3, 2, NONE>, F16, ..."""
    if t.bits == 64:
        raise TilusError(f"{t}: elements of 64 bits cannot be held in registers yet")
    match t.kind:
        case _ if t in STANDARD:
            return STANDARD[t]
        case "uint":
            return f"U<{t.bits}>"
        case "int":
            return f"I<{t.bits}>"
    if t.bits <= 8:
        return f"F<{t.exponent}, {t.mantissa}, {SPECIALS[t.specials]}>"
    raise TilusError(f"{t} cannot be held in registers yet: use one of {list(STANDARD)}")


def arithmetic(t: DType) -> str:
    """The C type in which elements of `t` are computed with."""
    match t.kind:
        case "uint":
            return "unsigned"
        case "int":
            return "int"
    return "float"


def literal(t: DType, number: float) -> str:
    """`number`, rounded to `t`, as a C expression."""
    value = t.values(t.carry(np.float64(number)))[()]
    if t.kind != "float":
        return f"({arithmetic(t)}){value}"
    if not np.isfinite(value):
        return f"as_float({int(np.float32(value).view(np.uint32)):#x}u)"
    return f"{number}"
