"""The peer `ladder`: BitBLAS, whose compiler works in a process of its own and needs no GPU.

It writes CUDA text for tilings of its own; what is compiled of that travels through the store, so a
machine that only measures needs nothing of the package. Its weights are [n, k], eight codes along k
together: those at even places before those at odd ones."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

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
from services.messages import KernelSpec, Parameter, Workload
from tilus.target import specific

if TYPE_CHECKING:
    from torch import Tensor

name = "ladder"
PACKAGE, VERSION = "bitblas", "0.1.0.post1"
SCRIPT = Path(__file__).with_name("ladder_kernel.py")
UNSIGNED, SIGNED = ("uint1", "uint2", "uint4", "uint8"), ("int2", "int4", "int8")
TOGETHER = 8  # codes along k that a thread decodes at once
ROWS = 16  # of a product of matrices; what has fewer is a product of vectors, row by row
# Products of vectors: columns of a block, and the lanes that share the k of one.
VECTORS = ((1, 128), (4, 32), (2, 64), (8, 16))
# Products of matrices: the rows and columns of a block, those of a warp, and a step along k. Those
# that the package's own search proposes first for such an m, but for those that do not lower.
MATRICES = {
    16: ((16, 32, 16, 16, 512), (16, 64, 16, 16, 256), (16, 128, 16, 32, 128)),
    32: ((32, 32, 16, 16, 256), (32, 64, 16, 32, 256), (32, 128, 16, 64, 128)),
    64: ((64, 64, 32, 32, 64), (64, 128, 32, 64, 64), (32, 64, 16, 32, 256)),
    128: ((128, 64, 64, 32, 64), (128, 128, 64, 64, 64), (64, 128, 32, 64, 64)),
    256: ((128, 64, 64, 32, 32), (256, 128, 128, 64, 32), (128, 128, 64, 64, 32)),
}  # by the largest m that they are for; the last are for every larger one
STAGES = 2
SPLITS = (1, 8)  # of k, where one row of blocks has all of m
NAMES = {"A": "a", "B": "words", "C": "c", "D": "c", "Scale": "scales", "Zeros": "zeros"}


def absence() -> str | None:
    """Its package is only needed to compile."""
    return peer.absence(name, PACKAGE)


def refusal(workload: Workload) -> str | None:
    """It takes u1, u2, u4, u8, i2, i4, i8; m below 16 or in multiples of it; k and n fill tiles."""
    if workload.a_dtype != "float16":
        return f"{name} is tried with float16 activations, not {workload.a_dtype}"
    if workload.b_dtype not in UNSIGNED + SIGNED:
        # of its int1 the codes mean -1 and 1
        return f"{name} takes {', '.join(UNSIGNED + SIGNED)}, not {workload.b_dtype}"
    if workload.zeros and workload.b_dtype in SIGNED:
        return f"{name} takes zero points with unsigned integers, not with {workload.b_dtype}"
    if workload.m >= ROWS and workload.m % ROWS:
        return f"{name} stores whole rows of {ROWS}: m {workload.m} is no multiple of that"
    if 1 < workload.m < ROWS and _bits(workload.b_dtype) == 8:
        return f"{name} has no product of {workload.m} vectors with 8 bits: take m 1 or {ROWS}"
    if workload.group_size % TOGETHER and workload.group_size != -1:
        return f"{name} takes groups of a multiple of {TOGETHER} rows, not {workload.group_size}"
    why = group_refusal(workload)
    if why is None and not candidates(workload, "sm_90"):
        why = f"{name} has no tiling for m {workload.m}, k {workload.k}, n {workload.n}: take k in "
        why += "multiples of 1024 and n of 128"
    return why


def candidates(workload: Workload, arch: str) -> list[KernelSpec]:
    """Up to 6 kernels: every tiling for such an m that k and n fill, whole and with k split."""
    m, n, k = workload.m, workload.n, workload.k
    if m < ROWS:
        return [
            _spec(workload, arch, "gemv", {"columns": columns, "lanes": lanes})
            for columns, lanes in VECTORS
            if n % columns == 0 and k % (TOGETHER * lanes) == 0
        ]
    largest = next((each for each in MATRICES if m <= each), max(MATRICES))
    splits = SPLITS if m == ROWS and _bits(workload.b_dtype) < 8 else (1,)
    return [
        _spec(
            workload,
            arch,
            "mma",
            {
                "block_m": block_m,
                "block_n": block_n,
                "warp_m": warp_m,
                "warp_n": warp_n,
                "block_k": block_k,
                "stages": STAGES,
                "split_k": split,
            },
        )
        for block_m, block_n, warp_m, warp_n, block_k in MATRICES[largest]
        for split in splits
        if m % block_m == 0 and n % block_n == 0 and k % (block_k * split) == 0
    ]


def _bits(b_dtype: str) -> int:
    return int(tilus.dtype(b_dtype).bits)


def _spec(workload: Workload, arch: str, kernel: str, tiling: dict[str, Parameter]) -> KernelSpec:
    return KernelSpec(
        executor=name,
        kernel=kernel,
        arch=specific(arch),
        parameters={
            "b_dtype": workload.b_dtype,
            "group_size": workload.group_size,
            "zeros": workload.zeros,
            "m": workload.m,
            "n": workload.n,
            "k": workload.k,
            **tiling,
        },
    )


def key(spec: KernelSpec) -> str:
    """SHA-256 of the spec, the child's source and the package's version, be it here or not."""
    parts = [spec.canonical(), SCRIPT.read_text(), PACKAGE, VERSION]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def build(spec: KernelSpec) -> Built:
    """Compile in a child for the spec's architecture; no GPU takes part."""
    missing = absence()
    folder = peer.home(name)
    found = peer.versions(folder)
    if missing is None and found[PACKAGE] != VERSION:
        missing = f"{PACKAGE} {found[PACKAGE]} is installed here, not {VERSION}: bash run.sh peers"
    if missing is not None:
        raise ExecutorError(missing)
    request = {"kernel": spec.kernel, "parameters": spec.parameters, "arch": spec.arch}
    facts, files = peer.ask(SCRIPT, request, folder)
    compiler = str(facts.pop("nvcc"))
    return Built(
        files={each: files[each] for each in ("kernel.cubin", "source.cu")},
        facts=facts,
        versions={PACKAGE: VERSION, "nvcc": compiler},
    )


