"""A figure says what the records say: every cell, what is missing, and where it comes from."""

import csv
import io
import re
import subprocess
import sys

import pytest

from services.comparison import rows
from services.executors import EXECUTORS
from services.experiments import BASELINE, FIGURES, baseline
from services.plotter.captions import provenance, summary
from services.plotter.jobs import render
from services.plotter.rows import against, as_csv, geometric_mean
from services.records import append, newest
from services.settings import ROOT
from tests.services.made_up import bad, timed

CELLS = FIGURES[9].cells
LATENCY = {BASELINE: 0.3, "triton": 0.2, "tilus": 0.1}


def fixture_records():
    """Made up, and saying so: three executors everywhere, one of them wrong in one cell."""
    found = [timed(cell, LATENCY[cell.executor]) for cell in CELLS if cell.executor in LATENCY]
    wrong = next(i for i, one in enumerate(found) if one.executor == "triton")
    found[wrong] = bad(found[wrong], "wrong")
    return newest(found)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("figure")
    render(9, CELLS, fixture_records(), True, out)
    return out


def test_speed_is_the_baselines_latency_over_the_cells():
    for row in rows(CELLS, fixture_records()):
        if row.speedup is not None:
            assert row.speedup == pytest.approx(0.3 / LATENCY[row.cell.executor])
    without = {c: r for c, r in fixture_records().items() if c.executor != BASELINE}
    assert all(row.speedup is None for row in rows(CELLS, without))


def test_the_csv_has_every_cell_and_na_where_nothing_was_measured(drawn):
    lines = list(csv.DictReader(io.StringIO((drawn / "figure9.csv").read_text())))
    assert len(lines) == 90
    absent = [line for line in lines if line["executor"] not in EXECUTORS]
    assert absent
    assert all(line["status"] == line["latency_ms"] == "n/a" for line in absent)
    (wrong,) = [line for line in lines if line["status"] == "wrong"]
    assert (wrong["latency_ms"], wrong["speedup"], wrong["reason"]) == ("n/a", "n/a", "it is off")
    good = next(line for line in lines if line["executor"] == "tilus")
    assert float(good["speedup"]) == pytest.approx(3)
    assert float(good["ratio_to_floor"]) == pytest.approx(1.25)
    assert good["kernel_key"] == "0" * 64


def test_every_picture_is_what_its_name_says(drawn):
    starts = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}
    for kind, start in starts.items():
        assert (drawn / f"figure9.{kind}").read_bytes().startswith(start)


def test_the_same_records_give_the_same_bytes(drawn, tmp_path):
    for path in render(9, CELLS, fixture_records(), True, tmp_path):
        assert path.read_bytes() == (drawn / path.name).read_bytes(), path.name


def test_other_records_give_another_picture(drawn, tmp_path):
    changed = {
        cell: one.model_copy(update={"latency_ms": 0.05}) if cell.executor == "tilus" else one
        for cell, one in fixture_records().items()
    }
    render(9, CELLS, changed, True, tmp_path)
    assert (tmp_path / "figure9.svg").read_bytes() != (drawn / "figure9.svg").read_bytes()


def test_words_do_not_overlap(drawn, tmp_path):
    """In the text of the picture no two words of a panel share a place."""
    text = (drawn / "figure9.svg").read_text()
    places = re.findall(r'<g id="text_\d+">.*?translate\(([\d.]+) ([\d.]+)\)', text, re.S)
    assert len(places) > 90
    assert len(set(places)) == len(places)


def test_title_and_footer_tell_recorded_from_measured(tmp_path):
    found = list(fixture_records().values())
    assert "recorded 2026-01-02" in provenance(found, True, "by hand")
    assert "measured 2026-01-02" in provenance(found, False, "by hand")
    for part in ("Fixture GPU", "driver 1.2.3", "commit ffffffffff", "by hand"):
        assert part in provenance(found, False, "by hand")
    render(9, CELLS, fixture_records(), True, tmp_path)
    assert "(recorded)" in (tmp_path / "figure9.txt").read_text().splitlines()[0]
    render(9, CELLS, fixture_records(), False, tmp_path)
    assert "(recorded)" not in (tmp_path / "figure9.txt").read_text()


def test_a_figure_of_no_records_is_all_na(tmp_path):
    render(9, CELLS, {}, True, tmp_path)
    text = (tmp_path / "figure9.txt").read_text()
    assert text.count("n/a") == 90
    assert "no records" in text


def test_means_are_over_the_cells_that_both_have():
    table = rows(CELLS, fixture_records())
    assert against(table, "tilus") == {"triton": (pytest.approx(2.0), 11)}
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert "tilus 2.00x triton (geometric mean of 11)" in summary(table, table)


def test_a_part_of_the_figure_can_be_drawn(tmp_path):
    part = [cell for cell in CELLS if cell.workload.b_dtype in ("float16", "uint4")]
    render(9, part, fixture_records(), True, tmp_path)
    assert len((tmp_path / "figure9.csv").read_text().splitlines()) == 1 + len(part)


def test_the_table_is_the_csv_of_the_rows():
    table = rows(CELLS, fixture_records())
    lines = list(csv.reader(io.StringIO(as_csv(table))))
    assert len({len(line) for line in lines}) == 1
    assert all(baseline(row.cell) in CELLS for row in table)


def plot(*arguments):
    command = [sys.executable, "-m", "services.plotter", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_draws_from_a_folder(tmp_path):
    for one in fixture_records().values():
        append(tmp_path / "records" / "figure9.jsonl", one)
    done = plot("--figure", 9, "--records", tmp_path / "records", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"figure9.{kind}" for kind in ("pdf", "png", "svg", "csv", "txt")}


def test_the_command_refuses_what_is_not_there_and_writes_nothing(tmp_path):
    done = plot("--figure", 9, "--records", tmp_path / "no", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "there are no records of figure 9" in done.stderr
    assert plot("--figure", 8, "--records", tmp_path).returncode == 2
    assert not (tmp_path / "out").exists()
