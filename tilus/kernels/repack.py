"""Codes of a weight to its stored words, and back, on the device: `weights.pack` and `unpack`.

A warp takes a tile of 64 x 16. It reads the codes as the stored format deals them to its lanes, a
byte each; cast to n bits they are the lane's words, which it writes in the order of memory.
"""

from tilus.dtypes import DType, dtype, u8, u32, uint
from tilus.ir import Global, Integer, Pointer, Program, Scalar, Var, ceil_div
from tilus.kernels import weights
from tilus.kernels.weights import TILE_K, TILE_N
from tilus.lang import Tracer, trace

Place = tuple[Scalar, Scalar]


def program(b_dtype: str | DType, back: bool = False) -> Program:
    """Arguments: codes [k, n] (bytes), words [ceil(k / 64), ceil(n / 16) * 32 n], k, n."""
    of = dtype(b_dtype)
    move, name = (unpack, f"unpack_{of.short}") if back else (pack, f"pack_{of.short}")

    def kernel(t: Tracer, codes: Var, words: Var, k: Var, n: Var) -> None:
        (column, row, _), width = t.blocks, weights.tile_words(of)
        columns = ceil_div(n, TILE_N) * width
        move(
            t,
            of,
            t.view_global(codes, u8, (k, n), (n, 1)),
            (row * TILE_K, column * TILE_N),
            t.view_global(words, u32, (ceil_div(k, TILE_K), columns), (columns, 1)),
            (row, column * width),
        )

    return trace(
        name,
        kernel,
        [Pointer("codes", u8), Pointer("words", u32), Integer("k"), Integer("n")],
        grid=lambda codes, words, k, n: (ceil_div(n, TILE_N), ceil_div(k, TILE_K), 1),
        threads=weights.LANES,
    )


def pack(t: Tracer, of: DType, codes: Global, tile: Place, words: Global, place: Place) -> None:
    """The words of the tile of `codes` at `tile`; codes beyond the edge are 0."""
    held = t.load_global(codes, tile, weights.tile_layout(of))
    joined = t.view(t.cast(held, uint(of.bits)), u32, weights.words_layout(of))
    t.store_global(words, joined, place, check=())


def unpack(t: Tracer, of: DType, codes: Global, tile: Place, words: Global, place: Place) -> None:
    """The codes that the words at `place` hold."""
    joined = t.load_global(words, place, weights.words_layout(of), check=())
    held = t.view(joined, uint(of.bits), weights.tile_layout(of))
    t.store_global(codes, t.cast(held, u8), tile)
