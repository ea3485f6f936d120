"""A store behind HTTP: our own API, nginx, and ends that misbehave."""

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import httpx
import pytest
from pydantic import SecretStr

from services.api.app import create_app
from services.api.artifacts import _is_here
from services.batch import TRIES, Piece
from services.building import build_kernel
from services.executors import EXECUTORS
from services.fleet import Fleet
from services.messages import digest
from services.queue import COMPILE, FleetQueue, standings, submit
from services.runner.canary import library_spec
from services.settings import ROOT, environment, load
from services.store import Cached, Damaged, Folder, Remote, Unreachable, open_store, seal
from tests.services.artifacts import FILES, KEY, flipped, key_of, manifest, overwrite
from tests.services.ends import ENDS, api_end, serving
from tests.services.fake import Fake, built, spec

LIMIT = 2 << 20


@pytest.fixture(params=ENDS)
def end(request, tmp_path):
    with ENDS[request.param](tmp_path / "far") as made:
        yield made


@pytest.fixture
def api(tmp_path):
    with api_end(tmp_path / "far", artifact_limit=LIMIT) as made:
        yield made


def remote(url, tmp_path, token="", limit=LIMIT, waits=()):
    return Remote(url, token, limit, tmp_path / "aside", waits)


def cached(url, root):
    return Cached(root, Remote(url, "", LIMIT, root / "quarantine", ()))


def test_what_one_machine_puts_another_one_reads(end, tmp_path):
    stored = cached(end.url, tmp_path / "one").put(manifest(), FILES)
    for store in (cached(end.url, tmp_path / "two"), remote(end.url, tmp_path)):
        found = store.get_manifest(KEY)
        assert found == stored
        assert {name: store.read(found, name) for name in FILES} == FILES
    assert Folder(end.root).get_manifest(KEY) == stored


def test_what_nobody_put_is_absent(end, tmp_path):
    store = remote(end.url, tmp_path)
    assert store.get_manifest(KEY) is None and store.get("cas", KEY) is None
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        store.get("ac", "../cas/" + "0" * 57)


def test_the_protocol_is_that_of_a_cache(end):
    with httpx.Client(base_url=end.url) as client:
        name = digest(b"bytes")
        assert client.head(f"/cas/{name}").status_code == client.get(f"/cas/{name}").status_code
        assert client.get(f"/cas/{name}").status_code == 404
        for _ in range(2):
            assert client.put(f"/cas/{name}", content=b"bytes").status_code in (200, 201, 204)
        answer = client.get(f"/cas/{name}")
        assert answer.status_code == 200 and answer.content == b"bytes"
        answer = client.head(f"/cas/{name}")
        assert answer.status_code == 200 and answer.headers["content-length"] == "5"
        assert answer.content == b""
        assert client.delete(f"/cas/{name}").status_code in (403, 405)


@pytest.mark.parametrize("victim", [*FILES, "the manifest"])
def test_what_comes_damaged_is_set_aside_not_used_and_repaired(end, tmp_path, victim):
    far = remote(end.url, tmp_path)
    stored = far.put(manifest(), FILES)
    path = end.root / "ac" / KEY
    if victim in FILES:
        path = end.root / "cas" / stored.files[victim]
    bad = flipped(path.read_bytes(), 70 % path.stat().st_size)
    overwrite(path, bad)
    reader = cached(end.url, tmp_path / "reader")
    assert reader.get_manifest(KEY) is None and far.get_manifest(KEY) is None
    aside = [*(tmp_path / "reader/quarantine").iterdir(), *(end.root / "quarantine").glob("*")]
    assert bad in [one.read_bytes() for one in aside]
    far.put(manifest(), FILES)
    assert reader.get_manifest(KEY) == stored


def test_a_read_artifact_stays_here_when_the_far_end_is_gone(end, tmp_path):
    remote(end.url, tmp_path).put(manifest(), FILES)
    near = cached(end.url, tmp_path / "near")
    found = near.get_manifest(KEY)
    gone = cached("http://127.0.0.1:9", tmp_path / "near")
    assert gone.get_manifest(KEY) == found
    assert gone.read(found, "source.cu") == FILES["source.cu"]
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        gone.get_manifest(key_of(1))


def test_what_is_damaged_here_is_fetched_again(end, tmp_path):
    near = cached(end.url, tmp_path / "near")
    stored = near.put(manifest(), FILES)
    overwrite(tmp_path / "near/cas" / stored.files["source.cu"], b"damaged")
    assert near.get_manifest(KEY) == stored
    assert near.read(stored, "source.cu") == FILES["source.cu"]
    assert len(list((tmp_path / "near/quarantine").iterdir())) == 1


