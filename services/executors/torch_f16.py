"""The baseline: PyTorch's f16 matrix product, which is cuBLAS."""

from services.executors.base import Built, CpuCheck, ExecutorError, Launch, Problem
from services.messages import KernelSpec, Workload

name = "torch-f16"


def absence() -> str | None:
    """There is nothing to compile."""
    return None


def refusal(workload: Workload) -> str | None:
    """It multiplies f16 by f16 and nothing else."""
    if workload.a_dtype == workload.b_dtype == "float16":
        return None
    return f"{name} takes float16 times float16, not {workload.a_dtype} times {workload.b_dtype}"


def candidates(workload: Workload, arch: str) -> list[KernelSpec]:
    """A library call has no kernels of ours to try."""
    return []


def key(spec: KernelSpec) -> str:
    """A library call has no key."""
    raise ExecutorError(f"{name} compiles nothing, not even {spec.kernel}")


def build(spec: KernelSpec) -> Built:
    """A library call compiles nothing."""
    raise ExecutorError(f"{name} compiles nothing, not even {spec.kernel}")


def check(spec: KernelSpec) -> CpuCheck | None:
    """A library call has no text of ours to run."""
    return None


def prepare(problem: Problem, spec: KernelSpec | None, built: Built | None) -> Launch:
    """Each slot multiplies its activation by its own copy of the weight into its own output."""
    import torch

    if problem.weight is None:
        raise ExecutorError(f"{name} needs the weight in float16")
    weights = [problem.weight.clone() for _ in range(problem.slots)]

    def launch(slot: int) -> None:
        torch.matmul(problem.activations[slot], weights[slot], out=problem.outputs[slot])

    return launch
