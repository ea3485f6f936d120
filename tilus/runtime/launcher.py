"""Loading a cubin and launching its kernel on the current device, through cuda.core."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from cuda.bindings import driver
from cuda.core import Device, LaunchConfig, ObjectCode, Stream, TensorMapDescriptor, launch
from cuda.core._tensor_map import TensorMapSwizzle
from cuda.core.utils import StridedMemoryView

from tilus.errors import TilusError

MOST_STATIC_SHARED = 48 << 10  # bytes; more must be asked for
SWIZZLES = {
    0: TensorMapSwizzle.NONE,
    32: TensorMapSwizzle.SWIZZLE_32B,
    64: TensorMapSwizzle.SWIZZLE_64B,
    128: TensorMapSwizzle.SWIZZLE_128B,
}
Extents = tuple[int, ...]


def tensor_map(
    address: int, bytes: int, shape: Extents, strides: Extents, box: Extents, swizzle: int
) -> TensorMapDescriptor:
    """What a kernel takes after its own arguments to move boxes of the tensor at `address`.

    Its elements have so many `bytes`; `shape`, `strides` and `box` count elements.
    """
    described = {
        "version": 3,
        "data": (address, False),
        "typestr": f"<u{bytes}",
        "shape": shape,
        "strides": tuple(stride * bytes for stride in strides),
        "stream": None,
    }
    array = SimpleNamespace(__cuda_array_interface__=described)
    view = StridedMemoryView.from_cuda_array_interface(array, stream_ptr=-1)  # nothing to wait for
    made: TensorMapDescriptor = view.as_tensor_map(box, swizzle=SWIZZLES[swizzle])
    return made


def enter(device: int) -> None:
    """Let this thread launch kernels on that device: nothing else may have bound it there."""
    Device(device).set_current()


class LoadedKernel:
    """A kernel on the GPU. Calling it launches it: pointers as ints, numbers as NumPy scalars."""

    def __init__(
        self, cubin: bytes, entry: str, threads: int | tuple[int, int, int], shared_bytes: int
    ) -> None:
        Device().set_current()
        self._kernel = ObjectCode.from_cubin(cubin).get_kernel(entry)
        self._threads, self._shared_bytes = threads, shared_bytes
        if shared_bytes > MOST_STATIC_SHARED:
            self._allow_shared(shared_bytes)

    def _allow_shared(self, bytes: int) -> None:
        """cuda.core reads this attribute but cannot write it, so the driver is asked."""
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        kernel, device = (
            driver.CUkernel(int(self._kernel.handle)),
            driver.CUdevice(Device().device_id),
        )
        (status,) = driver.cuKernelSetAttribute(attribute, bytes, kernel, device)
        if status != driver.CUresult.CUDA_SUCCESS:
            raise TilusError(
                f"this GPU does not give a block {bytes} bytes of shared memory: {status}"
            )

    def on(self, stream: int, grid: tuple[int, int, int]) -> Callable[..., None]:
        """What launches it on the stream with this handle, and takes nothing but the arguments."""
        shape = LaunchConfig(grid=grid, block=self._threads, shmem_size=self._shared_bytes)
        return partial(launch, Stream.from_handle(stream), shape, self._kernel)

    def __call__(self, stream: int, grid: tuple[int, int, int], *arguments: Any) -> None:
        """Launch on the stream with this handle; returns at once."""
        self.on(stream, grid)(*arguments)
