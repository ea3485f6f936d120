"""The peer `tilus` as the package index has it: its compiler works in a process of its own.

Both packages are imported as `tilus`, so theirs only makes cubins, in a child where it is found
first; here they are launched and timed as every other kernel is. The kernel is written in its
language, for it brings none; its schedules are tried as ours are."""

import hashlib
import math
from collections.abc import Iterator
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

name = "public-tilus"
PACKAGE = "tilus"
KERNEL = "quantized_matmul"
SCRIPT = Path(__file__).with_name("public_tilus_kernel.py")
EXPONENTS = {3: (1,), 4: (2,), 5: (2, 3), 6: (2, 3, 4), 7: (2, 3, 4, 5), 8: (4, 5)}
FLOATS = frozenset(
    f"float{bits}_e{exponent}m{bits - 1 - exponent}"
    for bits, exponents in EXPONENTS.items()
    for exponent in exponents
)
TOOLS = ("git",)  # which the package asks, when it is imported, whether it lies in a repository
INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 9))
LANES, ATOM_K, ATOM_N = 32, 16, 8  # the threads of a warp; the weight's part of one product
CODES = 4  # that a thread holds of it
RUN = 16  # bytes that a thread reads at once, at most
SCHEDULE = ("warps_m", "warps_n", "repeat_m", "repeat_n", "repeat_k", "stages", "split_k")
# each: warps along m and n, products of a warp along m, n and k
SMALL = ((1, 4, 1, 4, 4), (1, 4, 1, 4, 8), (1, 4, 1, 2, 8), (1, 8, 1, 2, 4), (1, 2, 1, 4, 8))
MIDDLE = ((1, 4, 2, 4, 4), (1, 4, 4, 4, 4), (1, 8, 4, 2, 4), (2, 2, 2, 8, 4))
LARGE = ((2, 4, 4, 4, 2), (2, 2, 4, 8, 2), (2, 4, 4, 8, 2), (2, 2, 2, 8, 4))
SHALLOW, DEEP = 4, {8: 3, 7: 3, 6: 3, 5: 5, 4: 6, 3: 6, 2: 8, 1: 8}  # stages; by bits
SPLITS = (1, 2, 4, 8)
BLOCKS = 528  # four on each of 132 multiprocessors
TRIED = 16


def absence() -> str | None:
    """What it lacks is a refusal: its kernels' keys name the packages that are here."""
    return None


def refusal(workload: Workload) -> str | None:
    """Its types are ours but for some floats; n and k fill tiles, groups are whole steps."""
    missing = peer.absence(name, PACKAGE)
    if missing is not None:
        return missing
    if workload.a_dtype != "float16":
        return f"{name} is tried with float16 activations, not {workload.a_dtype}"
    if workload.b_dtype not in FLOATS | INTEGERS:
        return f"{name} has no type {workload.b_dtype}"
    why = group_refusal(workload)
    if why is None and not candidates(workload, "sm_90"):
        why = f"{name} has no tiling for k {workload.k}, n {workload.n}, groups of "
        why += f"{workload.group_size}: take multiples of 128"
    return why


