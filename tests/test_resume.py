"""A run of the real thing, killed again and again, never does the same work twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.settings import ROOT
from tests.services.promises import FULL

RUN = [sys.executable, "-m", "services.driver", "--figure", "9", "--mode", "recorded", "--json"]
# Each kill takes two results more to come.
TYPES, KILLS = ("u8,u4,u1", 5) if FULL else ("u4", 2)
RUN += ["--dtypes", TYPES]


@pytest.fixture
def house(tmp_path):
    folders = {f"TILUS_{name}": str(tmp_path / name.lower()) for name in ("STATE", "STORE")}
    folders |= {"TILUS_RESULTS": str(tmp_path / "results")}
    return {name: value for name, value in os.environ.items() if name != "REDIS_URL"} | folders


def results(store: Path) -> dict[str, int]:
    """Every finished compile and check, and the file that it left; another would be another one."""
    folder = store / "ac"
    if not folder.is_dir():
        return {}
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def run(environment):
    done = subprocess.run(
        RUN, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.promise(17)
def test_a_run_that_is_killed_goes_on_where_it_was(house, shown):
    store = Path(house["TILUS_STORE"])
    known: dict[str, int] = {}
    for _ in range(KILLS):
        before = len(known)
        with subprocess.Popen(
            RUN, cwd=ROOT, env=house, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as driver:
            while len(results(store)) <= before + 1 and driver.poll() is None:
                time.sleep(0.01)
            driver.send_signal(signal.SIGKILL)
        now = results(store)
        assert known.items() <= now.items()
        known = now

    summary = run(house)
    assert known.items() <= results(store).items()
    counts = summary["run"]["counts"]
    stored = counts["compile"].get("stored", 0) + counts["check"].get("stored", 0)
    assert stored >= len(known) > 0
    assert all(Path(name).stat().st_size > 0 for name in summary["files"])
    assert {Path(name).suffix for name in summary["files"]} >= {".pdf", ".png", ".svg", ".csv"}

    shown("times that the run was killed", KILLS)
    repeated = sum(results(store)[name] != file for name, file in known.items())
    shown("finished compilations and checks done again", repeated)
    finished = results(store)
    again = run(house)["run"]
    assert results(store) == finished
    assert set(again["counts"]["compile"]) == set(again["counts"]["check"]) == {"stored"}
    assert again["largest_error"] == summary["run"]["largest_error"] < 2e-3
