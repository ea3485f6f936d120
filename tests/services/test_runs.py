from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from services import planning, runs
from services.batch import FleetJob
from services.building import build_kernel
from services.compiler.jobs import check_kernel
from services.experiments import FIGURES, MODEL_FIGURES
from services.fleet import Fleet
from services.messages import KernelSpec, Measurement, RunRequest
from services.notes import Note, waiting, write
from services.queue import COMPILE, DRAW, FleetQueue, fetch, measure_queue, standings
from services.records import append, record_path
from services.selection import BadRequest, fitted, selected, selected_models
from services.settings import load
from services.store import Folder
from tests.services.fake import Fake
from tests.services.made_up import model_records
from tests.services.records import record

RECORDED = RunRequest(figure=9, mode="recorded")
GPU, UUID = "nvidia-h200", "GPU-1"
MEASURED = RunRequest(figure=9, mode="measured", gpu=GPU, uuid=UUID)


@pytest.fixture
def fleet(tmp_path, redis):
    settings = load().model_copy(
        update={name: tmp_path / name for name in ("state", "store", "results", "recorded")}
    )
    executors = {name: Fake(name, tmp_path / "builds") for name in ("tilus", "triton")}
    return Fleet(settings, Folder(settings.store), redis, executors)


def kinds(plan, *, stored):
    return sorted(task.kind for task in plan.tasks if task.stored is stored)


def test_without_a_gpu_every_kernel_of_ours_is_compiled_and_checked_once(fleet):
    cells = [cell for cell in FIGURES[9].cells if cell.executor == "tilus"]
    kernels = {fleet.executors["tilus"].candidates(c.workload, "sm_90")[0].key() for c in cells}
    plan = planning.plan(RECORDED, fleet)
    assert {task.key for task in plan.tasks if task.kind == "compile"} == kernels
    assert kinds(plan, stored=False).count("check") == len(kernels)
    assert kinds(plan, stored=False).count("draw") == 1
    assert sum(plan.missing.values()) == len(FIGURES[9].cells)


def test_the_kernel_of_a_record_is_the_one_that_is_compiled(fleet):
    cell = next(cell for cell in FIGURES[9].cells if cell.executor == "tilus")
    one = record(cell, schedule={"tile": 96})
    append(record_path(fleet.settings.recorded, "nvidia-h100-80gb-hbm3", 9), one)
    plan = planning.plan(RECORDED, fleet)
    specs = [KernelSpec.model_validate(t.message) for t in plan.tasks if t.kind == "compile"]
    assert one.kernel_spec in specs and sum(plan.missing.values()) == len(FIGURES[9].cells) - 1


@pytest.mark.parametrize("same", [True, False])
def test_a_recorded_kernel_that_this_code_makes_otherwise_is_counted(fleet, same):
    cell = next(cell for cell in FIGURES[9].cells if cell.executor == "tilus")
    one = record(cell)
    key = fleet.executors["tilus"].key(one.kernel_spec) if same else "0" * 64
    kernel = one.kernel.model_copy(update={"key": key})
    path = record_path(fleet.settings.recorded, "nvidia-h100-80gb-hbm3", 9)
    append(path, one.model_copy(update={"kernel": kernel}))
    assert planning.plan(RECORDED, fleet).changed == (0 if same else 1)


def test_for_a_recorded_kernel_that_this_code_refuses_the_one_that_it_would_try_is_made(fleet):
    cell = next(cell for cell in FIGURES[9].cells if cell.executor == "tilus")
    path = record_path(fleet.settings.recorded, "nvidia-h100-80gb-hbm3", 9)
    append(path, record(cell, schedule={"refuse": 1}))
    plan = planning.plan(RECORDED, fleet)
    assert plan.changed == 1 and not any("refuse" in t.title for t in plan.tasks)
    first = fleet.executors["tilus"].candidates(cell.workload, "sm_90")[0].key()
    assert first in {t.key for t in plan.tasks}


def test_what_is_in_the_store_is_not_queued(fleet):
    plan = planning.plan(RECORDED, fleet)
    for task in plan.tasks:
        if task.kind in ("compile", "check"):
            spec = KernelSpec.model_validate(task.message)
            make = build_kernel if task.kind == "compile" else check_kernel
            make(spec, fleet.store, fleet.executors, "abc")
    again = planning.plan(RECORDED, fleet)
    assert kinds(again, stored=False) == ["draw"]
    runs.start(again, fleet)
    assert FleetQueue(COMPILE, fleet.connection).count == 0
    assert FleetQueue(DRAW, fleet.connection).count == 1
    state = runs.state(again, fleet)
    assert state.counts["compile"] == {"stored": kinds(again, stored=True).count("compile")}
    assert state.largest_error == pytest.approx(1e-4) and not state.finished


