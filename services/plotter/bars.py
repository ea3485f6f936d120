"""Grouped bars: speed over cuBLAS f16, one panel a batch size, one cluster a weight shape."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

import tilus
from services.comparison import NONE, Row
from services.plotter import looks
from services.plotter.page import ALARM, FAINT, INK, MUTED, Words, page

WIDE = 0.9  # a bar
OURS, THEIRS = 0.58, 0.32  # the parts of it where another's stands beside ours
GROUP_GAP, CLUSTER_GAP = 0.55, 1.2  # in bar widths


@dataclass(frozen=True)
class Bar:
    """A row and where its middle stands, in bar widths."""

    row: Row
    at: float


def draw(table: Sequence[Row], words: Words) -> Figure:
    """The panels one below the other, on one scale."""
    panels = [(m, list(found)) for m, found in groupby(table, lambda row: row.cell.workload.m)]
    height = 1.85 + 3.1 * max(1, len(panels))
    figure = page(height, words)
    figure.subplots_adjust(0.052, 0.85 / height, 0.992, 1 - 1.25 / height, hspace=0.36)
    axes = figure.subplots(max(1, len(panels)), 1, squeeze=False)[:, 0]
    for axis, (m, found) in zip(axes, panels, strict=False):
        _scale(axis, table)
        _panel(axis, m, found)
    _legend(figure, table, 1 - 0.64 / height, words.reference)
    return figure


def _legend(figure: Figure, table: Sequence[Row], top: float, reference: str) -> None:
    executors = dict.fromkeys(row.cell.executor for row in table)
    handles: list[Patch | Line2D] = [
        filled(name, looks.PRODUCTS.get(name, name)) for name in executors
    ]
    if reference:
        handles.append(hatched(reference))
    handles.append(Line2D([], [], color=INK, linewidth=1.4, label="plain read of the same bytes"))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.051, top),
        ncols=len(handles),
        frameon=False,
        handlelength=1.2,
        columnspacing=1.4,
        borderaxespad=0,
        borderpad=0,
    )


def filled(executor: str, label: str) -> Patch:
    """What stands for an executor's bars."""
    face = looks.color(executor)
    return Patch(facecolor=face, edgecolor=INK, linewidth=looks.EDGE, label=label)


def hatched(label: str) -> Patch:
    """What stands for bars that are not ours."""
    return Patch(facecolor="white", edgecolor=INK, hatch=looks.HATCH, linewidth=0.6, label=label)


