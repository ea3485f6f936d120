"""The benchmark: which cells it has, what its table says, and a run of it on made-up numbers."""

import json
from dataclasses import replace

import pytest

from services import planning
from services.driver import app, table
from services.driver.options import parse
from services.executors import EXECUTORS
from services.experiments import BASELINE, BENCH_EXECUTORS, BENCH_TYPES, baseline, workload
from services.figures import BENCH
from services.gpu import Device
from services.messages import Failure, RunRequest, RunState
from services.records import append, file_name, record_path
from services.runner.measure import Option, measure
from services.selection import BadRequest, selected
from tests.services.bench import Numbers, Scripted, built, spec
from tests.services.made_up import GPU, bad, timed

SHAPES, BATCHES = ((8192, 8192), (4096, 1024)), (1, 16)
REQUEST = RunRequest(
    figure=BENCH,
    mode="measured",
    gpu="fixture-gpu",
    uuid="GPU-0",
    dtypes=("u4", "f6e3m2"),
    shapes=SHAPES,
    batches=BATCHES,
)


def asked(**changes):
    return selected(REQUEST.model_copy(update=changes))


def test_the_benchmark_has_every_product_of_what_is_asked_for():
    cells = asked()
    problems = {(c.workload.k, c.workload.n, c.workload.m) for c in cells}
    assert problems == {(k, n, m) for k, n in SHAPES for m in BATCHES}
    for k, n, m in problems:
        here = [c for c in cells if (c.workload.k, c.workload.n, c.workload.m) == (k, n, m)]
        assert [(c.executor, c.workload.b_dtype) for c in here] == [
            (BASELINE, "float16"),
            *((name, b) for b in ("uint4", "float6_e3m2") for name in BENCH_EXECUTORS),
        ]
        assert all(baseline(c) == here[0] for c in here)


def test_without_flags_it_has_the_shapes_and_batches_of_figure_9_and_six_types():
    cells = asked(dtypes=None, shapes=None, batches=None)
    assert len(cells) == 3 * 2 * (1 + len(BENCH_TYPES) * len(BENCH_EXECUTORS))
    assert all(c.workload == workload(c.workload.b_dtype, c.workload.m, c.workload.n, c.workload.k)
               for c in cells if c.executor != BASELINE)  # fmt: skip


def test_a_group_size_is_that_of_every_weight_and_the_baseline_has_none():
    sizes = {(c.executor == BASELINE, c.workload.group_size) for c in asked(group_size=64)}
    assert sizes == {(True, -1), (False, 64)}
    assert {c.workload.group_size for c in asked(group_size=-1)} == {-1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"executors": ("marlin",)}, "has no executor marlin: choose from humming"),
        ({"dtypes": ("float16",)}, "1 to 8 bits, not float16"),
        ({"dtypes": ("wide",)}, "wide"),
        ({"group_size": 100}, "group size of 100 does not divide k = 8192"),
        ({"group_size": -2}, "group size of -2 does not divide"),
        ({"shapes": ((96, 128),)}, "group size of 128 does not divide k = 96"),
    ],
)
def test_what_the_benchmark_cannot_do_is_refused_with_a_sentence(changes, words):
    with pytest.raises(BadRequest, match=words):
        asked(**changes)


def test_its_records_are_kept_beside_the_figures_and_found_again(tmp_path):
    cell = asked()[0]
    path = record_path(tmp_path, "Fixture GPU", BENCH)
    append(path, timed(cell, 0.2))
    assert path == tmp_path / "fixture-gpu" / "bench.jsonl" and file_name(9) == "figure9.jsonl"
    assert planning.recorded_gpus(tmp_path, BENCH) == ["fixture-gpu"]


