"""The plotter: `python -m services.plotter` serves the queue, with `--figure` it draws once."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path

from services.experiments import FIGURES, MODEL_FIGURES
from services.figures import TITLES
from services.messages import Reference, RunRequest
from services.plotter.jobs import render, render_models
from services.queue import DRAW
from services.records import (
    ModelRecord,
    Record,
    RecordError,
    load,
    load_models,
    newest,
    newest_models,
    record_paths,
)
from services.reference import check_reference, from_file, read
from services.selection import BadRequest
from services.settings import load as load_settings
from services.worker import serve


def main(arguments: list[str]) -> int:
    """Draw the figure that is asked for, or serve until told to stop."""
    parser = ArgumentParser(prog="python -m services.plotter", description=__doc__)
    add = parser.add_argument
    add("--figure", type=int, choices=sorted(TITLES), help="draw this one, once")
    add("--records", type=Path, nargs="+", help="files or folders with figureN.jsonl")
    add("--reference", type=Path, help="a table of other numbers to draw beside them")
    add("--out", type=Path, default=Path("results"), help="where the files go")
    asked = parser.parse_args(arguments)
    if asked.figure is None:
        settings = load_settings()
        serve(
            DRAW,
            settings.redis_url,
            settings.redis_password.get_secret_value(),
            settings.queue_key.get_secret_value(),
            drain_seconds=settings.drain_seconds,
        )
        return 0
    try:
        _once(asked.figure, asked.records or [], asked.reference, asked.out)
    except (RecordError, BadRequest) as error:
        parser.error(str(error))
    return 0


def _once(figure: int, folders: list[Path], table: Path | None, out: Path) -> None:
    paths = _paths(figure, folders)
    reference = None if table is None else _reference(figure, from_file(table))
    published = None if reference is None else read(reference)
    recorded = any("recorded" in path.resolve().parts for path in paths)
    if figure in MODEL_FIGURES:
        made = MODEL_FIGURES[figure]
        steps = [record for path in paths for record in load_models(path)]
        if not made.every_gpu:
            _one_gpu(figure, steps)
        found = newest_models(steps)
        written = render_models(figure, made.cells, found, recorded, out, published)
    else:
        products = [record for path in paths for record in load(path)]
        _one_gpu(figure, products)
        cells = FIGURES[figure].cells
        written = render(figure, cells, newest(products), recorded, out, published)
    for path in written:
        print(path)


def _reference(figure: int, reference: Reference) -> Reference:
    check_reference(RunRequest(figure=figure, mode="recorded", reference=reference))
    return reference


def _paths(figure: int, folders: list[Path]) -> list[Path]:
    """The files of records of a figure: those named, those in folders, those in folders of GPUs."""
    paths = []
    for folder in folders:
        own = folder / f"figure{figure}.jsonl"
        found = [own] if own.exists() else record_paths(folder, figure)
        paths += [folder] if folder.is_file() else found
    if not paths:
        where = ", ".join(map(str, folders)) or "no folder"
        raise BadRequest(f"there are no records of figure {figure} in {where}: name a folder")
    return paths


def _one_gpu(figure: int, records: Iterable[Record] | Iterable[ModelRecord]) -> None:
    names = sorted({record.gpu.name for record in records})
    if len(names) > 1:
        raise BadRequest(
            f"figure {figure} is of one GPU, and the records are of {', '.join(names)}: name one"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
