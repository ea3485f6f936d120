"""The tuned set: what is looked up, by which law, and what a damaged file is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tilus import tuned
from tilus.errors import TilusError
from tilus.kernels import quantized_matmul
from tilus.kernels.problem import Problem, checked_problem
from tilus.kernels.schedule import Schedule, checked_schedule, schedules
from tilus.target import target
from tilus.tuned import Entry

GPU = "fixture-gpu"
PLAN = Schedule(block_m=16, block_n=128, block_k=128, warps=4, stages=4)
OTHER = replace(PLAN, block_n=256)
ENTRY = Entry(GPU, "sm_90a", "quantized_matmul", "float16", "uint4", 128, True, 16, 8192, 4096,
              PLAN, "c0ffee", "2026-01-02T03:04:05+00:00", 20.0, 16.0)  # fmt: skip


def problem(b_dtype: str = "uint4", group_size: int = 128, zeros: bool = True) -> Problem:
    return checked_problem(b_dtype, group_size, zeros, "float16", 64, 64)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for tuned sets in the place of the package's."""
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    tuned.index.cache_clear()
    return tmp_path


@pytest.fixture(autouse=True)
def forgotten() -> object:
    yield
    tuned.index.cache_clear()


def found(
    m: int, n: int, k: int, of: Problem | None = None, arch: str = "sm_90a"
) -> Schedule | None:
    return tuned.tuned(GPU, arch, of or problem(), m, n, k)


def test_rows_count_as_the_next_of_a_few_numbers() -> None:
    steps = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
    for m in range(1, 16385):
        assert tuned.bucket(m) == next(step for step in steps if m <= step)


def test_what_was_tuned_is_found_for_its_shape_and_bucket_alone(folder: Path) -> None:
    tuned.keep([ENTRY], folder)
    assert found(16, 8192, 4096) == found(9, 8192, 4096) == PLAN
    assert found(8, 8192, 4096) is None and found(17, 8192, 4096) is None
    assert found(16, 8192, 4096, problem("uint3")) is None
    assert found(16, 8192, 4096, problem(group_size=64)) is None
    assert found(16, 8192, 4096, problem(zeros=False)) is None
    assert found(16, 8192, 4096, arch="sm_90") is None
    assert tuned.tuned("another-gpu", "sm_90a", problem(), 16, 8192, 4096) is None


def test_a_shape_nobody_tuned_gets_the_nearest_one_that_fits_it_whole(folder: Path) -> None:
    near = replace(ENTRY, n=16384, schedule=OTHER)
    tuned.keep([ENTRY, near], folder)
    assert found(16, 8192, 4096) == PLAN and found(16, 16384, 4096) == OTHER
    assert found(16, 8192 + 128, 4096) == PLAN  # is no multiple of 256
    assert found(16, 8192 * 3 // 2 + 256, 4096) == OTHER
    assert found(16, 8192, 2048) == PLAN
    assert found(16, 8192, 2048 - 128) is None  # more than one doubling away
    assert found(16, 32768, 4096) == OTHER and found(16, 32768 + 256, 4096) is None
    assert found(16, 8192 + 64, 4096) is None


def test_a_shape_that_was_tuned_is_found_whatever_fits(folder: Path) -> None:
    ragged = replace(ENTRY, n=8192 + 64)
    tuned.keep([ragged], folder)
    assert found(16, 8192 + 64, 4096) == PLAN


def test_the_last_measurement_of_a_place_counts_whatever_the_order(folder: Path) -> None:
    later = replace(ENTRY, m=12, schedule=OTHER, measured_at="2026-01-02T04:04:05+00:00")
    assert tuned.merged([ENTRY, later]) == tuned.merged([later], [ENTRY]) == [later]
    assert len(tuned.merged([ENTRY], [replace(ENTRY, n=64)], [replace(ENTRY, gpu="b")])) == 3
    tuned.keep([later], folder)
    assert tuned.keep([ENTRY, replace(ENTRY, k=8192)], folder) == [folder / f"{GPU}.jsonl"]
    assert found(16, 8192, 4096) == OTHER and found(16, 8192, 8192) == PLAN
    assert sorted(path.name for path in folder.iterdir()) == [f"{GPU}.jsonl"]


def test_what_is_kept_is_read_again(folder: Path) -> None:
    (path,) = tuned.keep([ENTRY], folder)
    assert tuned.load(path) == [ENTRY]
    assert tuned.load(folder / "nobody.jsonl") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": {"block_m": 7}}, "block_m is one of"),
        ({"schedule": {"height": 7}}, "there is"),
        ({"b_dtype": "uint9"}, "uint9"),
        ({"group_size": 7}, "group size 7"),
        ({"arch": "sm_1"}, "cannot compile for 'sm_1'"),
        ({"measured_at": "yesterday"}, "yesterday"),
        ({"gpu": "another-gpu"}, "of another GPU"),
        ({"latency_us": 0}, "it is of no shape"),
        ({"n": 0}, "it is of no shape"),
        ({"more": 1}, "more"),
        ({"latency_us": "fast"}, "remove the line"),
    ],
)
def test_a_damaged_line_is_told_with_its_place(
    folder: Path, change: dict[str, object], words: str
) -> None:
    path = folder / f"{GPU}.jsonl"
    path.write_text(ENTRY.line() + "\n" + json.dumps(json.loads(ENTRY.line()) | change) + "\n")
    with pytest.raises(TilusError, match=rf"{GPU}.jsonl:2: .*{words}"):
        tuned.load(path)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"gpu": 1}'])
