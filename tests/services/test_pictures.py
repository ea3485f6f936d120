"""No word of a figure covers another or leaves the page, in colour or in grey, alone or beside."""

from itertools import combinations, pairwise

import pytest
from matplotlib.colors import to_rgb

from services.comparison import model_rows, rows
from services.experiments import FIGURES, MODEL_FIGURES, OPERATORS
from services.messages import Reference
from services.plotter import bars, latencies, lines, looks
from services.plotter.model_rows import compared
from services.plotter.page import Words
from services.reference import read
from tests.services.made_up import batches, model_records, operators, table_of
from tests.services.pictures import collisions

GPUS = ["Fixture A100 80GB PCIe", "Fixture H100 80GB HBM3", "Fixture L40S"]


def words(beside):
    other = "not ours: Fixture Other GPU 48GB, from figure99.csv" if beside else ""
    return Words("Figure", "some of them", "made up", other)


def published(cells):
    return read(Reference(source="figure99.csv", text=table_of(cells, "Fixture-Other-GPU")))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    ("figure", "draw", "make"), [(9, bars.draw, operators), (13, lines.draw, batches)]
)
def test_words_of_figures_of_operators_have_room(figure, draw, make, beside):
    cells = FIGURES[figure].cells
    for records in (make(cells), {}):
        table = rows(cells, records, published(cells) if beside else None)
        assert collisions(lambda table=table: draw(table, words(beside))) == []


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("figure", [11, 12])
@pytest.mark.parametrize("gpus", [[], GPUS[:1], GPUS])
def test_words_of_figures_of_models_have_room(figure, beside, gpus):
    made = MODEL_FIGURES[figure]
    if not made.every_gpu and len(gpus) > 1:
        gpus = gpus[1:2]
    records = {}
    for gpu in gpus:
        records |= model_records(made.cells, gpu, 50.0)
    table = model_rows(made.cells, records)
    if beside:
        table = compared(table, published(made.cells), made.every_gpu)
    assert collisions(lambda: latencies.draw(table, words(beside), made.every_gpu)) == []


def test_every_executor_has_its_own_colour_shade_and_marker():
    executors = {name for names in OPERATORS.values() for name in names}
    assert executors == set(looks.COLORS)
    shades = sorted(looks.lightness(to_rgb(color)) for color in looks.COLORS.values())
    assert all(after - before > 7 for before, after in pairwise(shades))
    assert len(set(looks.MARKERS.values())) == len(looks.MARKERS) == len(executors) - 1


# protanopia, deuteranopia, tritanopia, whole: Machado, Oliveira and Fernandes 2009, linear RGB
VISIONS = {
    "red": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
            (-0.003882, -0.048116, 1.051998)),
    "green": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
              (-0.011820, 0.042940, 0.968881)),
    "blue": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602),
             (0.004733, 0.691367, 0.303900)),
}  # fmt: skip


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_are_told_apart_without_one_kind_of_cone(vision):
    def seen(color):
        linear = [part**2.2 for part in to_rgb(color)]
        mixed = [
            sum(w * part for w, part in zip(row, linear, strict=True)) for row in VISIONS[vision]
        ]
        return [max(0.0, part) ** (1 / 2.2) for part in mixed]

    for one, other in combinations(looks.COLORS.values(), 2):
        distance = sum((a - b) ** 2 for a, b in zip(seen(one), seen(other), strict=True)) ** 0.5
        assert distance > 0.12, (one, other)
