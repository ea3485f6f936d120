"""Lines over the batch size: speed over cuBLAS f16, the largest batches again in an inset."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import tilus
from services.comparison import NONE, Row
from services.experiments import BASELINE
from services.plotter import looks
from services.plotter.page import ALARM, INK, Words, page

HEIGHT = 7.0
INSET_FROM = 4096  # rows of activations
INSET_LEFT, INSET_WIDTH = 0.675, 0.315  # in parts of the axes
BESIDE_INSET = 512  # rows of activations from which on the inset must leave room
ROOM = 0.42  # of the axes' height that it needs
# from one mark of the inset to the next
STEPS = tuple(step * 10.0**power for power in range(-2, 9) for step in (1, 2, 5))
MOST_MARKS = 7
Span = tuple[float, float]
Dash = Literal["solid"] | tuple[float, tuple[float, ...]]
DASHES: dict[str, Dash] = {"uint4": "solid", "float6_e3m2": (0, (5, 2))}
OTHER_DASH: Dash = (0, (1, 1.5))
DOTS: Dash = (0, (1, 2))
MARKER_SIZE = 7


@dataclass(frozen=True)
class Line:
    """One executor on one weight type: its rows by rising m."""

    executor: str
    b_dtype: str
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """As the legend has it."""
        return f"{self.executor} {tilus.dtype(self.b_dtype).short}"

    @property
    def color(self) -> str:
        """The executor's."""
        return looks.color(self.executor)

    @property
    def dash(self) -> Dash:
        """The type's."""
        return DASHES.get(self.b_dtype, OTHER_DASH)


def draw(table: Sequence[Row], words: Words) -> Figure:
    """All batches in one frame on logarithmic axes, the largest again in another."""
    figure = page(HEIGHT, words)
    axis = figure.add_axes((0.054, 0.85 / HEIGHT, 0.938, 1 - 2.05 / HEIGHT))
    found = lines(table)
    batches = sorted({row.cell.workload.m for row in table})
    beside = [row for row in table if row.cell.workload.m >= BESIDE_INSET]
    span = _roomy(_span(table, (0.5, 2.0)), beside)
    first, last = map(math.log2, span)
    powers = range(math.ceil(first), math.floor(last) + 1)
    _frame(axis, batches, span, [2.0**power for power in powers])
    axis.set_ylabel("speed over cuBLAS f16, log scale", size=10, color=INK)
    axis.set_xlabel(f"m: rows of activations ({_shape(table)})", size=10, color=INK)
    _lines(axis, found)
    large = [m for m in batches if m >= INSET_FROM]
    if len(large) > 1:
        bottom, height = _free(beside, span)
        inset = axis.inset_axes((INSET_LEFT, bottom, INSET_WIDTH, height))
        part = [row for row in table if row.cell.workload.m in large]
        within = _span(part, (0.9, 1.1))
        _frame(inset, large, within, _marks(within))
        inset.set_title(f"m from {INSET_FROM}", size=9.5, loc="left", color=INK, pad=5)
        _lines(inset, lines(part))
    _legend(figure, found, words.reference)
    return figure


def lines(table: Sequence[Row]) -> list[Line]:
    """The rows but the baseline's, by executor and type in their order."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in table:
        if row.cell.executor != BASELINE:
            found.setdefault((row.cell.executor, row.cell.workload.b_dtype), []).append(row)
    return [
        Line(*kind, tuple(sorted(rows, key=lambda row: row.cell.workload.m)))
        for kind, rows in found.items()
    ]


def _span(table: Sequence[Row], usual: Span) -> Span:
    """All that is drawn, and at least the usual, with room below for what has no time."""
    low, high = min([*_speeds(table), usual[0]]), max([*_speeds(table), usual[1]])
    room = (high / low) ** 0.06
    return low / room**2, high * room


def _speeds(table: Sequence[Row]) -> list[float]:
    drawn = [speed for row in table for speed in (row.speedup, row.reference_speedup)]
    return [speed for speed in drawn if speed is not None]


def _taken(table: Sequence[Row], span: Span) -> Span:
    """From which to which part of the axes' height the table draws, and cuBLAS is."""
    first, last = map(math.log2, span)
    speeds = [1.0, *_speeds(table)]
    low, high = ((math.log2(end) - first) / (last - first) for end in (min(speeds), max(speeds)))
    return low, high


def _roomy(span: Span, table: Sequence[Row]) -> Span:
    """The span with its upper end raised until an inset has room above or below the table."""
    below, above = _taken(table, span)
    if max(below, 1 - above) >= ROOM:
        return span
    low, high = span
    return low, low * (high / low) ** (above / (1 - ROOM))


