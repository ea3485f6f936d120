"""How a quantised weight [K, N] is stored: one format for each dtype, whatever the schedule.

The weight is cut into tiles of 64 x 16, padded with code 0 at the edges. A warp takes a tile: lane
l holds 32 elements, those that the B fragments of mma.m16n8k16 want of it, as n words of 32 bits
for n-bit elements. Tiles lie row by row; in a tile, vectors of `vector_words(n)` words lie lane
after lane, so that a warp reads each with one coalesced access. In a lane's words element p
occupies bits n * p .. n * p + n - 1; which (k, n) that is says `tile_layout`, chosen so that
elements which a fast cast makes together are neighbours along k, as the tensor core wants them.
"""

from typing import Any

import numpy as np

from tilus.casts import fast_cast, stride
from tilus.dtypes import DType, f16
from tilus.errors import TilusError
from tilus.layout import Layout, layout, local, permute_registers, spatial

TILE_K, TILE_N, LANES = 64, 16, 32
ELEMENTS = TILE_K * TILE_N // LANES  # that one lane holds of a tile


def fragment_layout() -> Layout:
    """The tile in float16, as mma takes it: neighbours along k in one register word."""
    # lane 4g + t holds k = 2t, 2t + 1, 2t + 8, 2t + 9 and n = g of each 16 x 8 fragment
    return layout(
        (TILE_K, TILE_N),
        threads=((8, 1, 1), (4, 0, 2)),
        registers=((2, 1, 8), (4, 0, 16), (2, 0, 8), (2, 0, 1)),
    )


def tile_layout(dtype: DType) -> Layout:
    """The tile as it is stored: a fast cast of it comes out in `fragment_layout`."""
    d = stride(dtype.bits)
    return permute_registers(fragment_layout(), (ELEMENTS // (2 * d), d, 2), (0, 2, 1))


def lifts(dtype: DType) -> bool:
    """Whether a tile can be lifted to float16."""
    row = fast_cast(dtype, f16, ELEMENTS)
    return row is not None and bool(row.lift)


def vector_words(dtype: DType) -> int:
    """How many neighbouring words a lane reads at once: the largest power of two in bits, at most
    4."""
    return min(4, dtype.bits & -dtype.bits)


def words_layout(dtype: DType) -> Layout:
    """The words of a tile in memory order, over the lanes: [1, 32 n]."""
    vector = vector_words(dtype)
    return local(1, dtype.bits // vector) * spatial(1, LANES) * local(1, vector)


def tile_words(dtype: DType) -> int:
    """How many 32-bit words a tile takes."""
    return LANES * dtype.bits


def pack(codes: Any, dtype: DType) -> Any:
    """Codes [K, N] (uint8, NumPy or torch) as int32 words [ceil(K/64), ceil(N/16) * 32 n].

    Runs on the device of `codes`.
    """
    k, n = codes.shape
    rows, columns = -(-k // TILE_K), -(-n // TILE_N)
    tiles = _padded(codes, rows * TILE_K, columns * TILE_N)
    tiles = tiles.reshape(rows, TILE_K, columns, TILE_N).swapaxes(1, 2)
    flat = tiles.reshape(rows, columns, TILE_K * TILE_N)
    held = flat[:, :, _indices(codes, _held_by_lanes(dtype))]
    words = _joined(held.reshape(rows, columns, LANES, ELEMENTS), dtype.bits)
    words = words.reshape(rows, columns, LANES * dtype.bits)
    ordered = words[:, :, _indices(codes, _memory_order(dtype))]
    return ordered.reshape(rows, columns * tile_words(dtype))


def unpack(words: Any, dtype: DType, k: int, n: int) -> np.ndarray:
    """The codes [k, n] of `words` (NumPy): unpack(pack(codes), k, n) == codes."""
    rows, columns = -(-k // TILE_K), -(-n // TILE_N)
    if words.shape != (rows, columns * tile_words(dtype)):
        raise TilusError(
            f"unpack: a [{k}, {n}] weight of {dtype} takes words of shape"
            f" {(rows, columns * tile_words(dtype))}, not {words.shape}"
        )
    ordered = words.reshape(rows * columns, LANES * dtype.bits)
    held = np.empty_like(ordered)
    held[:, _memory_order(dtype)] = ordered
    bytes = np.ascontiguousarray(held).view(np.uint8)
    codes = dtype.unpack(bytes.ravel(), rows * columns * LANES * ELEMENTS)
    flat = np.empty((rows * columns, TILE_K * TILE_N), np.uint8)
    flat[:, _held_by_lanes(dtype)] = codes.reshape(rows * columns, -1)
    tiles = flat.reshape(rows, columns, TILE_K, TILE_N).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(rows * TILE_K, columns * TILE_N)[:k, :n])


def _held_by_lanes(dtype: DType) -> np.ndarray:
    """Where in a row-major tile the elements of each lane lie, lane by lane."""
    lane, place = np.arange(LANES)[:, None], np.arange(ELEMENTS)[None, :]
    k, n = tile_layout(dtype)(lane, place)
    flat: np.ndarray = (k * TILE_N + n).ravel()
    return flat


def _memory_order(dtype: DType) -> np.ndarray:
    """For each word in memory: which word it is of the lanes' words, lane by lane."""
    words = words_layout(dtype)
    lane, place = np.arange(LANES)[:, None], np.arange(dtype.bits)[None, :]
    order = np.empty(tile_words(dtype), np.int64)
    order[words(lane, place)[1]] = lane * dtype.bits + place
    return order


def _indices(like: Any, indices: np.ndarray) -> Any:
    """`indices` where `like` lives."""
    if isinstance(like, np.ndarray):
        return indices
    return like.new_tensor(indices, dtype=like.new_empty(0).long().dtype)


def _padded(codes: Any, rows: int, columns: int) -> Any:
    """`codes` with code 0 below and to the right."""
    k, n = codes.shape
    if (k, n) == (rows, columns):
        return codes
    whole = np.zeros((rows, columns), codes.dtype) if isinstance(codes, np.ndarray) else None
    padded = codes.new_zeros((rows, columns)) if whole is None else whole
    padded[:k, :n] = codes
    return padded


def _joined(held: Any, bits: int) -> Any:
    """Codes [..., 32] as words [..., bits]: element p in bits n*p .. n*p + n-1, int32."""
    words = []
    for w in range(bits):
        word = 0
        for p in range(32 * w // bits, -(-32 * (w + 1) // bits)):
            moved = bits * p - 32 * w  # where the element begins, seen from this word
            element = _wide(held[..., p])
            word = word | (element << moved if moved >= 0 else element >> -moved)
        words.append(_low_word(word))
    return np.stack(words, -1) if isinstance(held, np.ndarray) else _torch_stack(words)


def _wide(codes: Any) -> Any:
    return codes.astype(np.int64) if isinstance(codes, np.ndarray) else codes.long()


def _low_word(word: Any) -> Any:
    """The low 32 bits, as int32."""
    if isinstance(word, np.ndarray):
        return (word & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    low = word & 0xFFFFFFFF
    return (low - ((low >> 31) << 32)).int()


def _torch_stack(words: list[Any]) -> Any:
    whole = words[0].new_empty((*words[0].shape, len(words)))
    for w, word in enumerate(words):
        whole[..., w] = word
    return whole
