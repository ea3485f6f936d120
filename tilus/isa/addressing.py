"""How a tile in registers meets a tensor in memory: which addresses, how wide, under which mask.

A thread's registers fall into groups of `width` elements that are neighbours in memory; each group
is one access. The index of a group is a part that depends on the thread, computed once, plus a
constant.
"""

from math import gcd, prod

import numpy as np

from tilus.dtypes import DType
from tilus.errors import TilusError
from tilus.ir import Global, Scalar, Shared, divisor
from tilus.isa.base import Local, Memory, Tile, Writer
from tilus.layout import Layout, contiguous, local, replicate, spatial

THREAD = Local("thread")
WIDEST = 16  # bytes in one access
Place = Global | Shared


def require_whole_bytes(name: str, tensor: Place) -> None:
    """What moves bytes does not move less."""
    if tensor.dtype.bits % 8:
        raise TilusError(
            f"{name}: {tensor.dtype} has no byte address: move its bytes as uint8 or uint32"
            f" and view them as {tensor.dtype} in registers"
        )


def require_rank(name: str, tensor: Place, at: tuple[Scalar, ...], shape: tuple[int, ...]) -> None:
    """A tile has a corner in the tensor; one of fewer dimensions lies in the tensor's last ones."""
    if not len(tensor.shape) == len(at) >= len(shape):
        raise TilusError(
            f"{name}: {tensor.name} has {len(tensor.shape)} dimensions, the corner at={at} has"
            f" {len(at)} and the tile {shape} has {len(shape)}: want one index a dimension, and no"
            " more dimensions in the tile"
        )


def require_inside(
    name: str, tensor: Shared, at: tuple[Scalar, ...], shape: tuple[int, ...]
) -> None:
    """The tile lies in the tensor, as far as its corner is known."""
    whole = (1,) * (len(at) - len(shape)) + shape
    for d, (corner, extent, most) in enumerate(zip(at, whole, tensor.shape, strict=True)):
        first = corner if isinstance(corner, int) else 0
        if first < 0 or extent < 1 or first + extent > most:
            raise TilusError(
                f"{name}: the tile {shape} at {at} leaves dimension {d} of {tensor.name}"
                f" {tensor.shape}: nothing checks accesses of shared memory"
            )


def alignment(tensor: Place, at: tuple[Scalar, ...], checked: frozenset[int], cu: Writer) -> int:
    """A number of elements that divides the offset of every row of the tile at `at`.

    Where the last dimension is checked it divides its extent too, so that an access as wide is
    inside or outside as a whole.
    """
    last = len(at) - 1
    of = divisor(at[last], cu.facts)
    match tensor:
        case Global(strides=strides, shape=shape):
            if strides[last] != 1:
                return 1
            of = gcd(of, *(divisor(s, cu.facts) for s in strides[:last]))
            return gcd(of, divisor(shape[last], cu.facts)) if last in checked else of
        case Shared(shape=shape, swizzle=swizzle):
            of = gcd(of, shape[last]) if last else of
            return gcd(of, 1 << swizzle.target) if swizzle.bits else of


def width(layout: Layout, tensor: Place, of: int) -> int:
    """How many elements move together: neighbours, aligned; from 8 bits up at most 16 bytes."""
    most = WIDEST * 8 // (tensor.dtype.bits if tensor.dtype.bits >= 8 else 1)
    return gcd(contiguous(layout, layout.rank - 1), of, most)


def offset_of(tensor: Place, index: tuple[Scalar, ...], cu: Writer) -> str:
    """The element offset of `index`, in C; 64 bits wide in global memory."""
    match tensor:
        case Global(strides=strides):
            terms = [
                cu.expr(i) if s == 1 else f"(int64_t){cu.expr(i)} * {cu.expr(s)}"
                for i, s in zip(index, strides, strict=True)
                if i != 0
            ]
            return " + ".join(terms) or "0"
        case Shared(shape=shape, swizzle=swizzle):
            offset: Scalar = 0
            for i, n in zip(index, shape, strict=True):
                offset = offset * n + i
            return cu.expr(swizzle(offset) if swizzle.bits else offset)


def address(tensor: Place, index: tuple[Scalar, ...], cu: Writer) -> str:
    """A byte pointer to the element at `index`, or to the byte in which it begins."""
    if tensor.dtype.bits < 8:
        return f"{cu.base(tensor)} + {bit_offset(tensor, index, cu)} / 8"
    return f"{cu.base(tensor)} + ({offset_of(tensor, index, cu)}) * {tensor.dtype.bits // 8}"


