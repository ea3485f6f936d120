"""Numbers from elsewhere are read as they are published, and stand beside ours as another's."""

import csv
import io

import pytest

from services.comparison import rows
from services.experiments import BASELINE, FIGURES, MODEL_FIGURES, baseline
from services.messages import Reference, RunRequest
from services.plotter.jobs import render, render_models
from services.reference import check_reference, from_file, read
from services.selection import BadRequest
from tests.services.made_up import batches, model_records, operators, spectrum, table_of
from tests.services.pictures import words

MAKE = {9: operators, 10: spectrum, 13: batches}


def reference(cells, device="Other-GPU"):
    return Reference(source="other.csv", text=table_of(cells, device))


@pytest.mark.parametrize("figure", FIGURES)
def test_every_product_is_found_under_the_names_that_others_use(figure):
    cells = FIGURES[figure].cells
    published = read(reference(cells))
    found = [published.of("Other-GPU", cell) for cell in cells]
    assert found[:-1] == [0.2 * (1 + number % 7) for number in range(len(cells) - 1)]
    assert found[-1] is None, "what failed there has no number"


@pytest.mark.parametrize("figure", MODEL_FIGURES)
def test_every_step_of_a_model_is_found_likewise(figure):
    cells = MODEL_FIGURES[figure].cells
    published = read(reference(cells))
    assert (
        sum(published.of_model("Other-GPU", cell) is not None for cell in cells) == len(cells) - 1
    )


def test_speed_there_is_over_the_baseline_there():
    cells = FIGURES[13].cells
    published = read(reference(cells))
    records = batches(cells)
    for row in rows(cells, records, published):
        there = published.of("Other-GPU", row.cell)
        base = published.of("Other-GPU", baseline(row.cell))
        if there is None:
            assert row.reference_speedup is None
            continue
        assert row.reference_ms == there
        assert row.reference_speedup == pytest.approx(base / there)
        if row.speedup is not None:
            assert row.ratio == pytest.approx(row.speedup / row.reference_speedup)


def test_the_same_device_is_preferred_and_the_first_is_the_last_resort():
    text = table_of(FIGURES[13].cells, "NVIDIA-L40S")
    text += table_of(FIGURES[13].cells, "NVIDIA-H200").partition("\n")[2]
    published = read(Reference(source="two.csv", text=text))
    assert published.device("NVIDIA H200") == "NVIDIA-H200"
    assert published.device("NVIDIA A100") == published.device("") == "NVIDIA-L40S"


@pytest.mark.parametrize("figure", FIGURES)
def test_tables_gain_the_numbers_and_pictures_their_source(figure, tmp_path):
    cells, made = FIGURES[figure].cells, MAKE[figure]
    render(figure, cells, made(cells), False, tmp_path / "alone")
    render(figure, cells, made(cells), False, tmp_path / "beside", read(reference(cells)))
    alone, beside = ((tmp_path / name / f"figure{figure}.csv") for name in ("alone", "beside"))
    ours = list(csv.DictReader(io.StringIO(alone.read_text())))
    both = list(csv.DictReader(io.StringIO(beside.read_text())))
    assert [{name: line[name] for name in ours[0]} for line in both] == ours
    for line in both:
        if "n/a" not in (line["speedup"], line["reference_speedup"]):
            ratio = float(line["speedup"]) / float(line["reference_speedup"])
            assert float(line["speedup_over_reference"]) == pytest.approx(ratio, rel=2e-3)
    source = "not ours: Other-GPU, from other.csv"
    assert any(source in said for said in words(beside.with_suffix(".svg")))
    assert not any("not ours" in said for said in words(alone.with_suffix(".svg")))
    text = beside.with_suffix(".txt").read_text()
    assert "ours/ref" in text and "Other-GPU, from other.csv" in text
    assert "ours/ref" not in alone.with_suffix(".txt").read_text()


