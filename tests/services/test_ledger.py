"""The ledger of a file of records: always what the file says, reading only what was added."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services import records
from services.experiments import FIGURES
from services.records import Ledger, RecordError, append, newest
from services.records import load as load_records
from tests.services.records import record as record_of

ONE = record_of(FIGURES[9].cells[0])


def record():
    return ONE


def later(one, ms, minutes):
    moment = one.measured_at.replace(minute=minutes)
    return one.model_copy(update={"latency_ms": ms, "measured_at": moment})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figure9.jsonl"


def test_a_file_that_is_not_there_yet_is_empty_and_then_read(path):
    ledger = Ledger(path)
    assert ledger.newest() == {}
    append(path, record())
    assert ledger.newest() == {record().cell: record()}


def test_it_says_what_the_file_says_after_every_line(path):
    ledger, one = Ledger(path), record()
    for minute, ms in [(3, 1.0), (5, 2.0), (1, 3.0), (5, 4.0)]:
        append(path, later(one, ms, minute))
        assert ledger.newest() == newest(load_records(path))
    assert ledger.newest()[one.cell].latency_ms == 4.0


def test_only_what_was_added_is_read(path, monkeypatch):
    ledger = Ledger(path)
    parsed = []
    real = records._parse
    monkeypatch.setattr(records, "_parse", lambda *a: parsed.append(a[1]) or real(*a))
    for minute in range(4):
        append(path, later(record(), 1.0 + minute, minute))
        ledger.newest()
        ledger.newest()
    assert parsed == [1, 2, 3, 4], "each line once, by its number in the file"


def test_half_a_line_waits_for_its_other_half(path):
    ledger, line = Ledger(path), record().line().encode() + b"\n"
    path.write_bytes(line[:100])
    assert ledger.newest() == {}
    with path.open("ab") as file:
        file.write(line[100:])
    assert ledger.newest() == {record().cell: record()}


@pytest.mark.parametrize("how", ["replaced", "cut"])
def test_another_file_is_read_from_its_beginning(path, how):
    ledger, one = Ledger(path), record()
    append(path, later(one, 1.0, 9))
    append(path, later(one, 2.0, 10))
    assert ledger.newest()[one.cell].latency_ms == 2.0
    older = later(one, 7.0, 1).line() + "\n"
    if how == "replaced":
        other = Path(f"{path}.new")
        other.write_text(older * 4)  # longer than what it replaces
        other.replace(path)
    else:
        path.write_text(older)
    assert ledger.newest()[one.cell].latency_ms == 7.0


def test_a_broken_line_is_named_by_its_place_in_the_whole_file(path):
    ledger = Ledger(path)
    append(path, record())
    ledger.newest()
    with path.open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(RecordError, match=r"figure9\.jsonl:2: not JSON .*: remove the line"):
        ledger.newest()


def test_what_it_gives_away_is_a_copy(path):
    ledger = Ledger(path)
    append(path, record())
    ledger.newest().clear()
    assert ledger.newest() == {record().cell: record()}


def test_many_may_ask_while_others_write(path):
    ledger, one = Ledger(path), record()

    def work(number):
        if number % 2:
            append(path, later(one, float(number), number))
        return ledger.newest()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(40)))
    assert ledger.newest() == newest(load_records(path))
    assert ledger.newest()[one.cell].latency_ms == 39.0


def test_one_process_keeps_one_ledger_of_a_file(path):
    assert records.ledger(path) is records.ledger(path)
