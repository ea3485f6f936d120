"""Look inside.

tilus inspect isa [NAME]               the manual, or one page of it
tilus inspect layout EXPRESSION        who holds what: 'spatial(8, 4) * local(1, 2)'
    --svg FILE                         the same as a picture
tilus inspect shared EXPRESSION        where what lies: 'row_major(16, 64) swizzle(3, 6, 3)'
    --dtype NAME --layout EXPRESSION   the bank conflicts of moving a tile held so
tilus inspect dtypes [--arch NAME]     every number format, and what its casts cost
tilus inspect format NAME              every code of a format: e3m2
tilus inspect kernel NAME [KEY=VALUE]  a kernel of the library, or `program()` of a Python file:
                                       program, text, resources
    --stage NAME --arch NAME           one of ir, cuda, ptx, sass, resources
tilus inspect env                      the environment variables

`python -m tilus.inspect` is the same.
"""

import os
import sys
from inspect import cleandoc
from pathlib import Path

from tilus import config
from tilus.errors import TilusError
from tilus.inspect.drawing import svg
from tilus.inspect.dtypes import aligned, describe_dtypes, describe_format
from tilus.inspect.expressions import layout_of
from tilus.inspect.isa import manual, page
from tilus.inspect.kernels import describe_kernel
from tilus.inspect.layouts import describe_layout, describe_shared
from tilus.target import DEFAULT

OPTIONS = {"--svg": "", "--dtype": "float16", "--layout": "", "--stage": "", "--arch": DEFAULT}
TAKES = {"layout": ("--svg",), "shared": ("--dtype", "--layout"), "dtypes": ("--arch",),
         "kernel": ("--stage", "--arch")}  # fmt: skip
WHAT = "isa, layout, shared, dtypes, format, kernel, env; --help says more"


def answer(arguments: list[str]) -> str:
    """What the command line asks for."""
    words, given = parsed(arguments)
    option = OPTIONS | given
    match words:
        case [("help" | "--help" | "-h")]:
            return cleandoc(__doc__ or "")
        case ["isa"]:
            return manual()
        case ["isa", name]:
            return page(name)
        case ["layout", expression] if option["--svg"]:
            return drawn(expression, Path(option["--svg"]))
        case ["layout", expression]:
            return describe_layout(expression)
        case ["shared", expression]:
            return describe_shared(expression, option["--dtype"], option["--layout"])
        case ["dtypes"]:
            return describe_dtypes(option["--arch"])
        case ["dtypes" | "format", name]:
            return describe_format(name)
        case ["kernel", name, *settings]:
            return describe_kernel(name, settings, option["--stage"], option["--arch"])
        case ["env"]:
            return describe_environment()
    raise TilusError(f"cannot show {' '.join(words) or 'nothing'}: there are {WHAT}")


def parsed(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words, and the options with their values; each kind of question has its own options."""
    words: list[str] = []
    given: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--") or argument == "--help":
            words.append(argument)
            continue
        name, equals, value = argument.partition("=")
        takes = TAKES.get(words[0], ()) if words else ()
        if name not in takes:
            known = ", ".join(takes) or "none"
            raise TilusError(f"no option {name} of {' '.join(words[:1])}: there are {known}")
        given[name] = value if equals else next(rest, "")
        if not given[name]:
            raise TilusError(f"{name} needs a value: {name}=...")
    return words, given


def drawn(expression: str, file: Path) -> str:
    """Draw a layout into a file."""
    picture = svg(layout_of(expression))
    try:
        file.write_text(picture)
    except OSError as wrong:
        raise TilusError(f"cannot write {file}: {wrong.strerror}") from wrong
    return f"{file}: {len(picture)} bytes"


def describe_environment() -> str:
    """Every variable, its value here, and what it means."""
    rows = [(v.name, config.VALUES[v.name] or "(empty)", v.meaning) for v in config.VARIABLES]
    return aligned([("variable", "value", "meaning"), *rows])


def main(arguments: list[str] | None = None) -> int:
    """Print the answer; 2 where the question makes no sense."""
    try:
        print(answer(sys.argv[1:] if arguments is None else arguments), flush=True)
    except BrokenPipeError:  # who reads has seen enough; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except TilusError as wrong:
        print(wrong, file=sys.stderr)
        return 2
    return 0


__all__ = ["answer", "layout_of", "main", "manual", "page"]
