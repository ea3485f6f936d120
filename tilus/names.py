"""What the things of a program may be called: their names become names in C.

A name is a word of Latin letters, digits and _ that no language of a program's forms keeps for
itself and no generated text uses for its own.
"""

import re
from functools import cache
from keyword import kwlist

from tilus.dtypes import ALL
from tilus.errors import TilusError
from tilus.ir import GRID, Program
from tilus.limits import NAME, require
from tilus.runtime import prelude

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# what instructions call their own
LOCAL = re.compile(
    r"thread|shared|lane|warp|piece|first|there|shown|parts|b|(i|from|to|part|map)\d+"
)
C_WORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const "
    "constexpr const_cast continue decltype default delete do double dynamic_cast else enum "
    "explicit export extern false float for friend goto if inline int long mutable namespace new "
    "noexcept not not_eq nullptr operator or or_eq private protected public register "
    "reinterpret_cast requires restrict return short signed sizeof static static_assert "
    "static_cast struct switch template this thread_local throw true try typedef typeid "
    "typename typeof union unsigned using virtual void volatile wchar_t while xor xor_eq NULL "
    "blockDim blockIdx gridDim threadIdx warpSize Descriptor main printf assert errno stdin stdout "
    "stderr "
)
TAKEN = frozenset(C_WORDS.split()) | {t.name for t in ALL} | set(GRID)


@cache
def prelude_words() -> frozenset[str]:
    """What the preludes define or call: functions, macros, types, constants.

    (A variable of theirs may be hidden: generated text reads none.)
    """
    text = prelude.text_of(prelude.CUDA) + prelude.text_of(prelude.HOST)
    called = re.findall(r"\b([A-Za-z_]\w*)[(<]", text)
    defined = re.findall(r"\b(?:define|struct|using|typename) +([A-Za-z_]\w*)", text)
    constants = re.findall(r"\b([A-Z][A-Z0-9_]+)\b", text)
    return frozenset(called + defined + constants)


def check_word(name: str, what: str) -> None:
    """`name` is a word that text and C can hold; `what` says whose name it is."""
    require(NAME, len(name), f"the name of {what}")
    if not WORD.fullmatch(name) or name in kwlist:
        raise TilusError(f"{what} cannot be called {name!r}: take a word of a-z, A-Z, 0-9 and _")


def check_name(name: str, what: str) -> None:
    """`name` is a word that generated text has no other use for."""
    check_word(name, what)
    taken = name in TAKEN or name in prelude_words() or LOCAL.fullmatch(name)
    if taken or "__" in name or name.startswith("tilus_"):
        raise TilusError(f"{what} cannot be called {name!r}: generated text uses it: take another")


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
