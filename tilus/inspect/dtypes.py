"""Number formats: all of them with what their casts cost, or one of them code by code."""

from collections.abc import Sequence
from math import isfinite

from tilus.dtypes import ALL, BY_NAME, DType, bf16, f16
from tilus.errors import TilusError
from tilus.inspect.casts import costs, way
from tilus.runtime import sass
from tilus.target import target

HEAD = ("name", "short", "bits", "smallest", "largest", "to float16", "cost", "to bfloat16", "cost")


def describe_dtypes(arch: str) -> str:
    """A line a number format; a cost is instructions an element in the code for `arch`."""
    target(arch)
    ways = {(t, to): way(t, to, arch) for t in ALL for to in (f16, bf16) if t != to}
    found = costs([pair for pair in ways if ways[pair]], arch) if sass.found() else {}
    rows = [HEAD]
    for t in ALL:
        casts = [(ways.get((t, to), ""), cost(found.get((t, to)))) for to in (f16, bf16)]
        rows.append((t.name, t.short, str(t.bits), f"{t.min:g}", f"{t.max:g}",
                     *casts[0], *casts[1]))  # fmt: skip
    last = (
        f"cost: instructions an element on {arch}, moves to and from memory left out"
        if found
        else "cost: not counted, as that needs nvdisasm: pip install triton, or a CUDA toolkit"
    )
    return f"{aligned(rows)}\n\n{last}"


def cost(instructions: float | None) -> str:
    return "" if instructions is None else f"{instructions:.2f}"


def describe_format(name: str) -> str:
    """Every code of a format of up to 8 bits: its bits, field by field, and its value."""
    t = format_of(name)
    if t.bits > 8:
        raise TilusError(f"{t} has {1 << t.bits} codes: ask for a format of up to 8 bits")
    rows = [("code", "bits", "value")]
    rows += [(str(code), bits_of(t, code), value_of(t, code)) for code in range(1 << t.bits)]
    bias = f", bias {t.bias}" if t.kind == "float" else ""
    return f"{t}: {fields_of(t)}{bias}, {t.min:g} to {t.max:g}\n\n{aligned(rows)}"


def format_of(name: str) -> DType:
    """The format of that name, long, short, or as its exponent and mantissa: e3m2."""
    if name in BY_NAME:
        return BY_NAME[name]
    for t in ALL:
        if t.kind == "float" and t.name.endswith(f"_{name}"):
            return t
    raise TilusError(f"no format {name!r}: there are {', '.join(t.short for t in ALL)}")


def fields_of(t: DType) -> str:
    """How the bits are read, the highest first."""
    match t.kind:
        case "float":
            return f"1 sign, {t.exponent} exponent and {t.mantissa} mantissa bits"
        case "int":
            return f"{t.bits} bits, two's complement"
    return f"{t.bits} bits, unsigned"


def bits_of(t: DType, code: int) -> str:
    """The bits, the fields of a float apart."""
    bits = f"{code:0{t.bits}b}"
    if t.kind != "float":
        return bits
    return " ".join(part for part in (bits[0], bits[1 : 1 + t.exponent], bits[1 + t.exponent :])
                    if part)  # fmt: skip


def value_of(t: DType, code: int) -> str:
    """The value, and what is special about it."""
    value = float(t.decode(code))
    says = repr(value).removesuffix(".0")  # the shortest text of just this number
    if not isfinite(value):
        return f"{says}  special"
    if t.kind == "float" and value and not code >> t.mantissa & ((1 << t.exponent) - 1):
        return f"{says}  subnormal"
    return says


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
