"""The promises of docs/operations.md that a test shows, and the numbers that it finds."""

import pytest


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
