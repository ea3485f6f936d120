"""The figures are the published ones: their cells, their problems, their baselines."""

from collections import Counter

import pytest

from services.executors import EXECUTORS
from services.experiments import BASELINE, FIGURES, MODEL_FIGURES, baseline, linear_workloads
from services.figures import TITLES
from services.messages import Workload
from services.models import MODELS
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
    every = FIGURES | MODEL_FIGURES
    assert {number: each.title for number, each in every.items()} == TITLES
    assert all(each.number == number for number, each in every.items())
    assert FIGURES.keys().isdisjoint(MODEL_FIGURES)


@pytest.mark.parametrize("figure", FIGURES.values(), ids=lambda each: each.number)
def test_every_cell_is_compared_with_a_cell_of_the_figure(figure):
    for cell in figure.cells:
        assert cell.figure == figure.number
        base = baseline(cell)
        assert base in figure.cells
        assert base.executor == BASELINE
        shape = (cell.workload.m, cell.workload.n, cell.workload.k)
        assert (base.workload.m, base.workload.n, base.workload.k) == shape


def test_figure_13_has_six_lines_over_fourteen_batches():
    cells = FIGURES[13].cells
    published = {1, 4, 8, 16, 2048, 4096, 8192, 12288}
    ours = {32, 64, 128, 256, 512, 1024}
    lines = Counter((c.executor, c.workload.b_dtype) for c in cells)
    kinds = {("torch-f16", "float16"), ("quant-llm", "float6_e3m2"), ("tilus", "float6_e3m2")}
    kinds |= {("triton", "uint4"), ("ladder", "uint4"), ("tilus", "uint4")}
    assert lines == dict.fromkeys(kinds, 14) and len(set(cells)) == 84
    assert {c.workload.m for c in cells} == published | ours
    assert {(c.workload.k, c.workload.n) for c in cells} == {(8192, 57344)}


def test_figure_13_poses_the_problems_of_figure_9():
    there = {c.workload for c in CELLS}
    for cell in FIGURES[13].cells:
        if cell.workload.m in (1, 16):
            assert cell.workload in there


def test_what_there_is_of_figure_13_can_be_measured():
    for cell in FIGURES[13].cells:
        executor = EXECUTORS.get(cell.executor)
        if executor is None:
            assert cell.executor == "quant-llm"
            continue
        assert executor.refusal(cell.workload) is None
        assert executor.candidates(cell.workload, "sm_90") or cell.executor == BASELINE


def test_figure_11_has_three_models_three_steps_seven_bars():
    cells = MODEL_FIGURES[11].cells
    assert len(set(cells)) == len(cells) == 3 * 3 * 7
    steps = {(c.workload.stage, c.workload.batch, c.workload.tokens) for c in cells}
    assert steps == {("decode", 1, 2048), ("decode", 16, 2048), ("prefill", 1, 2048)}
    bars = {(c.executor, c.workload.b_dtype, c.workload.group_size, c.workload.zeros)
            for c in cells}  # fmt: skip
    assert bars == {("torch-f16", "float16", -1, False)} | {
        (name, f"uint{bits}", 128, True) for name in ("ladder", "tilus") for bits in (8, 4, 2)
    }


def test_figure_12_is_one_model_of_figure_11_in_f16_and_u4_on_every_gpu():
    assert MODEL_FIGURES[12].every_gpu and not MODEL_FIGURES[11].every_gpu
    here = {(c.executor, c.workload) for c in MODEL_FIGURES[12].cells}
    there = {(c.executor, c.workload) for c in MODEL_FIGURES[11].cells}
    assert len(here) == 9 and here < there
    assert {work.model for _, work in here} == {"Qwen2.5-32B"}
    assert {work.b_dtype for _, work in here} == {"float16", "uint4"}


# billions: all weights as the configurations count them, and the vocabulary's two matrices (one
# where they are tied), times the hidden size
WEIGHTS = {
    "gemma-2-9b": (9.24, 256000 * 3584),
    "Qwen2.5-32B": (32.76, 2 * 152064 * 5120),
    "Llama-3-70B": (70.55, 2 * 128256 * 8192),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_linear_layers_are_all_of_a_model_but_its_vocabulary(name):
    total, vocabulary = WEIGHTS[name]
    step = next(c.workload for c in MODEL_FIGURES[11].cells if c.workload.model == name)
    linear = sum(count * work.k * work.n for count, work in linear_workloads(step))
    assert (linear + vocabulary) / 1e9 == pytest.approx(total, abs=0.006)


def test_decoding_multiplies_a_row_a_request_and_prefill_a_row_a_token():
    for cell in MODEL_FIGURES[11].cells:
        step = cell.workload
        rows = {work.m for _, work in linear_workloads(step)}
        assert rows == {step.batch if step.stage == "decode" else 2048}
        kinds = {(w.b_dtype, w.group_size, w.zeros) for _, w in linear_workloads(step)}
        assert kinds == {(step.b_dtype, step.group_size, step.zeros)}