def test_a_measurement_waits_for_exactly_its_missing_kernels(fleet):
    plan = planning.plan(MEASURED, fleet)
    compiles = {task.key: task for task in plan.tasks if task.kind == "compile"}
    measures = [task for task in plan.tasks if task.kind == "measure"]
    assert measures
    for task in measures:
        keys = Measurement.model_validate(task.message).keys
        assert set(task.after) == {compiles[key].id for key in keys}
    runs.start(plan, fleet)
    queue = FleetQueue(measure_queue(GPU), fleet.connection)
    assert queue.count == 0
    deferred = fetch(queue, queue.deferred_job_registry.get_job_ids())
    assert sum(len(job.args[0]) for job in deferred) == len(measures)


def test_what_cannot_be_compiled_here_is_measured_if_the_store_has_all_of_it(fleet):
    fleet.executors["triton"].lacks = "its compiler is not installed here"
    plan = planning.plan(MEASURED, fleet)
    cells = sum(cell.executor == "triton" for cell in FIGURES[9].cells)
    assert plan.missing["triton"] == cells
    assert not any("triton" in task.title for task in plan.tasks)

    shape = next(cell.workload for cell in FIGURES[9].cells if cell.executor == "triton")
    for spec in fleet.executors["triton"].candidates(shape, "sm_90"):
        build_kernel(spec, fleet.store, fleet.executors, "abc")
    plan = planning.plan(MEASURED, fleet)
    assert plan.missing["triton"] < cells
    found = [task for task in plan.tasks if "triton" in task.title]
    assert {task.kind for task in found} == {"compile", "measure"}
    assert all(task.stored or not task.after for task in found)


def test_a_finished_measurement_is_not_repeated_unless_fresh_numbers_are_wanted(fleet):
    plan = planning.plan(MEASURED, fleet)
    first = next(task for task in plan.tasks if task.kind == "measure")
    measurement = Measurement.model_validate(first.message)
    one = record(measurement.cell, uuid=UUID, candidates=measurement.keys)
    append(record_path(fleet.settings.results, GPU, 9), one)
    again = planning.plan(MEASURED, fleet)
    assert [t.id for t in again.tasks if t.stored] == [first.id]
    assert runs.state(again, fleet).counts["measure"]["stored"] == 1
    fresh = planning.plan(MEASURED.model_copy(update={"fresh": "1"}), fleet)
    assert kinds(fresh, stored=True) == [] and fresh.id != again.id


def test_a_measurement_on_another_device_is_not_ours(fleet):
    plan = planning.plan(MEASURED, fleet)
    task = next(task for task in plan.tasks if task.kind == "measure")
    measurement = Measurement.model_validate(task.message)
    other = record(measurement.cell, uuid="GPU-2", candidates=measurement.keys)
    append(record_path(fleet.settings.results, GPU, 9), other)
    assert kinds(planning.plan(MEASURED, fleet), stored=True) == []


def test_a_measurement_that_failed_is_a_failed_point_with_its_reason(fleet):
    plan = planning.plan(MEASURED, fleet, now=datetime.now(UTC) - timedelta(seconds=5))
    task = next(task for task in plan.tasks if task.kind == "measure")
    measurement = Measurement.model_validate(task.message)
    one = record(measurement.cell, uuid=UUID, candidates=measurement.keys, status="timeout")
    append(record_path(fleet.settings.results, GPU, 9), one)
    [failure] = runs.state(plan, fleet).failures
    assert failure.kind == "measure" and failure.reason.startswith("timeout: ")


def compiles(plan):
    return sum(task.kind in ("compile", "check") for task in plan.tasks)


def test_lost_jobs_are_queued_again_and_kept_ones_are_not(fleet):
    plan = planning.plan(RECORDED, fleet)
    runs.start(plan, fleet)
    queue = FleetQueue(COMPILE, fleet.connection)
    before = queue.count
    [standing] = standings(queue, [plan.tasks[0].id])
    [job] = fetch(queue, [standing.note.batch])
    lost = {identity for identity, _ in job.args[0]}
    job.delete()
    assert queue.count == before - 1
    runs.resume(plan, fleet)
    again = [identity for job in queue.get_jobs() for identity, _ in job.args[0]]
    assert lost <= set(again) and len(again) == len(set(again)) == compiles(plan)


def test_a_waiting_job_whose_reasons_to_wait_are_gone_is_queued(fleet):
    plan = planning.plan(MEASURED, fleet)
    runs.start(plan, fleet)
    measure = next(task for task in plan.tasks if task.kind == "measure")
    compiled = [task.id for task in plan.tasks if task.kind == "compile"]
    for standing in standings(FleetQueue(COMPILE, fleet.connection), compiled):
        fleet.connection.hset(FleetJob.key_for(standing.note.batch), "status", "finished")
    for identity in compiled:
        done = Note(queue=COMPILE, function="f", batch="b", state="done")
        write(fleet.connection, identity, done)
    runs.resume(plan, fleet)
    batches = FleetQueue(measure_queue(GPU), fleet.connection).get_jobs()
    assert measure.id in {identity for job in batches for identity, _ in job.args[0]}


