"""The peer Humming: a library that compiles its kernels on first use and chooses its schedules.

It is imported in the measuring child alone, from its own folder, which comes last on the path: it
needs nothing that is not also ours or torch's. Its own heuristics choose the kernel for the m at
hand, before timing."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import tilus
from services.executors import peer
from services.executors.base import (
    Built,
    CpuCheck,
    ExecutorError,
    Launch,
    Problem,
    group_refusal,
)
from services.messages import KernelSpec, Workload

if TYPE_CHECKING:
    from torch import Tensor

name = "humming"
PACKAGE = "humming-kernels"
MULTIPLE_N, MULTIPLE_K = 128, 64
LEAST_GROUP = 32
LARGEST_EXPONENT = 5  # bits, of the floats that it takes with float16 activations
LOCKS = 2048  # 32-bit numbers by which the blocks of a launch meet


def absence() -> str | None:
    """It compiles where it measures: see refusal."""
    return None


def refusal(workload: Workload) -> str | None:
    """It takes f16 activations and integers of 1 to 8 bits, signed floats of 5 exponent bits."""
    missing = peer.absence(name, PACKAGE)
    if missing is not None:
        return missing
    if workload.a_dtype != "float16":
        return f"{name} is tried with float16 activations, not {workload.a_dtype}"
    try:
        kind = their_type(workload.b_dtype)
    except ExecutorError as error:
        return str(error)
    if workload.n % MULTIPLE_N or workload.k % MULTIPLE_K:
        return (
            f"{name} takes n in multiples of {MULTIPLE_N} and k of {MULTIPLE_K}, "
            f"not {workload.n}, {workload.k}"
        )
    if workload.zeros and kind.startswith("float"):
        return f"{name} takes zero points with integers, not with {workload.b_dtype}"
    if workload.group_size != -1 and workload.group_size % LEAST_GROUP:
        return f"{name} takes groups of a multiple of {LEAST_GROUP} rows"
    return group_refusal(workload)


def their_type(b_dtype: str) -> str:
    """Its name of a type; ExecutorError if it has none. All its integers are unsigned."""
    dtype = tilus.dtype(b_dtype)
    if dtype.bits > 8:
        raise ExecutorError(f"{name} takes weights of 1 to 8 bits, not {dtype.name}")
    if not dtype.name.startswith("float"):
        return f"uint{dtype.bits}"
    exponent, mantissa = map(int, dtype.name.partition("_e")[2].split("m"))
    if exponent > LARGEST_EXPONENT or exponent < 1:
        raise ExecutorError(f"{name} takes floats of 1 to 5 exponent bits, not {dtype.name}")
    return f"float{dtype.bits}e{exponent}m{mantissa}"


def candidates(workload: Workload, arch: str) -> list[KernelSpec]:
    """A library call has no kernels of ours to try."""
    return []


def key(spec: KernelSpec) -> str:
    """A library call has no key."""
    raise ExecutorError(f"{name} compiles its own kernels, not {spec.kernel}")


def build(spec: KernelSpec) -> Built:
    """A library call compiles nothing here."""
    raise ExecutorError(f"{name} compiles its own kernels, not {spec.kernel}")


def check(spec: KernelSpec) -> CpuCheck | None:
    """A library call has no text of ours to run."""
    return None


def their_codes(codes: "Tensor", b_dtype: str) -> "Tensor":
    """Codes [k, n] as its packer takes them: [n, k], signed ones with half of the range added."""
    dtype = tilus.dtype(b_dtype)
    flipped = codes.T.int()
    if dtype.name.startswith("int"):
        flipped ^= 1 << (dtype.bits - 1)
    return flipped.contiguous()


def their_zeros(problem: Problem) -> "Tensor | None":
    """Zero points [n, groups] in f16; those of unsigned weights that have none are all zero.

    Without zero points it would take its unsigned integers as centred on half of their range.
    """
    import torch

    scales = problem.scales
    if problem.zeros is not None:
        return problem.zeros.T.contiguous()
    if scales is not None and problem.workload.b_dtype.startswith("uint"):
        return torch.zeros_like(scales.T, memory_format=torch.contiguous_format)
    return None


def prepare(problem: Problem, spec: KernelSpec | None, built: Built | None) -> Launch:
    """Each slot reads its own copy of the weight as Humming stores it, and has its own locks."""
    import torch

    if problem.codes is None or problem.scales is None:
        raise ExecutorError(f"{name} needs a quantised weight")
    problem.versions.update(_found())
    shape, device = problem.workload, problem.outputs.device
    config, stored = _transformed(problem)
    tuning = import_module("humming.tune").get_heuristics_config(config, shape_m=shape.m)
    kernels = import_module("humming.kernel.humming").HummingKernel.prepare_kernels(
        config.to_str(), None, tuning, device
    )
    call = import_module("humming.ops.launcher").launch_kernel
    weights = [stored.pop("weight")]
    weights += [weights[0].clone() for _ in range(problem.slots - 1)]
    locks = [torch.zeros(LOCKS, dtype=torch.int32, device=device) for _ in weights]

    def launch(slot: int) -> None:
        call(
            configs=kernels,
            inputs=problem.activations[slot],
            weight=weights[slot],
            outputs=problem.outputs[slot],
            locks=locks[slot],
            **stored,
        )

    return launch


def _found() -> dict[str, str]:
    """Have Python look into Humming's folder, after every other; its packages and versions."""
    folder = peer.home(name)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return {PACKAGE: peer.versions(folder)[PACKAGE]}


def _transformed(problem: Problem) -> tuple[Any, dict[str, "Tensor"]]:
    """Humming's layer and its tensors, from codes, scales and zero points as we hold them."""
    import torch

    shape = problem.workload
    codes, scales, zeros = problem.codes, problem.scales, their_zeros(problem)
    if codes is None or scales is None:
        raise ExecutorError(f"{name} needs a quantised weight")
    bits = tilus.dtype(shape.b_dtype).bits
    pack = import_module("humming.ops").pack_weight
    schema = import_module("humming.schema").HummingWeightSchema(
        b_dtype=their_type(shape.b_dtype),
        weight_scale_group_size=0 if shape.group_size == -1 else shape.group_size,
        has_zero_point=zeros is not None,
        is_fp_zero_point=zeros is not None,
    )
    tensors = {
        "weight": pack(their_codes(codes, shape.b_dtype), bits),
        "weight_scale": scales.T.contiguous(),
    }
    if zeros is not None:
        tensors["zero_point"] = zeros
    # what its own layers do before they are stored
    schema, tensors = schema.convert_symmetric_integer_weight(tensors)
    transform = import_module("humming.transform").prepare_and_transform_humming_tensors
    config, stored = transform(
        tensors, shape.n, shape.k, schema, torch_dtype=torch.float16, device=codes.device
    )
    return config, dict(stored)