def test_two_machines_that_build_one_key_at_once_leave_one_of_both(end, tmp_path):
    reader = remote(end.url, tmp_path)
    done = threading.Event()

    def write(writer):
        store = cached(end.url, tmp_path / f"writer{writer}")
        for number in range(8):
            files = {f"part{i}": f"{writer} {number} {i} ".encode() * 2000 for i in range(3)}
            store.put(manifest(built_by=f"{writer} {number}"), files)

    def read():
        seen = 0
        while not done.is_set():
            found = reader.get_manifest(KEY)
            if found is not None:
                assert_of_one_writer(reader, found)
                seen += 1
        return seen

    with ThreadPoolExecutor(3) as threads:
        reading = threads.submit(read)
        try:
            list(threads.map(write, range(2)))
        finally:
            done.set()
        assert reading.result() > 0
    assert_of_one_writer(reader, reader.get_manifest(KEY))
    assert not (tmp_path / "aside").exists()


def assert_of_one_writer(store, found):
    for i in range(3):
        assert store.read(found, f"part{i}") == f"{found.built_by} {i} ".encode() * 2000


def test_an_upload_that_ends_early_leaves_nothing(end):
    content = b"x" * 100_000
    host, port = end.url.removeprefix("http://").split(":")
    head = f"PUT /cas/{digest(content)} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\n"
    for part in (0, 1, 50_000, 99_999):
        with socket.create_connection((host, int(port))) as writer:
            writer.sendall(head.encode() + content[:part])
            time.sleep(0.05)
    time.sleep(0.2)
    assert httpx.get(f"{end.url}/cas/{digest(content)}").status_code == 404
    assert not list(end.root.glob("cas/*"))
    assert httpx.put(f"{end.url}/cas/{digest(content)}", content=content).is_success


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        (f"/cas/{KEY}", b"other bytes", "have the digest"),
        (f"/ac/{KEY}", b"{}", "no manifest"),
        (f"/ac/{key_of(1)}", seal(manifest()), "is the manifest of"),
        (
            f"/ac/{KEY}",
            seal(manifest(files={"a.cu": key_of(1), "b.cu": key_of(2)})),
            "put the files before the manifest: a.cu, b.cu",
        ),
        (f"/ac/{KEY}", seal(manifest(files={"../a": key_of(1)})), "no manifest"),
        (f"/cas/{KEY[1:]}", b"", "match pattern"),
        ("/cas/" + "A" * 64, b"", "match pattern"),
    ],
)
def test_our_api_takes_only_what_is_whole(api, path, content, words):
    answer = httpx.put(api.url + path, content=content)
    assert answer.status_code == 422 and words in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert not list(api.root.glob("ac/*")) and not list(api.root.glob("cas/*"))


def test_our_api_bounds_an_artifact_and_nothing_else_is_so_large(api):
    large = b"x" * (LIMIT + 1)
    answer = httpx.put(f"{api.url}/cas/{digest(large)}", content=large)
    assert answer.status_code == 413 and f"{LIMIT} bytes" in answer.json()["detail"]
    assert httpx.put(f"{api.url}/cas/{digest(large[1:])}", content=large[1:]).is_success
    assert httpx.post(f"{api.url}/v1/runs", content=large[1:]).status_code == 413
    answer = httpx.put(f"{api.url}/cas/{KEY}", content=iter([b"x"]))
    assert answer.status_code == 411


def test_our_api_says_when_its_disk_is_full(api, monkeypatch):
    full = SimpleNamespace(free=1)
    monkeypatch.setattr("services.api.artifacts.shutil.disk_usage", lambda _: full)
    answer = httpx.put(f"{api.url}/cas/{digest(b'')}", content=b"")
    assert answer.status_code == 507 and "make room" in answer.json()["detail"]


def test_our_api_says_when_the_store_behind_it_does_not_answer(tmp_path):
    settings = load().model_copy(update={"store": tmp_path / "near", "state": tmp_path / "state"})
    fleet = Fleet(settings, cached("http://127.0.0.1:9", tmp_path / "near"), None, {})
    with serving(create_app(fleet)) as url:
        answer = httpx.get(f"{url}/ac/{KEY}")
        assert answer.status_code == 503 and "127.0.0.1:9" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
        answer = httpx.put(f"{url}/cas/{digest(b'')}", content=b"")
        assert answer.status_code == 503


def test_writing_to_our_api_needs_its_token(tmp_path):
    with api_end(tmp_path / "far", token=SecretStr("sesame")) as end:
        for token in ("", "open"):
            with pytest.raises(Unreachable, match="401 Unauthorized: set TILUS_STORE_TOKEN"):
                remote(end.url, tmp_path, token).put(manifest(), FILES)
        stored = remote(end.url, tmp_path, "sesame").put(manifest(), FILES)
        assert remote(end.url, tmp_path).get_manifest(KEY) == stored


