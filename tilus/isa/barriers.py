"""Barriers in shared memory that count arrivals and bytes, and copies that report to them.

A barrier goes through phases 0, 1, 2, ... A phase ends when as many threads have arrived as it was
made for and all bytes that were announced in it have come; the next one then begins at once. To
wait for phase p is to wait until it has ended; only whether p is odd counts, so nobody may be two
phases behind. A barrier that is new lets those through who wait for phase -1, or 1.

PTX ISA 9.7.13.15, mbarrier; 9.7.9.25.4, cp.async.bulk.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import numpy as np

from tilus.dtypes import f16, u8, u64
from tilus.errors import TilusError
from tilus.ir import Expr, Global, Scalar, Shared, binary, divisor
from tilus.isa.access import Index
from tilus.isa.addressing import (
    WIDEST,
    address,
    require_rank,
    require_whole_bytes,
    tile_indices,
)
from tilus.isa.base import Block, Effect, Inst, Local, Memory, Tile, Writer, instruction
from tilus.isa.memory import require_same_dtype

HOPPER = ("sm_90",)
WARP = 32
MOST_ARRIVALS = (1 << 20) - 1
MOST_BYTES = (1 << 20) - 1
PLACES = Shared("s0", u64, (2,))
CACHE = {"": "NORMAL", "evict_first": "EVICT_FIRST", "evict_last": "EVICT_LAST"}


@dataclass
class Barrier:
    """One barrier, as `run` sees it. `arrivals` is 0 until it is made ready."""

    arrivals: int = 0
    pending: int = 0
    bytes: int = 0
    phase: int = 0
    copies: list[tuple[int, Callable[[], None]]] = field(default_factory=list)

    def arrive(self, arrivals: int, bytes: int = 0) -> None:
        """So many arrive and announce so many bytes."""
        if arrivals > self.pending:
            raise TilusError(
                f"{arrivals} arrive at a barrier that waits for {self.pending} more in this phase,"
                f" of {self.arrivals}: init_barriers says how many arrive, arrive counts warps"
            )
        self.pending -= arrivals
        self.count(bytes)

    def count(self, bytes: int) -> None:
        """So many bytes more are to come; the phase ends where nothing is."""
        self.bytes += bytes
        if not self.pending and not self.bytes:
            self.phase, self.pending = self.phase + 1, self.arrivals

    def ended(self, phase: int) -> bool:
        """Whether phase `phase` has ended. If not, the copies that report here happen now."""
        if self.arrivals and self.phase % 2 == phase % 2:
            copies, self.copies = self.copies, []
            for bytes, copy in copies:
                copy()
                self.count(-bytes)
        return self.arrivals > 0 and self.phase % 2 != phase % 2


def require_barriers(name: str, barriers: Shared) -> None:
    """Barriers are 64-bit words in a row."""
    if barriers.dtype != u64 or len(barriers.shape) != 1 or barriers.swizzle.bits:
        raise TilusError(
            f"{name}: {barriers.name} is {barriers.dtype} {barriers.shape}, not barriers: make them"
            " with allocate_barriers"
        )


def one_of(barriers: Memory, index: Scalar) -> Barrier:
    """The barrier at `index`, for `run`."""
    if not 0 <= int(index) < barriers.shape[0]:  # type: ignore[arg-type]
        raise TilusError(f"barrier {index} of {barriers.shape[0]}: count from 0")
    found: Barrier = barriers.read((np.array([index]),))[0]
    return found


def place_of(barriers: Shared, index: Scalar, cu: Writer) -> str:
    """A pointer to the barrier at `index`, in C."""
    return address(barriers, (index,), cu)


@instruction
class AllocateBarriers(Inst):
    """Set aside shared memory for `count` barriers; `init_barriers` makes them ready."""

    count: int
    needs = HOPPER

    def result(self) -> Shared:
        if self.count < 1:
            raise TilusError(f"allocate_barriers: {self.count} barriers: want at least one")
        return Shared("", u64, (self.count,))

    def run(self, block: Block) -> Tile:
        return np.array([Barrier() for _ in range(self.count)], object)

    def cuda(self, cu: Writer, out: Shared) -> None:
        cu.define(out, f"shared + {cu.reserve(8 * self.count)}")

    @classmethod
    def samples(cls) -> list[Inst]:
        return []  # every sample that touches barriers starts with one


@instruction
class InitBarriers(Inst):
    """Make all `barriers` ready, in phase 0, each phase for `arrivals` arrivals; synchronise.

    `arrive` is one arrival for each warp, `expect` is one.
    """

    barriers: Shared
    arrivals: int
    effect = Effect.WRITES | Effect.SYNC
    whole_block = True
    needs = HOPPER
    writes = ("barriers",)

    def result(self) -> None:
        require_barriers(self.name, self.barriers)
        if not 0 < self.arrivals <= MOST_ARRIVALS:
            raise TilusError(f"init_barriers: {self.arrivals} arrivals: want 1 to {MOST_ARRIVALS}")

    def run(self, block: Block, barriers: Memory) -> None:
        for i in range(barriers.shape[0]):
            barrier = one_of(barriers, i)
            barrier.arrivals = barrier.pending = self.arrivals

    def cuda(self, cu: Writer, out: None) -> None:
        count = self.barriers.shape[0]
        cu.line(f"init_barriers<{count}>({cu.base(self.barriers)}, {self.arrivals});")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(PLACES, 3)]


@instruction
class Arrive(Inst):
    """Every warp arrives once at a barrier, after all its threads have come here.

    Who waits for the phase sees what they wrote, and may overwrite what they read.
    """

    barriers: Shared
    index: Scalar
    effect = Effect.SYNC
    needs = HOPPER

    def result(self) -> None:
        require_barriers(self.name, self.barriers)

    def run(self, block: Block, barriers: Memory) -> None:
        one_of(barriers, self.index).arrive(-(-block.threads // WARP))

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line(f"arrive({place_of(self.barriers, self.index, cu)});")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(PLACES, 1)]


@instruction
class Expect(Inst):
    """One thread arrives at a barrier and announces that `bytes` bytes will come in this phase."""

    barriers: Shared
    index: Scalar
    bytes: int
    effect = Effect.SYNC
    needs = HOPPER

    def result(self) -> None:
        require_barriers(self.name, self.barriers)
        if not 0 <= self.bytes <= MOST_BYTES:
            raise TilusError(
                f"expect: {self.bytes} bytes: a barrier counts up to {MOST_BYTES} in a phase"
            )

    def run(self, block: Block, barriers: Memory) -> None:
        one_of(barriers, self.index).arrive(1, self.bytes)

    def cuda(self, cu: Writer, out: None) -> None:
        barrier = place_of(self.barriers, self.index, cu)
        cu.line(f"if (thread == 0) expect({barrier}, {self.bytes});")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(PLACES, 0, 0)]


@instruction
class WaitBarrier(Inst):
    """Wait until a barrier's phase has ended; of `phase` only whether it is odd counts.

    What others wrote before they arrived, and the bytes that were copied, can then be seen.
    """

    barriers: Shared
    index: Scalar
    phase: Scalar
    effect = Effect.SYNC
    needs = HOPPER

    def result(self) -> None:
        require_barriers(self.name, self.barriers)

    def ready(self, block: Block, barriers: Memory) -> bool:
        phase = int(self.phase)  # type: ignore[arg-type]
        return one_of(barriers, self.index).ended(phase)

    def run(self, block: Block, barriers: Memory) -> None:
        """All was in being ready."""

    def cuda(self, cu: Writer, out: None) -> None:
        barrier, parity = place_of(self.barriers, self.index, cu), binary("%", self.phase, 2)
        cu.line(f"wait_barrier({barrier}, {cu.expr(parity)});")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(PLACES, 1, 3)]


@instruction
class CopyBulk(Inst):
    """Start to copy the tile of `src` at `at` over the tile of `dst` at `to`, both of `shape`.

    One thread asks the copy engine for each piece that is contiguous in both places: its address
    and its size must be multiples of 16 bytes. The tile must lie inside `src`. Its bytes are
    counted at the barrier, where somebody must `expect` them; nobody may read or write the tile
    before that phase was waited for. `cache` tells the L2 cache which lines to drop first:
    "evict_first" those of this copy, "evict_last" others.
    """

    src: Global
    dst: Shared
    at: Index
    to: Index
    shape: tuple[int, ...]
    barriers: Shared
    index: Scalar
    cache: str = ""
    effect = Effect.READS | Effect.WRITES
    needs = HOPPER

    @property
    def bytes(self) -> int:
        """How many bytes come."""
        return prod(self.shape) * self.src.dtype.bits // 8

    def result(self) -> None:
        require_rank(self.name, self.src, self.at, self.shape)
        require_rank(self.name, self.dst, self.to, self.shape)
        require_whole_bytes(self.name, self.src)
        require_same_dtype(self.name, self.dst, self.src)
        require_barriers(self.name, self.barriers)
        if self.dst.swizzle.bits:
            raise TilusError(
                f"copy_bulk: {self.dst.name} is swizzled, so its rows are in pieces: allocate it"
                " plain, or use copy_async"
            )
        if self.cache not in CACHE:
            raise TilusError(f"copy_bulk: no cache policy {self.cache!r}: there are {list(CACHE)}")

    def run(self, block: Block, src: Memory, dst: Memory, barriers: Memory) -> None:
        source = tile_indices(src, self.shape, self.at, frozenset())
        target = tile_indices(dst, self.shape, self.to, frozenset())
        barrier = one_of(barriers, self.index)
        barrier.copies.append((self.bytes, lambda: dst.write(target, src.read(source))))

    def cuda(self, cu: Writer, out: None) -> None:
        if self.cache and cu.target.number >= 120:
            raise TilusError(
                f"copy_bulk: a cache policy is an illegal instruction on {cu.target.name}: leave"
                " cache empty there"
            )
        outer = self.outer()
        size = prod(self.shape[len(outer) :]) * self.src.dtype.bits // 8
        if size % WIDEST or self.alignment(cu, outer) % WIDEST:
            raise TilusError(
                f"copy_bulk: the tile {self.shape} at {self.at} of {self.src.name} {self.src.shape}"
                f" falls into pieces of {size} bytes, known to be {self.alignment(cu, outer)}-byte"
                f" aligned: want multiples of {WIDEST}; copy_async takes any"
            )
        pieces, piece = prod(outer), Local("piece")
        barrier = place_of(self.barriers, self.index, cu)
        loop = f" for (unsigned piece = 0; piece < {pieces}; piece++)" if pieces > 1 else ""
        with cu.scope(f"if (thread == 0){loop}"):
            moved = unraveled(piece, outer) + (0,) * (len(self.shape) - len(outer))
            source = address(self.src, shifted(self.at, moved), cu)
            target = address(self.dst, shifted(self.to, moved), cu)
            cu.line(f"copy_bulk<{CACHE[self.cache]}>({target}, {source}, {size}, {barrier});")

    def completion(self) -> list[Inst]:
        """With every other thread's arrival at a barrier that counts them."""
        return [
            Expect(self.barriers, self.index, self.bytes),
            Arrive(self.barriers, self.index),
            WaitBarrier(self.barriers, self.index, 0),
        ]

    def outer(self) -> tuple[int, ...]:
        """The extents that count the contiguous pieces of the tile."""
        steps = (steps_of(t)[-len(self.shape) :] for t in (self.src, self.dst))
        return outer_of(self.shape, *steps)

    def alignment(self, cu: Writer, outer: tuple[int, ...]) -> int:
        """A number of bytes that divides the offset of every piece in both places."""
        found = 0
        for tensor, at in ((self.src, self.at), (self.dst, self.to)):
            steps, lead = steps_of(tensor), len(at) - len(self.shape)
            offsets = [binary("*", a, s) for a, s in zip(at, steps, strict=True)]
            offsets += [s for s, n in zip(steps[lead:], outer, strict=False) if n > 1]
            found = int(np.gcd.reduce([found, *(divisor(o, cu.facts) for o in offsets)]))
        return found * self.src.dtype.bits // 8

    @classmethod
    def samples(cls) -> list[Inst]:
        ring = Shared("s0", f16, (2, 16, 16))
        bars = Shared("s1", u64, (2,))
        wide = Global("g0", f16, (20, 24), (24, 1), "p0")
        return [cls(wide, ring, (4, 8), (1, 0, 0), (16, 16), bars, 1),
                cls(wide, ring, (3, 16), (0, 8, 8), (5, 8), bars, 0, "evict_last"),
                cls(Global("g0", u8, (640,), (1,), "p0"), Shared("s0", u8, (2, 256)), (128,),
                    (1, 0), (256,), bars, 0, "evict_first"),
                cls(Global("g0", f16, (3, 4, 16), (64, 16, 1), "p0"), Shared("s0", f16, (3, 4, 16)),
                    (1, 0, 0), (0, 0, 0), (2, 4, 16), bars, 0)]  # fmt: skip


def outer_of(shape: tuple[int, ...], *steps: Index) -> tuple[int, ...]:
    """The extents that count the pieces of a tile which are contiguous wherever `steps` are."""
    size, d = 1, len(shape)
    while d and (shape[d - 1] == 1 or all(s[d - 1] == size for s in steps)):
        d, size = d - 1, size * shape[d - 1]
    return shape[:d]


def steps_of(tensor: Global | Shared) -> Index:
    """By how many elements neighbours along each dimension are apart."""
    match tensor:
        case Global(strides=strides):
            return strides
        case Shared(shape=shape):
            return tuple(prod(shape[d + 1 :]) for d in range(len(shape)))


def shifted(at: Index, moved: Index) -> Index:
    """The index so far from `at`, along its last dimensions."""
    lead = (0,) * (len(at) - len(moved))
    return tuple(a + m for a, m in zip(at, lead + moved, strict=True))


def unraveled(number: Expr, shape: tuple[int, ...]) -> Index:
    """The index of element `number` in row-major order."""
    return tuple(
        number // prod(shape[d + 1 :]) % n if d else number // prod(shape[1:])
        for d, n in enumerate(shape)
    )