def test_what_is_no_entry_is_told_too(folder: Path, text: str) -> None:
    path = folder / f"{GPU}.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(TilusError, match=f"{GPU}.jsonl:1: "):
        tuned.load(path)


def test_two_schedules_for_one_shape_are_refused(folder: Path) -> None:
    path = folder / f"{GPU}.jsonl"
    path.write_text(f"{ENTRY.line()}\n{replace(ENTRY, m=9).line()}\n")
    with pytest.raises(TilusError, match="a shape has two schedules"):
        tuned.load(path)


def test_the_best_is_the_tuned_one_then_by_hand_then_the_models(folder: Path) -> None:
    asked = (problem(), 16, 8192, 4096)
    by_hand = [checked_schedule(plan) for plan in schedules("uint4", 128, 16, 8192, "sm_90a")]
    assert tuned.best(GPU, "sm_90a", *asked) in by_hand
    tuned.keep([ENTRY], folder)
    assert tuned.best(GPU, "sm_90a", *asked) == PLAN
    for arch in ("sm_80", "sm_89", "sm_120a"):
        plan = tuned.best("nvidia-unheard-of", arch, *asked, multiprocessors=40)
        assert not plan.warpgroups and plan.stages >= 2
        quantized_matmul.program("uint4", 128, True, **{n: getattr(plan, n) for n in vars(plan)})


def test_what_was_tuned_for_an_architecture_is_offered_once(folder: Path) -> None:
    second = replace(ENTRY, gpu="second-gpu")
    third = replace(ENTRY, gpu="third-gpu", schedule=OTHER)
    tuned.keep([ENTRY, second, third], folder)
    asked = (problem(), 16, 8192, 4096)
    assert tuned.of_architecture("sm_90a", *asked) == [PLAN, OTHER]
    assert tuned.of_architecture("sm_80", *asked) == []


def test_the_shipped_sets_are_whole_and_say_where_they_are_from() -> None:
    paths = sorted(tuned.FOLDER.glob("*.jsonl"))
    assert [path.stem for path in paths] == ["nvidia-h200"]
    for path in paths:
        entries = tuned.load(path)
        assert entries == tuned.merged(entries) and len(entries) >= 50
        for entry in entries:
            assert len(entry.commit) >= 40 and entry.floor_us and entry.latency_us > 0
            assert target(entry.arch)
            wanted = tuned.tuned(entry.gpu, entry.arch, entry.problem, entry.m, entry.n, entry.k)
            assert wanted == entry.schedule