def _free(table: Sequence[Row], span: Span) -> Span:
    """Where an inset hides nothing: its bottom and height, above or below what the table draws."""
    below, above = _taken(table, span)
    if 1 - above >= below:
        return above + 0.08, 0.85 - above
    return 0.07, below - 0.15


def _marks(span: Span) -> list[float]:
    """Round numbers within, not too many."""
    low, high = span
    step = next(step for step in STEPS if (high - low) / step <= MOST_MARKS)
    return [step * mark for mark in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _frame(axis: Axes, batches: Sequence[int], span: Span, marks: Sequence[float]) -> None:
    """Axes by logarithms, a mark at each batch."""
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xlim(batches[0] / 2**0.35, batches[-1] * 2**0.35)
    axis.set_ylim(span)
    axis.set_xticks(list(batches), [str(m) for m in batches])
    axis.set_yticks(list(marks), [f"{mark:.3g}" for mark in marks])
    axis.minorticks_off()
    axis.tick_params(axis="both", length=0, colors=INK, labelsize=9.5)
    axis.set_axisbelow(True)
    axis.grid(color="#E4E4E4", linewidth=0.6)
    axis.axhline(1, color=INK, linewidth=0.9, linestyle=DOTS, zorder=1)


def _lines(axis: Axes, found: Iterable[Line]) -> None:
    """The lines, ours above all others; a line breaks where a batch has no time."""
    for number, line in enumerate(found):
        batches = [row.cell.workload.m for row in line.rows]
        ours = line.executor == "tilus"
        theirs = [_or_nan(row.reference_speedup) for row in line.rows]
        axis.plot(
            batches,
            theirs,
            color=line.color,
            linestyle=line.dash,
            linewidth=0.8,
            marker=looks.marker(line.executor),
            markersize=MARKER_SIZE,
            markerfacecolor="white",
            markeredgewidth=1.3,
            zorder=2.4,
        )
        axis.plot(
            batches,
            [_or_nan(row.speedup) for row in line.rows],
            color=line.color,
            linestyle=line.dash,
            linewidth=2.2 if ours else 1.7,
            marker=looks.marker(line.executor),
            markersize=MARKER_SIZE,
            markeredgecolor=INK,
            markeredgewidth=looks.EDGE,
            zorder=3.5 if ours else 3,
        )
        for row in line.rows:
            if row.status not in (NONE, "ok"):
                _cross(axis, row, number)


def _cross(axis: Axes, row: Row, number: int) -> None:
    """Where a cell was tried and has no time: a mark at the foot, one height for each line."""
    axis.plot(
        row.cell.workload.m,
        0.02 + 0.02 * number,
        transform=axis.get_xaxis_transform(),
        marker="x",
        markersize=6,
        markeredgewidth=1.8,
        color=looks.color(row.cell.executor),
        zorder=4,
    )


def _legend(figure: Figure, found: Sequence[Line], reference: str) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=line.color,
            linestyle=line.dash,
            linewidth=2,
            marker=looks.marker(line.executor),
            markersize=MARKER_SIZE,
            markeredgecolor=INK,
            markeredgewidth=looks.EDGE,
            label=line.name + (" (n/a)" * all(row.speedup is None for row in line.rows)),
        )
        for line in found
    ]
    base = Line2D([], [], color=INK, linewidth=0.9, linestyle=DOTS, label="cuBLAS f16")
    signs = []
    if any(row.status not in (NONE, "ok") for line in found for row in line.rows):
        signs.append(_sign("x", ALARM, ALARM, "tried, and has no time: see the CSV"))
    if reference:
        signs.append(_sign("o", "white", INK, reference))
    for number, row in enumerate(([*handles, base], signs)):
        figure.legend(
            handles=row,
            loc="upper left",
            bbox_to_anchor=(0.053, 1 - (0.62 + 0.24 * number) / HEIGHT),
            ncols=max(1, len(row)),
            frameon=False,
            fontsize=9.5,
            handlelength=3.4,
            columnspacing=1.5,
            labelcolor=INK,
            borderaxespad=0,
            borderpad=0,
        )


def _sign(marker: str, face: str, edge: str, words: str) -> Line2D:
    """A marker without a line."""
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=marker,
        markersize=MARKER_SIZE,
        markerfacecolor=face,
        markeredgecolor=edge,
        markeredgewidth=1.4,
        label=words,
    )


def _shape(table: Sequence[Row]) -> str:
    return ", ".join(
        sorted({f"k = {row.cell.workload.k}, n = {row.cell.workload.n}" for row in table})
    )


def _or_nan(speed: float | None) -> float:
    return math.nan if speed is None else speed
