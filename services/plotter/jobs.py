"""The work of a plotter: records in, pictures and tables out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure as Drawn
from pydantic import JsonValue

from services.experiments import FIGURES, Picture
from services.messages import Cell, Drawing
from services.plotter import bars, spectrum
from services.plotter.page import Words, saved
from services.plotter.rows import Row, against, as_csv, as_text, rows
from services.records import Record, load, newest, record_path
from services.runs import selected
from services.settings import load as load_settings
from services.store import write_atomic

OURS = "tilus"
PICTURES: dict[Picture, Callable[[Sequence[Row], Words], Drawn]] = {
    "bars": bars.draw,
    "spectrum": spectrum.draw,
}


def draw(message: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The job: draw a figure from the records of one GPU into the results folder."""
    settings = load_settings()
    drawing = Drawing.model_validate(message)
    recorded = drawing.mode == "recorded"
    root = settings.recorded if recorded else settings.results
    records = newest(load(record_path(root, drawing.gpu, drawing.figure)))
    paths = render(drawing.figure, selected(drawing), records, recorded, settings.results)
    return {"files": [str(path) for path in paths]}


def render(
    figure: int, cells: Sequence[Cell], records: Mapping[Cell, Record], recorded: bool, out: Path
) -> list[Path]:
    """Write `figureN` as pdf, png, svg, csv, txt under `out`; same records, same bytes."""
    table = rows(cells, records)
    made = FIGURES[figure]
    title = f"Figure {figure}: {made.title}{_where(table)}"
    title += " (recorded)" if recorded else ""
    shown = [row for row in table if row.cell.workload.b_dtype not in made.aside]
    words = Words(title, summary(table, shown), provenance(table, recorded))
    files = saved(lambda: PICTURES[made.picture](shown, words))
    files["csv"] = as_csv(table).encode()
    files["txt"] = as_text(table, title, f"{words.subtitle}\n{words.footer}").encode()
    paths = [out / f"figure{figure}.{kind}" for kind in files]
    for path, content in zip(paths, files.values(), strict=True):
        write_atomic(path, content)
    return paths


def summary(table: Sequence[Row], shown: Sequence[Row]) -> str:
    """How many cells are there, and the geometric means against the other executors."""
    measured = sum(row.speedup is not None for row in table)
    parts = [f"{measured} of {len(table)} cells measured"]
    if len(shown) < len(table):
        parts.append(f"{len(table) - len(shown)} cells are in the CSV alone")
    for name, (mean, count) in against(table, OURS).items():
        parts.append(f"{OURS} {mean:.2f}x {name} (geometric mean of {count})")
    return "  ·  ".join(parts)


def provenance(table: Sequence[Row], recorded: bool) -> str:
    """Where the numbers come from: GPU, driver, days, commits, recorded or not."""
    records = [row.record for row in table if row.record is not None]
    if not records:
        return "no records: nothing was measured"
    commits = {f"{record.commit[:10]}{' (dirty)' * record.dirty}" for record in records}
    days = sorted({record.measured_at.date().isoformat() for record in records})
    kind = "recorded" if recorded else "measured"
    parts = [
        _listed({record.gpu.name for record in records}),
        f"driver {_listed({record.gpu.driver for record in records})}",
        f"{kind} {' to '.join(dict.fromkeys((days[0], days[-1])))}",
        f"commit {_listed(commits)}",
        "CUDA events, L2 flushed, medians of 50; every result checked against float64",
    ]
    if any(record.gpu.throttled for record in records):
        parts.append("the GPU was throttled in some cells: see the CSV")
    return "  ·  ".join(parts)


def _where(table: Sequence[Row]) -> str:
    names = {row.record.gpu.name for row in table if row.record is not None}
    return f" on {_listed(names)}" if names else ""


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
