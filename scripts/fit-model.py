#!/usr/bin/env python3
"""Fits the numbers of tilus.tune that nobody measured alone to records of tilus on one GPU.

    python scripts/fit-model.py results/recorded/nvidia-h200/*.jsonl results/nvidia-h200/tuned.jsonl

Turns each number up and down in turn, in steps that shrink, while the error falls: that of the
logarithms of the times, those within a cell counted four times. Prints what it found and how well
it does; docs/tuning.md says what the numbers are for.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pvariance

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tilus import gpus, tune
from tilus.kernels.problem import Problem, problem_of
from tilus.kernels.schedule import Schedule, checked_schedule

FITTED = (
    "TURNS", "SUM", "MEETING", "LATENCY", "SHARING", "POWER", "L2_SPEED", "STRADDLING", "MOVED",
    "SIGN", "WIDE",
)  # fmt: skip
STEP, LEAST_STEP = 1.3, 1.01


@dataclass(frozen=True)
class Cell:
    """A recorded cell: what was computed where, and the seconds of each schedule tried."""

    problem: Problem
    shape: tuple[int, int, int]  # m, n, k
    gpu: gpus.Gpu
    times: dict[Schedule, float]

    def errors(self) -> list[float]:
        """Of the logarithms of the estimates."""
        return [
            math.log(tune.estimate(plan, self.problem, *self.shape, self.gpu).seconds / seconds)
            for plan, seconds in self.times.items()
        ]


def cells(lines: Iterable[str]) -> list[Cell]:
    """The cells of records whose schedules have the fields of today."""
    found = []
    for one in map(json.loads, lines):
        kernel = one.get("kernel")
        if one["executor"] != "tilus" or kernel is None or "engine" not in kernel["schedule"]:
            continue
        tried = [each for each in one["candidates"] if each["status"] == "ok"]
        times = {checked_schedule(each["schedule"]): each["latency_ms"] / 1e3 for each in tried}
        gpu = gpus.gpu(one["gpu"]["name"], kernel["arch"])
        found.append(
            Cell(problem_of(kernel["parameters"]), (one["m"], one["n"], one["k"]), gpu, times)
        )
    return found


def loss(over: list[Cell]) -> float:
    """What is made small."""
    tune.cast_instructions.cache_clear()
    errors = [cell.errors() for cell in over]
    flat = [error for of_cell in errors for error in of_cell]
    within = sum(pvariance(of_cell) * len(of_cell) for of_cell in errors) / len(flat)
    return fmean(error**2 for error in flat) + 4 * within


def fit(over: list[Cell], seconds: float) -> None:
    """Change the model's numbers for the better, for so long."""
    best, end, steps = loss(over), time.monotonic() + seconds, dict.fromkeys(FITTED, STEP)
    while time.monotonic() < end and max(steps.values()) > LEAST_STEP:
        for name in FITTED:
            value = getattr(tune, name)
            tried = {}
            for changed in (value * steps[name], value / steps[name]):
                setattr(tune, name, changed)
                tried[changed] = loss(over)
            found = min(tried, key=tried.__getitem__)
            better = tried[found] < best
            setattr(tune, name, found if better else value)
            best = min(best, tried[found])
            steps[name] = steps[name] if better else steps[name] ** 0.7


def report(over: list[Cell]) -> str:
    """How near the estimates are, and what is lost where the model chooses."""
    errors = [error for cell in over for error in cell.errors()]
    losses = []
    for cell in over:
        times = list(cell.times.values())
        estimated = [math.log(seconds) + e for seconds, e in zip(times, cell.errors(), strict=True)]
        losses.append(times[estimated.index(min(estimated))] / min(times) - 1)
    off = math.sqrt(fmean(error**2 for error in errors))
    return (
        f"{len(over)} cells, {len(errors)} times: off by {off:.1%}"
        f" (root mean square), {max(map(abs, errors)):.1%} at worst; the model's choice loses"
        f" {fmean(losses):.1%}, {max(losses):.1%} at worst"
    )


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("records", type=Path, nargs="+", metavar="FILE.jsonl")
    made.add_argument("--seconds", type=float, default=60)
    given = made.parse_args()
    over = cells(line for path in given.records for line in path.read_text().splitlines())
    if not over:
        made.error("no record there has a kernel of tilus with schedules of today")
    print(report(over))
    fit(over, given.seconds)
    print(report(over))
    for name in FITTED:
        print(f"{name} = {getattr(tune, name):.3g}")


if __name__ == "__main__":
    main()
