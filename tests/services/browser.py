"""A real browser for the tests of the page: Debian's chromium, driven by playwright."""

import os
import shutil
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
HOW = "install chromium, then bash run.sh test"
# What Chromium says of what was under way when a network of the machine came or went.
CHANGED = "ERR_NETWORK_CHANGED"


def chromium() -> str | None:
    """The browser of this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def lacking() -> str | None:
    """What this machine lacks to show a page, in a sentence."""
    for package in ("playwright", "axe_playwright_python"):
        if find_spec(package) is None:
            return f"no {package} here: {HOW}"
    return None if chromium() else f"no chromium here: {HOW}"


@contextmanager
def browser():
    """A headless browser, for as long as the block lasts; skips where there is none."""
    why = lacking()
    if why is not None:
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    # a sandbox within a container needs rights that root in it lacks
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield found
        finally:
            found.close()


def loads(page, address) -> bool:
    """Whether the page is there with its scripts; a network that changes may break them off."""
    from playwright.sync_api import Error

    try:
        page.goto("about:blank")
        page.goto(address)
        page.wait_for_selector("#connection[data-state]", timeout=5000)
    except Error:
        return False
    return True
