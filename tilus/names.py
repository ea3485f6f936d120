"""What the things of a program may be called.

A name is a word of Latin letters, digits and _ that the text form of a program does not use itself.
In generated text each gets an underscore at its end (`tilus.codegen.c_name`), which no other word
there has, so it meets none of C's or of the prelude's.
"""

import re
from keyword import kwlist

from tilus.dtypes import ALL
from tilus.errors import TilusError
from tilus.ir import GRID, Program
from tilus.limits import NAME, require

WORD = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)  # C keeps what begins with __
TAKEN = {t.name for t in ALL} | set(GRID)


def check_word(name: str, what: str) -> None:
    """`name` is a word; `what` says whose name it is."""
    require(NAME, len(name), f"the name of {what}")
    if not WORD.fullmatch(name) or name in kwlist:
        raise TilusError(f"{what} cannot be called {name!r}: take a word of a-z, A-Z, 0-9 and _")


def check_name(name: str, what: str) -> None:
    """`name` is a word without another meaning in the text of a program."""
    check_word(name, what)
    if name in TAKEN:
        raise TilusError(
            f"{what} cannot be called {name!r}: that has a meaning in every program: take another"
        )


def check_names(program: Program) -> None:
    """The program and its parameters have names of their own.

    A parameter's name does not end in a digit, as those do that the tracer gives.
    """
    check_word(program.name, "a program")
    for p in program.parameters:
        check_name(p.name, f"{program.name}: a parameter")
        if p.name[-1].isdigit():
            raise TilusError(
                f"{program.name}: a parameter cannot be called {p.name!r}: it ends in a digit, as"
                " the names of tensors and variables do"
            )