def test_who_begins_runs_does_not_write_kernels_and_the_other_way_round(tmp_path):
    tokens = {"token": SecretStr("sesame"), "store_token": SecretStr("poppy")}
    with api_end(tmp_path / "far", **tokens) as end:
        with pytest.raises(Unreachable, match="401"):
            remote(end.url, tmp_path, "sesame").put(manifest(), FILES)
        assert remote(end.url, tmp_path, "poppy").put(manifest(), FILES).key == KEY
        for token, status in (("poppy", 401), ("sesame", 422)):
            bearer = {"Authorization": f"Bearer {token}"}
            assert httpx.post(f"{end.url}/v1/runs", json={}, headers=bearer).status_code == status


def test_without_a_token_only_this_machine_writes(tmp_path, monkeypatch):
    with api_end(tmp_path / "far") as end:
        monkeypatch.setattr("services.api.artifacts._is_here", lambda request: False)
        with pytest.raises(Unreachable, match="403 Forbidden: set TILUS_STORE_TOKEN"):
            remote(end.url, tmp_path).put(manifest(), FILES)
        assert not list(end.root.glob("cas/*"))


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("10.0.0.1", False),
     ("::ffff:10.0.0.1", False), ("172.17.0.1", False), ("testclient", False), (None, False)],
)  # fmt: skip
def test_this_machine_is_what_comes_over_loopback(host, here):
    client = None if host is None else SimpleNamespace(host=host)
    assert _is_here(SimpleNamespace(client=client)) is here


class Script(BaseHTTPRequestHandler):
    """Answers as the server's `answers` say, one after the other, the last for ever."""

    def do_GET(self):
        answers = self.server.answers
        status, body, promised = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.asked += 1
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(status)
        self.send_header("content-length", str(promised))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    do_PUT = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def script():
    with ThreadingHTTPServer(("127.0.0.1", 0), Script) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.asked = 0
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


GOOD = (200, b"bytes", 5)


@pytest.mark.parametrize("bad", [(503, b"", 0), (429, b"", 0), (200, b"by", 5)])
def test_a_passing_fault_is_asked_again(script, tmp_path, bad):
    script.answers = [bad, bad, GOOD]
    store = remote(script.url, tmp_path, waits=(0.01, 0.01))
    assert store.get("cas", digest(b"bytes")) == b"bytes" and script.asked == 3
    script.answers = [bad, bad, bad, GOOD]
    with pytest.raises(Unreachable):
        store.get("cas", digest(b"bytes"))
    assert not (tmp_path / "aside").exists()


@pytest.mark.parametrize("status", [302, 400, 401, 403, 418])
def test_an_answer_that_is_neither_yes_nor_no_is_not_absence(script, tmp_path, status):
    script.answers = [(status, b"", 0)]
    for ask in (lambda s: s.get("cas", KEY), lambda s: s.put(manifest(), {})):
        with pytest.raises(Unreachable, match=str(status)):
            ask(remote(script.url, tmp_path, waits=(0.01,)))
    assert script.asked == 2


def test_what_could_not_be_shared_is_not_taken_for_built(script, tmp_path):
    """The far end takes the file and refuses the manifest."""
    script.answers = [(201, b"", 0), (400, b"", 0)]
    with pytest.raises(Unreachable, match="PUT ac/"):
        cached(script.url, tmp_path).put(manifest(), {"a": b""})
    assert Folder(tmp_path).get_manifest(KEY) is None


def test_an_answer_without_an_end_is_cut_short(script, tmp_path):
    script.answers = [(200, b"x" * 5000, 5000)]
    with pytest.raises(Unreachable, match="more than 1000 bytes: see TILUS_ARTIFACT_LIMIT"):
        remote(script.url, tmp_path, limit=1000).get("cas", KEY)


def test_a_password_in_the_url_is_used_and_not_told(script, tmp_path):
    script.answers = [(401, b"", 0)]
    url = script.url.replace("http://", "http://user:hunter2@")
    with pytest.raises(Unreachable) as raised:
        remote(url, tmp_path).get("cas", KEY)
    assert "hunter2" not in str(raised.value) and "127.0.0.1" in str(raised.value)


def test_a_builder_gives_the_far_end_back_what_it_lost(end, tmp_path):
    near = cached(end.url, tmp_path / "near")
    fakes = {"fake": Fake("fake", tmp_path / "builds")}
    made = build_kernel(spec(n=1), near, fakes, "abc")
    (end.root / "cas" / made.files["kernel.cubin"]).unlink()
    assert build_kernel(spec(n=1), near, fakes, "abc") == made
    assert Folder(end.root).get_manifest(made.key) == made and len(built(tmp_path / "builds")) == 1


