"""A heat map: a tile a weight type, rows by kind, columns by bits, colour by speed over cuBLAS."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import tilus
from services.comparison import NONE, Row
from services.experiments import BASELINE
from services.plotter import looks
from services.plotter.page import ALARM, FAINT, INK, MUTED, WIDTH, Words, page

KINDS = ("uint", "int", "float")
WIDTHS = tuple(range(8, 0, -1))
# one hue that only gets darker: it says the same with any colour vision and in grey
COLORS = LinearSegmentedColormap.from_list(
    "speed", ["#F3F8FB", "#BFDDF0", "#56B4E9", "#0072B2", "#04273F"]
)
USUAL = (1.0, 16.0)  # speeds that the colours span, wider where the numbers are
TILE, HEIGHT, GAP = 1.54, 1.16, 0.05  # inches
LEFT, TOP, BOTTOM = 0.78, 1.42, 0.66  # inches around the tiles
EMPTY, BAD = "#F4F4F4", "white"
TIMES, MICRO, HOLLOW = "\N{MULTIPLICATION SIGN}", "\N{MICRO SIGN}", "\N{WHITE CIRCLE}"

Color = str | tuple[float, ...]


@dataclass(frozen=True)
class Tile:
    """A row and where it stands: the kind's line from above, the width's column from the left."""

    row: Row
    line: int
    column: int


def draw(table: Sequence[Row], words: Words) -> Figure:
    """The tiles that there are; what no type can be stays blank."""
    found = tiles(table)
    height = TOP + len(KINDS) * HEIGHT + BOTTOM
    figure = page(height, words)
    axis = figure.add_axes(
        (
            LEFT / WIDTH,
            BOTTOM / height,
            len(WIDTHS) * TILE / WIDTH,
            len(KINDS) * HEIGHT / height,
        )
    )
    norm = scale([tile.row.speedup for tile in found if tile.row.speedup is not None])
    _grid(axis, table, words.reference)
    for tile in found:
        _tile(axis, tile, norm)
    right = LEFT + len(WIDTHS) * TILE - GAP
    bar = figure.add_axes(((right - 3.6) / WIDTH, 1 - 0.82 / height, 3.6 / WIDTH, 0.13 / height))
    _legend(bar, norm)
    return figure


def tiles(table: Sequence[Row]) -> list[Tile]:
    """The rows but the baseline's, each in its place."""
    found = []
    for row in table:
        if row.cell.executor == BASELINE:
            continue
        dtype = tilus.dtype(row.cell.workload.b_dtype)
        found.append(Tile(row, KINDS.index(dtype.kind), WIDTHS.index(dtype.bits)))
    return found


def scale(speeds: Sequence[float]) -> LogNorm:
    """From a speed to a place among the colours, by its logarithm; the ends are powers of two."""
    low = 2.0 ** math.floor(math.log2(min([*speeds, USUAL[0]])))
    high = 2.0 ** math.ceil(math.log2(max([*speeds, USUAL[1]])))
    return LogNorm(low, high)


def _grid(axis: Axes, table: Sequence[Row], reference: str) -> None:
    axis.set_xlim(0, len(WIDTHS) * TILE)
    axis.set_ylim(len(KINDS) * HEIGHT, 0)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, colors=INK, labelsize=10)
    axis.xaxis.tick_top()
    axis.set_xticks(
        [(column + 0.5) * TILE for column in range(len(WIDTHS))],
        [f"{bits} bit{'s' * (bits > 1)}" for bits in WIDTHS],
    )
    axis.set_yticks([(line + 0.5) * HEIGHT for line in range(len(KINDS))], KINDS, weight="bold")
    axis.text(
        GAP, -0.34, _problem(table), size=10, weight="bold", color=INK, va="bottom", ha="left"
    )
    axis.text(
        GAP,
        len(KINDS) * HEIGHT + 0.12,
        f"{TIMES} floor: latency over that of a plain read of the same bytes"
        + f"  \N{MIDDLE DOT}  {HOLLOW} {reference}" * bool(reference),
        size=8,
        color=INK,
        va="center",
    )


