"""How tests run abreast, the promises of docs/operations.md that one shows, and its numbers."""

import pytest
from xdist.scheduler import LoadScopeScheduling

# What begins fleets, kills them, looks at the clock, or minds that networks of this machine come
# and go: one after another, beside everything else.
IN_TURN = (
    "tests/compose/",
    "tests/services/test_access.py",
    "tests/services/test_drain.py",
    "tests/services/test_driver.py",
    "tests/services/test_feed.py",
    "tests/services/test_health.py",
    "tests/services/test_page.py",
    "tests/services/test_promises.py",
    "tests/services/test_queue.py",
    "tests/services/test_runner.py",
    "tests/services/test_shown.py",
    "tests/services/test_storm.py",
    "tests/test_resume.py",
    "tests/test_run_sh.py",
)
ON_A_GPU = "tests/gpu/"


class Abreast(LoadScopeScheduling):
    """Gives a process whole files, so that what a file shares is made once, in their order."""

    def _split_scope(self, nodeid: str) -> str:
        for group in (IN_TURN, ON_A_GPU):
            if nodeid.startswith(group):
                return str(group)
        return nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`pytest -n 3`: what is IN_TURN in one process, and the other files where there is room.

    On a GPU `-n 16 --dist worksteal` gives every test to whoever is free.
    """
    if config.getvalue("dist") != "load":
        return None
    config.option.loadscopereorder = False
    return Abreast(config, log)


def pytest_collection_modifyitems(items):
    """A test's promises stand in its report: `@pytest.mark.promise(7)`."""
    for item in items:
        for mark in item.iter_markers("promise"):
            item.user_properties += [("promise", number) for number in mark.args]


@pytest.fixture
def shown(record_property):
    """Writes down a number that promises are about: `shown("seconds until it ran again", 14.9)`."""

    def show(what, number):
        record_property(f"shown {what}", f"{number:.4g}" if isinstance(number, float) else number)

    return show