def _panel(axis: Axes, m: int, table: Sequence[Row]) -> None:
    clusters = list(_clusters(table))
    bars = [bar for cluster in clusters for group in cluster for bar in group]
    axis.set_xlim(-1.1, bars[-1].at + 1.1)
    axis.set_axisbelow(True)
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axis.axhline(1, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axis.tick_params(axis="both", length=0, colors=INK)
    axis.set_ylabel("speed over cuBLAS f16, log scale", color=INK)
    axis.set_title(f"m = {m}", loc="left", size=10, weight="bold", color=INK, pad=7)
    for bar in bars:
        _bar(axis, bar)
    for cluster in clusters:
        for group in cluster:
            _group_floor(axis, group)
    _names(axis, clusters)


def _scale(axis: Axes, table: Sequence[Row]) -> None:
    """Ratios are drawn by their logarithm: twice as fast is as far above 1 as half is below."""
    drawn = [speed for row in table for speed in (row.speedup, row.reference_speedup)]
    heights = [speed for speed in drawn if speed is not None]
    floors = [floor for row in table if (floor := _floor(row)) is not None]
    bottom = 2.0 ** min(-1, math.floor(math.log2(min([*heights, 1.0]))) - 1)
    top = max([*heights, *floors, 2.0]) * 1.15
    axis.set_yscale("log", base=2)
    axis.set_ylim(bottom, top)
    marks = range(round(math.log2(bottom)), math.ceil(math.log2(top)))
    axis.set_yticks([2.0**mark for mark in marks], [f"{2.0**mark:g}" for mark in marks])
    axis.minorticks_off()


def _clusters(table: Sequence[Row]) -> Iterator[list[list[Bar]]]:
    at = 0.0
    for _, cluster in groupby(table, lambda row: (row.cell.workload.k, row.cell.workload.n)):
        groups = []
        for _, group in groupby(cluster, lambda row: row.cell.workload):
            rows = list(group)
            groups.append([Bar(row, at + place) for place, row in enumerate(rows)])
            at += len(rows) + GROUP_GAP
        at += CLUSTER_GAP
        yield groups


def _bar(axis: Axes, bar: Bar) -> None:
    at, width, height = bar.at, WIDE, bar.row.speedup
    bottom, _ = axis.get_ylim()
    if bar.row.reference_speedup is not None:
        _reference(axis, bar.at, bar.row.reference_speedup, bottom)
        at, width = bar.at - THEIRS / 2, OURS
    if height is None:
        absent = bar.row.status in (NONE, "ok")
        _word(axis, at, NONE if absent else bar.row.status, MUTED if absent else ALARM)
        return
    color = looks.color(bar.row.cell.executor)
    axis.bar(
        at,
        height - bottom,
        width=width,
        bottom=bottom,
        facecolor=color,
        edgecolor=INK,
        linewidth=looks.EDGE,
        zorder=2,
    )
    _word(axis, at, f"{height:.2f}", looks.on(to_rgb(color)))


def _reference(axis: Axes, at: float, height: float, bottom: float) -> None:
    """Another's bar, at the right end of the place of ours."""
    axis.bar(
        at + (WIDE - THEIRS) / 2,
        height - bottom,
        width=THEIRS,
        bottom=bottom,
        facecolor="white",
        edgecolor=INK,
        hatch=looks.HATCH,
        linewidth=0.6,
        zorder=2,
    )


def _word(axis: Axes, x: float, word: str, color: str) -> None:
    """All words stand on one line, at the foot of their bars."""
    axis.text(
        x,
        0.025,
        word,
        transform=axis.get_xaxis_transform(),
        rotation=90,
        ha="center",
        va="bottom",
        size=7.5,
        color=color,
        zorder=4,
    )


def _floor(row: Row) -> float | None:
    """How much faster than cuBLAS a plain read of the row's bytes is."""
    record = row.record
    if record is None or row.speedup is None or record.floor_ratio is None:
        return None
    return row.speedup * record.floor_ratio


def _group_floor(axis: Axes, group: Sequence[Bar]) -> None:
    floors = [floor for bar in group if (floor := _floor(bar.row)) is not None]
    if not floors:
        return
    left, right = group[0].at - 0.5, group[-1].at + 0.5
    height = sum(floors) / len(floors)
    axis.plot([left, right], [height] * 2, color=INK, linewidth=1.4, zorder=3)


def _names(axis: Axes, clusters: Sequence[Sequence[Sequence[Bar]]]) -> None:
    groups = [group for cluster in clusters for group in cluster]
    axis.set_xticks(
        [(group[0].at + group[-1].at) / 2 for group in groups],
        [tilus.dtype(group[0].row.cell.workload.b_dtype).short for group in groups],
    )
    below = axis.get_xaxis_transform()
    for number, cluster in enumerate(clusters):
        left, right = cluster[0][0], cluster[-1][-1]
        shape = left.row.cell.workload
        words = f"k = {shape.k}, n = {shape.n}"
        middle = (left.at + right.at) / 2
        axis.text(
            middle, -0.115, words, transform=below, ha="center", va="top", color=INK, weight="bold"
        )
        if number:
            x = left.at - 0.5 - (GROUP_GAP + CLUSTER_GAP) / 2
            axis.plot(
                [x, x], [-0.17, 1], transform=below, color="#D0D0D0", linewidth=0.8, clip_on=False
            )
