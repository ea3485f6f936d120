"""What the page shows, as the API says it: figures with their records, the kernels of the store."""

import signal
import subprocess
import sys

import httpx
import pytest

from services.building import build_kernel
from services.compiler.jobs import check_kernel
from services.experiments import FIGURES, MODEL_FIGURES, baseline
from services.plotter import looks
from services.records import append, record_path
from services.settings import ROOT, environment
from tests.services.fake import spec
from tests.services.made_up import model_records, timed
from tests.services.problems import assert_problem

POLICY = "content-security-policy"
FILES = sorted((ROOT / "services" / "web").iterdir())


def write(fleet, root, *records, gpu="fixture-gpu"):
    for one in records:
        append(record_path(root, gpu, one.figure), one)


def test_a_figure_says_what_it_can_be_drawn_from(client, fleet):
    cell = FIGURES[9].cells[0]
    assert all(one["sources"] == [] for one in client.get("/v1/figures").json())
    write(fleet, fleet.settings.recorded, timed(cell, 0.2))
    write(fleet, fleet.settings.results, timed(cell, 0.2), gpu="mine")
    nine = client.get("/v1/figures").json()[0]
    assert (nine["number"], nine["picture"]) == (9, "bars")
    assert [(one["mode"], one["gpu"]) for one in nine["sources"]] == [
        ("measured", "mine"),
        ("recorded", "fixture-gpu"),
    ]


def test_each_cell_has_its_speed_and_its_record(client, fleet):
    ours = next(cell for cell in FIGURES[9].cells if cell.executor == "tilus")
    write(fleet, fleet.settings.recorded, timed(baseline(ours), 0.3), timed(ours, 0.1))
    bars = client.get("/v1/figures/9", params={"gpu": "fixture-gpu"}).json()
    assert len(bars) == len(FIGURES[9].cells)
    [one] = [bar for bar in bars if bar["record"] and bar["cell"]["executor"] == "tilus"]
    assert one["weight"] == "u8" and one["speedup"] == pytest.approx(3)
    assert one["record"]["latency_ms"] == 0.1 and one["record"]["commit"] == "f" * 40
    assert {bar["status"] for bar in bars} == {"ok", "n/a"}


@pytest.mark.parametrize(("figure", "gpu"), [(11, "fixture-a"), (12, "")])
def test_a_figure_of_models_is_of_one_gpu_or_of_all(client, fleet, figure, gpu):
    cells = MODEL_FIGURES[figure].cells
    for device in ("Fixture A", "Fixture B"):
        for (folder, _), one in model_records(cells, device).items():
            append(record_path(fleet.settings.recorded, folder, figure), one)
    entries = {one["number"]: one for one in client.get("/v1/figures").json()}
    assert {"mode": "recorded", "gpu": gpu} in entries[figure]["sources"]
    bars = client.get(f"/v1/figures/{figure}", params={"gpu": gpu}).json()
    gpus = {bar["record"]["gpu"]["name"] for bar in bars if bar["record"]}
    assert gpus == ({"Fixture A"} if gpu else {"Fixture A", "Fixture B"})
    good = [bar for bar in bars if bar["status"] == "ok"]
    assert {bar["speedup"] for bar in good if bar["cell"]["executor"] == "torch-f16"} == {1.0}


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/v1/figures/8", 404, "there is no figure 8: choose 9"),
        ("/v1/figures/9", 404, "no recorded records without the name of a GPU"),
        ("/v1/figures/9?gpu=none", 404, "no recorded records of none"),
        ("/v1/figures/9?gpu=../../etc", 422, "gpu"),
        ("/v1/figures/9?mode=other", 422, "mode"),
        ("/web/page.py", 404, "no file page.py"),
        ("/web/..%2Fsettings.py", 404, ""),
    ],
)
def test_what_is_not_there_is_a_problem(client, path, status, word):
    assert_problem(client.get(path), status, word)


def test_the_kernels_of_the_store_are_listed_found_and_paged(client, fleet):
    keys = sorted(spec(n=n).key() for n in range(6))
    for n in range(6):
        build_kernel(spec(n=n), fleet.store, fleet.executors, "abc")
    check_kernel(spec(n=3), fleet.store, fleet.executors, "abc")
    every = client.get("/v1/artifacts").json()
    assert [one["manifest"]["key"] for one in every["kernels"]] == keys and every["after"] is None
    found, after = [], ""
    while after is not None:
        page = client.get("/v1/artifacts", params={"limit": 2, "after": after}).json()
        found += [one["manifest"]["key"] for one in page["kernels"]]
        after = page["after"]
    assert found == keys
    for words in ("n=3 FAKE", spec(n=3).key()[:12], spec(n=3).key()):
        [one] = client.get("/v1/artifacts", params={"find": words}).json()["kernels"]
        assert one["title"] == "fake fake n=3 sm_90"
        assert one["relative_error"] == pytest.approx(1e-4)
        assert one["sizes"]["source.cu"] == len(b"// fake\n")
    assert client.get("/v1/artifacts", params={"find": "n=7"}).json()["kernels"] == []


def test_the_page_is_served_whole_and_may_load_nothing_from_elsewhere(client):
    answer = client.get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers[POLICY].split("; "))
    assert policy["default-src"] == "'none'" and "unsafe" not in answer.headers[POLICY]
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert policy["require-trusted-types-for"] == "'script'"
    for name in (path.name for path in FILES):
        one = client.get(f"/web/{name}")
        assert one.status_code == 200 and one.headers[POLICY] == answer.headers[POLICY]
        assert one.headers["x-content-type-options"] == "nosniff"
        kept = {"If-None-Match": one.headers["etag"]}
        assert client.get(f"/web/{name}", headers=kept).status_code == 304
    assert client.get("/web/index.html").content == answer.content


@pytest.mark.parametrize(
    "path", sorted((ROOT / "services" / "web").iterdir()), ids=lambda p: p.name
)
def test_no_file_of_the_page_names_another_server_or_makes_html_of_text(path):
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    for word in ("http:", "https:", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval(",
                 "document.write", "localStorage", "cookie", " style=", "onclick=\""):  # fmt: skip
        assert word not in text, word


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_has_a_fleet_of_its_own_until_it_is_told_to_stop(fleet, number):
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "services.driver.page"],
        cwd=ROOT, env=environment(fleet.settings) | {"PYTHONPATH": str(ROOT), "REDIS_URL": ""},
        stdout=subprocess.PIPE, text=True,
    ) as driver:  # fmt: skip
        try:
            said = driver.stdout.readline()
            assert said.startswith("the page is at http://127.0.0.1:")
            address = said.split()[4]
            assert "<title>Tilus fleet</title>" in httpx.get(address, trust_env=False).text
            driver.send_signal(number)
            assert driver.wait(20) == 0
        finally:
            driver.kill()
    with pytest.raises(httpx.ConnectError):
        httpx.get(address, trust_env=False)


def test_executors_look_as_they_do_in_pictures():
    style = (ROOT / "services" / "web" / "page.css").read_text()
    light, _ = style.split("@media (prefers-color-scheme: dark)")
    for name, color in {**looks.COLORS, "other": looks.OTHER_COLOR}.items():
        assert f"--{name}: {color.lower()};" in light
    words = (ROOT / "services" / "web" / "words.js").read_text()
    assert all(f'"{name}": "{called}"' in words for name, called in looks.PRODUCTS.items())
