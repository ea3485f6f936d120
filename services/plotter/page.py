"""What every figure stands on: words above and below, one style, the same bytes in each format."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, FAINT, ALARM = "#222222", "#666666", "#9A9A9A", "#B00020"
WIDTH = 13.5  # inches
FORMATS = ("pdf", "png", "svg")
DATELESS = {
    "pdf": {"CreationDate": None, "Producer": None, "Creator": "tilus"},
    "png": {"Software": "tilus"},
    "svg": {"Date": None, "Creator": "tilus"},
}
STYLE: dict[Any, object] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "pdf.fonttype": 42,
    "svg.hashsalt": "tilus",
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class Words:
    """What is said around a picture.

    `reference` says whose hollow or hatched numbers stand beside ours, empty for none.
    """

    title: str
    subtitle: str
    footer: str
    reference: str = ""


def page(height: float, words: Words) -> Figure:
    """An empty page of `height` inches; room for a picture is from 0.85 up to 1 below its top."""
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    figure.text(0.012, 1 - 0.28 / height, words.title, size=13, weight="bold", color=INK)
    figure.text(0.012, 1 - 0.5 / height, words.subtitle, size=9, color=INK)
    figure.text(0.012, 0.12 / height, words.footer, size=7.5, color="#555555")
    return figure


def stamp(figure: Figure, word: str) -> Figure:
    """The figure with a word across all of it."""
    figure.text(
        0.5,
        0.5,
        word,
        size=110,
        weight="bold",
        color=ALARM,
        alpha=0.16,
        rotation=20,
        ha="center",
        va="center",
        zorder=100,
    )
    return figure


def saved(paint: Callable[[], Figure]) -> dict[str, bytes]:
    """What `paint` makes, in every format; the same bytes for the same picture."""
    with matplotlib.rc_context(STYLE):
        figure = paint()
        return {name: _saved(figure, name) for name in FORMATS}


def _saved(figure: Figure, name: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=name, metadata=DATELESS[name])
    return content.getvalue()
