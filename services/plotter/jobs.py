"""The work of a plotter: records in, pictures and tables out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure as Drawn
from pydantic import JsonValue

from services import comparison
from services.comparison import ModelRecords, ModelRow, Row
from services.experiments import FIGURES, MODEL_FIGURES, Picture
from services.messages import Cell, Drawing, ModelCell
from services.plotter import bars, captions, latencies, lines, model_rows, rows, spectrum
from services.plotter.page import Words, saved, stamp
from services.records import (
    Record,
    load,
    load_models,
    newest,
    newest_models,
    record_path,
    record_paths,
)
from services.reference import Published, read
from services.selection import selected, selected_models
from services.settings import load as load_settings
from services.store import write_atomic

PICTURES: dict[Picture, Callable[[Sequence[Row], Words], Drawn]] = {
    "bars": bars.draw,
    "spectrum": spectrum.draw,
    "lines": lines.draw,
}


def draw(message: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The job: draw a figure from records into the results folder."""
    settings = load_settings()
    drawing = Drawing.model_validate(message)
    recorded = drawing.mode == "recorded"
    root = settings.recorded if recorded else settings.results
    published = read(drawing.reference) if drawing.reference else None
    out, figure = settings.results, drawing.figure
    path = record_path(root, drawing.gpu, figure)
    if figure in MODEL_FIGURES:
        sources = [path] if drawing.gpu else record_paths(root, figure)
        steps = newest_models(record for source in sources for record in load_models(source))
        paths = render_models(figure, selected_models(drawing), steps, recorded, out, published)
    else:
        products = newest(load(path))
        paths = render(figure, selected(drawing), products, recorded, out, published)
    return {"files": [str(path) for path in paths]}


def render(
    figure: int,
    cells: Sequence[Cell],
    records: Mapping[Cell, Record],
    recorded: bool,
    out: Path,
    published: Published | None = None,
) -> list[Path]:
    """Write `figureN` as pdf, png, svg, csv, txt under `out`; same records, same bytes."""
    table = comparison.rows(cells, records, published)
    made = FIGURES[figure]
    shown = [row for row in table if row.cell.workload.b_dtype not in made.aside]
    found = [row.record for row in table if row.record is not None]
    words = Words(
        captions.title(figure, made.title, found, recorded),
        captions.summary(table, shown),
        captions.provenance(found, recorded, captions.OPERATORS),
        captions.reference(published, comparison.gpu_of(records)),
    )
    beside = published is not None
    return _write(
        figure,
        lambda: PICTURES[made.picture](shown, words),
        captions.made_up(found),
        {
            "csv": rows.as_csv(table, beside),
            "txt": rows.as_text(table, _lines(words, "speedup"), beside),
        },
        out,
    )


def render_models(
    figure: int,
    cells: Sequence[ModelCell],
    records: ModelRecords,
    recorded: bool,
    out: Path,
    published: Published | None = None,
) -> list[Path]:
    """Write a figure of whole models, likewise."""
    made = MODEL_FIGURES[figure]
    ours = comparison.model_rows(cells, records)
    table = model_rows.compared(ours, published, made.every_gpu) if published else ours
    found = [row.record for row in ours if row.record is not None]
    words = Words(
        captions.title(figure, made.title, found, recorded),
        captions.model_summary(ours),
        captions.provenance(found, recorded, captions.engines(found)),
        captions.reference(published, None if made.every_gpu else _gpu(ours)),
    )
    beside = published is not None
    return _write(
        figure,
        lambda: latencies.draw(table, words, made.every_gpu),
        captions.made_up(found),
        {
            "csv": model_rows.as_csv(table, beside),
            "txt": model_rows.as_text(table, _lines(words, "latency"), beside),
        },
        out,
    )


def _gpu(table: Sequence[ModelRow]) -> str:
    return next((row.gpu for row in table), "")


def _lines(words: Words, compared: str) -> list[str]:
    """What stands above a table and below it; `compared` is what its ratios are of."""
    there = words.reference.removeprefix("not ours: ")
    beside = f"ours/ref: our {compared} over that of {there}"
    return [words.title, words.subtitle, words.footer, *([beside] if words.reference else [])]


def _write(
    figure: int, paint: Callable[[], Drawn], made_up: bool, tables: Mapping[str, str], out: Path
) -> list[Path]:
    files = saved(lambda: stamp(paint(), captions.MADE_UP) if made_up else paint())
    files |= {kind: text.encode() for kind, text in tables.items()}
    paths = [out / f"figure{figure}.{kind}" for kind in files]
    for path, content in zip(paths, files.values(), strict=True):
        write_atomic(path, content)
    return paths
