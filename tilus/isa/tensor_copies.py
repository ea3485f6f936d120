"""Copies of boxes between global and shared memory by the copy engine, which finds its own way.

A kernel is launched with a map of each tensor: its address, extents and strides, and the box. So
these must follow from the kernel's parameters. PTX ISA 5.5, tensors; 9.7.9.27, tensor copies.
"""

from dataclasses import dataclass, replace
from math import prod

from tilus.dtypes import DType, f16, f32, u8, u64
from tilus.errors import TilusError
from tilus.ir import PLAIN, Global, Scalar, Shared, Swizzle, binary, divisor
from tilus.isa.access import Index
from tilus.isa.addressing import address, require_rank, tile_indices
from tilus.isa.barriers import (
    HOPPER,
    Arrive,
    Expect,
    WaitBarrier,
    one_of,
    outer_of,
    place_of,
    require_barriers,
    steps_of,
)
from tilus.isa.base import Block, Effect, Inst, Memory, TensorMap, Writer, instruction
from tilus.isa.memory import require_same_dtype

SPANS = (32, 64, 128)  # bytes in a row of a swizzled box
PART, LINE = 16, 128  # bytes that stay together, and that change places with each other
MOST_RANK, MOST_EXTENT = 5, 256
MOST_PEERS = 8
ALIGNED = 1024  # bytes from which on shared tensors lie so that swizzled accesses find them