def test_hatched_bars_and_hollow_markers_are_as_many_as_the_numbers(tmp_path):
    cells = FIGURES[9].cells
    render(9, cells, operators(cells), False, tmp_path, read(reference(cells)))
    picture = (tmp_path / "figure9.svg").read_text()
    # each bar that is not ours is filled with the hatch; one more is in the legend
    assert picture.count("fill: url(#") == len(cells) - 1 + 1


def test_latencies_of_models_are_compared_on_the_same_gpu_where_gpus_are_compared(tmp_path):
    cells = MODEL_FIGURES[12].cells
    records = model_records(cells, "Fixture One") | model_records(cells, "Fixture Two")
    published = read(reference(cells, "Fixture-Two"))
    render_models(12, cells, records, True, tmp_path, published)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "figure12.csv").read_text())))
    assert len(lines) == 2 * len(cells)
    for line in lines:
        there = line["reference_latency_ms"]
        if line["gpu"] == "Fixture One":
            assert there == "n/a"
        elif "n/a" not in (there, line["latency_ms"]):
            ratio = float(line["latency_ms"]) / float(there)
            assert float(line["latency_over_reference"]) == pytest.approx(ratio, abs=1e-3)


def test_a_gpu_that_only_the_file_has_gets_its_own_place(tmp_path):
    cells = MODEL_FIGURES[12].cells
    published = read(reference(cells, "Fixture-Three"))
    render_models(12, cells, model_records(cells, "Fixture One"), True, tmp_path, published)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "figure12.csv").read_text())))
    three = [line for line in lines if line["gpu"] == "Fixture Three"]
    assert len(three) == len(cells) and all(line["status"] == "n/a" for line in three)
    assert "9 of 18" not in (tmp_path / "figure12.txt").read_text(), "these are not ours to measure"


def request(figure, text):
    return RunRequest(
        figure=figure, mode="recorded", reference=Reference(source="other.csv", text=text)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names the columns nothing"),
        ("a,b\n1,2\n", "names the columns a, b: there must be a_dtype, .* runner"),
        ("device,runner,a_dtype,b_dtype,group_size,m,k,n,latency\n", "no line but the first"),
    ],
)
def test_what_is_no_such_table_is_refused(text, message):
    with pytest.raises(BadRequest, match=message):
        check_reference(request(13, text))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("m", "many", "other.csv:3: .*many"),
        ("latency", "", "other.csv:3"),
        ("b_dtype", "u99", "u99"),
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_named(column, value, message):
    lines = list(csv.DictReader(io.StringIO(table_of(FIGURES[13].cells, "Other"))))
    lines[1][column] = value
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0])
    writer.writeheader()
    writer.writerows(lines)
    with pytest.raises(BadRequest, match=message):
        check_reference(request(13, text.getvalue()))


def test_the_file_of_another_figure_is_refused():
    with pytest.raises(BadRequest, match="no number for a cell of figure 11"):
        check_reference(request(11, table_of(FIGURES[13].cells, "Other")))
    tall = [c for c in FIGURES[13].cells if c.workload.m > 16]
    with pytest.raises(BadRequest, match="no number for a cell of figure 9"):
        check_reference(request(9, table_of(tall, "Other")))


def test_a_file_is_carried_whole_and_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(table_of(FIGURES[9].cells, "Other"))
    assert from_file(path) == Reference(source="mine.csv", text=path.read_text())
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRequest, match="is no table"):
        from_file(path)
    path.write_text("x" * (1 << 18) + "x")
    with pytest.raises(BadRequest, match="is no table"):
        from_file(path)
    with pytest.raises(BadRequest, match="No such file"):
        from_file(tmp_path / "none.csv")


def test_the_baseline_is_beside_itself():
    cells = FIGURES[13].cells
    table = rows(cells, {}, read(reference(cells)))
    assert all(row.reference_speedup == 1 for row in table if row.cell.executor == BASELINE)
