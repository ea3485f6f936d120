"""The figures as data: which cells each one has, in drawing order.

A cell is a bar, a tile or a point: an executor and a workload. Cells of one workload get equal
inputs. Executors that do not exist yet keep their cells, so that a figure never hides what was not
measured.
"""

from dataclasses import dataclass
from typing import Literal

from services.figures import BENCH, TITLES
from services.messages import Cell, ModelCell, ModelWorkload, Workload
from services.models import MODELS, QWEN
from tilus.dtypes import SMALL_FLOATS

Picture = Literal["bars", "spectrum", "lines"]
Stage = Literal["decode", "prefill"]

BASELINE = "torch-f16"  # cuBLAS; where whole models are run, vLLM in float16
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

BATCH_TYPES = ("float16", "float6_e3m2", "uint4")
BATCH_SHAPE = {"n": 57344, "k": 8192}
PUBLISHED_BATCHES = (1, 4, 8, 16, 2048, 4096, 8192, 12288)
OTHER_BATCHES = (32, 64, 128, 256, 512, 1024)

MODEL_EXECUTORS: dict[str, tuple[str, ...]] = {
    "float16": (BASELINE,),
    "uint8": ("ladder", "tilus"),
    "uint4": ("ladder", "tilus"),
    "uint2": ("ladder", "tilus"),
}
STEPS: tuple[tuple[Stage, int, int], ...] = (  # stage, batch, tokens
    ("decode", 1, 2048),
    ("decode", 16, 2048),
    ("prefill", 1, 2048),
)
HARDWARE_TYPES = ("float16", "uint4")

# what the benchmark compares where nothing else is asked for
BENCH_EXECUTORS = ("triton", "humming", "public-tilus", "tilus")
BENCH_TYPES = ("uint8", "float6_e3m2", "uint4", "uint3", "uint2", "uint1")


@dataclass(frozen=True)
class Figure:
    """One figure of operators: its number, what it shows, how, and every cell of it.

    Cells whose weight type is in `aside` are measured and tabled, and not in the picture.
    """

    number: int
    title: str
    picture: Picture
    cells: tuple[Cell, ...]
    aside: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ModelFigure:
    """One figure of whole models: its number, what it shows, every cell, of one GPU or of each."""

    number: int
    title: str
    cells: tuple[ModelCell, ...]
    every_gpu: bool = False


def plain(b_dtype: str, m: int, n: int, k: int) -> Workload:
    """The problem with one scale a column and no zeros."""
    return Workload(b_dtype=b_dtype, group_size=-1, zeros=False, m=m, n=n, k=k)


def workload(b_dtype: str, m: int, n: int, k: int) -> Workload:
    """The problem that figure 9 poses: groups of 128 for integers, zeros for unsigned ones."""
    if not is_integer(b_dtype):
        return plain(b_dtype, m, n, k)
    return Workload(
        b_dtype=b_dtype, group_size=INTEGER_GROUP, zeros=has_zeros(b_dtype), m=m, n=n, k=k
    )


def bench_cells(
    b_dtypes: tuple[str, ...],
    shapes: tuple[tuple[int, int], ...],
    batches: tuple[int, ...],
    executors: tuple[str, ...],
    group_size: int | None,
) -> tuple[Cell, ...]:
    """The benchmark of these: what is compared stands together, each product of f16 first.

    Shapes are pairs of k and n. A group size is that of every type; without one integers have
    that of figure 9.
    """
    cells = []
    for k, n in shapes:
        for m in batches:
            cells.append(Cell(figure=BENCH, executor=BASELINE, workload=plain("float16", m, n, k)))
            for b_dtype in b_dtypes:
                shape = workload(b_dtype, m, n, k)
                if group_size is not None:
                    shape = shape.model_copy(update={"group_size": group_size})
                cells += [
                    Cell(figure=BENCH, executor=executor, workload=shape) for executor in executors
                ]
    return tuple(cells)


def is_integer(b_dtype: str) -> bool:
    """Whether weights of that type are scaled by groups."""
    return b_dtype.startswith(("uint", "int"))


def has_zeros(b_dtype: str) -> bool:
    """Whether weights of that type have zero points."""
    return b_dtype.startswith("uint")


def baseline(cell: Cell) -> Cell:
    """The cell that `cell` is compared with: the f16 product of the same m, n and k."""
    shape = cell.workload
    return Cell(
        figure=cell.figure,
        executor=BASELINE,
        workload=plain("float16", shape.m, shape.n, shape.k),
    )


def linear_workloads(step: ModelWorkload) -> list[tuple[int, Workload]]:
    """The products with weights in a step of a model, each with how often it is run.

    Decoding multiplies one row a request, prefill one row a token. Attention, norms, embeddings
    and the last layer are not among them: their sum is a lower bound of the step, not its time.
    """
    model = MODELS[step.model]
    m = step.batch if step.stage == "decode" else step.tokens
    return [
        (
            model.blocks,
            Workload(
                a_dtype=step.a_dtype,
                b_dtype=step.b_dtype,
                group_size=step.group_size,
                zeros=step.zeros,
                m=m,
                n=linear.n,
                k=linear.k,
            ),
        )
        for linear in model.linears
    ]


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


def _batches() -> tuple[Cell, ...]:
    return tuple(
        Cell(figure=13, executor=executor, workload=workload(b_dtype, m, **BATCH_SHAPE))
        for m in sorted(PUBLISHED_BATCHES + OTHER_BATCHES)
        for b_dtype in BATCH_TYPES
        for executor in OPERATORS[b_dtype]
    )


def _models(
    figure: int, names: tuple[str, ...], b_dtypes: tuple[str, ...]
) -> tuple[ModelCell, ...]:
    return tuple(
        ModelCell(
            figure=figure,
            executor=executor,
            workload=ModelWorkload(
                model=name,
                stage=stage,
                batch=batch,
                tokens=tokens,
                b_dtype=b_dtype,
                group_size=INTEGER_GROUP if is_integer(b_dtype) else -1,
                zeros=has_zeros(b_dtype),
            ),
        )
        for name in names
        for stage, batch, tokens in STEPS
        for b_dtype in b_dtypes
        for executor in MODEL_EXECUTORS[b_dtype]
    )


FIGURES: dict[int, Figure] = {
    9: Figure(9, TITLES[9], "bars", _operators()),
    10: Figure(10, TITLES[10], "spectrum", _spectrum(), aside=frozenset(OTHER_FLOATS)),
    13: Figure(13, TITLES[13], "lines", _batches()),
}
MODEL_FIGURES: dict[int, ModelFigure] = {
    11: ModelFigure(11, TITLES[11], _models(11, tuple(MODELS), tuple(MODEL_EXECUTORS))),
    12: ModelFigure(12, TITLES[12], _models(12, (QWEN.name,), HARDWARE_TYPES), every_gpu=True),
}
