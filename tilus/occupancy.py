"""How many blocks of a kernel a multiprocessor holds at once.

Limits are from the CUDA C++ programming guide, "Technical Specifications per Compute Capability".
Each warp gets its registers from the quarter of the multiprocessor that runs it, 256 at a time; a
block gets shared memory 128 bytes at a time, and the system takes 1024 bytes more for it.
"""

from dataclasses import dataclass

from tilus.target import target

WARP = 32
QUARTERS = 4
REGISTERS = 65536  # 32-bit, of a multiprocessor
REGISTER_UNIT = 256  # registers that a warp gets are a multiple of it
SHARED_UNIT = 128  # bytes that a block gets are a multiple of it
SYSTEM_SHARED = 1024  # bytes of shared memory that the system takes for each block


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor holds at most."""

    threads: int
    blocks: int
    shared_bytes: int


MULTIPROCESSORS = {
    80: Multiprocessor(2048, 32, 164 << 10),
    86: Multiprocessor(1536, 16, 100 << 10),
    89: Multiprocessor(1536, 24, 100 << 10),
    90: Multiprocessor(2048, 32, 228 << 10),
    100: Multiprocessor(2048, 32, 228 << 10),
    120: Multiprocessor(1536, 24, 100 << 10),
}  # by ten times the compute capability


def limits(arch: str, threads: int, registers: int, shared_bytes: int) -> dict[str, int]:
    """How many blocks each resource has room for; `registers` are those of one thread."""
    chip = MULTIPROCESSORS[target(arch).number]
    warps = -(-threads // WARP)
    of_a_warp = rounded_up(max(registers, 1) * WARP, REGISTER_UNIT)
    shared = rounded_up(shared_bytes + SYSTEM_SHARED, SHARED_UNIT)
    return {
        "registers": REGISTERS // QUARTERS // of_a_warp * QUARTERS // warps,
        "shared memory": chip.shared_bytes // shared,
        "threads": chip.threads // WARP // warps,
        "blocks": chip.blocks,
    }


def blocks_per_multiprocessor(
    arch: str, threads: int, registers: int, shared_bytes: int
) -> tuple[int, str]:
    """How many blocks fit at once, and the resource that is scarcest."""
    room = limits(arch, threads, registers, shared_bytes)
    scarcest = min(room, key=lambda resource: room[resource])
    return room[scarcest], scarcest


def rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