def bit_offset(tensor: Place, index: tuple[Scalar, ...], cu: Writer) -> str:
    """Where the element at `index` begins: element k of n bits at bit n * k."""
    return f"(int64_t)({offset_of(tensor, index, cu)}) * {tensor.dtype.bits}"


def aligned(offset: int, bytes: int) -> int:
    """The first place from `offset` on where so many bytes of shared memory may start.

    1024 is what swizzled accesses ask for, 128 what the copy engine does, where less would do.
    """
    to = 1024 if bytes >= 1024 else 128
    return -(-offset // to) * to


def bytes_of(tensor: Shared) -> int:
    """How many bytes hold the tensor."""
    return -(-prod(tensor.shape) * tensor.dtype.bits // 8)


def mask_of(tensor: Place, index: tuple[Scalar, ...], checked: frozenset[int], cu: Writer) -> str:
    """A C condition: `index` is inside `tensor`, as far as dimensions are checked."""
    tests = [f"{cu.expr(index[d])} < {cu.expr(tensor.shape[d])}" for d in sorted(checked)]
    return " && ".join(tests) or "true"


def corner(cu: Writer, name: str, layout: Layout, at: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    """Variables with the index of the thread's register 0 of the tile at `at`."""
    parts = (0,) * (len(at) - layout.rank) + layout.thread_part(THREAD)
    for d, (a, part) in enumerate(zip(at, parts, strict=True)):
        cu.line(f"const unsigned {name}{d} = {cu.expr(a + part)};")
    return tuple(Local(f"{name}{d}") for d in range(len(at)))


def beside(corner: tuple[Scalar, ...], layout: Layout, register: int) -> tuple[Scalar, ...]:
    """The index of `register` where `corner` is that of register 0."""
    parts = (0,) * (len(corner) - layout.rank) + layout.register_part(register)
    return tuple(c + part for c, part in zip(corner, parts, strict=True))


def threads_below(layout: Layout, cu: Writer) -> str:
    """An `if` that keeps out the threads that the layout has no use for."""
    if layout.threads > cu.threads:
        raise TilusError(
            f"the layout {layout} spreads over {layout.threads} threads, but the block has"
            f" {cu.threads}"
        )
    return "" if layout.threads == cu.threads else f"if (thread < {layout.threads})"


def tile_indices(
    memory: Memory, shape: tuple[int, ...], at: tuple[Scalar, ...], checked: frozenset[int]
) -> tuple[Tile, ...]:
    """The index in `memory` of every element of the tile at `at`, for `run`.

    A dimension that is not checked is one that the kernel says it stays inside of.
    """
    corner = [int(a) for a in at]  # type: ignore[arg-type]  # expressions have values by now
    lead = len(at) - len(shape)
    whole = (1,) * lead + shape
    parts = [np.zeros(shape, np.int64)] * lead + list(np.indices(shape))
    index = tuple(a + i for a, i in zip(corner, parts, strict=True))
    for d in set(range(len(at))) - checked:
        if corner[d] < 0 or corner[d] + whole[d] > memory.shape[d]:
            raise TilusError(
                f"a tile of shape {shape} at {at} leaves dimension {d} of a tensor of shape"
                f" {memory.shape}, and the access does not check it: add {d} to check"
            )
    return index


def coalesced(shape: tuple[int, ...], threads: int, dtype: DType) -> Layout:
    """A layout over `threads` threads in which each access is as wide as may be, rows first.

    Threads for which there is no element hold copies of others.
    """
    widest = WIDEST * 8 // dtype.bits
    wide = max(w for w in range(1, widest + 1) if shape[-1] % w == 0 and widest % w == 0)
    spread = copy_layout(shape, threads, wide)
    return replicate(threads // spread.threads, len(shape)) * spread


def copy_layout(shape: tuple[int, ...], threads: int, width: int) -> Layout:
    """A layout of `shape` over at most `threads` threads, rows first, `width` neighbours a turn."""
    inner = (1,) * (len(shape) - 1) + (width,)
    extents = [n // w for n, w in zip(shape, inner, strict=True)]
    across = [1] * len(shape)
    for d in reversed(range(len(shape))):
        across[d] = gcd(extents[d], threads // prod(across))
    turns = [n // t for n, t in zip(extents, across, strict=True)]
    return local(*turns) * spatial(*across) * local(*inner)
