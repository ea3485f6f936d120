"""The records that the project ships are those of a real run: whole, right, and of one piece."""

from statistics import median

import pytest

from services.experiments import FIGURES, MODEL_FIGURES
from services.records import gpu_folder, load, load_models, record_paths
from services.runner.measure import REPEATS, TOLERANCE
from services.settings import ROOT

RECORDED = ROOT / "results" / "recorded"
PATHS = [path for number in FIGURES for path in record_paths(RECORDED, number)]
MODEL_PATHS = [path for number in MODEL_FIGURES for path in record_paths(RECORDED, number)]


def test_shipped_records_are_of_figures_and_some_figures_have_them():
    assert {"figure9", "figure10"} <= {path.stem for path in PATHS + MODEL_PATHS}
    for path in MODEL_PATHS:
        for record in load_models(path):
            assert gpu_folder(record.gpu.name) == path.parent.name
            assert record.cell in MODEL_FIGURES[record.figure].cells
            assert not record.gpu.fixture and not record.dirty


@pytest.fixture(params=PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def shipped(request):
    return request.param, load(request.param)


def test_records_lie_where_their_device_and_figure_say(shipped):
    path, records = shipped
    assert records
    for record in records:
        assert gpu_folder(record.gpu.name) == path.parent.name
        assert f"figure{record.figure}" == path.stem
        group = {"group_size": record.cell.workload.group_size}  # --group-size says which
        work = {cell.workload.model_copy(update=group) for cell in FIGURES[record.figure].cells}
        assert record.cell.workload in work
        assert record.cell in FIGURES[record.figure].cells or record.executor == "tilus"
        assert not record.gpu.fixture


def test_latencies_are_the_medians_of_their_samples(shipped):
    _, records = shipped
    for record in (one for one in records if one.status == "ok"):
        assert len(record.samples_ms) == REPEATS
        assert record.latency_ms == pytest.approx(median(record.samples_ms))
        assert record.min_ms == min(record.samples_ms) > 0


def test_every_time_belongs_to_a_right_result(shipped):
    _, records = shipped
    for record in (one for one in records if one.status == "ok"):
        assert record.relative_error < TOLERANCE
        assert record.floor_ms > 0


def test_a_bar_group_had_equal_inputs(shipped):
    _, records = shipped
    digests = {}
    for record in (one for one in records if one.inputs_sha256):
        group = digests.setdefault(record.cell.workload, set())
        group.add(record.inputs_sha256)
    assert all(len(group) == 1 for group in digests.values())


def test_records_name_a_commit_without_changes(shipped):
    _, records = shipped
    for record in records:
        assert len(record.commit) == 40, "the tree was measured without TILUS_COMMIT or its .git"
        assert not record.dirty