def tensor_swizzle(span: int, dtype: DType) -> Swizzle:
    """How the copy engine swizzles rows of 32, 64 or 128 bytes: parts of 16 bytes, by the line."""
    if span not in SPANS:
        raise TilusError(f"no swizzle of {span} bytes: there are {SPANS}")
    part, line = (n * 8 // dtype.bits for n in (PART, LINE))
    return Swizzle((span // PART).bit_length() - 1, line.bit_length() - 1, part.bit_length() - 1)


@dataclass(frozen=True)
class Box:
    """A tile that the engine can move: in global memory at `there`, in shared memory at `here`."""

    tensor: Global
    there: Index
    held: Shared
    here: Index
    shape: tuple[int, ...]

    def check(self, name: str) -> None:
        """`TilusError` where the engine cannot move it."""
        require_rank(name, self.tensor, self.there, self.shape)
        require_rank(name, self.held, self.here, self.shape)
        require_same_dtype(name, self.held, self.tensor)
        bits, row = self.tensor.dtype.bits, self.shape[-1] * self.tensor.dtype.bits // 8
        what = f"{name}: the box {self.shape} of {self.tensor.dtype}"
        if bits not in (8, 16, 32):
            raise TilusError(f"{what}: elements of 8, 16 or 32 bits can be moved")
        if len(self.tensor.shape) > MOST_RANK or max(self.shape) > MOST_EXTENT:
            raise TilusError(
                f"{what}: want at most {MOST_RANK} dimensions, of {MOST_EXTENT} each in a box"
            )
        if self.tensor.strides[-1] != 1:
            raise TilusError(
                f"{what}: neighbours along the last dimension of {self.tensor.name} are"
                f" {self.tensor.strides[-1]} apart: want 1"
            )
        if row % PART or row != (self.span or row):
            raise TilusError(
                f"{what}: rows of {row} bytes, {self.held.name} swizzled by {self.span}: want a"
                f" multiple of {PART}, and as many as the swizzle has"
            )
        if outer_of(self.shape, steps_of(self.held)[-len(self.shape) :]):
            raise TilusError(
                f"{what} lies in pieces in {self.held.name} {self.held.shape}: give the shared"
                " tensor rows as long as the box's"
            )
        if self.span and prod(self.held.shape) * bits // 8 < ALIGNED:
            raise TilusError(f"{what}: a swizzled tensor must have at least {ALIGNED} bytes")

    @property
    def span(self) -> int:
        """By how many bytes the shared tensor is swizzled; 0 for not at all."""
        if self.held.swizzle == PLAIN:
            return 0
        for span in SPANS:
            if tensor_swizzle(span, self.held.dtype) == self.held.swizzle:
                return span
        raise TilusError(
            f"{self.held.name}: the copy engine has no {self.held.swizzle}: allocate it plain or"
            f" with tensor_swizzle of {SPANS} bytes"
        )

    @property
    def bytes(self) -> int:
        """How many bytes are moved, with those outside of the tensor."""
        return prod(self.shape) * self.tensor.dtype.bits // 8

    def map(self, name: str, cu: Writer) -> str:
        """The map with which the kernel is launched, in C."""
        size = self.tensor.dtype.bits // 8
        for stride in self.tensor.strides[:-1]:
            if divisor(stride, cu.facts) * size % PART:
                raise TilusError(
                    f"{name}: the stride {stride} of {self.tensor.name} is not known to be a"
                    f" multiple of {PART} bytes: say `multiple_of` of the parameter, or copy_async"
                )
        box = (1,) * (len(self.there) - len(self.shape)) + self.shape
        shape, strides = self.tensor.shape, self.tensor.strides
        return cu.tensor_map(TensorMap(self.tensor.pointer, size, shape, strides, box, self.span))

    def place(self, name: str, cu: Writer) -> str:
        """A pointer to the box in shared memory."""
        plain, size = replace(self.held, swizzle=PLAIN), self.held.dtype.bits // 8
        want = LINE * self.span // PART or LINE
        offset: Scalar = 0
        for i, step in zip(self.here, steps_of(self.held), strict=True):
            offset = binary("+", offset, binary("*", i, step))
        if divisor(offset, cu.facts) * size % want:
            raise TilusError(
                f"{name}: the corner {self.here} of {self.held.name} {self.held.shape} is not known"
                f" to be {want}-byte aligned: move whole stages"
            )
        return address(plain, self.here, cu)

    def require_whole_parts(self, name: str, cu: Writer) -> None:
        """The tensor's last dimension ends after whole parts: a store writes these only."""
        extent, size = self.tensor.shape[-1], self.tensor.dtype.bits // 8
        if divisor(extent, cu.facts) * size % PART:
            raise TilusError(
                f"{name}: the last dimension of {self.tensor.name} {self.tensor.shape} is not known"
                f" to have a multiple of {PART} bytes, and the last part would be written beyond"
                " it: say `multiple_of` of the parameter, or store_shared"
            )

    def coordinates(self, name: str, cu: Writer) -> str:
        """Where the box begins in the tensor, the last dimension first."""
        size = self.tensor.dtype.bits // 8
        if divisor(self.there[-1], cu.facts) * size % PART:
            corner = ", ".join(map(str, self.there))
            raise TilusError(
                f"{name}: the corner ({corner}) in {self.tensor.name} is not known to lie a"
                f" multiple of {PART} bytes into its last dimension, where the engine can"
                " begin: move whole parts, or use copy_async"
            )
        return ", ".join(f"(int){cu.expr(i)}" for i in reversed(self.there))


@instruction
class CopyTensorAsync(Inst):
    """Start to copy the box of `src` at `at` over the tile of `dst` at `to`, both of `shape`.

    Elements outside `src` arrive as zero. The box begins a multiple of 16 bytes into the last
    dimension (an H200 answers an illegal instruction to others). One thread asks the copy engine.
    All bytes of the box are counted at the barrier, where somebody must `expect` them; nobody may
    read or write the tile before that phase was waited for. `dst` may be swizzled with
    `tensor_swizzle`, the box's rows then being as long as that. The extents and strides of `src`
    follow from parameters.

    With `peers` the box arrives in these blocks of the cluster instead of this one, in each at the
    same place, and is counted at the same barrier of each.
    """

    src: Global
    dst: Shared
    at: Index
    to: Index
    shape: tuple[int, ...]
    barriers: Shared
    index: Scalar
    peers: tuple[int, ...] = ()
    effect = Effect.READS | Effect.WRITES
    needs = HOPPER

    @property
    def box(self) -> Box:
        return Box(self.src, self.at, self.dst, self.to, self.shape)

    def result(self) -> None:
        self.box.check(self.name)
        require_barriers(self.name, self.barriers)
        if len(set(self.peers)) != len(self.peers) or not set(self.peers) <= set(range(MOST_PEERS)):
            raise TilusError(
                f"copy_tensor_async: peers {self.peers}: want different blocks of a cluster, 0 to"
                f" {MOST_PEERS - 1}"
            )

    def run(self, block: Block, src: Memory, dst: Memory, barriers: Memory) -> None:
        source = tile_indices(src, self.shape, self.at, frozenset(range(len(self.at))))
        target = tile_indices(dst, self.shape, self.to, frozenset())

        def start(there: Memory, barriers: Memory) -> None:
            copies = one_of(barriers, self.index).copies
            copies.append((self.box.bytes, lambda: there.write(target, src.read(source))))

        for peer in self.peers:
            start(block.of_peer(peer, self.dst), block.of_peer(peer, self.barriers))
        if not self.peers:
            start(dst, barriers)

    def cuda(self, cu: Writer, out: None) -> None:
        place, map = self.box.place(self.name, cu), self.box.map(self.name, cu)
        barrier, at = place_of(self.barriers, self.index, cu), self.box.coordinates(self.name, cu)
        to = f"_to<{sum(1 << peer for peer in self.peers)}>" if self.peers else ""
        cu.line(f"if (thread == 0) copy_tensor{to}({place}, {map}, {barrier}, {at});")

    def completion(self) -> list[Inst]:
        """With every other thread's arrival at a barrier that counts them."""
        return [
            Expect(self.barriers, self.index, self.box.bytes),
            Arrive(self.barriers, self.index),
            WaitBarrier(self.barriers, self.index, 0),
        ]

    @classmethod
    def samples(cls) -> list[Inst]:
        bars = Shared("s1", u64, (2,))
        plain = Shared("s0", f16, (2, 8, 16))
        wide = Global("g0", f16, (20, 37), (40, 1), "p0")
        f16s, u8s, f32s = ((t, tensor_swizzle(n, t)) for t, n in ((f16, 128), (u8, 64), (f32, 32)))
        return [cls(wide, plain, (4, 8), (1, 0, 0), (8, 16), bars, 1),
                cls(wide, plain, (15, 32), (0, 0, 0), (8, 16), bars, 0),
                cls(wide, Shared("s0", f16s[0], (2, 8, 64), f16s[1]), (15, 8), (1, 0, 0), (8, 64),
                    bars, 0),
                cls(Global("g0", u8, (2, 19, 70), (1520, 80, 1), "p0"),
                    Shared("s0", u8s[0], (16, 64), u8s[1]), (1, 8, 16), (0, 0), (16, 64), bars, 0),
                cls(Global("g0", f32, (50, 24), (24, 1), "p0"),
                    Shared("s0", f32s[0], (40, 8), f32s[1]), (20, 20), (0, 0), (40, 8), bars, 1),
                cls(Global("g0", f16, (3, 4, 5, 24), (480, 120, 24, 1), "p0"),
                    Shared("s0", f16, (2, 4, 16)), (1, 2, 3, 0), (0, 0, 0), (2, 4, 16), bars, 1),
                cls(Global("g0", u8, (600,), (1,), "p0"), Shared("s0", u8, (2, 256)), (496,),
                    (1, 0), (256,), bars, 0),
                cls(wide, plain, (4, 8), (1, 0, 0), (8, 16), bars, 1, (0,))]  # fmt: skip


@instruction
class StoreTensorAsync(Inst):
    """Start to copy the tile of `src` at `at` over the box of `dst` at `to`, both of `shape`.

    Elements outside `dst` are dropped. Its last dimension has a multiple of 16 bytes, which an H200
    writes together, and the box begins at one. One thread asks the copy engine; those who wrote the
    tile must have come to `fence_async`, and then to `synchronize`, before. The copy joins the open
    group of stores: `src` may be overwritten, and `dst` read, after that was committed and waited
    for.
    """

    src: Shared
    dst: Global
    at: Index
    to: Index
    shape: tuple[int, ...]
    effect = Effect.READS | Effect.WRITES
    needs = HOPPER

    @property
    def box(self) -> Box:
        return Box(self.dst, self.to, self.src, self.at, self.shape)

    def result(self) -> None:
        self.box.check(self.name)

    def run(self, block: Block, src: Memory, dst: Memory) -> None:
        source = tile_indices(src, self.shape, self.at, frozenset())
        target = tile_indices(dst, self.shape, self.to, frozenset(range(len(self.to))))
        block.defer(lambda: dst.write(target, src.read(source)), "stores")

    def cuda(self, cu: Writer, out: None) -> None:
        self.box.require_whole_parts(self.name, cu)
        place, map = self.box.place(self.name, cu), self.box.map(self.name, cu)
        at = self.box.coordinates(self.name, cu)
        cu.line(f"if (thread == 0) store_tensor({map}, {place}, {at});")

    def completion(self) -> list[Inst]:
        return [CommitStores(), WaitStores(0)]

    @classmethod
    def samples(cls) -> list[Inst]:
        wide = Global("g0", f16, (20, 40), (48, 1), "p0")
        swizzled = Shared("s0", f16, (2, 16, 32), tensor_swizzle(64, f16))
        return [cls(swizzled, wide, (1, 0, 0), (8, 8), (16, 32)),
                cls(Shared("s0", f16, (2, 8, 16)), wide, (0, 0, 0), (3, 16), (8, 16)),
                cls(Shared("s0", u8, (3, 128)), Global("g0", u8, (304,), (1,), "p0"), (2, 0),
                    (208,), (128,))]  # fmt: skip


@instruction
class CommitStores(Inst):
    """Close the open group of the copy engine's stores; an empty one counts too."""

    effect = Effect.SYNC
    needs = HOPPER

    def result(self) -> None:
        return None

    def run(self, block: Block) -> None:
        block.commit("stores")

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line("commit_stores();")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls()]


@instruction
class WaitStores(Inst):
    """Wait until at most the newest `pending` groups of the engine's stores are under way.

    That holds for the thread that asked for them, thread 0; `synchronize` makes it so for the rest.
    """

    pending: int
    effect = Effect.SYNC
    needs = HOPPER

    def result(self) -> None:
        if self.pending < 0:
            raise TilusError(
                f"wait_stores: {self.pending} groups cannot be pending: 0 waits for all"
            )

    def run(self, block: Block) -> None:
        block.wait(self.pending, "stores")

    def cuda(self, cu: Writer, out: None) -> None:
        cu.line(f"wait_stores<{self.pending}>();")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(0), cls(1)]
