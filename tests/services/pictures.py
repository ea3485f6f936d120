"""What a picture says, and where."""

import re
from itertools import combinations

import matplotlib
from matplotlib.text import Text

from services.plotter.page import STYLE


def words(path):
    """Every text of an SVG, in order."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def texts(paint):
    """Every text of the figure that `paint` makes, with the box it takes, in pixels."""
    with matplotlib.rc_context(STYLE):
        figure = paint()
        renderer = figure.canvas.get_renderer()
        figure.draw(renderer)
        found = [
            (text.get_text(), text.get_window_extent(renderer))
            for text in figure.findobj(Text)
            if text.get_visible() and text.get_text().strip()
        ]
        return figure.bbox, [(word, box) for word, box in found if box.width and box.height]


def collisions(paint, slack=1.0):
    """Pairs of texts that share more than `slack` pixels, and texts that leave the page."""
    page, found = texts(paint)
    outside = [
        word
        for word, box in found
        if box.x0 < 0 or box.y0 < 0 or box.x1 > page.x1 or box.y1 > page.y1
    ]
    pairs = [
        (one, other)
        for (one, a), (other, b) in combinations(found, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > slack and min(a.y1, b.y1) - max(a.y0, b.y0) > slack
    ]
    return outside + pairs
