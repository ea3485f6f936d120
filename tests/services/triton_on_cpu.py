"""Runs the Triton kernel in Triton's interpreter: prints the relative error of one small problem.

A program of its own, for the interpreter is chosen by the environment before the kernel is defined.
usage: TRITON_INTERPRET=1 python -m tests.services.triton_on_cpu \
    B_DTYPE GROUP_SIZE ZEROS M SCALE_SUMS SPLIT_K BLOCK_K
"""

import sys

import torch

from services.executors import triton as executor
from services.executors.triton_kernel import quantized_matmul

K, N = 1024, 80


def relative_error(
    b_dtype: str,
    group_size: int,
    zeros: bool,
    m: int,
    scale_sums: bool,
    split_k: int,
    block_k: int,
) -> float:
    """norm(out - reference) / norm(reference) after two launches into the same workspace."""
    generator = torch.Generator().manual_seed(7)
    groups = 1 if group_size == -1 else K // group_size
    bits = executor.BITS[b_dtype]
    codes = torch.randint(0, 2**bits, (K, N), generator=generator, dtype=torch.uint8)
    scales = (torch.rand(groups, N, generator=generator) + 0.5).half()
    points = (torch.rand(groups, N, generator=generator) * 2**bits).half()
    a = torch.randn(m, K, generator=generator).half()
    parameters = {
        "b_dtype": b_dtype,
        "group_size": group_size,
        "zeros": zeros,
        "block_m": 16,
        "block_n": 32,
        "block_k": block_k,
        "split_k": split_k,
        "scale_sums": scale_sums,
    }
    blocks = executor.grid(parameters, m, N)
    words = executor.pack(codes, b_dtype)
    partials = torch.full((split_k, m, N), float("nan"))
    counters = torch.zeros(blocks[0], dtype=torch.int32)
    constants = executor.constexprs(parameters) | {"PTX": False}
    for _ in range(2):
        c = torch.full((m, N), float("nan"), dtype=torch.float16)
        quantized_matmul[blocks](
            a, words, scales, points, c, partials, counters, m, N, K, **constants
        )
    rows = torch.arange(K) // (K // groups)
    weight = codes.double() - (points.double()[rows] if zeros else 0)
    reference = a.double() @ (weight * scales.double()[rows])
    assert not counters.any(), "the counters are not left at zero"
    return float((c.double() - reference).norm() / reference.norm())


def main() -> None:
    """Parse the arguments, print the error."""
    b_dtype, group_size, zeros, m, scale_sums, split_k, block_k = sys.argv[1:]
    print(
        relative_error(
            b_dtype,
            int(group_size),
            zeros == "1",
            int(m),
            scale_sums == "1",
            int(split_k),
            int(block_k),
        )
    )


if __name__ == "__main__":
    main()
