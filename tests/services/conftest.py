import subprocess

import pytest

from services.driver.processes import pings, redis_command, redis_server
from services.queue import connect


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
