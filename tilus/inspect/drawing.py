"""A layout as a picture: a cell an element, in the colour of the thread that holds it.

Colours go from dark blue over grey to light yellow: their order is seen by every kind of colour
vision, and in a print without colours. The background is that of the page.
"""

from collections import defaultdict
from itertools import product
from math import prod

from tilus.layout import Layout

RAMP = ((22, 49, 110), (120, 122, 124), (250, 230, 110))  # sRGB, dark to light
WARP = 32
ROW, LETTER, MARGIN, GAP = 24, 6.6, 34, 20  # pixels
NAMED = 4  # holders that a cell has room to name
NEUTRAL = "#808080"  # seen on white and on black

Holders = dict[tuple[int, ...], list[tuple[int, int]]]


def holders(a: Layout) -> Holders:
    """(thread, register) of everybody who holds the element at an index, threads ascending."""
    held: Holders = defaultdict(list)
    for thread, register in product(range(a.threads), range(a.registers)):
        held[a(thread, register)].append((thread, register))
    return dict(held)


def label(held: list[tuple[int, int]]) -> str:
    """`thread:register` as a cell has it; several threads may hold an element."""
    threads = [str(thread) for thread, _ in held]
    if len(held) > NAMED:
        threads = [*threads[: NAMED - 1], f"...{threads[-1]}"]
    return f"{','.join(threads)}:{held[0][1]}"


def shade(at: float) -> tuple[int, int, int]:
    """The colour at 0 .. 1 of the ramp."""
    low, high = (RAMP[0], RAMP[1]) if at < 0.5 else (RAMP[1], RAMP[2])
    share = 2 * at - (at >= 0.5)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue


def luminance(colour: tuple[int, int, int]) -> float:
    """How light it is, 0 to 1 (WCAG 2, relative luminance)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever is read better on it."""
    return "#000000" if luminance(colour) > 0.179 else "#ffffff"


def colour_of(a: Layout, thread: int) -> tuple[int, int, int]:
    """The colour of a thread; of its warp where there are several."""
    number, count = (thread, a.threads) if a.threads <= WARP else (
        thread // WARP, -(-a.threads // WARP)
    )  # fmt: skip
    return shade(number / max(count - 1, 1))


def svg(a: Layout) -> str:
    """The picture. Every cell says `thread:register`, and when pointed at, all its holders."""
    *rows, columns = a.shape or (1,)
    held = holders(a)
    labels = {index: label(cell) for index, cell in held.items()}
    wide = max(30, round(LETTER * max(map(len, labels.values())) + 8))
    tall = rows[-1] if rows else 1
    planes = prod(rows[:-1])
    by = "thread" if a.threads <= WARP else "warp"
    caption = f"{a.threads} threads, {a.registers} registers, coloured by {by}"
    width = MARGIN + max(columns * wide + 1, round(LETTER * len(caption) + 8))
    height = planes * (GAP + tall * ROW) + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="monospace" font-size="11" text-anchor="middle">',
        f"<title>{a}: thread:register of each element, coloured by {by}</title>",
    ]
    for plane in range(planes):
        top = plane * (GAP + tall * ROW) + GAP
        lines += [text(MARGIN + (j + 0.5) * wide, top - 3, NEUTRAL, str(j)) for j in range(columns)]
        lines += [
            text(MARGIN / 2, top + (i + 0.65) * ROW, NEUTRAL, str(i)) for i in range(tall)
        ]  # fmt: skip
        for row, column in product(range(tall), range(columns)):
            index = index_at(a.shape, plane, row, column)
            fill = colour_of(a, held[index][0][0])
            x, y = MARGIN + column * wide, top + row * ROW
            told = ", ".join(f"{thread}:{register}" for thread, register in held[index])
            lines += [
                f'<g><title>{index} in {told}</title><rect x="{x}" y="{y}" width="{wide}"'
                f' height="{ROW}" fill="#{"".join(f"{c:02x}" for c in fill)}" stroke="{NEUTRAL}"/>'
                f"{text(x + wide / 2, y + 0.65 * ROW, ink(fill), labels[index])}</g>"
            ]
    start = f'<text x="{MARGIN}" y="{height - 8}" fill="{NEUTRAL}" text-anchor="start">'
    return "\n".join([*lines, f"{start}{caption}</text>", "</svg>", ""])


def index_at(shape: tuple[int, ...], plane: int, row: int, column: int) -> tuple[int, ...]:
    """The index of a cell; planes are numbered over all dimensions but the last two."""
    index: list[int] = []
    for extent in reversed(shape[:-2]):
        index.insert(0, plane % extent)
        plane //= extent
    return (*index, row, column)[-len(shape) :] if shape else ()


def text(x: float, y: float, fill: str, says: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}">{says}</text>'
