"""Our own Triton kernel, compiled ahead of time and tuned over as many schedules as ours."""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from services.executors.base import (
    F32,
    Built,
    CpuCheck,
    ExecutorError,
    Launch,
    Problem,
    group_refusal,
    installed,
)
from services.executors.launching import launch_of
from services.messages import KernelSpec, Parameter, Workload

if TYPE_CHECKING:
    from torch import Tensor

name = "triton"
KERNEL = "quantized_matmul"
BITS = {"uint8": 8, "uint4": 4}
CHUNK = 128  # rows of the weight that are stored together: see triton_kernel
TRIED = 12  # tilings and splits, each with the scales on the sums and on the weights
SOURCE = Path(__file__).with_name("triton_kernel.py")
# one type per run-time argument, in order; Triton appends two scratch pointers
SIGNATURE = {
    "a": "*fp16",
    "words": "*u8",
    "scales": "*fp16",
    "zeros": "*fp16",
    "c": "*fp16",
    "partials": "*fp32",
    "counters": "*i32",
    "m": "i32",
    "n": "i32",
    "k": "i32",
}
MULTIPLES_OF_16 = ("a", "words", "scales", "zeros", "c", "partials", "n", "k")
HIDDEN_POINTERS = 2
# each: block_n, block_k, warps, stages
TILINGS = {
    "uint8": (
        (128, 64, 4, 5),
        (128, 128, 4, 4),
        (64, 128, 4, 4),
        (128, 128, 8, 4),
        (256, 64, 8, 4),
        (64, 64, 4, 5),
        (32, 128, 4, 5),
    ),
    "uint4": (
        (128, 128, 4, 4),
        (64, 128, 4, 5),
        (128, 128, 8, 4),
        (256, 128, 8, 3),
        (64, 128, 4, 3),
        (32, 128, 4, 5),
    ),
}
SPLITS = (1, 2, 4, 8)
BLOCKS = 528  # four on each of 132 multiprocessors: enough in flight, few partial sums


def absence() -> str | None:
    """Where it is not installed a compile job says so."""
    return None


def refusal(workload: Workload) -> str | None:
    """It takes f16 activations, u8 and u4 weights, groups of a multiple of 128 rows."""
    if workload.a_dtype != "float16" or workload.b_dtype not in BITS:
        return (
            f"{name} takes float16 times {' or '.join(BITS)}, "
            f"not {workload.a_dtype} times {workload.b_dtype}"
        )
    if workload.k % CHUNK or workload.n % 16:
        return f"{name} takes k in multiples of {CHUNK} and n of 16, not {workload.k}, {workload.n}"
    if workload.group_size != -1 and workload.group_size % CHUNK:
        return f"{name} takes groups of a multiple of {CHUNK} rows, not {workload.group_size}"
    return group_refusal(workload)


