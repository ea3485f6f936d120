"""One fleet in containers for all the tests of a session, its images built before."""

import os
import time

import pytest

from services.driver.compose import make_secrets
from tests.compose.stack import Stack


@pytest.fixture(scope="session")
def secrets(tmp_path_factory):
    """A folder of secrets, as the driver makes it."""
    folder = tmp_path_factory.mktemp("fleet") / "secrets"
    make_secrets(folder)
    return folder


@pytest.fixture(scope="session")
def images(secrets):
    """The images of the fleet, built on the base; the seconds that it took."""
    started = time.monotonic()
    Stack("tilus-fleet-test", secrets).compose("build", "--quiet")
    return time.monotonic() - started


@pytest.fixture(scope="session")
def fleet(images, secrets):
    """A fleet of two compilers, up; taken down with all that it kept."""
    stack = Stack(f"tilus-fleet-test-{os.getpid()}", secrets)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture
def client(fleet):
    """A client of its API that may begin runs."""
    with fleet.client() as made:
        yield made