def _problem(table: Sequence[Row]) -> str:
    """What was multiplied, and how long cuBLAS takes for it."""
    if not table:
        return ""
    shape = table[0].cell.workload
    groups = sorted({row.cell.workload.group_size for row in table} - {-1})
    scales = f"integers in groups of {groups[0]}" if groups else "one scale a column"
    base = next((row.record for row in table if row.cell.executor == BASELINE), None)
    took = _us(base.latency_ms) if base and base.latency_ms else NONE
    return f"m = {shape.m}, k = {shape.k}, n = {shape.n}, {scales}; cuBLAS f16: {took}"


def _tile(axis: Axes, tile: Tile, norm: LogNorm) -> None:
    row, speed = tile.row, tile.row.speedup
    latency_ms = row.record.latency_ms if row.record else None
    face, ink = _colors(speed, norm)
    middle, foot = (0.5, 0.81) if row.reference_speedup is None else (0.45, 0.69)
    if row.status in (NONE, "ok"):
        _box(axis, tile, face)
        _word(axis, tile, middle, NONE if speed is None else f"{speed:.2f}{TIMES}", ink, 17, "bold")
    else:
        ink = ALARM
        _box(axis, tile, BAD)
        _word(axis, tile, middle, row.status, ink, 13, "bold")
        _word(axis, tile, foot, "why: see the CSV", ink)
    _corners(axis, tile, latency_ms, ink)
    if row.reference_speedup is not None:
        _word(axis, tile, 0.86, f"{HOLLOW} {row.reference_speedup:.2f}{TIMES}", ink, 8)
    if latency_ms is not None and row.record and row.record.floor_ratio is not None:
        _word(axis, tile, foot, f"{row.record.floor_ratio:.2f}{TIMES} floor", ink)


def _colors(speed: float | None, norm: LogNorm) -> tuple[Color, str]:
    """A tile's own and that of its words."""
    if speed is None:
        return EMPTY, MUTED
    face = COLORS(norm(speed))
    return face, looks.on(face)


def _box(axis: Axes, tile: Tile, face: Color) -> None:
    alarm = face == BAD
    axis.add_patch(
        Rectangle(
            (tile.column * TILE + GAP, tile.line * HEIGHT + GAP),
            TILE - 2 * GAP,
            HEIGHT - 2 * GAP,
            facecolor=face,
            edgecolor=ALARM if alarm else "#D4DCE2",
            linewidth=1.4 if alarm else 0.5,
            linestyle=(0, (4, 2)) if alarm else "solid",
        )
    )


def _word(
    axis: Axes,
    tile: Tile,
    down: float,
    word: str,
    color: str,
    size: float = 8.5,
    weight: str = "normal",
) -> None:
    """A word in the middle, a part `down` of the tile's height from its top."""
    x, y = (tile.column + 0.5) * TILE, (tile.line + down) * HEIGHT
    axis.text(x, y, word, color=color, size=size, weight=weight, ha="center", va="center")


def _corners(axis: Axes, tile: Tile, latency_ms: float | None, color: str) -> None:
    """The type at the upper left; how long it took at the upper right."""
    left, y = tile.column * TILE, (tile.line + 0.2) * HEIGHT
    name = tilus.dtype(tile.row.cell.workload.b_dtype).short
    axis.text(left + 3 * GAP, y, name, color=color, size=9, weight="bold", va="center")
    if latency_ms is not None:
        axis.text(left + TILE - 3 * GAP, y, _us(latency_ms), color=color, ha="right", va="center")


def _us(milliseconds: float) -> str:
    return f"{milliseconds * 1000:.1f} {MICRO}s"


def _legend(axis: Axes, norm: LogNorm) -> None:
    """The colours from left to right, a mark at each power of two."""
    low, high = math.log2(norm.vmin or 1), math.log2(norm.vmax or 1)
    ramp = [[place / 255 for place in range(256)]]
    axis.imshow(ramp, cmap=COLORS, aspect="auto", extent=(low, high, 0, 1))
    marks = range(round(low), round(high) + 1)
    axis.set_xticks(list(marks), [f"{2.0**mark:g}{TIMES}" for mark in marks])
    axis.set_yticks([])
    axis.tick_params(length=2.5, color=FAINT, labelcolor=INK, labelsize=8)
    axis.set_title(
        "speed over cuBLAS f16, log scale",
        size=8.5,
        color=INK,
        pad=4,
        loc="right",
    )
