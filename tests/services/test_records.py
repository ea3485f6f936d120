"""Records are written once, read back equal, and the newest of a cell counts."""

import fcntl
import json
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

import pytest
from pydantic import ValidationError

from services.experiments import FIGURES
from services.records import (
    Record,
    RecordError,
    append,
    finished,
    gpu_folder,
    load,
    newest,
    record_path,
)
from tests.services.records import record

CELL, OTHER = FIGURES[9].cells[3], FIGURES[9].cells[5]
NAMES = {
    "schema", "figure", "executor", "a_dtype", "b_dtype", "group_size", "zeros", "m", "n", "k",
    "status", "reason", "latency_ms", "min_ms", "p10_ms", "p90_ms", "samples_ms",
    "graph_latency_ms", "bytes", "floor_ms", "relative_error", "inputs_sha256", "gpu", "kernel",
    "versions", "commit", "dirty", "measured_at",
}  # fmt: skip


def test_a_line_has_the_agreed_names():
    line = json.loads(record(CELL).line())
    assert line.keys() >= NAMES
    assert line["schema"] == 1
    assert line["gpu"].keys() >= {
        "name", "uuid", "driver", "arch", "sm_mhz", "mem_mhz", "temperature_c", "power_w",
        "throttled",
    }  # fmt: skip
    assert line["kernel"].keys() >= {"key", "cubin_sha256", "schedule"}
    assert line["measured_at"].endswith("Z")


def test_a_record_is_read_back_equal(tmp_path):
    path = tmp_path / "gpu" / "figure9.jsonl"
    written = [record(CELL), record(OTHER)]
    for one in written:
        append(path, one)
    assert load(path) == written
    assert [one.cell for one in written] == [CELL, OTHER]


def test_a_missing_file_has_no_records(tmp_path):
    assert load(tmp_path / "figure9.jsonl") == []


def test_a_torn_last_line_is_ignored_and_the_next_record_stands_alone(tmp_path):
    path = tmp_path / "figure9.jsonl"
    first, second = record(CELL), record(OTHER)
    append(path, first)
    with path.open("a") as file:
        file.write(second.line()[:200])
    assert load(path) == [first]
    append(path, second)
    assert load(path) == [first, second]


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "figure9.jsonl"
    append(path, record(CELL))
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(RecordError, match=r"figure9\.jsonl:2: figure: Field required"):
        load(path)


def test_a_failed_record_has_no_latency():
    good = json.loads(record(CELL).line())
    with pytest.raises(ValidationError, match="has a reason and no latency"):
        Record.model_validate(good | {"status": "wrong", "reason": "it is"})
    with pytest.raises(ValidationError, match="has a latency and no reason"):
        Record.model_validate(good | {"latency_ms": None})


def test_fields_of_a_later_version_do_not_hinder_reading():
    line = json.loads(record(CELL).line()) | {"colour": "blue"}
    assert Record.model_validate(line).cell == CELL


def test_the_newest_of_a_cell_counts_wherever_it_stands():
    old = record(CELL)
    new = old.model_copy(update={"measured_at": datetime.now(UTC) + timedelta(hours=1)})
    assert newest([new, old]) == newest([old, new]) == {CELL: new}
    again = old.model_copy(update={"commit": "later in the file"})
    assert newest([old, again])[CELL] == again


def test_only_a_good_record_of_the_same_kernels_and_device_is_final():
    done = record(CELL, uuid="GPU-1", candidates=("a" * 64, "b" * 64))
    assert finished(newest([done]), CELL, ["b" * 64, "a" * 64], "GPU-1") == done
    assert finished(newest([done]), CELL, ["a" * 64], "GPU-1") is None
    assert finished(newest([done]), CELL, ["a" * 64, "b" * 64], "GPU-2") is None
    assert finished(newest([done]), OTHER, ["a" * 64, "b" * 64], "GPU-1") is None
    failed = record(CELL, uuid="GPU-1", candidates=("a" * 64, "b" * 64), status="timeout")
    assert finished(newest([done, failed]), CELL, ["a" * 64, "b" * 64], "GPU-1") is None


def test_the_kernel_of_a_record_can_be_built_again():
    spec = record(CELL, schedule={"block_n": 64}).kernel_spec
    assert spec is not None
    assert spec.executor == CELL.executor
    assert spec.parameters == {"b_dtype": CELL.workload.b_dtype, "block_n": 64}


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("NVIDIA H200", "nvidia-h200"),
        (" Tesla (V100) ", "tesla-v100"),
    ],
)
def test_the_folder_of_a_gpu_is_its_name_in_small_letters(name, folder):
    assert gpu_folder(name) == gpu_folder(folder) == folder


def test_records_lie_by_gpu_and_figure(tmp_path):
    assert record_path(tmp_path, "NVIDIA H200", 9) == tmp_path / "nvidia-h200" / "figure9.jsonl"


def _append_ten(path, number):
    for _ in range(10):
        append(path, record(CELL, uuid=f"GPU-{number}"))


def test_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "figure9.jsonl"
    spawn = get_context("spawn")
    writers = [spawn.Process(target=_append_ten, args=(path, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(load(path)) == 30


def test_a_writer_waits_for_the_one_at_work(tmp_path):
    path = tmp_path / "figure9.jsonl"
    append(path, record(CELL))
    writer = get_context("spawn").Process(target=_append_ten, args=(path, 1))
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer.start()
        writer.join(3)
        assert writer.is_alive()
        assert len(load(path)) == 1
    writer.join()
    assert len(load(path)) == 11
