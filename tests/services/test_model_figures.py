"""Figures of whole models: drawn from records alone, several GPUs in one, made up ones marked."""

import csv
import io
import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from services.experiments import MODEL_FIGURES
from services.plotter.jobs import render_models
from services.records import ModelRecord, append, load_models, newest_models
from services.settings import ROOT
from tests.services.made_up import model_records
from tests.services.pictures import words

CELLS, HARDWARE = MODEL_FIGURES[11].cells, MODEL_FIGURES[12].cells
KINDS = ("pdf", "png", "svg", "csv", "txt")


def table(out, figure):
    return list(csv.DictReader(io.StringIO((out / f"figure{figure}.csv").read_text())))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    render_models(11, CELLS, model_records(CELLS), True, out)
    return out


def test_a_record_of_a_model_has_the_agreed_names_and_is_read_back_equal(tmp_path):
    [one, *_] = model_records(CELLS).values()
    names = {"schema", "figure", "executor", "model", "engine", "stage", "batch", "tokens",
             "b_dtype", "latency_ms", "memory_gb", "status", "reason", "gpu", "commit"}  # fmt: skip
    line = json.loads(one.line())
    assert names <= line.keys() and not {"m", "n", "k"} & line.keys()
    append(tmp_path / "figure11.jsonl", one)
    assert load_models(tmp_path / "figure11.jsonl") == [one]
    with pytest.raises(ValidationError):
        ModelRecord.model_validate(line | {"stage": "training"})


def test_the_newest_record_of_a_cell_counts_on_each_gpu():
    one = next(iter(model_records(CELLS).values()))
    later = one.model_copy(update={"measured_at": one.measured_at.replace(year=2027)})
    other = one.model_copy(update={"gpu": one.gpu.model_copy(update={"name": "Fixture B"})})
    found = newest_models([later, one, other])
    assert found == {("fixture-gpu", one.cell): later, ("fixture-b", one.cell): other}


def test_every_cell_is_in_the_table_with_its_time_or_why_not(drawn):
    lines = table(drawn, 11)
    assert len(lines) == len(CELLS) == 63
    assert {line["status"] for line in lines if line["executor"] == "ladder"} == {"n/a"}
    memory = [line for line in lines if line["status"] == "oom"]
    assert {(line["model"], line["b_dtype"]) for line in memory} == {("Llama-3-70B", "float16")}
    assert all("do not fit" in line["reason"] for line in memory)
    for line in lines:
        if line["status"] == "ok" and line["model"] != "Llama-3-70B":
            base = next(
                other["latency_ms"]
                for other in lines
                if other["b_dtype"] == "float16"
                and all(other[name] == line[name] for name in ("model", "stage", "batch"))
            )
            ratio = float(base) / float(line["latency_ms"])
            assert float(line["speedup"]) == pytest.approx(ratio, abs=1e-3)


def test_the_picture_says_what_is_missing_what_did_not_fit_and_every_time(drawn):
    said = words(drawn / "figure11.svg")
    assert said.count("n/a") == 27 and said.count("OOM") == 3
    assert sum("gemma-2-9b: " in word for word in said) == 3
    assert any("33 of 63 cells measured" in w and "no record of: ladder (27)" in w for w in said)
    assert "no record of: ladder (27)" in (drawn / "figure11.txt").read_text()
    assert any("made-up 1.0" in word for word in said)


def test_made_up_numbers_are_marked_across_the_picture_and_others_are_not(drawn, tmp_path):
    assert "FIXTURE" in words(drawn / "figure11.svg")
    assert "FIXTURE" in (drawn / "figure11.txt").read_text().splitlines()[0]
    real = model_records(CELLS, "Real GPU")
    render_models(11, CELLS, real, True, tmp_path)
    assert not any("FIXTURE" in word for word in words(tmp_path / "figure11.svg"))


def test_the_same_records_give_the_same_bytes_and_others_do_not(drawn, tmp_path):
    for path in render_models(11, CELLS, model_records(CELLS), True, tmp_path):
        assert path.read_bytes() == (drawn / path.name).read_bytes(), path.name
    render_models(11, CELLS, model_records(CELLS, capacity_gb=30), True, tmp_path)
    for kind in KINDS:
        name = f"figure11.{kind}"
        assert (tmp_path / name).read_bytes() != (drawn / name).read_bytes(), kind


def test_without_records_every_bar_is_na(tmp_path):
    render_models(11, CELLS, {}, True, tmp_path)
    assert words(tmp_path / "figure11.svg").count("n/a") == 63
    assert "no records: nothing was measured" in (tmp_path / "figure11.txt").read_text()


def plot(*arguments):
    command = [sys.executable, "-m", "services.plotter", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def two_gpus(tmp_path):
    """A folder with records of both figures on two GPUs."""
    for figure, cells in ((11, CELLS), (12, HARDWARE)):
        for gpu in ("Fixture A", "Fixture B"):
            for (folder, _), one in model_records(cells, gpu).items():
                append(tmp_path / "records" / folder / f"figure{figure}.jsonl", one)
    return tmp_path / "records"


def test_files_of_several_gpus_become_one_figure(two_gpus, tmp_path):
    whole = plot("--figure", 12, "--records", two_gpus, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    lines = table(tmp_path / "whole", 12)
    assert [line["gpu"] for line in lines] == ["Fixture A"] * 9 + ["Fixture B"] * 9
    folders = [two_gpus / "fixture-b", two_gpus / "fixture-a" / "figure12.jsonl"]
    plot("--figure", 12, "--records", *folders, "--out", tmp_path / "parts")
    for kind in KINDS:
        one, other = (tmp_path / name / f"figure12.{kind}" for name in ("whole", "parts"))
        assert one.read_bytes() == other.read_bytes()
    said = words(tmp_path / "whole" / "figure12.svg")
    assert said.count("Fixture A") == said.count("Fixture B") == 3


def test_a_figure_of_one_gpu_is_not_drawn_of_two(two_gpus, tmp_path):
    done = plot("--figure", 11, "--records", two_gpus, "--out", tmp_path / "out")
    assert done.returncode == 2 and "records are of Fixture A, Fixture B: name one" in done.stderr
    assert not (tmp_path / "out").exists()
