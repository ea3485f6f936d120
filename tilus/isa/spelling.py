"""How generated text spells a type: the prelude's tag for it, and what it is computed in."""

from tilus.dtypes import DType, bf16, f16, f32
from tilus.errors import TilusError

STANDARD = {f16: "F16", bf16: "BF16", f32: "F32"}
SPECIALS = {"none": "NONE", "fn": "FN", "ieee": "IEEE"}


def kind(t: DType) -> str:
    """The prelude's name of `t`: U<4>, I<4>, F<3, 2, NONE>, F16, ..."""
    if t.bits == 64:
        raise TilusError(f"{t}: elements of 64 bits cannot be held in registers yet")
    match t.kind:
        case "uint":
            return f"U<{t.bits}>"
        case "int":
            return f"I<{t.bits}>"
    if t.bits <= 8:
        return f"F<{t.exponent}, {t.mantissa}, {SPECIALS[t.specials]}>"
    if t not in STANDARD:
        raise TilusError(f"{t} cannot be held in registers yet: use one of {list(STANDARD)}")
    return STANDARD[t]


def arithmetic(t: DType) -> str:
    """The C type in which elements of `t` are computed with."""
    match t.kind:
        case "uint":
            return "unsigned"
        case "int":
            return "int"
    return "float"
