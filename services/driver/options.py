"""The command line, with the standard library alone: it answers before anything is installed."""

import argparse
import sys
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from services.figures import BENCH, CHOICE, TUNE, refusal

READY = Path(__file__).resolve().parents[2] / ".venv" / "ready.json"
MODES = ("auto", "compose", "local", "recorded")
GUIDE = """\
Draw the figures of the evaluation, or run the tests.

  bash run.sh                      every figure that can be drawn here
  bash run.sh --figure 9           one figure: measured on a GPU, from shipped records without one
  bash run.sh page                 a fleet on this machine, and a page that shows it
  bash run.sh test [pytest args]   the tests, two abreast (-n 0: one after another)
  bash run.sh bench                a table of us and the peers on one GPU: bench -h, docs/bench.md
  bash run.sh tune                 search the fastest schedules of our kernels: docs/tuning.md
  bash run.sh peers                install the peers that the benchmark compares with
  bash run.sh wheels DIR           fill DIR with wheels for a machine without a network
                                   (--measure: without the tests'; --peers: with the peers')

Figures and their data go to results/, compiled kernels to cache/, logs to .state/logs/.
What is finished is never repeated: a run that was killed goes on where it was.
"""
BENCH_GUIDE = """\
Measure us and the peers on one GPU, as the figures are measured, and print a table.

Without flags: the shapes, the m and the types of docs/bench.md. Records go to
results/<gpu>/bench.jsonl; what is there is not measured again, unless with --fresh. Without a
GPU the table is that of the records that came with the project.
"""
TUNE_GUIDE = """\
Search the fastest schedule of our kernel for each type, shape and m, by measuring on one GPU.

Without flags: the shapes, the m and the types of docs/bench.md. Records go to
results/<gpu>/tuned.jsonl, and what won to tilus/tuned/<gpu>.jsonl, where it is looked up. What is
tuned is not tuned again, unless with --fresh.
"""
EXITS = """\
exit codes: 0 all is well, 1 some points failed or are wrong, 2 the request makes no sense,
3 this machine lacks something
"""

Mode = Literal["auto", "compose", "local", "recorded"]


class Options(NamedTuple):
    """A request as it was typed; that of the benchmark is of figure 0, of the tuner of -1."""

    figure: int | None
    mode: Mode
    device: str | None
    executors: tuple[str, ...] | None
    dtypes: tuple[str, ...] | None
    group_size: int | None
    fresh: bool
    no_cache: bool
    json: bool
    open: bool
    reference: Path | None
    wheels: Path | None
    shapes: tuple[tuple[int, int], ...] | None = None
    batches: tuple[int, ...] | None = None
    limit: int | None = None


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with a sentence."""

    def error(self, message: str) -> NoReturn:
        """Leave with code 2, saying what is wrong and where the right flags are listed."""
        self.exit(2, f"{self.prog}: {message}: see bash run.sh -h\n")


def parser() -> Parser:
    """The flags of `run.sh`."""
    made = Parser(
        prog="run.sh",
        description=GUIDE,
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--figure", type=int, metavar="N", help=f"the figure to make: {CHOICE}")
    _add_common(made)
    add("--reference", type=Path, metavar="FILE.csv", help="other numbers to draw beside these")
    add("--open", action="store_true", help="open the figure at the end")
    return made


def bench_parser() -> Parser:
    """The flags of `run.sh bench`."""
    return _table_parser("bench", BENCH_GUIDE, BENCH)


def tune_parser() -> Parser:
    """The flags of `run.sh tune`."""
    made = _table_parser("tune", TUNE_GUIDE, TUNE)
    made.add_argument(
        "--limit", type=_number, metavar="N", help="schedules to try for each, the likeliest first"
    )
    return made


def _table_parser(verb: str, guide: str, figure: int) -> Parser:
    made = Parser(
        prog=f"run.sh {verb}",
        description=guide,
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(figure=figure, reference=None, open=False)
    made.add_argument("--shapes", type=_shapes, metavar="KxN,..", help="the weights are [K, N]")
    made.add_argument("--m", type=_numbers, metavar="1,16", dest="batches", help="rows of a")
    _add_common(made)
    return made


def _add_common(made: Parser) -> None:
    add = made.add_argument
    add("--no-cache", action="store_true", help="forget the compiled kernels first")
    add("--mode", choices=MODES, default="auto", help="auto: local with a GPU, else recorded")
    add("--device", metavar="cuda:0", help="the GPU to measure on")
    add("--executors", type=_names, metavar="A,B", help="only these, and the baseline")
    add("--dtypes", type=_names, metavar="u4,f6e3m2", help="only these weight types")
    add("--group-size", type=int, metavar="G", help="weights per scale along k; -1: all of them")
    add("--fresh", action="store_true", help="measure again what was measured")
    add("--json", action="store_true", help="the summary as JSON on standard output")
    add("--wheels", type=Path, metavar="DIR", help="install from this folder, not from a network")


def parse(arguments: list[str]) -> Options:
    """The options; exits with code 2 and a sentence where they make no sense."""
    parsers = {"bench": bench_parser, "tune": tune_parser}
    table = parsers.get(arguments[0]) if arguments else None
    made = parser() if table is None else table()
    given = Options(**vars(made.parse_args(arguments if table is None else arguments[1:])))
    why = None if table is not None or given.figure is None else refusal(given.figure)
    if why is not None:
        made.error(why)
    if given.reference is not None and given.figure is None:
        made.error("--reference is the numbers of one figure: say which with --figure")
    if given.reference is not None and not given.reference.is_file():
        made.error(f"there is no file {given.reference} with numbers to draw beside ours")
    if given.wheels is not None and not given.wheels.is_dir():
        made.error(f"there is no folder {given.wheels} with wheels")
    return given


def main(arguments: list[str]) -> None:
    """Say what is wrong with the command line, or print the guide; nothing else."""
    if not READY.exists() and {"-h", "--help"} & set(arguments):
        print(
            f"Not set up yet: the first figure or test makes {READY.parent}, which takes minutes.\n"
        )
    parse(arguments)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise argparse.ArgumentTypeError("give one name or several with commas between")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_number(part) for part in _names(text))


def _shapes(text: str) -> tuple[tuple[int, int], ...]:
    pairs = [part.lower().split("x") for part in _names(text)]
    if any(len(pair) != 2 for pair in pairs):
        raise argparse.ArgumentTypeError(f"give shapes such as 8192x57344, not {text!r}")
    return tuple((_number(k), _number(n)) for k, n in pairs)


def _number(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"give numbers of at least 1, not {text!r}")
    return int(text)


if __name__ == "__main__":
    main(sys.argv[1:])