def test_whoever_reads_a_whole_artifact_may_not_read_another_one_s_part(end, tmp_path):
    """Here an older build is incomplete, there a newer one is whole: the newer one counts."""
    near, far = cached(end.url, tmp_path / "near"), remote(end.url, tmp_path)
    old = near.put(manifest(), {"a": b"old a", "b": b"old b"})
    new = far.put(manifest(), {"a": b"new a", "b": b"new b"})
    for root in (end.root, tmp_path / "near"):
        (root / "cas" / old.files["a"]).unlink()
    assert near.get_manifest(KEY) == new and near.read(new, "b") == b"new b"
    with pytest.raises(Damaged):
        near.read(old, "a")


def open_with(monkeypatch, tmp_path, url):
    monkeypatch.setenv("TILUS_STORE", str(tmp_path / "here"))
    monkeypatch.setenv("STORE_URL", url)
    return open_store(load())


@pytest.mark.parametrize(
    ("url", "root"),
    [("", "here"), ("{}/there", "there"), ("file://{}/there%20too", "there too")],
)
def test_a_store_may_be_a_folder(monkeypatch, tmp_path, url, root):
    store = open_with(monkeypatch, tmp_path, url.format(tmp_path))
    assert type(store) is Folder and store.root == tmp_path / root


@pytest.mark.parametrize("url", ["http://store:80/a", "https://user:word@store"])
def test_a_store_may_be_far(monkeypatch, tmp_path, url):
    store = open_with(monkeypatch, tmp_path, url)
    assert isinstance(store, Cached) and store.root == tmp_path / "here"


@pytest.mark.parametrize("url", ["ftp://store/a", "http:///a", "file://elsewhere/a", "s3://b"])
def test_a_store_is_nothing_else(monkeypatch, tmp_path, url):
    with pytest.raises(ValueError, match="STORE_URL is a folder, file"):
        open_with(monkeypatch, tmp_path, url)


def worker(module, *arguments, **variables):
    """A compile worker on a machine that knows these variables and nothing else."""
    command = [sys.executable, "-m", module, *arguments]
    known = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.Popen(command, cwd=ROOT, env=known | variables)


def queued(redis, key, one):
    """Have a spec compiled, once somebody listens."""
    queue = FleetQueue(COMPILE, redis)
    piece = Piece(key, one.model_dump(mode="json"))
    submit(queue, "services.compiler.jobs.build", [piece], title="one", seconds=60)
    return queue


def test_a_far_worker_s_kernel_reaches_a_far_reader(api, redis, redis_url, tmp_path):
    """One machine compiles for another; only a queue and a store are between them."""
    small = library_spec("streaming_read", "sm_90")
    key = EXECUTORS["tilus"].key(small)
    queued(redis, key, small)
    machine = {"REDIS_URL": redis_url, "STORE_URL": api.url}
    # Its folder would else be in this tree.
    with worker("services.compiler", TILUS_STORE=str(tmp_path / "worker"), **machine) as process:
        reader, found = cached(api.url, tmp_path / "reader"), None
        deadline = time.monotonic() + 60
        while found is None and time.monotonic() < deadline:
            time.sleep(0.1)
            found = reader.get_manifest(key)
        process.terminate()
    assert found is not None and found.spec == small
    assert reader.read(found, "kernel.cubin")[:4] == b"\x7fELF"
    assert Folder(tmp_path / "reader").get_manifest(key) == found


@pytest.mark.promise(21)
def test_a_far_end_that_fails_costs_no_kernel(redis, redis_url, script, tmp_path):
    """The work is tried again, and fails for what it was: the house, not the kernel."""
    script.answers = [(404, b"", 0), (400, b"", 0)]
    one = spec(n=1)
    queue = queued(redis, one.key(), one)
    settings = load().model_copy(
        update={"redis_url": redis_url, "store": tmp_path / "store", "store_url": script.url}
    )
    log = tmp_path / "builds"
    command = [sys.executable, "-m", "tests.services.fake", redis_url, str(log), "burst"]
    subprocess.run(command, cwd=ROOT, env=environment(settings), check=True)
    [standing] = standings(queue, [one.key()])
    assert (standing.note.state, standing.note.cause) == ("failed", "house")
    assert standing.note.reason.startswith("Unreachable: the store at http://127.0.0.1")
    assert not list((tmp_path / "store/ac").iterdir())
    assert script.asked == 1 + TRIES and built(log) == [one.key()]