def candidates(workload: Workload, arch: str) -> list[KernelSpec]:
    """Up to 16 kernels: tilings for such an m, with splits, nearest to BLOCKS blocks first."""
    tilings = SMALL if workload.m <= 16 else MIDDLE if workload.m <= 64 else LARGE
    stages = (SHALLOW, DEEP[tilus.dtype(workload.b_dtype).bits])

    def misfit(choice: tuple[int, ...]) -> float:
        warps_m, warps_n, repeat_m, repeat_n, _, _, split = choice
        tiles = -(-workload.m // (ATOM_K * warps_m * repeat_m))
        tiles *= workload.n // (ATOM_N * warps_n * repeat_n)
        return abs(math.log2(tiles * split / BLOCKS))

    choices = [
        (*tiling, deep, split)
        for tiling in tilings
        for split in SPLITS
        for deep in stages
        if _fits(tiling, workload)
    ]
    return [_spec(workload, arch, choice) for choice in sorted(choices, key=misfit)[:TRIED]]


def _fits(tiling: tuple[int, ...], workload: Workload) -> bool:
    _, warps_n, _, repeat_n, repeat_k = tiling
    step, group = ATOM_K * repeat_k, workload.group_size
    whole = workload.k % step == 0 and workload.n % (ATOM_N * warps_n * repeat_n) == 0
    return whole and (group == -1 or group % step == 0)


def _spec(workload: Workload, arch: str, choice: tuple[int, ...]) -> KernelSpec:
    return KernelSpec(
        executor=name,
        kernel=KERNEL,
        arch=specific(arch),
        parameters={
            "b_dtype": workload.b_dtype,
            "group_size": workload.group_size,
            "zeros": workload.zeros,
            "n": workload.n,
            "k": workload.k,
            **dict(zip(SCHEDULE, choice, strict=True)),
        },
    )


def key(spec: KernelSpec) -> str:
    """SHA-256 of the spec, the kernel's source and the packages in the peer's folder."""
    installed = sorted(peer.versions(peer.home(name)).items())
    parts = [spec.canonical(), SCRIPT.read_text(), repr(installed)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def build(spec: KernelSpec) -> Built:
    """Compile in a child for the spec's architecture; no GPU takes part."""
    missing = peer.absence(name, PACKAGE)
    if missing is not None:
        raise ExecutorError(missing)
    request = {"parameters": spec.parameters, "arch": spec.arch}
    folder = peer.home(name)
    facts, files = peer.ask(SCRIPT, request, folder, tools=TOOLS)
    compiler = str(facts.pop("nvcc"))
    return Built(
        files={each: files[each] for each in ("kernel.cubin", "source.cu")},
        facts=facts,
        versions=peer.versions(folder) | {"nvcc": compiler},
    )


def check(spec: KernelSpec) -> CpuCheck | None:
    """Its text is for its own compiler: nothing of it runs on a CPU here."""
    return None


def pack(codes: "Tensor", b_dtype: str, repeat_k: int, repeat_n: int) -> "Tensor":
    """Codes [k, n] as the kernel reads them, a flat row of bytes.

    Tiles of a warp lie row by row; in a tile the bytes of the threads, in runs of up to 16, take
    turns; the codes of a thread are those that it holds of each product, packed from the lowest
    bit: of product (i, j) rows 16 i + 2 (t % 4) + {0, 1, 8, 9} and column 8 j + t / 4.
    """
    bits = tilus.dtype(b_dtype).bits
    k, n = codes.shape
    # k: tile, product, half, quarter of the lanes, two; n: tile, product, eighth of the lanes
    parts = codes.reshape(
        k // (ATOM_K * repeat_k), repeat_k, 2, 4, 2, n // (ATOM_N * repeat_n), repeat_n, 8
    )
    held = parts.permute(0, 5, 7, 3, 1, 6, 2, 4)
    tiles = held.shape[0] * held.shape[1]
    packed = _bytes(held.reshape(tiles, LANES, repeat_k * repeat_n * CODES), bits)
    run = math.gcd(packed.shape[2], RUN)
    return packed.reshape(tiles, LANES, -1, run).swapaxes(1, 2).reshape(-1)


def _bytes(codes: "Tensor", bits: int) -> "Tensor":
    """Codes [..., count] packed from the lowest bit, [..., count * bits / 8]; 8 codes at a time."""
    import torch

    eights = codes.unflatten(-1, (-1, 8))
    packed = torch.zeros((*eights.shape[:-1], bits), dtype=torch.uint8, device=codes.device)
    for place, byte, shift in _pieces(bits):
        piece = eights[..., place] << shift if shift >= 0 else eights[..., place] >> -shift
        packed[..., byte] |= piece
    return packed.flatten(-2)


def _pieces(bits: int) -> Iterator[tuple[int, int, int]]:
    """8 codes in so many bytes: a code, a byte that has a part of it, and the shift to there."""
    for place in range(8):
        low = place * bits
        for byte in range(low // 8, (low + bits - 1) // 8 + 1):
            yield place, byte, low - 8 * byte


def grid(parameters: dict[str, Parameter], m: int) -> tuple[int, int, int]:
    """The blocks of a launch: tiles of c along m and n, and the splits of k."""
    block_m = ATOM_K * int(parameters["warps_m"]) * int(parameters["repeat_m"])
    block_n = ATOM_N * int(parameters["warps_n"]) * int(parameters["repeat_n"])
    return -(-m // block_m), int(parameters["n"]) // block_n, int(parameters["split_k"])


def prepare(problem: Problem, spec: KernelSpec | None, built: Built | None) -> Launch:
    """Each slot reads its own copy of the packed weight; a launch leaves the turns at zero."""
    import numpy as np
    import torch

    from tilus.runtime.launcher import LoadedKernel

    codes, scales = problem.codes, problem.scales
    if spec is None or built is None or codes is None or scales is None:
        raise ExecutorError(f"{name} needs a compiled kernel and a quantised weight")
    shape, device = problem.workload, problem.outputs.device
    tile = (int(spec.parameters["repeat_k"]), int(spec.parameters["repeat_n"]))
    words = problem.once(
        f"{name} {tile}",
        lambda: [
            packed.clone()
            for packed in [pack(codes, shape.b_dtype, *tile)]
            for _ in range(problem.slots)
        ],
    )
    blocks = grid(spec.parameters, shape.m)
    turns = torch.zeros(blocks[0] * blocks[1], dtype=torch.int32, device=device)
    zeros = scales if problem.zeros is None else problem.zeros  # without zeros never read
    groups = (scales.data_ptr(), zeros.data_ptr())
    kernel = LoadedKernel(*built.load())
    m = np.int32(shape.m)

    def launch(slot: int) -> None:
        kernel(
            torch.cuda.current_stream().cuda_stream,
            blocks,
            m,
            problem.activations[slot].data_ptr(),
            words[slot].data_ptr(),
            *groups,
            problem.outputs[slot].data_ptr(),
            turns.data_ptr(),
        )

    return launch
