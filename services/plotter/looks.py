"""How each executor looks in every figure: colour, marker, name."""

import math

from services.experiments import BASELINE

# Okabe and Ito's hues, told apart with any colour vision, each of another lightness, so that they
# are told apart in grey too
COLORS = {
    "tilus": "#003A63",
    "ladder": "#006B4F",
    "quant-llm": "#B6528A",
    BASELINE: "#9C9C9C",
    "triton": "#F5C04A",
    "marlin": "#C3E8FA",
}
MARKERS = {"tilus": "o", "triton": "s", "ladder": "^", "quant-llm": "D", "marlin": "v"}
OTHER_COLOR, OTHER_MARKER = "#6E6E6E", "P"
WHITE_READS = 4.0  # contrast that white must have to be preferred
HATCH = "////"  # of bars that are not ours
EDGE = 0.4  # points: around bars and markers, so that light ones stand out from the page
PRODUCTS = {BASELINE: "cuBLAS f16"}  # what executors are called where operators run
MODELS = {BASELINE: "vLLM f16"}  # and where whole models do


def color(executor: str) -> str:
    """The colour of its bars and lines."""
    return COLORS.get(executor, OTHER_COLOR)


def marker(executor: str) -> str:
    """The marker of its points."""
    return MARKERS.get(executor, OTHER_MARKER)


def luminance(rgb: tuple[float, ...]) -> float:
    """How light a colour of red, green and blue from 0 to 1 is, as WCAG 2 has it."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb[:3]
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def lightness(rgb: tuple[float, ...]) -> float:
    """CIE L* from 0 (black) to 100 (white): equal steps look equal in grey."""
    return 116 * math.cbrt(luminance(rgb)) - 16


def on(rgb: tuple[float, ...]) -> str:
    """White on what is dark enough for it, black on the rest."""
    return "white" if 1.05 / (luminance(rgb) + 0.05) >= WHITE_READS else "black"
