"""The figures as data: which cells each one has, how they are grouped, what the bars mean.

A figure is a list of panels, a panel is a list of clusters (one per weight shape), a cluster has
one bar group per weight type, and a bar is a cell: an executor and a workload. Executors that do
not exist yet keep their cells, so that a figure never hides what was not measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from services.messages import Cell, Workload

BASELINE = "torch-f16"
INTEGER_GROUP = 128

# weight type -> executors, both in drawing order
OPERATORS: dict[str, tuple[str, ...]] = {
    "float16": (BASELINE,),
    "uint8": ("triton", "ladder", "tilus"),
    "float6_e3m2": ("quant-llm", "tilus"),
    "uint4": ("triton", "ladder", "tilus"),
    "int4": ("marlin", "tilus"),
    "uint2": ("ladder", "tilus"),
    "uint1": ("ladder", "tilus"),
}
OPERATOR_SHAPES = ((8192, 8192), (8192, 57344), (28672, 8192))


@dataclass(frozen=True)
class Group:
    """The bars of one weight type: equal inputs, several executors."""

    b_dtype: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Cluster:
    """The bar groups of one weight shape [k, n]."""

    k: int
    n: int
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Panel:
    """The clusters of one batch size m."""

    m: int
    clusters: tuple[Cluster, ...]


@dataclass(frozen=True)
class Figure:
    """One figure of the evaluation: its number, what it shows, its panels."""

    number: int
    title: str
    panels: tuple[Panel, ...]

    @property
    def groups(self) -> Iterator[Group]:
        """Every bar group, in drawing order."""
        for panel in self.panels:
            for cluster in panel.clusters:
                yield from cluster.groups

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, in drawing order."""
        return tuple(cell for group in self.groups for cell in group.cells)


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


def _group(figure: int, b_dtype: str, m: int, n: int, k: int) -> Group:
    problem = workload(b_dtype, m, n, k)
    return Group(
        b_dtype,
        tuple(
            Cell(figure=figure, executor=executor, workload=problem)
            for executor in OPERATORS[b_dtype]
        ),
    )


def _operators(figure: int, batches: tuple[int, ...]) -> tuple[Panel, ...]:
    return tuple(
        Panel(
            m,
            tuple(
                Cluster(k, n, tuple(_group(figure, b_dtype, m, n, k) for b_dtype in OPERATORS))
                for k, n in OPERATOR_SHAPES
            ),
        )
        for m in batches
    )


FIGURES: dict[int, Figure] = {
    9: Figure(9, "Quantised matmul against cuBLAS f16", _operators(9, (1, 16))),
}
