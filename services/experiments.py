"""The figures as data: which cells each one has, in drawing order.

A cell is a bar: an executor and a workload. Cells of one workload are a bar group and get equal
inputs. Executors that do not exist yet keep their cells, so that a figure never hides what was not
measured.
"""

from dataclasses import dataclass

from services.messages import Cell, Workload

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


@dataclass(frozen=True)
class Figure:
    """One figure of the evaluation: its number, what it shows, every bar of it."""

    number: int
    title: str
    cells: tuple[Cell, ...]


def workload(b_dtype: str, m: int, n: int, k: int) -> Workload:
    """The problem that figure 9 poses: groups of 128 for integers, zeros for unsigned ones."""
    integer = b_dtype.startswith(("uint", "int"))
    return Workload(
        b_dtype=b_dtype,
        group_size=INTEGER_GROUP if integer else -1,
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
        workload=workload("float16", shape.m, shape.n, shape.k),
    )


def _operators(figure: int) -> tuple[Cell, ...]:
    return tuple(
        Cell(figure=figure, executor=executor, workload=workload(b_dtype, m, n, k))
        for m in OPERATOR_BATCHES
        for k, n in OPERATOR_SHAPES
        for b_dtype, executors in OPERATORS.items()
        for executor in executors
    )


FIGURES: dict[int, Figure] = {
    9: Figure(9, "Quantised matmul against cuBLAS f16", _operators(9)),
}
