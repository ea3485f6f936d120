"""The space of schedules, the model of their times, and how far the model agrees with records."""

import json
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pytest

from tilus import codegen, gpus, tune
from tilus.dtypes import dtype
from tilus.errors import TilusError
from tilus.kernels import quantized_matmul
from tilus.kernels.problem import Problem, checked_problem
from tilus.kernels.schedule import MOST_STAGES, Schedule, checked_schedule, most_stages, schedules
from tilus.target import ARCHITECTURES, target

H200 = gpus.gpu("nvidia-h200", "sm_90a")
RECORDS = Path(__file__).parents[2] / "results" / "recorded" / "nvidia-h200"
SHAPES = ((8192, 8192), (57344, 8192), (8192, 28672))  # n, k
NAMES = {field.name for field in fields(Schedule)}


def problem(b_dtype: str = "uint4", group_size: int = 128, zeros: bool = False) -> Problem:
    return checked_problem(b_dtype, group_size, zeros, "float16", 1024, 512)


def seconds(plan: Schedule, of: Problem, m: int, n: int, k: int, gpu: gpus.Gpu = H200) -> float:
    return tune.estimate(plan, of, m, n, k, gpu).seconds


class Tried(NamedTuple):
    """A recorded cell: its floor and time in us, and every schedule that was tried with its own."""

    problem: Problem
    shape: tuple[int, int, int]  # m, n, k
    size: int
    floor: float
    time: float
    won: Schedule
    times: dict[Schedule, float]

    def estimates(self) -> dict[Schedule, float]:
        return {plan: 1e6 * seconds(plan, self.problem, *self.shape) for plan in self.times}


def recorded() -> Iterator[Tried]:
    """The recorded cells of kernels whose schedules had the fields of today."""
    for path in sorted(RECORDS.glob("figure*.jsonl")):
        for one in map(json.loads, path.read_text().splitlines()):
            kernel = one.get("kernel") or {}
            if one["executor"] == "tilus" and "engine" in kernel.get("schedule", {}):
                yield tried(one)


def tried(one: dict[str, Any]) -> Tried:
    given = {name: one["kernel"]["parameters"][name] for name in
             ("b_dtype", "group_size", "zeros", "a_dtype", "k_multiple", "n_multiple")}  # fmt: skip
    times = {
        checked_schedule(each["schedule"]): 1e3 * each["latency_ms"]
        for each in one["candidates"]
        if each["status"] == "ok"
    }
    won = checked_schedule(one["kernel"]["schedule"])
    shape = (one["m"], one["n"], one["k"])
    floor, time = 1e3 * one["floor_ms"], 1e3 * one["latency_ms"]
    return Tried(checked_problem(**given), shape, one["bytes"], floor, time, won, times)


CELLS = list(recorded())


def test_every_field_of_a_schedule_has_choices() -> None:
    flags = {field.name for field in fields(Schedule) if field.type is bool}
    assert set(tune.SPACE) | flags | {"stages"} == NAMES


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("b_dtype", "group_size", "m"), [("uint4", 128, 1), ("uint1", -1, 300)])
def test_the_space_holds_what_is_legal_and_fits(
    arch: str, b_dtype: str, group_size: int, m: int
) -> None:
    of, chip = problem(b_dtype, group_size), target(arch)
    gpu = gpus.gpu("", arch)
    found = list(tune.space(of, m, 57344, gpu, chip))
    assert len(set(found)) == len(found) > 10
    for plan in found:
        assert plan == checked_schedule({name: getattr(plan, name) for name in NAMES})
        most = most_stages(plan, of.b_dtype, group_size, chip.shared_bytes)
        assert plan.stages == min(MOST_STAGES, most) >= 2
        assert plan.block_m * plan.block_n <= 128 * 32 * plan.warps
        assert 32 * plan.warps * plan.teams <= 1024
        assert chip.name == "sm_90a" or not (plan.warpgroups or plan.engine)


def test_kernels_of_the_space_can_be_written() -> None:
    """A few of each kind, for formats with groups and without, down to their CUDA text."""
    rng = np.random.default_rng(0)
    kinds = (
        ("uint4", 128, 1, "sm_90a"),
        ("float6_e3m2", -1, 16, "sm_90a"),
        ("uint3", 64, 5, "sm_80"),
    )
    for b_dtype, group_size, m, arch in kinds:
        of = problem(b_dtype, group_size)
        found = list(tune.space(of, m, 8192, gpus.gpu("", arch), target(arch)))
        for i in rng.choice(len(found), 4, replace=False):
            plan = {name: getattr(found[i], name) for name in NAMES}
            made = quantized_matmul.program(
                b_dtype, group_size, k_multiple=1024, n_multiple=512, **plan
            )
            assert "KERNEL(" in codegen.generate(made, arch).text


