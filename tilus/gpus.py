"""GPUs by name: what a schedule's time is estimated from.

Multiprocessors, clock and bandwidth are those of NVIDIA's data sheets and architecture papers
(Ampere, Ada, Hopper, Blackwell). What was measured says so.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass, replace

from tilus.errors import TilusError

US = 1e-6
START = 5.5 * US  # of a read on an H200: launch, first bytes, last bytes
REACHED = 0.92  # of the bandwidth on paper, by a plain read of an H200

# A plain read on one NVIDIA H200, the L2 cache full of what others wrote: (bytes, seconds), from
# the floors of `results/recorded`.
H200_READS = (
    (10.5e6, 8.1 * US), (19e6, 11.0 * US), (35.5e6, 16.2 * US), (50.6e6, 21.0 * US),
    (69.5e6, 26.1 * US), (120e6, 39.3 * US), (177e6, 52.1 * US), (242e6, 66.5 * US),
    (354e6, 90.6 * US), (471e6, 116.6 * US), (940e6, 218.1 * US),
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU: its multiprocessors, boost clock in Hz, memory bandwidth in bytes a second.

    `number` is ten times its compute capability. `reads` are measured plain reads, if any were.
    """

    name: str
    number: int
    multiprocessors: int
    clock: float
    bandwidth: float
    reads: tuple[tuple[float, float], ...] = ()

    def read_seconds(self, size: float) -> float:
        """How long a plain read of so many bytes takes: as measured, or as the data sheet says."""
        if not self.reads:
            return START + size / (REACHED * self.bandwidth)
        sizes = [known for known, _ in self.reads]
        at = min(max(bisect_left(sizes, size), 1), len(sizes) - 1)
        (less, begin), (more, end) = self.reads[at - 1], self.reads[at]
        return max(begin + (size - less) * (end - begin) / (more - less), START)


# The first of a compute capability stands for those that are not here.
GPUS = (
    Gpu("nvidia-h200", 90, 132, 1.98e9, 4800e9, H200_READS),
    Gpu("nvidia-h100-80gb-hbm3", 90, 132, 1.98e9, 3350e9),
    Gpu("nvidia-h100-pcie", 90, 114, 1.755e9, 2000e9),
    Gpu("nvidia-a100-sxm4-80gb", 80, 108, 1.41e9, 2039e9),
    Gpu("nvidia-a100-80gb-pcie", 80, 108, 1.41e9, 1935e9),
    Gpu("nvidia-a100-sxm4-40gb", 80, 108, 1.41e9, 1555e9),
    Gpu("nvidia-a10", 86, 72, 1.695e9, 600e9),
    Gpu("nvidia-rtx-a6000", 86, 84, 1.80e9, 768e9),
    Gpu("nvidia-geforce-rtx-3090", 86, 82, 1.695e9, 936e9),
    Gpu("nvidia-l40s", 89, 142, 2.52e9, 864e9),
    Gpu("nvidia-l4", 89, 58, 2.04e9, 300e9),
    Gpu("nvidia-geforce-rtx-4090", 89, 128, 2.52e9, 1008e9),
    Gpu("nvidia-b200", 100, 148, 1.965e9, 8000e9),
    Gpu("nvidia-geforce-rtx-5090", 120, 170, 2.407e9, 1792e9),
)  # fmt: skip


def folder_name(name: str) -> str:
    """A device's name for files: lower case, every run of other characters one hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def gpu(name: str, arch: str, multiprocessors: int | None = None) -> Gpu:
    """The GPU of that name; for one that is not here, one of its architecture.

    `multiprocessors`, where they are known, are those of the device at hand.
    """
    wanted, number = folder_name(name), int(arch.removeprefix("sm_").rstrip("a"))
    alike = [one for one in GPUS if one.number == number]
    if not alike:
        raise TilusError(f"nothing is known of GPUs of {arch}: tilus/gpus.py lists those that are")
    found = next((one for one in alike if one.name == wanted), replace(alike[0], reads=()))
    return replace(found, multiprocessors=multiprocessors or found.multiprocessors)
