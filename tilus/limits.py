"""How large a program may be: one table, with the reasons.

A program may come from a stranger. Whatever is within these limits is read, generated and compiled
in bounded time and memory; what is beyond them is refused before any of that starts.
"""

from typing import NamedTuple

from tilus.errors import TilusError


class Limit(NamedTuple):
    most: int
    what: str  # is counted
    why: str  # there is a limit, and what to do


DOCUMENT = Limit(
    1 << 20,
    "characters of a program's text",
    "reading takes time: write loops instead of repeating statements",
)
NODES = Limit(1 << 19, "values in a document", "reading takes time")
NESTING = Limit(
    48,
    "levels of statements, or of values, inside each other",
    "they are walked recursively: name inner values with a scalar of their own",
)
STATEMENTS = Limit(1 << 11, "statements", "each takes time to check: write loops")
NAME = Limit(64, "characters in a name", "compilers cut longer ones: take a shorter one")
STRING = Limit(256, "characters of a string", "it stands in generated text: say less")
INTEGER = Limit((1 << 32) - 1, "as a number", "scalars have 32 bits")
SMALLEST = -(1 << 31)  # number that is written in a program
RANK = Limit(8, "dimensions", "each access computes all of them: join some")
THREADS = Limit(1024, "threads in a block", "the hardware has no larger ones (CUDA guide, 16.2)")
BLOCKS_PER_SM = Limit(32, "blocks on a multiprocessor", "the hardware has no room for more")
REGISTERS = Limit(
    1024,
    "elements of a tile in one thread",
    "a thread has 255 registers of 32 bits: use more threads or smaller tiles",
)
ELEMENTS = Limit(
    1 << 18,
    "elements of a tile, copies included",
    "a register file holds 2^16 words: use smaller tiles",
)
SHARED = Limit(227 << 10, "bytes of shared memory", "no GPU gives a block more (sm_90, sm_100)")
UNROLL = Limit(1 << 10, "turns of a loop unrolled", "each is a copy of the body: unroll by less")
GENERATED = Limit(
    1 << 20,
    "characters of generated text, loops unrolled",
    "a compiler needs minutes for it: write loops, or smaller tiles",
)
GRID = Limit((1 << 31) - 1, "blocks along x", "the hardware counts no further: take more each")
GRID_YZ = Limit(65535, "blocks along y or z", "the hardware counts no further: use x")
MODES = Limit(64, "digits of a layout", "a tile has fewer elements than that many digits reach")
SWIZZLE = Limit(24, "as a place of a bit in an offset", "shared memory ends before")


def require(limit: Limit, asked: int, name: str) -> None:
    """`asked` is within `limit`; `name` says where it was asked for."""
    if asked > limit.most:
        raise TilusError(
            f"{name}: {spelled(asked)} {limit.what}: at most {limit.most}, because {limit.why}"
        )


def check_grid(name: str, extents: tuple[int, int, int]) -> None:
    """A launch can have so many blocks."""
    for extent, limit in zip(extents, (GRID, GRID_YZ, GRID_YZ), strict=True):
        require(limit, extent, name)
        if extent < 0:
            raise TilusError(f"{name}: a grid of {extents} blocks: want no negative number")


def spelled(number: int) -> str:
    """A number that a message can hold."""
    return str(number) if number.bit_length() <= 64 else f"2^{number.bit_length() - 1} and more"
