"""Launching a kernel of ours or of Triton: the arguments that both take, in the order they do."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from services.executors.base import F32, Built, ExecutorError, Launch, Problem

if TYPE_CHECKING:
    from torch import Tensor

Grid = tuple[int, int, int]


def launch_of(
    problem: Problem,
    built: Built,
    grid: Grid,
    pack: Callable[[], "Tensor"],
    groups: Sequence["Tensor"],
    workspace_bytes: int,
    counters: int,
    numbers: Sequence[int],
    more: Callable[[int], Sequence[Any]],
) -> Launch:
    """The call of a kernel that takes, after the activations, a packed weight.

    Its other arguments: the groups' scales and zeros, the output, a workspace of float32, counters
    that are zero between launches, numbers as int32, and `more` of a slot. Each slot reads its own
    copy of the packed weight; kernels of one problem share them.
    """
    import numpy as np
    import torch

    from tilus.runtime.launcher import LoadedKernel

    if problem.codes is None:
        raise ExecutorError("a kernel for packed weights needs a quantised weight")
    device = problem.outputs.device

    def copies() -> list["Tensor"]:
        packed = pack()
        return [packed.clone() for _ in range(problem.slots)]

    words = problem.once("words", copies)
    workspace = torch.empty(max(1, -(-workspace_bytes // F32)), dtype=torch.float32, device=device)
    counted = torch.zeros(max(1, counters), dtype=torch.int32, device=device)
    kernel = LoadedKernel(*built.load())
    addresses = tuple(each.data_ptr() for each in groups)
    scalars = tuple(map(np.int32, numbers))
    rest = [tuple(more(slot)) for slot in range(problem.slots)]

    def launch(slot: int) -> None:
        kernel(
            torch.cuda.current_stream().cuda_stream,
            grid,
            problem.activations[slot].data_ptr(),
            words[slot].data_ptr(),
            *addresses,
            problem.outputs[slot].data_ptr(),
            workspace.data_ptr(),
            counted.data_ptr(),
            *scalars,
            *rest[slot],
        )

    return launch
