"""The tuner: which kernels it tries, when it gives one up, what it keeps, and where it goes on."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services import planning
from services.building import build_kernel
from services.driver import app, tuning
from services.driver.options import parse
from services.executors import tilus as ours
from services.experiments import BENCH_TYPES, OPERATOR_BATCHES, OPERATOR_SHAPES, workload
from services.figures import TUNE
from services.gpu import Device
from services.messages import KernelSpec, RunRequest, RunState
from services.records import Candidate, append, file_name, load, record_path
from services.revision import Revision
from services.runner import jobs
from services.runner.measure import FEW, QUICK_REPEATS, REPEATS, Option, measure
from services.selection import BadRequest, selected
from tests.services.bench import DEVICE, Numbers, Scripted, built, spec
from tests.services.made_up import GPU, bad, timed
from tests.services.test_runner import house as runner_house
from tests.services.test_runner import stored
from tilus import tuned
from tilus.kernels.schedule import checked_schedule
from tilus.tune import Schedule

REQUEST = RunRequest(
    figure=TUNE,
    mode="measured",
    gpu="fixture-gpu",
    uuid="GPU-0",
    dtypes=("u4", "f6e3m2"),
    shapes=((8192, 8192), (4096, 1024)),
    batches=(1, 16),
    limit=24,
)
COMMIT = Revision("f" * 40, dirty=False)
WORK = workload("uint4", 16, 8192, 8192)
SCHEDULE = {"block_m": 16, "block_n": 128, "block_k": 256, "warps": 4, "stages": 3}


def won(cell, latency_ms=0.1, tried=24, **changes):
    """A good record of a tuned cell: that many candidates, all but one of them right."""
    one = timed(cell, latency_ms)
    kernel = one.kernel.model_copy(update={"arch": "sm_90a", "name": "quantized_matmul",
                                           "schedule": SCHEDULE})  # fmt: skip
    candidates = [Candidate(key=f"{i:064x}", status="ok", latency_ms=0.2) for i in range(tried)]
    candidates[0] = Candidate(key="f" * 64, status="wrong", reason="it is off")
    return one.model_copy(
        update={"kernel": kernel, "candidates": tuple(candidates), "dirty": False} | changes
    )


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder in the place of the shipped sets."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(tuned, "FOLDER", folder)
    tuned.index.cache_clear()
    yield folder
    tuned.index.cache_clear()


def test_it_has_every_product_of_what_is_asked_for_and_ours_alone():
    cells = selected(REQUEST)
    assert {cell.executor for cell in cells} == {"tilus"} and {c.figure for c in cells} == {TUNE}
    asked = [(c.workload.k, c.workload.n, c.workload.m, c.workload.b_dtype) for c in cells]
    assert len(set(asked)) == len(asked) == 8
    assert (4096, 1024, 16, "float6_e3m2") in asked
    everything = selected(RunRequest(figure=TUNE, mode="measured"))
    assert len(everything) == len(OPERATOR_SHAPES) * len(OPERATOR_BATCHES) * len(BENCH_TYPES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"executors": ("triton",)}, "only kernels of tilus"),
        ({"group_size": 100}, "does not divide"),
        ({"dtypes": ("float16",)}, "1 to 8 bits"),
    ],
)
def test_what_cannot_be_tuned_is_refused_with_a_sentence(changes, words):
    with pytest.raises(BadRequest, match=words):
        selected(REQUEST.model_copy(update=changes))


def test_it_tries_what_is_known_first_then_what_the_model_likes(shipped):
    by_hand = ours.candidates(WORK, "sm_90")
    tried = ours.space(WORK, "sm_90", "nvidia-h200", 24)
    assert tried[: len(by_hand)] == by_hand and len(tried) == 24
    assert len({one.canonical() for one in tried}) == 24
    assert {one.arch for one in tried} == {"sm_90a"}
    assert ours.space(WORK, "sm_90", "nvidia-h200", 1) == by_hand
    entry = tuning.entry(won(selected(REQUEST)[0].model_copy(update={"workload": WORK})))
    tuned.keep([entry], shipped)
    (first, *others) = ours.candidates(WORK, "sm_90")
    assert checked_schedule(SCHEDULE) == Schedule(
        **{name: first.parameters[name] for name in vars(entry.schedule)}
    )
    assert others == by_hand


def test_a_run_of_it_compiles_and_measures_as_many_as_asked_and_draws_nothing(fleet, shipped):
    plan = planning.plan(REQUEST, fleet)
    measures = [task for task in plan.tasks if task.kind == "measure"]
    assert {task.kind for task in plan.tasks} == {"compile", "measure"} and len(measures) == 8
    assert all(len(task.message["specs"]) == 24 for task in measures)
    with pytest.raises(BadRequest, match="nothing to draw from records"):
        planning.plan(REQUEST.model_copy(update={"mode": "recorded"}), fleet)


def test_the_api_begins_it_and_gives_its_records(client, fleet, shipped):
    part = tuning.part(REQUEST, selected(REQUEST)[0])
    answer = client.post("/v1/runs", json=part.model_dump(mode="json"))
    assert answer.status_code == 202
    assert answer.json()["counts"] == {"compile": {"waiting": 24}, "measure": {"waiting": 1}}
    wide = part.model_dump(mode="json") | {"limit": 100_000}
    assert client.post("/v1/runs", json=wide).status_code == 422
    append(record_path(fleet.settings.results, part.gpu, TUNE), won(selected(part)[0]))
    (found,) = client.get("/v1/results", params={"figure": TUNE}).json()
    assert found["latency_ms"] == 0.1


def test_its_runs_go_on_where_they_stopped(fleet, shipped):
    cell = selected(REQUEST)[0]
    part = tuning.part(REQUEST, cell)
    assert selected(part) == (cell,)
    specs = ours.space(cell.workload, part.arch, part.gpu, part.limit)
    done = timed(cell, 0.1).model_copy(
        update={"candidates": tuple(Candidate(key=s.key(), status="ok") for s in specs)}
    )
    append(record_path(fleet.settings.results, part.gpu, TUNE), done)
    assert file_name(TUNE) == "tuned.jsonl"
    assert [task.stored for task in planning.plan(part, fleet).tasks] == [True]
    more = part.model_copy(update={"limit": 25})
    assert not any(task.stored for task in planning.plan(more, fleet).tasks)


def options(*specs):
    return [Option(one.key(), one, built(one)) for one in specs]


def launches(bench, us):
    """How many samples were taken of the kernel of that time."""
    return sum(entry[3] for entry in bench.log if entry[0] == "time" and entry[1] == us)


def test_what_is_clearly_slower_is_given_up_and_what_is_near_is_timed_again():
    bench = Numbers()
    times = (500, 800, 400, 430, 405, 445)
    found = measure(
        Scripted([]), options(*(spec(us=us) for us in times)), {}, 1, bench, lambda key: None
    )
    assert found.chosen.spec == spec(us=400)
    assert [one.status for one in found.candidates] == ["ok"] * 6
    slow, near, better = (launches(bench, us) for us in (800, 405, 430))
    assert (slow, near, better) == (FEW, QUICK_REPEATS + REPEATS, QUICK_REPEATS)
    assert launches(bench, 445) == FEW and launches(bench, 500) == QUICK_REPEATS
    assert launches(bench, 400) == QUICK_REPEATS + 2 * REPEATS  # and in full
    assert all(one.latency_ms for one in found.candidates)


def test_a_kernel_that_fails_when_it_is_timed_again_is_not_chosen():
    class Tiring(Numbers):
        def times(self, launch, warm_ups, repeats):
            if repeats == REPEATS and launch(0) == {"us": 400}:
                raise ValueError("no more")
            return super().times(launch, warm_ups, repeats)

    found = measure(
        Scripted([]), options(spec(us=400), spec(us=402)), {}, 1, Tiring(), lambda key: None
    )
    assert found.chosen.spec == spec(us=402)
    assert [one.status for one in found.candidates] == ["failed", "ok"]


def test_the_runner_tunes_a_cell_into_one_record_of_the_verified_winner(tmp_path):
    kernels = [spec(us=40 + i, seed=i) for i in range(12)]
    wrong, dies = spec(us=1, error=50_000), spec(us=2, fate="abort")
    specs = [wrong, *kernels[::-1], dies]
    at = runner_house(tmp_path, specs)
    stored(at, specs)
    cell = selected(REQUEST)[0].model_copy(update={"executor": "scripted"})
    asked = jobs.Measurement(
        cell=cell, specs=tuple(specs), keys=tuple(one.key() for one in specs),
        gpu="fixture-gpu", uuid=DEVICE.uuid,
    )  # fmt: skip
    record = jobs.measure_cell(asked, at)
    assert record.status == "ok" and record.kernel.key == kernels[0].key()
    assert len(record.samples_ms) == REPEATS and record.relative_error < 2e-3
    statuses = [one.status for one in record.candidates]
    assert statuses == ["wrong", *["ok"] * 12, "failed"]
    assert load(record_path(at.results, "fixture-gpu", TUNE)) == [record]
    assert jobs.measure_cell(asked, at) == record


class Timed(Scripted):
    """Kernels whose times follow from their schedules: the deeper a step, the faster."""

    name = "tilus"

    def prepare(self, problem, spec, built):
        assert built.files["kernel.cubin"] == spec.canonical().encode()

        def launch(slot):
            problem.launches += 1
            problem.now = {"us": 2000 - spec.parameters["block_k"] - spec.parameters["stages"]}
            return problem.now

        return launch


def test_a_cell_goes_from_its_plan_to_the_set_that_is_looked_up(fleet, shipped, tmp_path):
    part = tuning.part(REQUEST, selected(REQUEST)[1])
    plan = planning.plan(part, fleet)
    *compiles, measure_task = plan.tasks
    for task in compiles:
        spec_of = KernelSpec.model_validate(task.message)
        assert build_kernel(spec_of, fleet.store, fleet.executors, "c0ffee").key == task.key
    at = replace(
        runner_house(tmp_path, []), store=fleet.store, executors={"tilus": Timed([])},
        results=fleet.settings.results, revision=COMMIT,
    )  # fmt: skip
    record = jobs.measure_cell(jobs.Measurement.model_validate(measure_task.message), at)
    assert len(record.candidates) == 24 and {one.status for one in record.candidates} == {"ok"}
    tried = [one.schedule for one in record.candidates]
    assert record.kernel.schedule == max(tried, key=lambda s: (s["block_k"], s["stages"]))
    cell = record.cell
    assert tuning.untuned([cell], {cell: record}, COMMIT, 24) == []
    tuned.keep(tuning.entries([record]), shipped)
    work = cell.workload
    found = tuned.best("fixture-gpu", "sm_90a", ours.problem_of(work), work.m, work.n, work.k)
    assert found == checked_schedule(record.kernel.schedule)


def test_only_what_this_commit_has_not_tuned_is_tuned():
    one, two, three, four, five = selected(REQUEST)[:5]
    known = {
        one: won(one),
        two: won(two, commit="0" * 40),
        three: bad(won(three), "wrong"),
        four: won(four, tried=23),
        five: won(five, dirty=True),
    }
    cells = selected(REQUEST)
    assert tuning.untuned(cells, known, COMMIT, 24) == list(cells[1:])
    assert tuning.untuned(cells, known, COMMIT._replace(dirty=True), 24) == list(cells)
    nameless = {one: won(one, commit="unknown")}
    assert tuning.untuned([one], nameless, Revision("unknown", dirty=False), 24) == [one]


def test_a_winner_is_kept_with_where_it_is_from():
    cell = selected(REQUEST)[1]
    entry = tuning.entry(won(cell, 0.1, measured_at=datetime(2026, 3, 4, tzinfo=UTC)))
    assert entry.gpu == "fixture-gpu" and entry.arch == "sm_90a"
    assert (entry.b_dtype, entry.m, entry.n, entry.k) == (
        cell.workload.b_dtype, cell.workload.m, cell.workload.n, cell.workload.k,
    )  # fmt: skip
    assert entry.schedule == checked_schedule(SCHEDULE)
    assert (entry.commit, entry.latency_us, entry.floor_us) == ("f" * 40, 100.0, 80.0)
    assert entry.measured_at == "2026-03-04T00:00:00+00:00"
    assert tuning.entry(won(cell, dirty=True)).commit == "f" * 40 + "+"
    assert tuning.entries([bad(won(cell), "wrong")]) == []
    with pytest.raises(ValueError, match="has no winner"):
        tuning.entry(bad(won(cell), "wrong"))


def test_a_line_for_each_cell_says_what_won_or_why_nothing_did():
    one, two, three = selected(REQUEST)[:3]
    known = {one: won(one), two: bad(won(two), "oom", "too large")}
    first, second, third = tuning.lines([one, two, three], known)
    assert first.startswith(
        "uint4 m=1 k=8192 n=8192: 100.0 us (1.250 x floor), 23 of 24 were right"
    )
    assert "block_n=128" in first
    assert second.endswith(": oom: too large (23 of 24 were right)")
    assert third.endswith(": not measured")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """This machine as one with a GPU, and with folders of its own."""
    monkeypatch.setattr(app, "devices", lambda: [Device(0, GPU.name, GPU.uuid, "1", "sm_90")])
    settings = app.load().model_copy(
        update={name: tmp_path / name for name in ("state", "store", "results", "recorded")}
    )
    monkeypatch.setattr(app, "load", lambda: settings)
    monkeypatch.setattr(app, "revision", lambda commit: COMMIT)
    return settings


ARGUMENTS = ["tune", "--shapes", "8192x8192", "--m", "1,16", "--dtypes", "u4", "--limit", "24"]


def test_it_asks_for_a_run_a_cell_keeps_what_won_and_goes_on(here, shipped, monkeypatch, capsys):
    asked = []

    def made(requests, session):
        asked.extend(requests)
        for request in requests:
            (cell,) = selected(request)
            append(record_path(here.results, request.gpu, TUNE), won(cell))
            elsewhere = GPU.model_copy(update={"uuid": "GPU-9"})
            append(
                record_path(here.results, request.gpu, TUNE),
                won(cell, 0.01, gpu=elsewhere, measured_at=datetime(2025, 1, 1, tzinfo=UTC)),
            )
        state = RunState(id="r", request=requests[0], finished=True, counts={})
        return [app.Outcome(state, 1.0)]

    monkeypatch.setattr(app, "_made", made)
    assert app.main(ARGUMENTS) == 0
    assert [(r.figure, r.batches, r.limit) for r in asked] == [(TUNE, (1,), 24), (TUNE, (16,), 24)]
    said = capsys.readouterr()
    assert said.out.count("100.0 us (1.250 x floor)") == 2
    assert "fixture-gpu/tuned.jsonl" in said.err
    entries = tuned.load(shipped / "fixture-gpu.jsonl")
    assert [(entry.m, entry.latency_us) for entry in entries] == [(1, 100.0), (16, 100.0)]
    assert app.main(ARGUMENTS) == 0 and len(asked) == 2
    assert app.main([*ARGUMENTS, "--fresh", "--json"]) == 0 and len(asked) == 4
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]) == 2


def test_without_a_gpu_or_in_containers_it_says_why_not(here, monkeypatch, capsys):
    assert app.main([*ARGUMENTS, "--mode", "compose"]) == 2
    monkeypatch.setattr(app, "devices", list)
    assert app.main(ARGUMENTS) == 3
    assert "there is no GPU here" in capsys.readouterr().err


def test_its_command_line(capsys):
    options = parse(ARGUMENTS)
    assert (options.figure, options.limit, options.batches) == (TUNE, 24, (1, 16))
    assert parse(["tune"]).limit is None
    with pytest.raises(SystemExit) as end:
        parse(["tune", "--limit", "0"])
    assert end.value.code == 2
    assert "numbers of at least 1" in capsys.readouterr().err
