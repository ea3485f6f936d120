"""PyTorch's part of a launch: its devices, streams and memory. Nothing else imports PyTorch."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from threading import local
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tilus.errors import TilusError
from tilus.target import runs_on

if TYPE_CHECKING:
    from torch import Tensor

    from tilus.runtime.launcher import LoadedKernel


class TorchDevice:
    """A CUDA device as PyTorch knows it. What is asked in every call is a field."""

    def __init__(self, index: int) -> None:
        import torch

        facts = torch.cuda.get_device_properties(index)
        self.index = index
        self.thread = local()
        self.name: str = facts.name
        self.arch = runs_on(facts.major, facts.minor)
        self.multiprocessors: int = facts.multi_processor_count
        self.tensor = torch.Tensor
        self.elements = {"float16": torch.float16, "bfloat16": torch.bfloat16}
        self.grad_enabled: Callable[[], bool] = torch.is_grad_enabled
        self.capturing: Callable[[], bool] = torch.cuda.is_current_stream_capturing
        # PyTorch's own ways to these numbers, without the objects around them where there is one
        self.current: Callable[[], int] = getattr(
            torch._C, "_cuda_getDevice", torch.cuda.current_device
        )
        self.stream_of: Callable[[int], int] = getattr(
            torch._C,
            "_cuda_getCurrentRawStream",
            lambda of: torch.cuda.current_stream(of).cuda_stream,
        )

    def enter(self) -> None:
        """Let this thread launch kernels on the device, which is the current one."""
        from tilus.runtime.launcher import enter

        enter(self.index)
        self.thread.entered = True

    def selected(self) -> AbstractContextManager[None]:
        """Makes it the current device for a while."""
        import torch

        made: AbstractContextManager[None] = torch.cuda.device(self.index)
        return made

    def place(self, array: npt.NDArray[Any], element: str | None = None) -> "Tensor":
        """A copy of `array` on the device, its numbers in another type if one is named."""
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(f"cuda:{self.index}")
        return tensor if element is None else tensor.to(self.elements[element])

    def garbage(self, elements: int) -> "Tensor":
        """So many float32."""
        import torch

        return torch.empty(elements, dtype=torch.float32, device=f"cuda:{self.index}")

    def zeros(self, elements: int) -> "Tensor":
        """So many int32."""
        import torch

        return torch.zeros(elements, dtype=torch.int32, device=f"cuda:{self.index}")

    def settle(self) -> None:
        """Wait for all that the current stream was given."""
        import torch

        torch.cuda.current_stream(self.index).synchronize()

    def load(self, cubin: bytes, entry: str, threads: int, shared_bytes: int) -> "LoadedKernel":
        """A kernel on the device, which is the current one."""
        from tilus.runtime.launcher import LoadedKernel

        return LoadedKernel(cubin, entry, threads, shared_bytes)

    def tensor_map(self, address: int, *numbers: Any) -> object:
        """See `tilus.runtime.launcher.tensor_map`."""
        from tilus.runtime.launcher import tensor_map

        return tensor_map(address, *numbers)


def device_of(device: Any) -> TorchDevice:
    """The CUDA device that `device` (a torch.device, an index or as in "cuda:1") names."""
    try:
        import torch
    except ImportError as missing:
        raise TilusError(
            "weights on a GPU are PyTorch tensors, and PyTorch is not installed: pip install torch"
        ) from missing
    try:
        named = torch.device(device)
    except RuntimeError as unknown:
        raise TilusError(
            f'to({device!r}): PyTorch knows no such device, want one as in "cuda" or "cuda:1"'
        ) from unknown
    if named.type != "cuda":
        raise TilusError(
            f"to({str(named)!r}): the kernels run on CUDA devices; for NumPy arrays the weight is"
            " good as it is"
        )
    if not torch.cuda.is_available():
        raise TilusError(f"to({str(named)!r}): PyTorch finds no CUDA device here")
    index = torch.cuda.current_device() if named.index is None else named.index
    if index >= torch.cuda.device_count():
        raise TilusError(
            f"to({str(named)!r}): PyTorch finds {torch.cuda.device_count()} CUDA devices here,"
            " counted from 0"
        )
    return _device_at(index)


@cache
def _device_at(index: int) -> TorchDevice:
    import torch

    torch.cuda.init()
    return TorchDevice(index)