def test_a_run_of_it_measures_every_cell_that_is_not_refused_and_draws_nothing(fleet):
    fleet = replace(fleet, executors={BASELINE: Scripted([]), **fleet.executors})
    request = REQUEST.model_copy(update={"executors": ("tilus", "triton")})
    plan = planning.plan(request, fleet)
    kinds = {task.kind for task in plan.tasks}
    assert kinds == {"compile", "measure"}
    assert sum(task.kind == "measure" for task in plan.tasks) == 4 * (1 + 2)
    assert plan.missing == {"triton": 8}
    with pytest.raises(BadRequest, match="nothing to draw from records"):
        planning.plan(request.model_copy(update={"mode": "recorded"}), fleet)


def test_what_was_measured_is_not_measured_again_unless_asked(fleet):
    fleet = replace(fleet, executors={BASELINE: Scripted([])})
    request = REQUEST.model_copy(update={"executors": (BASELINE,)})
    cells = selected(request)
    append(record_path(fleet.settings.results, request.gpu, BENCH), timed(cells[0], 0.2))
    stored = [task.stored for task in planning.plan(request, fleet).tasks]
    assert stored == [True, False, False, False]
    fresh = request.model_copy(update={"fresh": "1"})
    assert not any(task.stored for task in planning.plan(fresh, fleet).tasks)


def test_the_api_begins_it_and_gives_its_records(client, fleet):
    request = REQUEST.model_copy(update={"executors": ("tilus",)})
    answer = client.post("/v1/runs", json=request.model_dump(mode="json"))
    assert answer.status_code == 202 and answer.json()["figures"] == []
    assert answer.json()["missing"] == {BASELINE: 4}
    wide = request.model_dump(mode="json") | {"shapes": [[8192, 0]]}
    assert client.post("/v1/runs", json=wide).status_code == 422
    append(
        record_path(fleet.settings.results, request.gpu, BENCH), timed(selected(request)[1], 0.1)
    )
    (found,) = client.get("/v1/results", params={"figure": BENCH}).json()
    assert found["executor"] == "tilus" and found["latency_ms"] == 0.1


def test_a_measured_cell_says_what_an_empty_kernel_takes():
    one = spec(us=50)
    found = measure(
        Scripted([one]),
        [Option(one.key(), one, built(one))],
        {},
        1 << 20,
        Numbers(),
        lambda key: None,
    )
    assert found.status == "ok" and 0.002 <= found.empty_ms < 0.0021


TIMES = {BASELINE: 0.4, "triton": 0.2, "humming": 0.09, "public-tilus": None, "tilus": 0.1}


@pytest.fixture
def measured():
    """One shape and m of the benchmark, with a time in ms for each who has one."""
    cells = asked(shapes=SHAPES[:1], batches=(16,), dtypes=("u4",))
    found = {}
    for cell in cells:
        time = TIMES[cell.executor]
        if time is not None:
            found[cell] = timed(cell, time, 0.08).model_copy(
                update={
                    "graph_latency_ms": time - 0.01,
                    "p10_ms": time * 0.99,
                    "p90_ms": time * 1.02,
                    "empty_ms": 0.0023,
                    "empty_graph_ms": 0.0011,
                    "bytes": 40_000_000,
                }
            )
    return cells, found


def rows_of(measured):
    return {row.executor: row for row in table.rows(*measured, EXECUTORS)}


def test_a_row_has_the_time_its_floor_and_how_many_times_slower_the_others_are(measured):
    rows = rows_of(measured)
    ours = rows["tilus"]
    assert ours.latency_us == pytest.approx(100) and ours.floor_us == pytest.approx(80)
    assert (ours.p10_us, ours.p90_us) == pytest.approx((99, 102))
    assert ours.floor_ratio == pytest.approx(1.25)
    assert ours.gb_per_s == pytest.approx(400)
    assert ours.empty_us == pytest.approx(2.3) and ours.empty_graph_us == pytest.approx(1.1)
    assert ours.ratios == pytest.approx({BASELINE: 4.0, "triton": 2.0, "humming": 0.9})
    assert ours.graph_ratios["humming"] == pytest.approx(80 / 90)
    assert rows["triton"].ratios["tilus"] == pytest.approx(0.5)
    assert rows[BASELINE].ratios == {}


