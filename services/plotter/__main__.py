"""The plotter: `python -m services.plotter` serves the queue, with `--figure` it draws once."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from services.experiments import FIGURES
from services.plotter.jobs import render
from services.queue import DRAW, serve
from services.records import RecordError, load, newest
from services.settings import load as load_settings


def main(arguments: list[str]) -> int:
    """Draw the figure that is asked for, or serve until told to stop."""
    parser = ArgumentParser(prog="python -m services.plotter", description=__doc__)
    parser.add_argument("--figure", type=int, choices=sorted(FIGURES), help="draw this one, once")
    parser.add_argument("--records", type=Path, help="a folder with figureN.jsonl, or such a file")
    parser.add_argument("--out", type=Path, default=Path("results"), help="where the files go")
    asked = parser.parse_args(arguments)
    if asked.figure is not None:
        return _once(parser, asked.figure, asked.records, asked.out)
    settings = load_settings()
    serve(
        DRAW,
        settings.redis_url,
        settings.redis_password.get_secret_value(),
        settings.queue_key.get_secret_value(),
    )
    return 0


def _once(parser: ArgumentParser, figure: int, records: Path | None, out: Path) -> int:
    if records is None or not records.exists():
        parser.error(f"there are no records at {records}: name a folder with --records")
    path = records / f"figure{figure}.jsonl" if records.is_dir() else records
    if not path.exists():
        parser.error(f"there is no {path.name} in {records}")
    try:
        found = newest(load(path))
    except RecordError as error:
        parser.error(str(error))
    recorded = "recorded" in path.resolve().parts
    for written in render(figure, FIGURES[figure].cells, found, recorded, out):
        print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
