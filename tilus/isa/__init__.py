"""The instruction set. Import order is the order of the manual."""

from tilus.isa import memory, matrices, registers, casting, elementwise, synchronization  # noqa: F401, I001
from tilus.isa import reduction, shuffles, matmul, warpgroup, barriers, tensor_copies  # noqa: F401
from tilus.isa import clusters, debugging  # noqa: F401
from tilus.isa.base import ISA, Effect, Inst

__all__ = ["ISA", "Effect", "Inst"]
