"""The order in which threads, and blocks, see each other's memory."""

import numpy as np

from tilus.dtypes import i32
from tilus.errors import TilusError
from tilus.ir import Global, Scalar, Var
from tilus.isa.addressing import address
from tilus.isa.base import Block, Effect, Inst, Memory, Writer, instruction

COUNTERS = Global("g0", i32, (4,), (1,), "p0")


@instruction
class Synchronize(Inst):
    """All threads of the block, or of the group, arrive here; each then sees what others wrote."""

    effect = Effect.SYNC

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
    """Add `value` to the int32 element of `dst` at `at`, once for the block; give what was there.

    The block synchronises. Whatever it wrote to global memory before is visible to every block that
    afterwards sees the sum (release), and what others wrote before adding theirs is visible to it
    (acquire).
    """

    dst: Global
    at: tuple[Scalar, ...]
    value: Scalar
    effect = Effect.READS | Effect.WRITES | Effect.SYNC
    whole_block = True

    def result(self) -> Var:
        if self.dst.dtype != i32 or len(self.at) != len(self.dst.shape):
            raise TilusError(
                f"atomic_add: {self.dst.name} holds {self.dst.dtype} in {len(self.dst.shape)}"
                f" dimensions, at={self.at}: want int32 and one index a dimension"
            )
        return Var("")

    def run(self, block: Block, dst: Memory) -> int:
        place = tuple(np.array([i]) for i in self.at)
        old = dst.read(place)
        dst.write(place, old + self.value)
        return int(old[0])

    def cuda(self, cu: Writer, out: Var) -> None:
        mailbox = cu.reserve(4)
        where = address(self.dst, self.at, cu)
        cu.line(
            f"const unsigned {out.name} ="
            f" atomic_add((int*)({where}), {cu.expr(self.value)}, (int*)(shared + {mailbox}));"
        )

    @classmethod
    def samples(cls) -> list[Inst]:
        return [cls(COUNTERS, (2,), 5)]
