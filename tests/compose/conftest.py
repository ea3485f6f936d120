"""One fleet in containers for all the tests of a session, its images built before."""

import os
import time
from typing import NamedTuple

import pytest

from services.driver.compose import make_secrets
from tests.compose.stack import Stack, begin, finish, gateway, open_ports

COMPILERS = 3


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


class First(NamedTuple):
    """The first figure of a fleet: seconds from `up` until it is up, and until it is drawn.

    `before`: the ports of this machine that were open to others when there was no fleet.
    """

    stack: Stack
    up: float
    drawn: float
    state: dict
    before: set[int]


@pytest.fixture(scope="session")
def first(images, secrets):
    """A fleet of two compilers that has drawn a figure; taken down with all that it kept."""
    stack = Stack(f"tilus-fleet-test-{os.getpid()}", secrets)
    before = open_ports(gateway())
    started = time.monotonic()
    try:
        stack.up()
        up = time.monotonic() - started
        with stack.client() as client:
            ended = finish(client, begin(client, figure=9, dtypes=["uint4"]))
        yield First(stack, up, time.monotonic() - started, ended, before)
    finally:
        stack.down()


@pytest.fixture
def fleet(first):
    """That fleet."""
    return first.stack


@pytest.fixture
def three(fleet):
    """That fleet, with three compilers."""
    fleet.up("--no-recreate", "--scale", f"compiler={COMPILERS}")
    return fleet


@pytest.fixture
def client(fleet):
    """A client of its API that may begin runs."""
    with fleet.client() as made:
        yield made
