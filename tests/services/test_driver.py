import io
import signal
import sys
import time
from contextlib import nullcontext

import pytest
from rich.console import Console

from services.driver import app, compose
from services.driver.options import parse
from services.driver.processes import RESTARTS, CannotStart, Household, answers, local_fleet, locked
from services.driver.progress import display
from services.experiments import FIGURES, MODEL_FIGURES
from services.gpu import Device
from services.messages import Failure, Reference, RunRequest, RunState
from services.records import append, record_path
from services.settings import ROOT, Settings, environment, load
from tests.services.made_up import model_records, table_of
from tests.services.records import record

H200 = Device(0, "NVIDIA H200", "GPU-1", "580.1", "sm_90")


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A machine without a GPU whose folders are empty."""
    for name in ("state", "store", "results", "recorded"):
        monkeypatch.setenv(f"TILUS_{name.upper()}", str(tmp_path / name))
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(app, "devices", list)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--figure", "7"], "there is no figure 7: choose 9, 10, 11, 12 or 13"),
        (["--reference", "pyproject.toml"], "say which with --figure"),
        (["--figure", "9", "--reference", "/nowhere.csv"], "there is no file /nowhere.csv"),
        (["--figure", "nine"], "invalid int value"),
        (["--mode", "cloud"], "invalid choice"),
        (["--frobnicate"], "--frobnicate"),
        (["--dtypes", ","], "give one name or several"),
        (["--wheels", "/nowhere"], "there is no folder /nowhere"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_and_code_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as left:
        parse(arguments)
    said = capsys.readouterr().err
    assert left.value.code == 2 and words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--figure", "10", "--executors", "marlin"], "figure 10 has no executor marlin"),
        (["--figure", "9", "--dtypes", "u5"], "figure 9 has no uint5"),
        (["--figure", "12", "--executors", "triton"], "figure 12 has no executor triton"),
        (["--figure", "13", "--executors", "marlin"], "figure 13 has no executor marlin"),
        (["--dtypes", "wide"], "wide"),
        (["--dtypes", "bfloat16"], "no figure has bfloat16: choose from"),
        (["--executors", "tilus,cutlass"], "no figure has cutlass: choose from"),
        (["--executors", "triton", "--dtypes", "u5"], "figure 9 has no cell of uint5"),
        (["--figure", "9", "--executors", "triton", "--dtypes", "u1"], "triton with uint1"),
        (["--figure", "9", "--reference", str(ROOT / "pyproject.toml")], "names the columns"),
        (["--group-size", "100"], "does not divide k = 8192"),
        (["--device", "cuda:0"], "there is no device cuda:0: this machine has no GPU"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(arguments, words, house, capsys):
    assert app.main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert list(house.iterdir()) == []


@pytest.mark.parametrize("figure", [9, 10, 11, 12, 13])
def test_a_figure_with_no_records_and_no_gpu_says_how_to_measure_it(figure, house, capsys):
    assert app.main(["--figure", str(figure)]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"figure {figure} has no records in" in said
    how = "no runner yet" if figure in MODEL_FIGURES else f"run bash run.sh --figure {figure} on"
    assert how in said and f"<gpu>/figure{figure}.jsonl" in said
    assert list(house.iterdir()) == []


def test_a_gpu_does_not_help_where_whole_models_are_run(house, monkeypatch, capsys):
    monkeypatch.setattr(app, "devices", lambda: [H200])
    assert app.main(["--figure", "11"]) == 3
    assert "nothing here can measure it: it times whole models" in capsys.readouterr().err


def asked(monkeypatch, *arguments):
    """The requests that a command line comes to, each with no run behind it."""
    requests = []

    def begin(request, client):
        requests.append(request)
        return app.Begun(state_of(request=request), 0.0)

    def follow(begun, household, client, session):
        return app.Outcome(begun.state, 0.0)

    monkeypatch.setattr(app, "_fleet", lambda session: nullcontext((None, None)))
    monkeypatch.setattr(app, "_begin", begin)
    monkeypatch.setattr(app, "_follow", follow)
    assert app.main(list(arguments)) == 0
    return requests


@pytest.fixture
def recorded(house):
    """The house with a record of each figure of operators, and of figure 11."""
    for number, figure in FIGURES.items():
        append(record_path(house / "recorded", "g", number), record(figure.cells[0]))
    for one in model_records(MODEL_FIGURES[11].cells, "g").values():
        append(record_path(house / "recorded", "g", 11), one)
    return house


def test_all_figures_are_those_that_can_be_drawn_and_the_others_are_named(
    recorded, monkeypatch, capsys
):
    assert [request.figure for request in asked(monkeypatch)] == [9, 10, 11, 13]
    assert "left out: figure 12 has no records" in capsys.readouterr().err


def test_an_executor_of_some_figures_is_asked_of_those(recorded, monkeypatch, capsys):
    requests = asked(monkeypatch, "--executors", "triton")
    assert {request.figure: request.executors for request in requests} == {
        9: ("triton",),
        13: ("triton",),
    }
    said = capsys.readouterr().err
    assert "left out: figure 10 has no cell of triton" in said
    requests = asked(monkeypatch, "--executors", "triton,tilus", "--dtypes", "u8,u4")
    assert {request.figure: request.executors for request in requests} == {
        9: ("triton", "tilus"),
        10: ("tilus",),
        11: ("tilus",),
        13: ("triton", "tilus"),
    }
    assert requests[-1].dtypes == ("uint4",)


def test_a_reference_travels_as_its_text(recorded, monkeypatch, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(table_of(FIGURES[13].cells, "Other"))
    [request] = asked(monkeypatch, "--figure", "13", "--reference", str(path))
    assert request.reference == Reference(source="mine.csv", text=path.read_text())


def test_what_is_missing_is_told_by_executor(house):
    told = app._sentences(app.Outcome(state_of(missing={"ladder": 24, "marlin": 6}), 1.0))
    assert told[0] == "30 cells have no number and are marked n/a: ladder 24, marlin 6"


def test_what_others_share_is_not_forgotten(house, monkeypatch, capsys):
    monkeypatch.setenv("STORE_URL", "http://store")
    assert app.main(["--no-cache"]) == 2
    assert "others use those of STORE_URL: unset it" in capsys.readouterr().err
    assert list(house.iterdir()) == []


def test_a_device_that_is_not_there_is_told_from_those_that_are(house, monkeypatch, capsys):
    monkeypatch.setattr(app, "devices", lambda: [H200])
    assert app.main(["--device", "cuda:1"]) == 2
    assert "no device cuda:1: this machine has cuda:0 (NVIDIA H200)" in capsys.readouterr().err


def test_measuring_needs_a_gpu(house, capsys):
    assert app.main(["--mode", "local"]) == 3
    assert "there is no GPU here" in capsys.readouterr().err
    assert list(house.iterdir()) == []


def test_two_drivers_do_not_share_a_state_folder(house, capsys):
    append(record_path(house / "recorded", "g", 9), record(FIGURES[9].cells[0]))
    with locked(house / "state"):
        assert app.main(["--figure", "9"]) == 3
    assert "another run uses" in capsys.readouterr().err


def settings_at(folder) -> Settings:
    return load().model_copy(
        update={n: folder / n for n in ("state", "store", "results", "recorded")}
    )


def await_true(ask, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_that_dies_is_started_again(tmp_path):
    household = Household(tmp_path)
    child = household.start("sleeper", ["sleep", "60"], settings_at(tmp_path))
    first = child.process.pid
    child.process.send_signal(signal.SIGKILL)
    await_true(child.ended)
    household.watch()
    assert child.process.pid != first and not child.ended()
    household.stop()
    assert child.process.returncode == -signal.SIGTERM


def test_a_process_that_keeps_dying_is_given_up_with_its_last_words(tmp_path):
    household = Household(tmp_path)
    command = [sys.executable, "-c", "print('out of luck'); raise SystemExit(1)"]
    child = household.start("loser", command, settings_at(tmp_path))
    with pytest.raises(CannotStart, match=r"loser keeps stopping: out of luck .*loser\.log"):
        for _ in range(RESTARTS + 1):
            await_true(child.ended)
            household.watch()
    household.stop()


def test_the_fleet_outlives_any_of_its_processes(tmp_path):
    settings = settings_at(tmp_path).model_copy(update={"compilers": 1})
    with local_fleet(settings, None) as (household, client):
        names = [child.name for child in household.children]
        assert names == ["redis", "compiler-0", "plotter", "api"]
        for child in household.children:
            child.process.send_signal(signal.SIGKILL)
            await_true(child.ended)
        household.watch()
        await_true(lambda: answers(client), seconds=30)
        assert client.get("/readyz").is_success
        processes = [child.process for child in household.children]
    assert all(process.poll() is not None for process in processes)


def test_children_do_not_see_the_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "HF_TOKEN" not in environment(load())


def test_children_find_the_libraries_of_cudas_wheels_last(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/first")
    first, *others = environment(load())["LD_LIBRARY_PATH"].split(":")
    assert first == "/first" and all(path.endswith("/nvidia/cu13/lib") for path in others)
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert environment(load())["LD_LIBRARY_PATH"].split(":") == (others or [""])


def state_of(**changes):
    request = RunRequest(figure=9, mode="recorded")
    return RunState(id="0", request=request, finished=True, counts={}).model_copy(update=changes)


def test_progress_is_lines_where_there_is_no_terminal():
    said = io.StringIO()
    with display(Console(file=said)) as shown:
        shown.show(state_of(counts={"compile": {"stored": 1, "waiting": 1}}))
        shown.show(state_of(counts={"compile": {"stored": 1, "done": 1}}))
        shown.show(state_of(counts={"compile": {"stored": 1, "done": 1}}))
    assert said.getvalue() == "2/2 kernels compiled\n"


def test_progress_is_bars_on_a_terminal():
    said = io.StringIO()
    with display(Console(file=said, force_terminal=True, width=80)) as shown:
        shown.show(state_of(counts={"check": {"done": 3, "waiting": 4}}))
    assert "3/7" in said.getvalue() and "kernels checked on the CPU" in said.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind", "costs"),
    [
        ("recorded", "compile", True),
        ("recorded", "check", True),
        ("measured", "measure", True),
        ("measured", "compile", False),
    ],
)
def test_a_measured_cell_may_do_without_one_of_its_kernels(mode, kind, costs):
    request = RunRequest(figure=9, mode=mode, gpu="g")
    failure = Failure(kind=kind, title="t", reason="r")
    assert bool(app.failed(state_of(request=request, failures=(failure,)))) is costs


def test_failures_are_told_by_reason(house):
    alike = [Failure(kind="compile", title=f"k{i}", reason="no room") for i in range(3)]
    other = Failure(kind="measure", title="cell", reason="it hung")
    request = RunRequest(figure=9, mode="measured", gpu="g")
    told = app.complaints(state_of(request=request, failures=(*alike, other)))
    assert told == ["measure failed: cell: it hung", "compile failed: k0 and 2 others: no room"]


def test_compose_without_docker_says_so(recorded, monkeypatch, capsys):
    monkeypatch.setattr(compose, "ROOT", recorded)
    monkeypatch.setenv("PATH", "/nowhere")
    assert app.main(["--mode", "compose"]) == 3
    assert "needs Docker with Compose" in capsys.readouterr().err