def candidates(workload: Workload, arch: str) -> list[KernelSpec]:
    """Up to 24 kernels: the tilings and splits nearest to BLOCKS blocks, scaled both ways."""
    block_m = 16 if workload.m <= 16 else 64
    tiles_m = -(-workload.m // block_m)

    def misfit(choice: tuple[tuple[int, int, int, int], int]) -> float:
        (block_n, *_), split = choice
        return abs(math.log2(tiles_m * -(-workload.n // block_n) * split / BLOCKS))

    choices = [(tiling, split) for tiling in TILINGS[workload.b_dtype] for split in SPLITS]
    return [
        _spec(workload, arch, block_m, tiling, split, scale_sums)
        for tiling, split in sorted(choices, key=misfit)[:TRIED]
        for scale_sums in (True, False)
    ]


def _spec(
    workload: Workload,
    arch: str,
    block_m: int,
    tiling: tuple[int, int, int, int],
    split_k: int,
    scale_sums: bool,
) -> KernelSpec:
    block_n, block_k, warps, stages = tiling
    return KernelSpec(
        executor=name,
        kernel=KERNEL,
        arch=arch,
        parameters={
            "b_dtype": workload.b_dtype,
            "group_size": workload.group_size,
            "zeros": workload.zeros,
            "block_m": block_m,
            "block_n": block_n,
            "block_k": block_k,
            "split_k": split_k,
            "warps": warps,
            "stages": stages,
            "scale_sums": scale_sums,
        },
    )


def key(spec: KernelSpec) -> str:
    """SHA-256 of the spec, both sources and Triton's version (its wheel has the assembler)."""
    parts = [
        spec.canonical(),
        SOURCE.read_text(),
        Path(__file__).read_text(),
        installed("triton") or "absent",
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def build(spec: KernelSpec) -> Built:
    """Compile for the spec's architecture on a CPU; no GPU, driver or PyTorch takes part."""
    version = installed("triton")
    if version is None:
        raise ExecutorError("Triton is not installed here: pip install triton==3.6.0")
    triton = import_module("triton")
    with tempfile.TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        triton.knobs.compilation.disable_line_info = True  # source paths would enter the cubin
        compiled = triton.compile(
            _source(spec),
            target=import_module("triton.backends.compiler").GPUTarget(
                "cuda", _capability(spec), 32
            ),
            options={
                "num_warps": spec.parameters["warps"],
                "num_stages": spec.parameters["stages"],
            },
        )
    facts = compiled.metadata
    if facts.global_scratch_size or facts.profile_scratch_size or facts.num_ctas != 1:
        raise ExecutorError(
            f"{spec.parameters} needs scratch memory, which no launch here provides"
        )
    return Built(
        files={
            "kernel.cubin": compiled.asm["cubin"],
            "kernel.ptx": compiled.asm["ptx"].encode(),
            "spec.json": json.dumps(spec.model_dump(), indent=1, sort_keys=True).encode(),
        },
        facts={
            "entry": facts.name,
            "threads": 32 * facts.num_warps,
            "shared_bytes": facts.shared,
            "hidden_pointers": HIDDEN_POINTERS,
        },
        versions={"triton": version},
    )


def _capability(spec: KernelSpec) -> int:
    return int(spec.arch.removeprefix("sm_").rstrip("a"))


def _source(spec: KernelSpec) -> object:
    kernel = import_module("services.executors.triton_kernel").quantized_matmul
    constants = constexprs(spec.parameters)
    aligned = {
        (tuple(SIGNATURE).index(argument),): [["tt.divisibility", 16]]
        for argument in MULTIPLES_OF_16
    }
    return import_module("triton.compiler").ASTSource(
        fn=kernel,
        signature=SIGNATURE | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs=aligned,
    )


def constexprs(parameters: Mapping[str, Parameter]) -> dict[str, int | bool]:
    """The kernel's compile-time arguments for these parameters."""
    group_size = int(parameters["group_size"])
    return {
        "BITS": BITS[str(parameters["b_dtype"])],
        "GROUP_CHUNKS": 0 if group_size == -1 else group_size // CHUNK,
        "ZEROS": bool(parameters["zeros"]),
        "SCALE_SUMS": bool(parameters["scale_sums"]),
        "BLOCK_M": int(parameters["block_m"]),
        "BLOCK_N": int(parameters["block_n"]),
        "BLOCK_K": int(parameters["block_k"]),
        "SPLIT_K": int(parameters["split_k"]),
        "PTX": True,
    }


def check(spec: KernelSpec) -> CpuCheck | None:
    """Triton's text is for its own compiler: nothing of it runs on a CPU here."""
    return None


def pack(codes: "Tensor", b_dtype: str) -> "Tensor":
    """Codes [k, n] as the kernel reads them: chunk by chunk, in a chunk column by column."""
    k, n = codes.shape
    chunks = codes.reshape(k // CHUNK, CHUNK, n)
    if BITS[b_dtype] == 4:
        chunks = chunks[:, : CHUNK // 2] | (chunks[:, CHUNK // 2 :] << 4)
    return chunks.swapaxes(1, 2).reshape(-1)


def grid(parameters: Mapping[str, Parameter], m: int, n: int) -> tuple[int, int, int]:
    """The blocks of a launch: tiles of c, times the splits of k."""
    tiles_m = -(-m // int(parameters["block_m"]))
    tiles_n = -(-n // int(parameters["block_n"]))
    return tiles_m * tiles_n, int(parameters["split_k"]), 1


def prepare(problem: Problem, spec: KernelSpec | None, built: Built | None) -> Launch:
    """Each slot reads its own copy of the packed weight; a launch needs no other kernel."""
    if spec is None or built is None or problem.codes is None or problem.scales is None:
        raise ExecutorError(f"{name} needs a compiled kernel and a quantised weight")
    shape, codes = problem.workload, problem.codes
    blocks = grid(spec.parameters, shape.m, shape.n)
    zeros = problem.scales if problem.zeros is None else problem.zeros  # without ZEROS never read
    return launch_of(
        problem,
        built,
        blocks,
        lambda: pack(codes, shape.b_dtype),
        (problem.scales, zeros),
        F32 * blocks[1] * shape.m * shape.n,
        blocks[0],
        (shape.m, shape.n, shape.k),
        lambda slot: (0,) * HIDDEN_POINTERS,
    )