@pytest.mark.parametrize("b_dtype", ["uint8", "float6_e3m2", "uint4", "int3", "uint2", "uint1"])
@pytest.mark.parametrize("m", [1, 16, 100])
def test_what_was_made_by_hand_is_in_the_space(b_dtype: str, m: int) -> None:
    for group_size in (128, -1):
        of = problem(b_dtype, group_size)
        for n, _ in SHAPES:
            found = set(tune.space(of, m, n, H200, target("sm_90a")))
            for plan in schedules(b_dtype, group_size, m, n, "sm_90a"):
                assert checked_schedule(plan) in found


def test_what_spills_by_half_is_left_out() -> None:
    of = problem("uint4", 128, True)
    crowded = Schedule(64, 256, 128, 4, 2, 2, warpgroups=True, engine=True)
    assert tune.spilled(crowded, of) > 0.05  # found so by the compiler: 1620 bytes spilled
    assert tune.spilled(replace(crowded, block_n=64), of) == 0
    for plan in tune.space(of, 100, 8192, H200, target("sm_90a")):
        assert tune.registers(plan, of) <= 1.5 * tune.registers_left(plan)


def test_the_best_come_first_and_no_more_than_asked_for() -> None:
    of = problem()
    few, many = (tune.ranked(of, 16, 8192, 8192, H200, target("sm_90a"), n) for n in (5, 50))
    assert len(few) == 5 and few == many[:5]
    assert [one.seconds for one in many] == sorted(one.seconds for one in many)
    everything = [seconds(plan, of, 16, 8192, 8192) for plan in
                  tune.space(of, 16, 8192, H200, target("sm_90a"))]  # fmt: skip
    assert many[0].seconds == min(everything)


def test_an_estimate_grows_with_the_work_and_shrinks_with_the_gpu() -> None:
    plan, of = Schedule(block_m=16, block_n=128, block_k=256, warps=4, stages=4), problem()
    whole = seconds(plan, of, 16, 8192, 8192)
    assert seconds(plan, of, 16, 16384, 8192) > whole
    assert seconds(plan, of, 16, 8192, 16384) > whole
    assert seconds(plan, of, 64, 8192, 8192) > whole
    assert seconds(plan, problem("uint8"), 16, 8192, 8192) > whole
    assert seconds(plan, problem(zeros=True), 16, 8192, 8192) > whole
    assert seconds(plan, of, 16, 8192, 8192, replace(H200, multiprocessors=60)) > whole
    assert seconds(plan, of, 16, 8192, 8192, replace(H200, clock=1e9)) > whole
    slow = replace(H200, reads=(), bandwidth=H200.bandwidth / 2)
    assert seconds(plan, of, 16, 8192, 8192, slow) > whole


def test_an_idle_multiprocessor_and_a_short_pipeline_cost_time() -> None:
    of, wide = (
        problem("uint8", -1),
        Schedule(block_m=16, block_n=512, block_k=64, warps=8, stages=2),
    )
    assert seconds(wide, of, 16, 8192, 64 * 2) > seconds(
        replace(wide, block_n=128), of, 16, 8192, 128
    )
    narrow = Schedule(block_m=16, block_n=64, block_k=64, warps=4, stages=2, blocks_per_sm=1)
    assert seconds(narrow, of, 16, 8192, 8192) > seconds(
        replace(narrow, stages=8), of, 16, 8192, 8192
    )


def test_shorter_groups_cost_more() -> None:
    plan = Schedule(block_m=16, block_n=128, block_k=256, warps=4, stages=4)
    costs = [tune.group_cycles(plan, problem(group_size=size)) for size in (-1, 128, 64, 32)]
    assert costs[0] == 0 < costs[1] == costs[2] / 2 == costs[3] / 4
    assert tune.group_cycles(plan, problem(zeros=True)) == 2 * costs[1]