def test_a_cancelled_run_leaves_the_queue_empty(fleet):
    plan = planning.plan(RECORDED, fleet)
    runs.start(plan, fleet)
    runs.cancel(plan, fleet)
    assert waiting(fleet.connection, COMPILE) == 0
    assert runs.state(plan, fleet).finished


def test_a_run_is_found_again_by_its_id(fleet):
    plan = planning.plan(RECORDED, fleet)
    runs.start(plan, fleet)
    assert runs.find(plan.id, fleet.settings) == plan
    assert runs.every(fleet.settings) == [plan] and runs.find("0" * 16, fleet.settings) is None


def test_a_selection_keeps_the_baseline(fleet):
    cells = selected(RECORDED.model_copy(update={"executors": ("tilus",), "dtypes": ("u4",)}))
    assert {(c.executor, c.workload.b_dtype) for c in cells} == {
        ("torch-f16", "float16"),
        ("tilus", "uint4"),
    }


def test_a_group_size_is_used_where_there_are_groups(fleet):
    cells = selected(RECORDED.model_copy(update={"group_size": 256}))
    sizes = {c.workload.b_dtype: c.workload.group_size for c in cells}
    assert sizes["uint4"] == 256 and sizes["float6_e3m2"] == -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"figure": 8}, "there is no figure 8: choose 9, 10, 11, 12 or 13"),
        ({"figure": 11}, "figure 11 is of whole models"),
        ({"executors": ("cutlass",)}, "has no executor cutlass: choose from .*tilus"),
        ({"dtypes": ("u5",)}, "has no uint5: choose from .*uint4"),
        ({"dtypes": ("nonsense",)}, "nonsense"),
        ({"group_size": 100}, "group size of 100 does not divide k = 8192"),
        ({"group_size": 0}, "group size of 0 does not divide"),
    ],
)
def test_a_run_that_cannot_be_says_what_there_is(change, message):
    with pytest.raises(BadRequest, match=message):
        selected(RECORDED.model_copy(update=change))


def test_a_measured_run_names_its_gpu(fleet):
    with pytest.raises(BadRequest, match="needs the name of its GPU"):
        planning.plan(MEASURED.model_copy(update={"gpu": ""}), fleet)
    with pytest.raises(ValidationError):
        RunRequest(figure=9, mode="measured", gpu="../../etc", uuid=UUID)


@pytest.mark.parametrize("figure", [11, 12])
def test_a_figure_of_models_is_drawn_from_records_and_nothing_is_built(fleet, figure):
    cells = MODEL_FIGURES[figure].cells
    for (gpu, _), one in (
        model_records(cells, "Fixture A") | model_records(cells, "Fixture B")
    ).items():
        append(record_path(fleet.settings.recorded, gpu, figure), one)
    plan = planning.plan(RunRequest(figure=figure, mode="recorded"), fleet)
    assert [task.kind for task in plan.tasks] == ["draw"]
    assert plan.tasks[0].message["gpu"] == {11: "fixture-a", 12: ""}[figure]
    absent = sum(cell.executor == "ladder" for cell in cells)
    assert plan.missing == {"ladder": {11: absent, 12: 2 * absent}[figure]}


@pytest.mark.parametrize("figure", [11, 12])
def test_a_figure_of_models_without_records_is_refused_with_what_is_missing(fleet, figure):
    with pytest.raises(BadRequest, match=f"figure {figure} has no records .* no runner"):
        planning.plan(RunRequest(figure=figure, mode="recorded"), fleet)


def test_figure_13_is_compiled_and_measured_like_figure_9(fleet):
    plan = planning.plan(MEASURED.model_copy(update={"figure": 13}), fleet)
    measured = [Measurement.model_validate(t.message) for t in plan.tasks if t.kind == "measure"]
    ours = [c for c in FIGURES[13].cells if c.executor in fleet.executors]
    assert [one.cell for one in measured] == ours and len(ours) == 3 * 14
    assert plan.missing == {"torch-f16": 14, "ladder": 14, "quant-llm": 14}


def test_a_request_of_all_figures_keeps_what_a_figure_has():
    def fit(figure, **asked):
        return fitted(RunRequest(figure=figure, mode="recorded", **asked))

    assert fit(10, executors=("tilus", "triton")).executors == ("tilus",)
    assert fit(9, dtypes=("u4", "u5")).dtypes == ("uint4",)
    assert fit(9).executors is None
    with pytest.raises(BadRequest, match="figure 10 has no cell of triton"):
        fit(10, executors=("triton",))
    with pytest.raises(BadRequest, match="no figure has cutlass: choose from"):
        fit(10, executors=("tilus", "cutlass"))


def test_groups_of_models_divide_every_layer():
    request = RunRequest(figure=11, mode="recorded", group_size=64)
    sizes = {c.workload.b_dtype: c.workload.group_size for c in selected_models(request)}
    assert sizes == {"float16": -1, "uint8": 64, "uint4": 64, "uint2": 64}
    with pytest.raises(BadRequest, match="1024 does not divide k = 3584"):
        selected_models(request.model_copy(update={"group_size": 1024}))
