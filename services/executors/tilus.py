"""Our kernels: the quantised matmul of the library, compiled by NVRTC and checked on the CPU."""

from dataclasses import asdict
from functools import cache

import tilus
from services.executors.base import (
    Built,
    CpuCheck,
    ExecutorError,
    Launch,
    Problem,
    group_refusal,
)
from services.executors.launching import launch_of
from services.messages import KernelSpec, Workload
from tilus import codegen, compiler, gpus, tune, tuned
from tilus.kernels import LIBRARY
from tilus.kernels.problem import Problem as Product
from tilus.kernels.problem import problem_for
from tilus.kernels.schedule import Schedule
from tilus.target import specific, target

name = "tilus"
KERNEL = "quantized_matmul"
CHECK_SEED = 1


def absence() -> str | None:
    """Its compiler is part of every installation."""
    return None


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
    """What was tuned for such chips, then the library's schedules, in its order."""
    chip = specific(arch)
    known = tuned.of_architecture(chip, problem_of(workload), workload.m, workload.n, workload.k)
    return specs(workload, chip, [*known, *made_by_hand(workload, chip)])


def space(workload: Workload, arch: str, gpu: str, limit: int) -> list[KernelSpec]:
    """What to measure where a problem is tuned: the same, and more that the model likes.

    There are `limit` in all, or as many as the library has by hand.
    """
    chip = specific(arch)
    m, n, k = workload.m, workload.n, workload.k
    found = tune.ranked(problem_of(workload), m, n, k, gpus.gpu(gpu, arch), target(chip), limit)
    known = [*tuned.of_architecture(chip, problem_of(workload), m, n, k)]
    by_hand = specs(workload, chip, [*known, *made_by_hand(workload, chip)])
    more = specs(workload, chip, [one.schedule for one in found])
    whole = list({spec.canonical(): spec for spec in (*by_hand, *more)}.values())
    return whole[: max(limit, len(by_hand))]


def made_by_hand(workload: Workload, chip: str) -> list[Schedule]:
    """The library's schedules."""
    found = LIBRARY[KERNEL].schedules(
        workload.b_dtype, workload.group_size, workload.m, workload.n, chip
    )
    return [Schedule(**plan) for plan in found]


def problem_of(workload: Workload) -> Product:
    """What the kernel is told to compute."""
    return problem_for(
        workload.b_dtype,
        workload.group_size,
        workload.zeros,
        workload.a_dtype,
        workload.n,
        workload.k,
    )


def specs(workload: Workload, chip: str, plans: list[Schedule]) -> list[KernelSpec]:
    """The kernels of a problem laid out by these schedules, each once."""
    problem = problem_of(workload)
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
                "k_multiple": problem.k_multiple,
                "n_multiple": problem.n_multiple,
                **asdict(plan),
            },
        )
        for plan in dict.fromkeys(plans)
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
            "compile.log": compiled.log.encode(),
        },
        facts={
            "entry": compiled.entry,
            "threads": compiled.threads,
            "shared_bytes": compiled.shared_bytes,
            "registers": resources.registers,
            "spill_bytes": resources.spill_bytes,
            "serialized": resources.serialized,
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
    from tilus.runtime.launcher import tensor_map

    if spec is None or built is None or problem.codes is None or problem.scales is None:
        raise ExecutorError(f"{name} needs a compiled kernel and a quantised weight")
    shape, codes, groups = problem.workload, problem.codes, [problem.scales]
    if problem.zeros is not None:
        groups.append(problem.zeros)
    size = LIBRARY[spec.kernel].launch(
        spec.parameters, shape.m, shape.n, shape.k, problem.multiprocessors
    )
    sizes = {"m": shape.m, "n": shape.n, "k": shape.k, "blocks": size.grid[0]}
    source = _source(spec.canonical())

    def maps(slot: int) -> list[object]:
        """A is the only tensor that the copy engine is given a map of."""
        a = problem.activations[slot].data_ptr()
        return [tensor_map(a, *codegen.map_numbers(one, sizes)) for one in source.maps]

    return launch_of(
        problem,
        built,
        size.grid,
        lambda: LIBRARY[KERNEL].pack(codes, shape.b_dtype),
        groups,
        size.workspace_bytes,
        size.counters,
        tuple(sizes.values()),
        maps,
    )


@cache
def _source(canonical: str) -> codegen.Source:
    spec = KernelSpec.model_validate_json(canonical)
    return compiler.text_of(_program(spec), spec.arch)


def _program(spec: KernelSpec) -> tilus.Program:
    program: tilus.Program = LIBRARY[spec.kernel].program(**spec.parameters)
    return program
