import subprocess

import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.driver.processes import pings, redis_command, redis_server
from services.executors import peer
from services.fleet import Fleet
from services.queue import connect
from services.settings import load
from services.store import Folder
from tests.services.fake import Fake
from tests.services.house import House


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """A queue server of the tests' own, on a private socket."""
    folder = tmp_path_factory.mktemp("redis")
    url = f"unix://{folder / 'redis.sock'}"
    command = redis_command(redis_server(), folder, folder)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            while not pings(url):
                assert server.poll() is None, "the queue server stopped"
            yield url
        finally:
            server.terminate()


@pytest.fixture
def redis(redis_url):
    """The queue server, empty."""
    with connect(redis_url) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of peers with the packages that a test puts there."""
    monkeypatch.setattr(peer, "FOLDER", tmp_path / "peers")

    def put(name, package, version="1.0", **modules):
        folder = peer.home(name)
        about = folder / f"{package.replace('-', '_')}-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        peer.versions.cache_clear()
        return folder

    yield put
    peer.versions.cache_clear()


@pytest.fixture
def fleet(tmp_path, redis):
    """What an API stands in front of, all of it in a folder of the test's own."""
    settings = load().model_copy(
        update={name: tmp_path / name for name in ("state", "store", "results", "recorded")}
    )
    executors = {name: Fake(name, tmp_path / "builds") for name in ("fake", "tilus")}
    return Fleet(settings, Folder(settings.store), redis, executors)


@pytest.fixture
def client(fleet):
    """A client of the API in front of that fleet."""
    return TestClient(create_app(fleet), raise_server_exceptions=False)


@pytest.fixture
def house(tmp_path, redis, redis_url):
    """A store, a build log, and a way to start compile workers on them."""
    return House(tmp_path, redis, redis_url)
