"""A kernel whose every bit is known: whether a GPU still reads, computes and writes as it should.

Each thread reads 4 words, mixes the bits of each ROUNDS times, and writes them. No round loses a
bit, so that one wrong bit anywhere is about half of the bits at the end.
"""

import numpy as np

from tilus.dtypes import u32
from tilus.ir import Integer, Pointer, Program, Var
from tilus.lang import Tracer, trace
from tilus.layout import local, spatial

THREADS, ROUNDS = 256, 256
WORDS = THREADS * 4  # that a block takes
TILE = spatial(THREADS) * local(4)
# an odd factor and a shift: each of both steps can be undone, so none loses a bit
FACTOR, ADDEND, SHIFT = 1664525, 1013904223, 15
BLOCKS_PER_SM = 8


def program() -> Program:
    """Arguments: x, out (a tile of WORDS for each block), blocks."""
    return trace(
        "canary",
        write,
        [Pointer("x", u32), Pointer("out", u32), Integer("blocks")],
        grid=lambda x, out, blocks: (blocks, 1, 1),
        threads=THREADS,
    )


def write(t: Tracer, x: Var, out: Var, blocks: Var) -> None:
    """One tile a block; the rounds depend on each other."""
    source, target = (t.view_global(one, u32, (blocks, WORDS), (WORDS, 1)) for one in (x, out))
    factor, addend, shift = (t.allocate_register(u32, TILE, n) for n in (FACTOR, ADDEND, SHIFT))
    words = t.allocate_register(u32, TILE)
    t.assign(words, t.load_global(source, (t.blocks[0], 0), TILE))
    for _ in t.range(0, ROUNDS):
        mixed = t.add(t.mul(words, factor), addend)
        t.assign(words, t.xor(mixed, t.shift_right(mixed, shift)))
    t.store_global(target, words, (t.blocks[0], 0), check=())


def expected(words: np.ndarray) -> np.ndarray:
    """What the kernel makes of these words, in the arithmetic of NumPy."""
    mixed = words.astype(np.uint32)
    for _ in range(ROUNDS):
        mixed = mixed * np.uint32(FACTOR) + np.uint32(ADDEND)
        mixed ^= mixed >> np.uint32(SHIFT)
    return mixed


def blocks(multiprocessors: int) -> int:
    """So many that every multiprocessor is full."""
    return multiprocessors * BLOCKS_PER_SM
