"""The figures as data: which cells each one has, in drawing order.

A cell is a bar or a tile: an executor and a workload. Cells of one workload get equal inputs.
Executors that do not exist yet keep their cells, so that a figure never hides what was not
measured.
"""

from dataclasses import dataclass
from typing import Literal

from services.figures import TITLES
from services.messages import Cell, Workload
from tilus.dtypes import SMALL_FLOATS

Picture = Literal["bars", "spectrum"]

BASELINE = "torch-f16"
INTEGER_GROUP = 128

# weight type -> executors
OPERATORS: dict[str, tuple[str, ...]] = {
    "float16": (BASELINE,),
    "uint8": ("triton", "ladder", "tilus"),
    "float6_e3m2": ("quant-llm", "tilus"),
    "uint4": ("triton", "ladder", "tilus"),
    "int4": ("marlin", "tilus"),
    "uint2": ("ladder", "tilus"),
    "uint1": ("ladder", "tilus"),
}
OPERATOR_SHAPES = ((8192, 8192), (8192, 57344), (28672, 8192))  # (k, n)
OPERATOR_BATCHES = (1, 16)

INTEGERS = tuple(f"{kind}{bits}" for kind in ("uint", "int") for bits in range(8, 0, -1))
FLOATS = (
    "float8_e4m3",
    "float7_e3m3",
    "float6_e3m2",
    "float5_e2m2",
    "float4_e2m1",
    "float3_e1m1",
)
OTHER_FLOATS = tuple(each.name for each in reversed(SMALL_FLOATS) if each.name not in FLOATS)
SPECTRUM_SHAPE = {"m": 16, "n": 57344, "k": 8192}


@dataclass(frozen=True)
class Figure:
    """One figure of the evaluation: its number, what it shows, how, and every cell of it.

    Cells whose weight type is in `aside` are measured and tabled, and not in the picture.
    """

    number: int
    title: str
    picture: Picture
    cells: tuple[Cell, ...]
    aside: frozenset[str] = frozenset()


def plain(b_dtype: str, m: int, n: int, k: int) -> Workload:
    """The problem with one scale a column and no zeros."""
    return Workload(b_dtype=b_dtype, group_size=-1, zeros=False, m=m, n=n, k=k)


def workload(b_dtype: str, m: int, n: int, k: int) -> Workload:
    """The problem that figure 9 poses: groups of 128 for integers, zeros for unsigned ones."""
    if not b_dtype.startswith(("uint", "int")):
        return plain(b_dtype, m, n, k)
    return Workload(
        b_dtype=b_dtype,
        group_size=INTEGER_GROUP,
        zeros=b_dtype.startswith("uint"),
        m=m,
        n=n,
        k=k,
    )


def baseline(cell: Cell) -> Cell:
    """The cell that `cell` is compared with: the f16 product of the same m, n and k."""
    shape = cell.workload
    return Cell(
        figure=cell.figure,
        executor=BASELINE,
        workload=plain("float16", shape.m, shape.n, shape.k),
    )


def _operators() -> tuple[Cell, ...]:
    return tuple(
        Cell(figure=9, executor=executor, workload=workload(b_dtype, m, n, k))
        for m in OPERATOR_BATCHES
        for k, n in OPERATOR_SHAPES
        for b_dtype, executors in OPERATORS.items()
        for executor in executors
    )


def _spectrum() -> tuple[Cell, ...]:
    types = {"float16": BASELINE} | dict.fromkeys((*INTEGERS, *FLOATS, *OTHER_FLOATS), "tilus")
    return tuple(
        Cell(figure=10, executor=executor, workload=plain(b_dtype, **SPECTRUM_SHAPE))
        for b_dtype, executor in types.items()
    )


FIGURES: dict[int, Figure] = {
    9: Figure(9, TITLES[9], "bars", _operators()),
    10: Figure(10, TITLES[10], "spectrum", _spectrum(), aside=frozenset(OTHER_FLOATS)),
}