def check(spec: KernelSpec) -> CpuCheck | None:
    """Its text is for its own compiler: nothing of it runs on a CPU here."""
    return None


def pack(codes: "Tensor", b_dtype: str) -> "Tensor":
    """Codes [k, n] as the kernels read them, column after column, a flat row of bytes.

    Of eight neighbours along k those at places 0, 2, 4, 6 come first, then those at 1, 3, 5, 7,
    packed from the lowest bit; signed ones of less than 8 bits have half of the range added. Codes
    of 8 bits are bytes in order.
    """
    bits = _bits(b_dtype)
    flipped = codes.T
    if bits == 8:
        return flipped.reshape(-1)
    if b_dtype in SIGNED:
        flipped = flipped ^ (1 << (bits - 1))
    n, k = flipped.shape
    eights = flipped.reshape(n, k // TOGETHER, TOGETHER // 2, 2).swapaxes(2, 3)
    pieces = eights.reshape(-1, 8 // bits)
    packed = pieces[:, 0]
    for place in range(1, 8 // bits):
        packed = packed | (pieces[:, place] << (bits * place))
    return packed


def prepare(problem: Problem, spec: KernelSpec | None, built: Built | None) -> Launch:
    """Each slot reads its own copy of the packed weight; scales and zero points are [n, groups].

    A kernel that splits k makes its output zero itself, in the blocks that begin first.
    """
    import torch

    from tilus.runtime.launcher import LoadedKernel

    codes, scales = problem.codes, problem.scales
    if spec is None or built is None or codes is None or scales is None:
        raise ExecutorError(f"{name} needs a compiled kernel and a quantised weight")
    b_dtype, facts = problem.workload.b_dtype, built.facts
    words = problem.once(
        f"{name} words",
        lambda: [packed.clone() for packed in [pack(codes, b_dtype)] for _ in range(problem.slots)],
    )
    zeros = scales if problem.zeros is None else problem.zeros  # without zeros not an argument
    groups = problem.once(
        f"{name} groups", lambda: [each.T.contiguous() for each in (scales, zeros)]
    )
    cubin, entry, _, shared_bytes = built.load()
    kernel = LoadedKernel(cubin, entry, extents(facts, "block"), shared_bytes)
    grid = extents(facts, "grid")
    order = [NAMES[each] for each in str(facts["arguments"]).split()]
    given = [
        {
            "a": problem.activations[slot].data_ptr(),
            "words": words[slot].data_ptr(),
            "scales": groups[0].data_ptr(),
            "zeros": groups[1].data_ptr(),
            "c": problem.outputs[slot].data_ptr(),
        }
        for slot in range(problem.slots)
    ]
    arguments = [[known[each] for each in order] for known in given]

    def launch(slot: int) -> None:
        kernel(torch.cuda.current_stream().cuda_stream, grid, *arguments[slot])

    return launch


def extents(facts: dict[str, Parameter | float], kind: str) -> tuple[int, int, int]:
    """The blocks of a grid or the threads of a block along x, y, z."""
    x, y, z = (int(each) for each in str(facts[kind]).split())
    return x, y, z