def test_who_has_no_time_has_a_reason(measured):
    cells, found = measured
    ours = next(cell for cell in cells if cell.executor == "tilus")
    rows = rows_of((cells, found | {ours: bad(found[ours], "wrong", "it is off")}))
    assert rows["tilus"].reason == "wrong: it is off" and rows["tilus"].latency_us is None
    refusal = EXECUTORS["public-tilus"].refusal(ours.workload)
    assert rows["public-tilus"].reason == (refusal or "it was not measured")
    nobody = table.rows(cells, {}, {})
    assert {row.reason for row in nobody} == {"there is no such executor here"}


def test_the_end_says_who_is_ahead_of_whom_by_how_much_and_where(measured):
    cells, found = measured
    more = asked(shapes=SHAPES[1:], batches=(16,), dtypes=("u4",))
    for cell, other in zip(cells, more, strict=True):
        if cell in found and other.executor != "tilus":
            found[other] = found[cell].model_copy(
                update={"k": 4096, "n": 1024, "latency_ms": found[cell].latency_ms * 4}
            )
        elif cell in found:
            found[other] = found[cell].model_copy(update={"k": 4096, "n": 1024})
    means = {mean.rival: mean for mean in table.means(table.rows((*cells, *more), found, {}))}
    assert set(means) == {BASELINE, "triton", "humming"}
    humming = means["humming"]
    assert humming.cells == 2 and humming.least == pytest.approx(0.9)
    assert humming.ratio == pytest.approx((0.9 * 3.6) ** 0.5)
    assert humming.graph_ratio == pytest.approx(80 / 90)
    assert humming.ahead == ("uint4 m=16 k=8192 n=8192: humming 90.0 us, tilus 100.0 us (0.90)",)
    assert means["triton"].ahead == () and means[BASELINE].ratio == pytest.approx(8)


def test_the_text_has_a_line_a_cell_and_ends_with_the_cells_that_are_lost(measured):
    text = table.as_text(table.rows(*measured, EXECUTORS))
    head, names, *lines = text.splitlines()
    assert head == ("k 8192  n 8192  m 16  (an empty kernel: 2.3 us, in graphs 1.1)")
    assert names.split()[:2] == ["weight", "by"] and "cuBLAS/it" in names
    ours = next(line for line in lines if line.split()[1:2] == ["tilus"])
    assert ours.split()[:5] == ["uint4/128z", "tilus", "100.0", "99.0..102.0", "90.0"]
    assert any("public-tilus" in line and "n/a: " in line for line in lines)
    assert "cells in which a rival is faster: 1" in text
    assert text.endswith("humming 90.0 us, tilus 100.0 us (0.90)\n")
    data = json.loads(json.dumps(table.as_data(table.rows(*measured, EXECUTORS))))
    assert len(data["rows"]) == 5 and data["means"][0]["rival"] == BASELINE


def test_the_table_says_where_its_times_come_from(measured):
    cells, found = measured
    one, *_ = [cell for cell in cells if cell in found]
    hot = found[one].gpu.model_copy(update={"throttled": True})
    changed = found[one].model_copy(update={"gpu": hot, "dirty": True})
    assert table.provenance(cells, found | {one: changed}) == [
        "1 cells measured on Fixture GPU, driver 1.2.3, commit ffffffffff+, 2026-01-02",
        "3 cells measured on Fixture GPU, driver 1.2.3, commit ffffffffff, 2026-01-02",
        "1 cells were measured on a throttled GPU",
    ]


def test_the_text_of_nothing_says_so(measured):
    cells, _ = measured
    assert "no cell has a time of tilus and of a rival" in table.as_text(
        table.rows(cells, {}, EXECUTORS)
    )


