"""The promises of the fleet: which test shows each, and what it found when it last ran.

python -m tests.services.promises           runs them all, long, and writes docs/operations.md
python -m tests.services.promises 7 17      runs and writes these

A test says what it shows with `@pytest.mark.promise(7)` and writes its numbers down with `shown`.
Only rows whose tests ran are written; a number never comes from anywhere else.
"""

import ast
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from services.gpu import devices
from services.revision import revision
from services.settings import ROOT

PAGE = ROOT / "docs" / "operations.md"
# More of everything, for as long as it takes.
FULL = os.environ.get("TILUS_TESTS") == "full"
# xunit1 is the report that has properties.
PYTEST = [sys.executable, "-m", "pytest", "-q", "-o", "junit_family=xunit1"]
HEAD = "| # | promise | shown by | found |"
RULE = "|---|---|---|---|"
NOT_YET = "not measured yet"
# What docs/operations.md promises, in its words.
PROMISES = {
    1: "A worker is killed with -9: its job runs again within 20 s, at most once more; no job of "
    "a storm of 10,000 is lost or leaves two results",
    2: "The queue's server is killed with 12 jobs in flight: none is lost, and the API is ready "
    "within 5 s",
    3: "All processes are killed at once: nothing that was accepted (202) is lost, and runs not "
    "even if the queue's log is",
    4: "Sixteen equal requests at once are one job and one compilation",
    5: "What is stored is answered within 20 ms, 99 times of 100, and nothing is queued",
    6: "A byte of a stored file is changed: it is not used, set aside, counted, and built again",
    7: "A writer is killed at any moment: readers find a whole artifact or none",
    8: "A job written by hand that names another function than the fleet's is not executed",
    9: "No user of the queue's server may empty, configure or watch it, or touch foreign keys",
    10: "A full queue (10,000) answers 429 with Retry-After, and takes no more memory",
    11: "Bodies over 1 MiB are answered 413, nonsense 422, every error is application/problem+json",
    12: "Work that is deaf to its limit is ended 2 s after it; it may take 4 GiB of memory and "
    "write files of 64 MiB",
    13: "SIGTERM: no new work, what runs ends or goes back, exit 0 within 30 s; /readyz says 503 "
    "at once",
    14: "Two runners never measure on one GPU at the same time",
    15: "A measurement that hangs is killed within 1 s of its limit, the next begins within 1 s",
    16: "Writing with no token or a wrong one is answered 401, in constant time",
    17: "A run that is killed at any moment repeats no finished work",
    18: "Containers run as no root, with no capabilities and a read-only root",
    19: "A compile worker's container has no route to the outside",
    20: "A figure drawn twice from the same records is the same, byte for byte",
    21: "What the house or the GPU does wrong is never told as a kernel's failure",
    22: "Less than 1 GiB free: /readyz says 503, submissions 507",
}


class Shown(NamedTuple):
    """What a run of its tests found of one promise."""

    cases: int
    failed: int
    skipped: int
    numbers: dict[str, str]


def main(arguments: list[str]) -> int:
    """Run the tests of these promises, or of all, and write what they found."""
    wanted = [int(each) for each in arguments] or sorted(PROMISES)
    tests = sorted({test for number in wanted for test in shown_by(number)})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [*PYTEST, f"--junit-xml={report}", *tests],
            cwd=ROOT,
            env=os.environ | {"TILUS_TESTS": "full"},
            check=False,
        )
        found = read(report) if report.exists() else {}
    kept = rows(PAGE.read_text())
    for number in wanted:
        if number in found:
            kept[number] = words(found[number])
    PAGE.write_text(written(PAGE.read_text(), kept))
    return done.returncode


def shown_by(number: int) -> list[str]:
    """The tests that show a promise, as pytest names them."""
    return [f"{path.relative_to(ROOT)}::{test}" for path, test, each in marked() if each == number]


@cache
def marked() -> tuple[tuple[Path, str, int], ...]:
    """Every test with a mark, and the promise that it shows."""
    return tuple(_marked())


def _marked() -> Iterator[tuple[Path, str, int]]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            for each in node.decorator_list:
                match each:
                    case ast.Call(ast.Attribute(_, "promise"), [*numbers]):
                        for number in numbers:
                            yield path, node.name, ast.literal_eval(number)


def read(report: Path) -> dict[int, Shown]:
    """What a report of pytest says, by promise; of a number found often, the largest."""
    found: dict[int, Shown] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        said = [(p.get("name", ""), p.get("value", "")) for p in case.iter("property")]
        numbers = {
            name.removeprefix("shown "): value for name, value in said if name.startswith("shown ")
        }
        failed = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped") is not None
        for number in [int(value) for name, value in said if name == "promise"]:
            before = found.get(number, Shown(0, 0, 0, {}))
            larger = {
                what: max(value, before.numbers.get(what, value), key=float)
                for what, value in numbers.items()
            }
            found[number] = Shown(
                before.cases + 1,
                before.failed + failed,
                before.skipped + skipped,
                before.numbers | larger,
            )
    return found


def words(found: Shown) -> str:
    """What was found, on what kind of machine, at which commit."""
    numbers = "; ".join(f"{what}: {value}" for what, value in found.numbers.items())
    held = found.cases - found.failed - found.skipped
    parts = [f"**{found.failed} of {found.cases} cases failed**"] * bool(found.failed)
    parts += [f"{held} of {found.cases} cases hold"] * (not found.failed)
    parts += [numbers] * bool(numbers)
    at = revision("")
    return f"{'; '.join(parts)} ({machine()}, {at.commit[:10]}{' changed' * at.dirty})"


def machine() -> str:
    """The kind of machine that this is."""
    gpus = sorted({device.name for device in devices()})
    cores = len(os.sched_getaffinity(0))
    return f"{cores} {platform.machine()} cores, {', '.join(gpus) or 'no GPU'}"


def rows(page: str) -> dict[int, str]:
    """What the page says was found, by promise."""
    found = re.findall(r"^\| P(\d+) \|.*\| ([^|]*) \|$", page, re.MULTILINE)
    return {int(number): text for number, text in found}


def written(page: str, found: dict[int, str]) -> str:
    """The page with a table of these findings."""
    table = [HEAD, RULE]
    for number, promise in PROMISES.items():
        tests = "<br>".join(f"`{name.removeprefix('tests/')}`" for name in shown_by(number))
        text = found.get(number, NOT_YET)
        table.append(f"| P{number} | {promise} | {tests or 'no test'} | {text} |")
    before, _, rest = page.partition(HEAD)
    after = re.sub(r"\A(\n?\|.*)*", "", rest)
    return before + "\n".join(table) + after


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
