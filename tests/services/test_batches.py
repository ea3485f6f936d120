"""Figure 13: a line an executor and type over the batch size, broken where there is no time."""

import csv
import io
import math

import pytest

from services.comparison import rows
from services.experiments import BASELINE, FIGURES
from services.plotter import lines
from services.plotter.jobs import render
from services.plotter.page import Words
from tests.services.made_up import batches
from tests.services.pictures import words

CELLS = FIGURES[13].cells
BATCHES = sorted({cell.workload.m for cell in CELLS})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("batches")
    render(13, CELLS, batches(CELLS), False, out)
    return out


def picture(records):
    return lines.draw(rows(CELLS, records), Words("", "", ""))


def test_there_is_a_line_for_each_executor_and_type_solid_for_u4_dashed_for_f6():
    found = lines.lines(rows(CELLS, {}))
    assert {line.name: line.dash == "solid" for line in found} == {
        "quant-llm f6e3m2": False,
        "tilus f6e3m2": False,
        "triton u4": True,
        "ladder u4": True,
        "tilus u4": True,
    }
    for line in found:
        assert [row.cell.workload.m for row in line.rows] == BATCHES


def test_points_are_the_speeds_of_the_records_and_gaps_what_has_none():
    records = batches(CELLS)
    axis = picture(records).axes[0]
    table = rows(CELLS, records)
    drawn = [line for line in axis.lines if len(line.get_xdata()) == len(BATCHES)]
    solid = [line for line in drawn if line.get_markerfacecolor() != "white"]
    for line, data in zip(lines.lines(table), solid, strict=True):
        for row, x, y in zip(line.rows, data.get_xdata(), data.get_ydata(), strict=True):
            assert x == row.cell.workload.m
            assert math.isnan(y) if row.speedup is None else y == pytest.approx(row.speedup)
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    assert [line.get_xdata()[0] for line in crosses] == [64]


def test_the_inset_has_the_batches_from_4096_and_hides_no_line():
    records = batches(CELLS)
    figure = picture(records)
    [axis] = figure.axes
    [inset] = axis.child_axes
    assert list(inset.get_xticks()) == [4096, 8192, 12288]
    figure.draw_without_rendering()
    box = inset.get_tightbbox()
    for row in rows(CELLS, records):
        if row.speedup is not None and row.cell.executor != BASELINE:
            x, y = axis.transData.transform((row.cell.workload.m, row.speedup))
            assert not box.contains(x, y), row.cell
    for row in rows(CELLS, records):
        if row.speedup is not None and row.cell.workload.m >= 4096:
            low, high = inset.get_ylim()
            assert low < row.speedup < high


@pytest.mark.parametrize("slowest", [0.01, 0.1, 0.9, 3.0])
def test_the_inset_finds_room_whatever_the_speeds(slowest):
    records = {
        cell: one.model_copy(update={"latency_ms": one.latency_ms / slowest})
        if cell.executor == "triton" and one.latency_ms
        else one
        for cell, one in batches(CELLS).items()
    }
    figure = picture(records)
    [axis] = figure.axes
    figure.draw_without_rendering()
    box = axis.child_axes[0].get_tightbbox()
    assert box.height > 0.2 * axis.bbox.height
    for row in rows(CELLS, records):
        if row.speedup is not None and row.cell.executor != BASELINE:
            point = axis.transData.transform((row.cell.workload.m, row.speedup))
            assert not box.contains(*point), row.cell


def test_the_table_has_every_cell_and_the_caption_what_is_missing(drawn):
    table = list(csv.DictReader(io.StringIO((drawn / "figure13.csv").read_text())))
    assert len(table) == 84
    assert [line["m"] for line in table if line["status"] == "wrong"] == ["64"]
    for text in ((drawn / "figure13.txt").read_text(), " ".join(words(drawn / "figure13.svg"))):
        assert "69 of 84 cells measured" in text and "no record of: ladder (14)" in text
        assert "ladder u4 (n/a)" in text or text.startswith("Figure 13")
        assert "FIXTURE" in text


@pytest.mark.promise(20)
def test_the_same_records_give_the_same_bytes_and_others_do_not(drawn, tmp_path):
    for path in render(13, CELLS, batches(CELLS), False, tmp_path):
        assert path.read_bytes() == (drawn / path.name).read_bytes(), path.name
    render(13, CELLS, batches(CELLS, wrong=()), False, tmp_path)
    for kind in ("pdf", "png", "svg", "csv", "txt"):
        name = f"figure13.{kind}"
        assert (tmp_path / name).read_bytes() != (drawn / name).read_bytes(), kind


@pytest.mark.parametrize("kept", [("float16",), ("float16", "uint4")])
def test_a_part_of_the_figure_can_be_drawn(kept, tmp_path):
    part = [cell for cell in CELLS if cell.workload.b_dtype in kept]
    render(13, part, batches(part, wrong=()), False, tmp_path)
    assert "f6e3m2" not in " ".join(words(tmp_path / "figure13.svg"))
