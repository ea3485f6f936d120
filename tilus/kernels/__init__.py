"""The kernel library, written in the public language only."""

from types import ModuleType

import tilus.kernels.canary as canary
import tilus.kernels.quantized_matmul as quantized_matmul
import tilus.kernels.repack as repack
import tilus.kernels.streaming_read as streaming_read

LIBRARY: dict[str, ModuleType] = {
    "canary": canary,
    "quantized_matmul": quantized_matmul,
    "streaming_read": streaming_read,
    "repack": repack,
}
