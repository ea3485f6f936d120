"""Loading a cubin and launching its kernel on the current device, through cuda.core."""

from typing import Any

from cuda.bindings import driver
from cuda.core import Device, LaunchConfig, ObjectCode, Stream, launch

from tilus.errors import TilusError

MOST_STATIC_SHARED = 48 << 10  # bytes; more must be asked for


class LoadedKernel:
    """A kernel on the GPU. Calling it launches it: pointers as ints, numbers as NumPy scalars."""

    def __init__(self, cubin: bytes, entry: str, threads: int, shared_bytes: int) -> None:
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

    def __call__(self, stream: int, grid: tuple[int, int, int], *arguments: Any) -> None:
        """Launch on the stream with this handle; returns at once."""
        shape = LaunchConfig(grid=grid, block=self._threads, shmem_size=self._shared_bytes)
        launch(Stream.from_handle(stream), shape, self._kernel, *arguments)
