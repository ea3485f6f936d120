"""What the API says of the fleet: numbers for a scraper, instructions of a kernel."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services import notes
from services.building import build_kernel
from services.messages import Manifest, RunRequest
from services.notes import Note
from services.queue import COMPILE, FleetQueue, alive
from services.worker import FleetWorker
from tests.services.fake import spec
from tests.services.problems import assert_problem
from tilus.runtime import nvrtc, sass

BUILD = "services.compiler.jobs.build"


def scrape(client) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_the_queue_the_work_and_the_store_are_counted(client, fleet):
    build_kernel(spec(n=1), fleet.store, fleet.executors, "abc")
    for n in (1, 2, 3):
        client.post("/v1/kernels", json=spec(n=n).model_dump())
    note = Note(queue=COMPILE, function=BUILD, batch="b")
    for state, cause, seconds in [
        ("done", None, 0.02),
        ("done", None, 2.0),
        ("failed", "timeout", 300.5),
    ]:
        update = {"state": state, "cause": cause}
        notes.end(fleet.connection, f"{state}{seconds}", note.model_copy(update=update), seconds)
    found = scrape(client)
    assert found["tilus_queue_length", COMPILE] == 2
    assert found["tilus_workers", COMPILE] == 0
    assert found["tilus_jobs_total", "", "build", "done"] == 2
    assert found["tilus_jobs_total", "timeout", "build", "failed"] == 1
    below = [found["tilus_job_seconds_bucket", "build", end] for end in ("0.01", "0.03", "3.0")]
    assert below == [0, 1, 2]
    assert found["tilus_job_seconds_bucket", "build", "+Inf"] == 3
    assert found["tilus_job_seconds_count", "build"] == 3
    assert found["tilus_job_seconds_sum", "build"] == pytest.approx(302.52)
    assert found["tilus_store_hits_total",] == 1 and found["tilus_store_misses_total",] == 2
    files = [path.stat().st_size for path in (fleet.store.root / "cas").iterdir()]
    assert found["tilus_store_bytes",] == sum(files) > 0
    assert found["tilus_store_objects",] == len(files)
    assert found["tilus_store_quarantined",] == 0


def test_a_run_asks_for_many_results(client):
    request = RunRequest(figure=9, mode="recorded", dtypes=("u4",))
    state = client.post("/v1/runs", json=request.model_dump()).json()
    wanted = sum(sum(state["counts"][kind].values()) for kind in ("compile", "check"))
    assert scrape(client)["tilus_store_misses_total",] == wanted


def test_a_worker_counts_as_long_as_it_gives_signs_of_life(redis):
    queue = FleetQueue(COMPILE, redis)
    worker = FleetWorker([queue], connection=redis, serializer=queue.serializer)
    worker.register_birth()
    assert alive(queue) == 1
    redis.hset(worker.key, "last_heartbeat", "2026-01-01T00:00:00.000000Z")
    assert alive(queue) == 0


@pytest.mark.promise(6)
def test_what_is_set_aside_as_damaged_is_counted(client, fleet):
    one = build_kernel(spec(n=3), fleet.store, fleet.executors, "abc")
    path = fleet.store.root / "cas" / one.files["kernel.cubin"]
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    fleet.store.get_manifest(one.key)
    assert scrape(client)["tilus_store_quarantined",] == 1


def stored(fleet, cubin: bytes) -> str:
    one = spec(n=len(cubin))
    fleet.store.put(Manifest(key=one.key(), spec=one), {"kernel.cubin": cubin})
    return f"/v1/kernels/{one.key()}/sass"


@pytest.mark.skipif(sass.found() is None, reason="no nvdisasm here: pip install triton")
def test_the_instructions_of_a_kernel_are_shown(client, fleet):
    text = 'extern "C" __global__ void f(int *out) { *out = 7; }'
    answer = client.get(stored(fleet, nvrtc.compile_cubin(text, "f", "sm_90", 0).cubin))
    assert answer.status_code == 200 and "STG" in answer.text and "EXIT" in answer.text


def test_where_nothing_shows_instructions_a_sentence_says_what_to_do(client, fleet, monkeypatch):
    monkeypatch.setattr(sass, "found", lambda: None)
    sass.disassembler.cache_clear()
    assert_problem(client.get(stored(fleet, b"cubin")), 501, "pip install triton")
    sass.disassembler.cache_clear()


def test_no_instructions_without_a_kernel(client):
    assert_problem(client.get(f"/v1/kernels/{'0' * 64}/sass"), 404, "not in the store")
    assert_problem(client.get("/v1/kernels/none/sass"), 422, "key")


def test_the_metrics_stand_in_the_description(client):
    described = client.get("/openapi.json").json()
    assert "tilus_queue_length" in described["paths"]["/metrics"]["get"]["description"]
