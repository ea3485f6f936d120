"""Our kernels: the quantised matmul of the library, compiled by NVRTC and checked on the CPU."""

import math
from functools import cache
from typing import TYPE_CHECKING

import tilus
from services.executors.base import (
    F32,
    Built,
    CpuCheck,
    ExecutorError,
    Launch,
    Problem,
    group_refusal,
)
from services.messages import KernelSpec, Workload
from tilus import codegen, compiler
from tilus.kernels import LIBRARY
from tilus.target import specific

if TYPE_CHECKING:
    from torch import Tensor

name = "tilus"
KERNEL = "quantized_matmul"
# the largest multiples that are promised of k and n, where they are; 7 is in many models' sizes
K_MULTIPLE, N_MULTIPLE = 1024, 7 * 512
CHECK_SEED = 1


def refusal(workload: Workload) -> str | None:
    """It takes f16 activations and every weight of 1 to 8 bits; zero points only with integers."""
    if workload.a_dtype != "float16":
        return f"{name} takes float16 activations, not {workload.a_dtype}"
    try:
        dtype = tilus.dtype(workload.b_dtype)
    except tilus.TilusError as error:
        return str(error)
    if dtype.bits > 8:
        return f"{name} takes weights of 1 to 8 bits, not {dtype.name}"
    if workload.zeros and dtype.name.startswith("float"):
        return f"{name} takes zero points with integer weights, not with {dtype.name}"
    return group_refusal(workload)


def candidates(workload: Workload, arch: str) -> list[KernelSpec]:
    """The library's schedules for such a problem, in its order, with all that the chip has."""
    chip = specific(arch)
    return [
        KernelSpec(
            executor=name,
            kernel=KERNEL,
            arch=chip,
            parameters={
                "a_dtype": workload.a_dtype,
                "b_dtype": workload.b_dtype,
                "group_size": workload.group_size,
                "zeros": workload.zeros,
                "k_multiple": math.gcd(workload.k, K_MULTIPLE),
                "n_multiple": math.gcd(workload.n, N_MULTIPLE),
                **schedule,
            },
        )
        for schedule in LIBRARY[KERNEL].schedules(
            workload.b_dtype, workload.group_size, workload.m, workload.n, chip
        )
    ]


def key(spec: KernelSpec) -> str:
    """The compiler's own key: program, emitted text, preludes, NVRTC, flags, target."""
    return _key(spec.canonical())


@cache
def _key(canonical: str) -> str:
    spec = KernelSpec.model_validate_json(canonical)
    return tilus.kernel_key(_program(spec), spec.arch)


def build(spec: KernelSpec) -> Built:
    """Compile with NVRTC on a CPU."""
    compiled = tilus.compile(_program(spec), arch=spec.arch)
    resources = compiled.resources
    return Built(
        files={
            "kernel.cubin": compiled.cubin,
            "source.cu": compiled.source.encode(),
            "program.txt": compiled.program.encode(),
        },
        facts={
            "entry": compiled.entry,
            "threads": compiled.threads,
            "shared_bytes": compiled.shared_bytes,
            "registers": resources.registers,
            "spill_bytes": resources.spill_bytes,
        },
        versions=tilus.compiler_versions(),
    )


def check(spec: KernelSpec) -> CpuCheck | None:
    """Run the emitted text on the CPU on a small problem, against float64."""
    found = LIBRARY[spec.kernel].check(spec.parameters, CHECK_SEED)
    return CpuCheck(
        relative_error=found.relative_error,
        seconds=found.seconds,
        m=found.m,
        n=found.n,
        k=found.k,
    )


def prepare(problem: Problem, spec: KernelSpec | None, built: Built | None) -> Launch:
    """Each slot reads its own copy; the kernel leaves its counters at zero."""
    import numpy as np
    import torch

    from tilus.runtime.launcher import LoadedKernel, tensor_map

    if spec is None or built is None or problem.codes is None or problem.scales is None:
        raise ExecutorError(f"{name} needs a compiled kernel and a quantised weight")
    shape, device = problem.workload, problem.outputs.device
    words = problem.once("words", lambda: _stored(problem))
    launch_size = LIBRARY[spec.kernel].launch(
        spec.parameters, shape.m, shape.n, shape.k, problem.multiprocessors
    )
    workspace = torch.empty(
        max(1, -(-launch_size.workspace_bytes // F32)), dtype=torch.float32, device=device
    )
    counters = torch.zeros(max(1, launch_size.counters), dtype=torch.int32, device=device)
    groups = [problem.scales.data_ptr()]
    if problem.zeros is not None:
        groups.append(problem.zeros.data_ptr())
    sizes = {"m": shape.m, "n": shape.n, "k": shape.k, "blocks": launch_size.grid[0]}
    numbers = tuple(map(np.int32, sizes.values()))
    kernel = LoadedKernel(*built.load())
    # A is the only tensor that the copy engine is given a map of
    source = compiler.text_of(_program(spec), spec.arch)
    of_a = [
        [tensor_map(a.data_ptr(), *codegen.map_numbers(m, sizes)) for m in source.maps]
        for a in problem.activations
    ]

    def launch(slot: int) -> None:
        kernel(
            torch.cuda.current_stream().cuda_stream,
            launch_size.grid,
            problem.activations[slot].data_ptr(),
            words[slot].data_ptr(),
            *groups,
            problem.outputs[slot].data_ptr(),
            workspace.data_ptr(),
            counters.data_ptr(),
            *numbers,
            *of_a[slot],
        )

    return launch


def _program(spec: KernelSpec) -> tilus.Program:
    program: tilus.Program = LIBRARY[spec.kernel].program(**spec.parameters)
    return program


def _stored(problem: Problem) -> "list[Tensor]":
    packed = LIBRARY[KERNEL].pack(problem.codes, problem.workload.b_dtype)
    return [packed.clone() for _ in range(problem.slots)]
