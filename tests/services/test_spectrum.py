"""The heat map: each type has its one place, and each tile says what its record says."""

import csv
import io
import re
from itertools import pairwise

import pytest
from matplotlib.colors import to_rgb

import tilus
from services.comparison import rows
from services.experiments import BASELINE, FIGURES
from services.plotter import looks, spectrum
from services.plotter.jobs import render
from tests.services.made_up import spectrum as made_up

CELLS, ASIDE = FIGURES[10].cells, FIGURES[10].aside
TIMES, MICRO = "\N{MULTIPLICATION SIGN}", "\N{MICRO SIGN}"


def words(out):
    """Every text of the picture, in order."""
    return re.findall(r"<!-- (.*?) -->", (out / "figure10.svg").read_text())


def table(out):
    """The lines of the CSV by their types."""
    lines = csv.DictReader(io.StringIO((out / "figure10.csv").read_text()))
    return {line["b_dtype"]: line for line in lines}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("spectrum")
    render(10, CELLS, made_up(CELLS), True, out)
    return out


def test_every_kind_has_its_line_and_every_width_its_column():
    shown = [row for row in rows(CELLS, {}) if row.cell.workload.b_dtype not in ASIDE]
    places = {
        (tile.line, tile.column): tile.row.cell.workload.b_dtype for tile in spectrum.tiles(shown)
    }
    assert len(places) == len(spectrum.tiles(shown)) == 22
    assert [places[0, column] for column in range(8)] == [f"uint{n}" for n in range(8, 0, -1)]
    assert [places[1, column] for column in range(8)] == [f"int{n}" for n in range(8, 0, -1)]
    assert [places[2, column][5] for column in range(6)] == list("876543")
    assert {(2, 6), (2, 7)}.isdisjoint(places)


def test_a_tile_says_speed_time_and_ratio_to_the_floor(drawn):
    records = made_up(CELLS)
    said = words(drawn)
    base = next(one for one in records.values() if one.executor == BASELINE)
    for row in rows(CELLS, records):
        one = row.record
        if row.cell.executor == BASELINE or row.cell.workload.b_dtype in ASIDE or one is None:
            continue
        if one.status == "ok":
            assert f"{base.latency_ms / one.latency_ms:.2f}{TIMES}" in said
            assert f"{one.latency_ms * 1000:.1f} {MICRO}s" in said
            assert f"{one.latency_ms / one.floor_ms:.2f}{TIMES} floor" in said
    assert any("m = 16, k = 8192, n = 57344" in word for word in said)


def test_what_is_missing_wrong_or_failed_is_marked_and_has_no_number(drawn):
    said = words(drawn)
    assert (said.count("n/a"), said.count("wrong"), said.count("failed")) == (1, 1, 1)
    assert sum(word.endswith(" floor") for word in said) == 22 - 3
    assert [table(drawn)[name]["status"] for name in ("uint3", "int5", "int2")] == [
        "n/a",
        "wrong",
        "failed",
    ]


def test_other_floats_are_in_the_csv_and_not_in_the_picture(drawn):
    said, lines = words(drawn), table(drawn)
    assert len(lines) == len(CELLS) == 44
    for cell in CELLS:
        name = cell.workload.b_dtype
        if name in ASIDE:
            assert tilus.dtype(name).short not in said and lines[name]["status"] == "ok"
    assert "f6e3m2" in said


def test_it_says_which_gpu_when_and_that_it_is_recorded(drawn, tmp_path):
    said = words(drawn)
    assert any(word.startswith("Figure 10: ") and "(recorded)" in word for word in said)
    for part in ("Fixture GPU", "driver 1.2.3", "recorded 2026-01-02", "commit ffffffffff"):
        assert any(part in word for word in said)
    render(10, CELLS, made_up(CELLS), False, tmp_path)
    assert not any("recorded" in word for word in words(tmp_path))


def test_the_same_records_give_the_same_bytes_and_others_do_not(drawn, tmp_path):
    for path in render(10, CELLS, made_up(CELLS), True, tmp_path):
        assert path.read_bytes() == (drawn / path.name).read_bytes(), path.name
    render(10, CELLS, made_up(CELLS, failed=("uint1",)), True, tmp_path)
    for kind in ("svg", "png", "pdf", "csv"):
        name = f"figure10.{kind}"
        assert (tmp_path / name).read_bytes() != (drawn / name).read_bytes(), kind


def test_no_two_words_share_a_place(drawn):
    text = (drawn / "figure10.svg").read_text()
    places = re.findall(r'<g id="text_\d+">.*?translate\(([\d.]+) ([\d.]+)\)', text, re.S)
    assert len(places) == len(set(places)) > 22 * 3


@pytest.mark.parametrize("types", [(), ("uint4",), ("float8_e5m2",), ("int1", "float3_e1m1")])
def test_a_part_of_the_figure_can_be_drawn(types, tmp_path):
    part = [cell for cell in CELLS if cell.workload.b_dtype in ("float16", *types)]
    render(10, part, made_up(part), True, tmp_path)
    shown = set(types) - ASIDE
    assert sum(word.endswith(" floor") for word in words(tmp_path)) == len(shown)
    assert set(table(tmp_path)) == {"float16", *types}


def test_without_records_every_tile_is_na(tmp_path):
    render(10, CELLS, {}, True, tmp_path)
    assert words(tmp_path).count("n/a") == 22
    assert "no records" in (tmp_path / "figure10.txt").read_text()


def test_without_the_baseline_there_are_times_and_no_speeds(tmp_path):
    records = {c: one for c, one in made_up(CELLS).items() if c.executor != BASELINE}
    render(10, CELLS, records, True, tmp_path)
    said = words(tmp_path)
    assert said.count("n/a") == 22 - 2
    assert sum(word.endswith(" floor") for word in said) == 22 - 3


def test_groups_that_were_asked_for_are_named(tmp_path):
    grouped = [
        cell.model_copy(update={"workload": cell.workload.model_copy(update={"group_size": 128})})
        if "int" in cell.workload.b_dtype
        else cell
        for cell in CELLS
    ]
    render(10, grouped, made_up(grouped), True, tmp_path)
    assert any("integers in groups of 128" in word for word in words(tmp_path))


def test_faster_is_darker_and_words_can_be_read_on_every_colour():
    shades = [spectrum.COLORS(place / 200) for place in range(201)]
    light = [looks.luminance(shade) for shade in shades]
    assert all(after < before for before, after in pairwise(light))
    for shade, level in zip(shades, light, strict=True):
        ink = looks.luminance(to_rgb(looks.on(shade)))
        assert (max(ink, level) + 0.05) / (min(ink, level) + 0.05) >= looks.WHITE_READS


def test_twice_as_fast_is_as_far_as_half_and_the_scale_widens_by_powers_of_two():
    norm = spectrum.scale([0.4, 20.0])
    assert (norm.vmin, norm.vmax) == (0.25, 32.0)
    assert norm(2.0) - norm(1.0) == pytest.approx(norm(1.0) - norm(0.5))
    assert (spectrum.scale([]).vmin, spectrum.scale([3.0]).vmax) == spectrum.USUAL
