"""The figures are the published ones: their cells, their problems, their baselines."""

from collections import Counter

import pytest

from services.executors import EXECUTORS
from services.experiments import BASELINE, FIGURES, baseline
from services.figures import TITLES
from services.messages import Workload
from tilus.dtypes import SMALL_FLOATS

CELLS = FIGURES[9].cells
SPECTRUM = FIGURES[10]
INTEGERS = {f"{kind}{bits}" for kind in ("uint", "int") for bits in range(1, 9)}


def test_figure_9_has_its_90_cells_once_each():
    assert len(CELLS) == len(set(CELLS)) == 90


def test_every_shape_and_batch_has_the_same_fifteen_bars():
    bars = Counter((c.workload.m, c.workload.k, c.workload.n) for c in CELLS)
    shapes = [(8192, 8192), (8192, 57344), (28672, 8192)]
    assert bars == {(m, k, n): 15 for m in (1, 16) for k, n in shapes}


def test_executors_have_the_types_that_they_were_published_with():
    kinds = {(c.executor, c.workload.b_dtype) for c in CELLS}
    assert kinds == {
        ("torch-f16", "float16"),
        ("triton", "uint8"),
        ("triton", "uint4"),
        ("ladder", "uint8"),
        ("ladder", "uint4"),
        ("ladder", "uint2"),
        ("ladder", "uint1"),
        ("quant-llm", "float6_e3m2"),
        ("marlin", "int4"),
        *(
            ("tilus", t)
            for t in ("uint8", "float6_e3m2", "uint4", "int4", "uint2", "uint1")
        ),
    }  # fmt: skip


def test_unsigned_weights_have_zeros_and_integers_groups_of_128():
    problems = {(c.workload.b_dtype, c.workload.group_size, c.workload.zeros) for c in CELLS}
    assert problems == {
        ("float16", -1, False),
        ("float6_e3m2", -1, False),
        ("uint8", 128, True),
        ("uint4", 128, True),
        ("uint2", 128, True),
        ("uint1", 128, True),
        ("int4", 128, False),
    }


def test_figure_10_has_every_type_of_1_to_8_bits_and_the_baseline_once():
    kinds = Counter((c.executor, c.workload.b_dtype) for c in SPECTRUM.cells)
    types = INTEGERS | {each.name for each in SMALL_FLOATS}
    assert kinds == {("torch-f16", "float16"): 1} | {("tilus", name): 1 for name in types}


def test_figure_10_is_one_problem_with_one_scale_a_column_and_no_zeros():
    for cell in SPECTRUM.cells:
        assert cell.workload == Workload(
            b_dtype=cell.workload.b_dtype, group_size=-1, zeros=False, m=16, n=57344, k=8192
        )


def test_figure_10_shows_the_published_floats_and_only_tables_the_others():
    shown = {c.workload.b_dtype for c in SPECTRUM.cells} - SPECTRUM.aside
    floats = {"float8_e4m3", "float7_e3m3", "float6_e3m2"}
    floats |= {"float5_e2m2", "float4_e2m1", "float3_e1m1"}
    assert shown == {"float16"} | INTEGERS | floats


def test_no_executor_of_figure_10_refuses_its_cells():
    for cell in SPECTRUM.cells:
        assert EXECUTORS[cell.executor].refusal(cell.workload) is None


def test_the_command_line_knows_the_figures_that_there_are():
    assert {number: each.title for number, each in FIGURES.items()} == TITLES
    assert all(each.number == number for number, each in FIGURES.items())


@pytest.mark.parametrize("figure", FIGURES.values(), ids=lambda each: each.number)
def test_every_cell_is_compared_with_a_cell_of_the_figure(figure):
    for cell in figure.cells:
        assert cell.figure == figure.number
        base = baseline(cell)
        assert base in figure.cells
        assert base.executor == BASELINE
        shape = (cell.workload.m, cell.workload.n, cell.workload.k)
        assert (base.workload.m, base.workload.n, base.workload.k) == shape
