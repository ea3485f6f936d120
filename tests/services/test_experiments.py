"""Figure 9 is the published one: its cells, their problems, their baselines."""

from collections import Counter

from services.experiments import BASELINE, FIGURES, baseline

CELLS = FIGURES[9].cells


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


def test_every_cell_is_compared_with_a_cell_of_the_figure():
    for cell in CELLS:
        base = baseline(cell)
        assert base in CELLS
        assert base.executor == BASELINE
        shape = (cell.workload.m, cell.workload.n, cell.workload.k)
        assert (base.workload.m, base.workload.n, base.workload.k) == shape
