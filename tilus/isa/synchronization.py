"""The order in which threads, and blocks, see each other's memory."""

import operator
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tilus.dtypes import i32
from tilus.errors import TilusError
from tilus.ir import Global, Scalar, Var
from tilus.isa.addressing import address
from tilus.isa.base import Block, Effect, Inst, Memory, Tile, Writer, instruction

COUNTERS = Global("g0", i32, (4,), (1,), "p0")


@instruction
class Synchronize(Inst):
    """All threads of the block, or of the group, arrive here; each then sees what others wrote."""

    effect = Effect.SYNC
    meets = True

    def result(self) -> None:
        return None

    def run(self, block: Block) -> None:
        """Whole tiles are already in order."""

    def cuda(self, cu: Writer, out: None) -> None:
        group = f"_group<{cu.barrier}, {cu.threads}>" if cu.barrier else ""
        cu.line(f"synchronize{group}();")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls()]


@instruction
class AtomicAdd(Inst):
    """Add `value` to the int32 element of `dst` at `at`, once for the block or group; give what was
    there.

    It synchronises. Whatever it wrote to global memory before is visible to every block that
    afterwards sees the sum (release), and what others wrote before adding theirs is visible to it
    (acquire).
    """

    dst: Global
    at: tuple[Scalar, ...]
    value: Scalar
    effect = Effect.READS | Effect.WRITES | Effect.SYNC
    meets = True

    def result(self) -> Var:
        require_one_int(self.name, self.dst, self.at)
        return Var("")

    def run(self, block: Block, dst: Memory) -> int:
        old = dst.read(place_of(self.at))
        dst.write(place_of(self.at), old + self.value)
        return int(old[0])

    def cuda(self, cu: Writer, out: Var) -> None:
        mailbox = cu.reserve(4)
        where = address(self.dst, self.at, cu)
        cu.line(
            f"const unsigned {cu.expr(out)} ="
            f" atomic_add{who(cu)}, (int*)({where}), {cu.expr(self.value)},"
            f" (int*)(shared + {mailbox}));"
        )

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(COUNTERS, (2,), 5)]


class AtomicOp(NamedTuple):
    run: Callable[[int, int], int]  # the meaning, on what is there and the value
    code: str  # the prelude's name


ATOMICS = {
    "max": AtomicOp(max, "atomic_max"),
    "min": AtomicOp(min, "atomic_min"),
    "exchange": AtomicOp(lambda there, value: value, "atomic_exchange"),
    "and": AtomicOp(operator.and_, "atomic_and"),
    "or": AtomicOp(operator.or_, "atomic_or"),
    "xor": AtomicOp(operator.xor, "atomic_xor"),
}


@instruction
class Atomic(Inst):
    """Put `op` of the int32 element of `dst` at `at` and `value` there; give what was there.

    The order that it makes is that of atomic_add.
    """

    dst: Global
    at: tuple[Scalar, ...]
    op: str
    value: Scalar
    effect = Effect.READS | Effect.WRITES | Effect.SYNC

    def result(self) -> Var:
        if self.op not in ATOMICS:
            raise TilusError(f"atomic {self.op!r}: there are atomic_add and {', '.join(ATOMICS)}")
        require_one_int(self.name, self.dst, self.at)
        return Var("")

    def run(self, block: Block, dst: Memory) -> int:
        old = dst.read(place_of(self.at))
        new = ATOMICS[self.op].run(int(old[0]), int(self.value))  # type: ignore[arg-type]
        dst.write(place_of(self.at), np.array([new], np.int32))
        return int(old[0])

    def cuda(self, cu: Writer, out: Var) -> None:
        mailbox, where = cu.reserve(4), address(self.dst, self.at, cu)
        cu.line(
            f"const unsigned {cu.expr(out)} = {ATOMICS[self.op].code}{who(cu)}, (int*)({where}),"
            f" {cu.expr(self.value)}, (int*)(shared + {mailbox}));"
        )

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(COUNTERS, (2,), op, value) for op in ATOMICS for value in (5, 1 << 29)]


@instruction
class AtomicCompareExchange(Inst):
    """Put `value` into the int32 element of `dst` at `at` if `expected` is there; give what was.

    The order that it makes is that of atomic_add.
    """

    dst: Global
    at: tuple[Scalar, ...]
    expected: Scalar
    value: Scalar
    effect = Effect.READS | Effect.WRITES | Effect.SYNC

    def result(self) -> Var:
        require_one_int(self.name, self.dst, self.at)
        return Var("")

    def run(self, block: Block, dst: Memory) -> int:
        old = dst.read(place_of(self.at))
        if int(old[0]) == self.expected:
            dst.write(place_of(self.at), np.array([self.value], np.int32))
        return int(old[0])

    def cuda(self, cu: Writer, out: Var) -> None:
        mailbox, where = cu.reserve(4), address(self.dst, self.at, cu)
        cu.line(
            f"const unsigned {cu.expr(out)} = atomic_compare_exchange{who(cu)}, (int*)({where}),"
            f" {cu.expr(self.expected)}, {cu.expr(self.value)}, (int*)(shared + {mailbox}));"
        )

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(COUNTERS, (1,), 3, 9)]


@instruction
class LoadAcquire(Inst):
    """The int32 element of `src` at `at`; what was written before it was released is seen.

    It synchronises, and all its threads get the same (PTX ISA 8.8, ld.acquire.gpu).
    """

    src: Global
    at: tuple[Scalar, ...]
    effect = Effect.READS | Effect.SYNC

    def result(self) -> Var:
        require_one_int(self.name, self.src, self.at)
        return Var("")

    def run(self, block: Block, src: Memory) -> int:
        return int(src.read(place_of(self.at))[0])

    def cuda(self, cu: Writer, out: Var) -> None:
        mailbox, where = cu.reserve(4), address(self.src, self.at, cu)
        call = f"load_acquire{who(cu)}, (int*)({where}), (int*)(shared + {mailbox}))"
        cu.line(f"const unsigned {cu.expr(out)} = {call};")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(COUNTERS, (3,))]


@instruction
class StoreRelease(Inst):
    """Make `value` the int32 element of `dst` at `at`, after all that the block or group wrote.

    It synchronises; who acquires the value sees those writes (PTX ISA 8.8, st.release.gpu).
    """

    dst: Global
    at: tuple[Scalar, ...]
    value: Scalar
    effect = Effect.WRITES | Effect.SYNC

    def result(self) -> None:
        require_one_int(self.name, self.dst, self.at)

    def run(self, block: Block, dst: Memory) -> None:
        dst.write(place_of(self.at), np.array([self.value], np.int32))

    def cuda(self, cu: Writer, out: None) -> None:
        where = address(self.dst, self.at, cu)
        cu.line(f"store_release{who(cu)}, (int*)({where}), {cu.expr(self.value)});")

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(COUNTERS, (1,), 7)]


def who(cu: Writer) -> str:
    """The beginning of a call of what one thread does for all: where they meet, and which it is."""
    return f"<{cu.barrier}, {cu.threads}>(thread"


def require_one_int(name: str, tensor: Global, at: tuple[Scalar, ...]) -> None:
    """`at` names one int32 of `tensor`."""
    if tensor.dtype != i32 or len(at) != len(tensor.shape):
        raise TilusError(
            f"{name}: {tensor.name} holds {tensor.dtype} in {len(tensor.shape)}"
            f" dimensions, at={at}: want int32 and one index a dimension"
        )


def place_of(at: tuple[Scalar, ...]) -> tuple[Tile, ...]:
    """One element's index, for `run`."""
    return tuple(np.array([i]) for i in at)
