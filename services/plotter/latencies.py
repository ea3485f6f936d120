"""Bars of whole models: latency in ms, one panel a step of a model, clusters by type or by GPU."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import tilus
from services.comparison import NONE, ModelRow
from services.plotter import looks
from services.plotter.bars import filled, hatched
from services.plotter.model_rows import stage
from services.plotter.page import ALARM, INK, MUTED, Words, page

PANEL = {False: 2.35, True: 3.6}  # inches: many models one below the other, or one alone
WIDE = 0.88  # a bar
THEIRS = 0.36  # the part of it that another's takes
GAP = 0.6  # between clusters, in bars
UPRIGHT_FROM = 10  # bars in a panel: from here on words stand upright
NAMES_WIDTH = 48  # letters below a panel


@dataclass(frozen=True)
class Bar:
    """A row and where its middle stands, in bars."""

    row: ModelRow
    at: float


def draw(table: Sequence[ModelRow], words: Words, every_gpu: bool) -> Figure:
    """A line of panels a model, a column a step."""
    models = list(dict.fromkeys(row.cell.workload.model for row in table))
    steps = list(dict.fromkeys(stage(row.cell.workload) for row in table))
    height = 1.5 + PANEL[len(models) == 1] * len(models) + 0.3 * every_gpu
    figure = page(height, words)
    figure.subplots_adjust(
        0.052, (0.72 + 0.3 * every_gpu) / height, 0.992, 1 - 1.22 / height, 0.13, 0.42
    )
    axes = figure.subplots(len(models), len(steps), squeeze=False)
    for line, model in zip(axes, models, strict=True):
        for axis, step in zip(line, steps, strict=True):
            part = [row for row in table if _panel_of(row) == (model, step)]
            axis.set_title(f"{model}: {step}", loc="left", size=10, weight="bold", color=INK, pad=6)
            _panel(axis, part, every_gpu)
        line[0].set_ylabel("latency in ms", size=9.5, color=INK)
    _legend(figure, table, words.reference, every_gpu, 1 - 0.64 / height)
    return figure


def _panel_of(row: ModelRow) -> tuple[str, str]:
    return row.cell.workload.model, stage(row.cell.workload)


def _panel(axis: Axes, rows: Sequence[ModelRow], every_gpu: bool) -> None:
    clusters = list(_clusters(rows, every_gpu))
    bars = [bar for cluster in clusters for bar in cluster]
    latencies = [ms for row in rows for ms in (row.latency_ms, row.reference_ms) if ms is not None]
    upright = len(bars) >= UPRIGHT_FROM or any(row.reference_ms is not None for row in rows)
    axis.set_ylim(0, max(latencies, default=1) * (1.24 if upright else 1.15))
    axis.set_xlim(-0.75, bars[-1].at + 0.75)
    axis.set_axisbelow(True)
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axis.tick_params(axis="both", length=0, colors=INK, labelsize=9)
    axis.set_xticks(
        [(cluster[0].at + cluster[-1].at) / 2 for cluster in clusters],
        [_name(cluster[0].row, every_gpu, NAMES_WIDTH // len(clusters)) for cluster in clusters],
        multialignment="center",
    )
    if not latencies:
        axis.set_yticks([])
    for bar in bars:
        _bar(axis, bar, upright)


def _clusters(rows: Sequence[ModelRow], every_gpu: bool) -> Iterator[list[Bar]]:
    at = 0.0
    for _, cluster in groupby(rows, lambda row: _cluster(row, every_gpu)):
        bars = [Bar(row, at + place) for place, row in enumerate(cluster)]
        at += len(bars) + GAP
        yield bars


def _cluster(row: ModelRow, every_gpu: bool) -> str:
    return row.gpu if every_gpu else row.cell.workload.b_dtype


def _name(row: ModelRow, every_gpu: bool, width: int) -> str:
    if not every_gpu:
        return tilus.dtype(row.cell.workload.b_dtype).short
    name = row.gpu.removeprefix("NVIDIA ") or "no GPU"
    return "\n".join(textwrap.wrap(name, width))


def _bar(axis: Axes, bar: Bar, upright: bool) -> None:
    row, at, width = bar.row, bar.at, WIDE
    if row.reference_ms is not None:
        at, width = bar.at - THEIRS / 2, WIDE - THEIRS
        axis.bar(
            bar.at + (WIDE - THEIRS) / 2,
            row.reference_ms,
            width=THEIRS,
            facecolor="white",
            edgecolor=INK,
            hatch=looks.HATCH,
            linewidth=0.6,
            zorder=2,
        )
    if row.latency_ms is None:
        absent = row.status in (NONE, "ok")
        word = NONE if absent else "OOM" if row.status == "oom" else row.status
        _word(axis, at, 0, word, MUTED if absent else ALARM, upright or len(word) > 3)
        return
    face, edge = looks.color(row.cell.executor), looks.EDGE
    axis.bar(
        at, row.latency_ms, width=width, facecolor=face, edgecolor=INK, linewidth=edge, zorder=2
    )
    _word(axis, at, row.latency_ms, _figures(row.latency_ms), INK, upright)


def _word(axis: Axes, x: float, y: float, word: str, color: str, upright: bool) -> None:
    """A word on top of a bar, or where it would stand."""
    axis.annotate(
        word,
        (x, y),
        xytext=(0, 2.5),
        textcoords="offset points",
        rotation=90 if upright else 0,
        ha="center",
        va="bottom",
        size=8.5,
        color=color,
        zorder=4,
    )


def _figures(latency_ms: float) -> str:
    """Three figures of it, no fewer than before the point."""
    return f"{latency_ms:.0f}" if latency_ms >= 100 else f"{latency_ms:#.3g}"


def _legend(
    figure: Figure, table: Sequence[ModelRow], reference: str, every_gpu: bool, top: float
) -> None:
    names = dict.fromkeys(_label(row, every_gpu) for row in table)
    handles = [filled(executor, label) for executor, label in names]
    if reference:
        handles.append(hatched(reference))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.051, top),
        ncols=len(handles),
        frameon=False,
        fontsize=9.5,
        handlelength=1.3,
        columnspacing=1.6,
        labelcolor=INK,
        borderaxespad=0,
        borderpad=0,
    )


def _label(row: ModelRow, every_gpu: bool) -> tuple[str, str]:
    """Who, and on which type where the clusters do not say it."""
    executor = row.cell.executor
    if executor in looks.MODELS:
        return executor, looks.MODELS[executor]
    kind = f" {tilus.dtype(row.cell.workload.b_dtype).short}" if every_gpu else ""
    return executor, executor + kind
