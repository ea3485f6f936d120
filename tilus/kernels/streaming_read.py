"""A plain streaming read: how long the memory takes for so many bytes and nothing else.

Every thread reads 16 bytes at a time, several reads under way, and folds what it gets with xor, so
that no read can be left out; one word in `turn` of them is written.
"""

from dataclasses import dataclass

from tilus.dtypes import u32
from tilus.ir import Integer, Pointer, Program, Var, ceil_div
from tilus.lang import Tracer, trace
from tilus.layout import local, spatial

THREADS, READS = 256, 8  # threads a block, reads under way a thread
WORDS = THREADS * 4  # that a block takes with one read of each thread
TILE = spatial(THREADS) * local(4)
BLOCKS_PER_SM = 4


@dataclass(frozen=True)
class Launch:
    """A launch over so many bytes."""

    grid: tuple[int, int, int]
    words: int
    output_bytes: int


def program() -> Program:
    """Arguments: x, out (a tile of WORDS for each block), words, blocks."""
    return trace(
        "streaming_read",
        write,
        [Pointer("x", u32), Pointer("out", u32), Integer("words", 4), Integer("blocks")],
        grid=lambda x, out, words, blocks: (blocks, 1, 1),
        threads=THREADS,
    )


def write(t: Tracer, x: Var, out: Var, words: Var, blocks: Var) -> None:
    """Blocks take turns, so that together they read one stretch of memory after another."""
    source = t.view_global(x, u32, (words,), (1,))
    target = t.view_global(out, u32, (blocks, WORDS), (WORDS, 1))
    sums = t.allocate_register(u32, TILE)
    turn = t.let(blocks * (READS * WORDS))
    for u in t.range(0, ceil_div(words, turn)):
        start = t.let(u * turn + t.blocks[0] * (READS * WORDS))
        tiles = [t.load_global(source, (start + r * WORDS,), TILE) for r in range(READS)]
        for tile in tiles:
            t.assign(sums, t.xor(sums, tile))
    t.store_global(target, sums, (t.blocks[0], 0), check=())


def launch(bytes: int, multiprocessors: int) -> Launch:
    """How to read `bytes` bytes, which 16 divides."""
    blocks = multiprocessors * BLOCKS_PER_SM
    blocks = min(blocks, max(1, bytes // (4 * READS * WORDS)))
    return Launch((blocks, 1, 1), bytes // 4, blocks * WORDS * 4)