def test_scales_that_meet_weights_cost_casts_and_save_sums() -> None:
    plan, of = Schedule(16, 128, 256, 4, 4, warpgroups=True, engine=True), problem(zeros=True)
    scaled = replace(plan, weights_scaled=True)
    assert tune.group_cycles(scaled, of) == 0 < tune.group_cycles(plan, of)
    assert tune.registers(scaled, of) < tune.registers(plan, of)
    assert seconds(scaled, of, 16, 8192, 8192) > seconds(plan, of, 16, 8192, 8192)
    tall, tall_scaled = (replace(one, block_m=128) for one in (plan, scaled))
    assert seconds(tall_scaled, of, 4096, 8192, 8192) < seconds(tall, of, 4096, 8192, 8192)
    found = list(tune.space(of, 16, 8192, H200, target("sm_90a")))
    assert {one.weights_scaled for one in found} == {False, True}
    floats = tune.space(problem("float6_e3m2", -1), 16, 8192, H200, target("sm_90a"))
    assert not any(one.weights_scaled for one in floats)  # there is nothing to correct
    signed, with_zeros = problem("int4", -1), problem("uint4", -1, True)
    assert [tune.has_row_sums(one, signed) for one in (plan, scaled)] == [True, False]
    assert [tune.has_row_sums(one, with_zeros) for one in (plan, scaled)] == [True, True]


def test_a_cast_of_more_steps_costs_more() -> None:
    names = ("uint4", "uint3", "float4_e2m1", "float3_e1m1", "float8_e7m0", "float8_e4m3")
    costs = {name: tune.cast_instructions(dtype(name)) for name in names}
    assert costs["uint4"] < costs["uint3"] < costs["float3_e1m1"]
    assert costs["uint4"] < costs["float4_e2m1"]
    assert costs["float8_e4m3"] < costs["float8_e7m0"]


# How honest the model is. The bounds are what was found, rounded up; docs/tuning.md tells them.


def test_there_are_records_to_compare_with() -> None:
    assert len(CELLS) >= 50 and sum(len(cell.times) for cell in CELLS) >= 140


def test_a_plain_read_takes_what_was_measured() -> None:
    for cell in CELLS:
        assert 1e6 * H200.read_seconds(cell.size) == pytest.approx(cell.floor, rel=0.06)


def test_estimates_are_near_what_was_measured() -> None:
    errors = [
        math.log(estimate / cell.times[plan])
        for cell in CELLS
        for plan, estimate in cell.estimates().items()
    ]
    assert math.sqrt(fmean(error**2 for error in errors)) < 0.08
    assert abs(fmean(errors)) < 0.04
    assert max(map(abs, errors)) < 0.28


def test_what_the_model_would_choose_of_what_was_tried_is_nearly_the_fastest() -> None:
    losses = []
    for cell in CELLS:
        estimates = cell.estimates()
        losses.append(
            cell.times[min(estimates, key=estimates.__getitem__)] / min(cell.times.values())
        )
    assert fmean(losses) < 1.025
    assert max(losses) < 1.17


def test_what_won_is_among_the_better_half_of_the_space() -> None:
    places, behind = [], []
    for cell in CELLS[::3]:
        found = tune.ranked(cell.problem, *cell.shape, H200, target("sm_90a"), 100_000)
        order = [one.schedule for one in found]
        assert cell.won in order
        places.append(order.index(cell.won) / len(order))
        behind.append(found[order.index(cell.won)].seconds / found[0].seconds)
    assert sorted(places)[len(places) // 2] < 0.1
    assert max(places) < 0.6
    assert max(behind) < 1.27


def test_rows_of_a_table_of_gpus_are_looked_up_by_name() -> None:
    assert gpus.folder_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert gpus.gpu("NVIDIA H100 80GB HBM3", "sm_90a").bandwidth == 3350e9
    assert gpus.gpu("nvidia-l4", "sm_89").multiprocessors == 58
    assert len({one.name for one in gpus.GPUS}) == len(gpus.GPUS)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_there_is_a_gpu_for_every_architecture(arch: str) -> None:
    unknown = gpus.gpu("nvidia-unheard-of", arch, 77)
    assert unknown.multiprocessors == 77 and unknown.number == target(arch).number
    assert unknown.reads == ()
    assert unknown.read_seconds(2e9) > unknown.read_seconds(1e9) > 1e9 / unknown.bandwidth


def test_an_architecture_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(TilusError, match="nothing is known of GPUs of sm_70"):
        gpus.gpu("nvidia-v100", "sm_70")
