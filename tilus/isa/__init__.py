"""The instruction set. Import order is the order of the manual."""

from tilus.isa import memory, matrices, registers, casting, elementwise, masks  # noqa: F401, I001
from tilus.isa import synchronization, reduction, shuffles, matmul, warpgroup  # noqa: F401
from tilus.isa import barriers, tensor_copies, clusters, debugging  # noqa: F401
from tilus.isa.base import ISA, Effect, Inst

__all__ = ["ISA", "Effect", "Inst"]
