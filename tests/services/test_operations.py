"""The page of promises is what its command writes, and each promise is shown by a test."""

import re

import pytest

from tests.services import promises
from tests.services.promises import PAGE, PROMISES, marked, read, rows, shown_by, words, written

REPORT = """<testsuites><testsuite>
<testcase name="a[1]"><properties><property name="promise" value="1" />
<property name="shown seconds" value="9.5" /></properties></testcase>
<testcase name="a[2]"><properties><property name="promise" value="1" />
<property name="shown seconds" value="14.9" /><property name="shown lost" value="0" />
</properties></testcase>
<testcase name="b"><properties><property name="promise" value="2" /></properties>
<failure message="no" /></testcase>
<testcase name="c"><properties><property name="other" value="3" /></properties></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize("number", sorted(PROMISES))
def test_every_promise_is_shown_by_a_test(number):
    assert shown_by(number)


def test_no_test_shows_what_nobody_promised():
    assert {number for *_, number in marked()} <= PROMISES.keys()


def test_the_page_is_as_its_command_writes_it():
    """Every test that it names is there; what was found stands as it was written."""
    page = PAGE.read_text()
    assert written(page, rows(page)) == page
    assert [int(n) for n in re.findall(r"^\| P(\d+) ", page, re.MULTILINE)] == list(PROMISES)


def test_what_was_found_names_machine_and_commit_and_no_place():
    for text in rows(PAGE.read_text()).values():
        assert text == promises.NOT_YET or re.search(r"\(\d+ \w+ cores, .+, [0-9a-f]{10}\b", text)
        assert "/" not in text.replace("/readyz", ""), text


def test_numbers_come_from_a_report_the_largest_of_each(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    found = read(path)
    assert found.keys() == {1, 2}
    assert (found[1].cases, found[1].failed, found[2].failed) == (2, 0, 1)
    assert found[1].numbers == {"seconds": "14.9", "lost": "0"}
    assert words(found[1]).startswith("2 of 2 cases hold; seconds: 14.9; lost: 0 (")
    assert "**1 of 1 cases failed**" in words(found[2])


def test_rows_that_were_not_run_stay_as_they_are():
    page = (
        f"before\n\n{promises.HEAD}\n{promises.RULE}\n| P7 | x | y | 3 of 3 (1 cores) |\n\nafter\n"
    )
    once = written(page, rows(page) | {1: "new"})
    assert rows(once)[7] == "3 of 3 (1 cores)" and rows(once)[1] == "new"
    assert rows(once)[2] == promises.NOT_YET
    assert once.startswith("before\n\n") and once.endswith(" |\n\nafter\n")
    assert written(once, rows(once)) == once
