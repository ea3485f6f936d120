"""The kernel library, written in the public language only."""

from types import ModuleType

from tilus.kernels import quantized_matmul, streaming_read

LIBRARY: dict[str, ModuleType] = {
    "quantized_matmul": quantized_matmul,
    "streaming_read": streaming_read,
}
