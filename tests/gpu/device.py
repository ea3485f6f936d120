"""Running a program on the GPU with the arguments that the interpreter takes."""

from functools import cache
from typing import Any

import numpy as np

from tilus.codegen import grid_of, map_numbers
from tilus.compiler import Loadable, loadable
from tilus.ir import Program
from tilus.target import runs_on


def architecture() -> str:
    """That of the GPU, with the features of this chip alone where there are any."""
    import torch

    return runs_on(*torch.cuda.get_device_capability())


@cache
def compiled(program: Program, arch: str) -> Loadable:
    return loadable(program, arch)


def run_on_gpu(program: Program, arguments: dict[str, Any]) -> None:
    """Launch `program`; arrays are copied there and back."""
    import torch

    from tilus.runtime.launcher import LoadedKernel, tensor_map

    made = compiled(program, architecture())
    source = made.source
    kernel = LoadedKernel(made.cubin, source.entry, source.threads, source.shared_bytes)
    there = {
        name: torch.from_numpy(value.view(np.uint8)).cuda()
        for name, value in arguments.items()
        if isinstance(value, np.ndarray)
    }
    given = [
        there[p.name].data_ptr() if p.name in there else np.int32(arguments[p.name])
        for p in program.parameters
    ]
    for map in source.maps:
        address = there[map.pointer].data_ptr()
        given.append(tensor_map(address, *map_numbers(map, arguments)))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    kernel(stream.cuda_stream, grid_of(program, arguments), *given)
    torch.cuda.synchronize()
    for name, tensor in there.items():
        arguments[name].view(np.uint8)[...] = tensor.cpu().numpy()
