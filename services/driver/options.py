"""The command line, with the standard library alone: it answers before anything is installed."""

import argparse
import sys
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from services.figures import CHOICE, refusal

READY = Path(__file__).resolve().parents[2] / ".venv" / "ready.json"
MODES = ("auto", "compose", "local", "recorded")
GUIDE = """\
Draw the figures of the evaluation, or run the tests.

  bash run.sh                      every figure that can be drawn here
  bash run.sh --figure 9           one figure: measured on a GPU, from shipped records without one
  bash run.sh test [pytest args]   the tests
  bash run.sh wheels DIR           fill DIR with wheels for a machine without a network

Figures and their data go to results/, compiled kernels to cache/, logs to .state/logs/.
What is finished is never repeated: a run that was killed goes on where it was.
"""
EXITS = """\
exit codes: 0 all is well, 1 some points failed or are wrong, 2 the request makes no sense,
3 this machine lacks something
"""

Mode = Literal["auto", "compose", "local", "recorded"]


class Options(NamedTuple):
    """A figure's request as it was typed."""

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
    add("--no-cache", action="store_true", help="forget the compiled kernels first")
    add("--mode", choices=MODES, default="auto", help="auto: local with a GPU, else recorded")
    add("--device", metavar="cuda:0", help="the GPU to measure on")
    add("--executors", type=_names, metavar="A,B", help="only these, and the baseline")
    add("--dtypes", type=_names, metavar="u4,f6e3m2", help="only these weight types")
    add("--group-size", type=int, metavar="G", help="weights per scale along k; -1: all of them")
    add("--fresh", action="store_true", help="measure again what was measured")
    add("--reference", type=Path, metavar="FILE.csv", help="other numbers to draw beside these")
    add("--json", action="store_true", help="the summary as JSON on standard output")
    add("--open", action="store_true", help="open the figure at the end")
    add("--wheels", type=Path, metavar="DIR", help="install from this folder, not from a network")
    return made


def parse(arguments: list[str]) -> Options:
    """The options; exits with code 2 and a sentence where they make no sense."""
    made = parser()
    given = Options(**vars(made.parse_args(arguments)))
    why = None if given.figure is None else refusal(given.figure)
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


if __name__ == "__main__":
    main(sys.argv[1:])