def test_the_command_line_of_the_benchmark_becomes_its_request(monkeypatch, tmp_path):
    options = parse(
        ["bench", "--shapes", "8192x57344,4096X1024", "--m", "1,16", "--dtypes", "u4",
         "--group-size", "64", "--executors", "humming", "--json"]
    )  # fmt: skip
    assert options.figure == BENCH and options.json
    assert options.shapes == ((8192, 57344), (4096, 1024)) and options.batches == (1, 16)
    device = Device(0, "NVIDIA H200", "GPU-1", "580.1", "sm_90")
    session = app.Session(options, None, "local", device, None)
    request = app._request(BENCH, session)
    assert request.shapes == options.shapes and request.batches == (1, 16)
    assert (request.mode, request.gpu, request.group_size) == ("measured", "nvidia-h200", 64)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shapes", "8192"], "give shapes such as 8192x57344"),
        (["--shapes", "8192x0"], "numbers of at least 1, not '0'"),
        (["--m", "a"], "numbers of at least 1, not 'a'"),
        (["--figure", "9"], "--figure"),
        (["--open"], "--open"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_and_code_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as left:
        parse(["bench", *arguments])
    said = capsys.readouterr().err
    assert left.value.code == 2 and words in said and said.count("\n") == 1


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A machine without a GPU whose folders are empty."""
    for name in ("state", "store", "results", "recorded"):
        monkeypatch.setenv(f"TILUS_{name.upper()}", str(tmp_path / name))
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(app, "devices", list)
    return tmp_path


def test_without_a_gpu_the_table_is_that_of_the_records_or_there_is_none(house, measured, capsys):
    arguments = ["bench", "--shapes", "8192x8192", "--m", "16", "--dtypes", "u4"]
    assert app.main(arguments) == 3
    assert "no bench.jsonl in" in capsys.readouterr().err
    for record in measured[1].values():
        append(record_path(house / "recorded", "fixture-gpu", BENCH), record)
    assert app.main(arguments) == 0
    said = capsys.readouterr()
    assert "humming 90.0 us, tilus 100.0 us (0.90)" in said.out
    assert "the records that came with the project" in said.err
    assert app.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["means"][0]["cells"] == 1
    assert app.main(["bench", "--mode", "compose"]) == 2


def test_on_a_gpu_it_measures_and_prints_what_that_device_left(
    house, measured, monkeypatch, capsys
):
    here = Device(0, "Fixture GPU", "GPU-0", "1.2.3", "sm_90")
    monkeypatch.setattr(app, "devices", lambda: [here])
    cells, found = measured
    requests = []

    def made(asked, session):
        requests.extend(asked)
        absent = next(cell for cell in cells if cell not in found)
        elsewhere = GPU.model_copy(update={"uuid": "GPU-9"})
        others = timed(absent, 0.05).model_copy(update={"gpu": elsewhere})
        for one in (*found.values(), others):
            append(record_path(house / "results", "fixture-gpu", BENCH), one)
        failure = Failure(kind="measure", title="humming uint3", reason="wrong: off")
        state = RunState(id="r", request=asked[0], finished=True, counts={}, failures=(failure,))
        return [app.Outcome(state, 1.0)]

    monkeypatch.setattr(app, "_made", made)
    arguments = ["bench", "--shapes", "8192x8192", "--m", "16", "--dtypes", "u4"]
    assert app.main(arguments) == 1
    said = capsys.readouterr()
    assert "measure failed: humming uint3: wrong: off" in said.err
    assert "fixture-gpu/bench.jsonl" in said.err and "cuBLAS/it" in said.out
    (other,) = [line for line in said.out.splitlines() if line.split()[1:2] == ["public-tilus"]]
    assert "n/a: " in other
    assert [(r.mode, r.uuid, selected(r)) for r in requests] == [("measured", "GPU-0", cells)]
