"""out = a @ w for a format that nobody else has: change FORMAT, and this is the kernel for it.

32 numbers of n bits are n words, whatever n is. So a warp's tile is 32 x 32, of which each lane
holds 32 numbers: for float5_e3m1, 5 words, 160 bits. Every type of 1 to 8 bits has its casts, its
`encode` and `decode` and its `pack`; nothing else here depends on it.
"""

import numpy as np

from tilus import (
    Integer,
    Pointer,
    Program,
    Tracer,
    Var,
    ceil_div,
    column_local,
    column_spatial,
    compile,
    dtype,
    f16,
    f32,
    local,
    reduce,
    run_on_host,
    spatial,
    trace,
    u32,
)

A = column_local(2, 2) * spatial(8, 4) * local(1, 2)  # [16, 16]
B = local(2, 1) * column_spatial(4, 8) * local(2, 1)  # [16, 8]
C = local(2, 1) * spatial(8, 4) * local(1, 2)  # [16, 8]
WARPS = spatial(2, 2)
FORMAT = dtype("float5_e3m1")
CODES = local(2, 4) * B  # [32, 32], 32 codes a lane
LANES = local(1, FORMAT.bits) * spatial(1, 32)  # their words
A_TILE = reduce(WARPS, [1]) * local(2, 2) * A  # [64, 32]
CODES_TILE = reduce(WARPS, [0]) * CODES  # [32, 64]
WORDS_TILE = reduce(WARPS, [0]) * LANES  # [1, 2 * 32 * bits]
C_TILE = WARPS * local(2, 4) * C  # [64, 64]
M, N = C_TILE.shape
_, K = A_TILE.shape
_, WORDS = WORDS_TILE.shape
STAGES = 3


def matmul(t: Tracer, a: Var, words: Var, scales: Var, out: Var, m: Var, n: Var, k: Var) -> None:
    row, column = t.blocks[1] * M, t.blocks[0] * N
    rows = t.view_global(a, f16, (m, k))
    steps = ceil_div(k, K)
    columns = t.view_global(words, u32, (steps, ceil_div(n, 32) * 32 * FORMAT.bits))
    groups = t.view_global(scales, f16, (steps, n))
    a_held, w_held = t.allocate_shared(f16, (M, K)), t.allocate_shared(u32, (1, WORDS))
    sums = t.allocate_register(f32, C_TILE)
    for step in t.range(0, steps, stages=STAGES):
        t.copy_async(rows, a_held, (row, step * K), (0, 0), (M, K))
        t.copy_async(columns, w_held, (step, t.blocks[0] * WORDS), (0, 0), (1, WORDS))
        left = t.load_matrix(a_held, (0, 0), A_TILE)
        codes = t.view(t.load_shared(w_held, (0, 0), WORDS_TILE), FORMAT, CODES_TILE)
        numbers = t.cast(codes, f16)
        scale = t.load_global(groups, (step, column), reduce(numbers.layout, [0]))
        right = t.mul(numbers, scale)
        t.assign(sums, t.dot(left, right, sums))
    t.store_global(t.view_global(out, f16, (m, n)), t.cast(sums, f16), (row, column))


def program() -> Program:
    return trace(
        f"matmul_{FORMAT.short}",
        matmul,
        (
            Pointer("a", f16), Pointer("words", u32), Pointer("scales", f16), Pointer("out", f16),
            Integer("m"), Integer("n", 8), Integer("k", 8),
        ),
        grid=lambda a, words, scales, out, m, n, k: (ceil_div(n, N), ceil_div(m, M), 1),
        threads=WARPS.threads * 32,
    )  # fmt: skip


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes [k, n] as words [k / 32, n / 32, bits, lane]."""
    (k, n), (rows, columns) = codes.shape, CODES.shape
    whole = np.pad(codes, ((0, -k % rows), (0, -n % columns)))
    tiles = whole.reshape(len(whole) // rows, rows, -1, columns)
    lane, register = np.arange(32)[:, None], np.arange(32)
    row, column = CODES(lane, register)
    held = FORMAT.pack(tiles.swapaxes(1, 2)[:, :, row, column]).view(np.uint32)
    return held.reshape(-1, 32, FORMAT.bits).swapaxes(1, 2).ravel()


def case(
    rng: np.random.Generator, m: int = 70, n: int = 88, k: int = 104
) -> tuple[dict, np.ndarray]:
    """Arguments, and what `out` must become."""
    a = rng.standard_normal((m, k)).astype(np.float16)
    numbers, group = rng.standard_normal((k, n)), np.arange(k) // K
    scales = rng.uniform(2 / FORMAT.max, 4 / FORMAT.max, (group[-1] + 1, n)).astype(np.float16)
    codes = FORMAT.encode(numbers / scales[group])
    want = a.astype(np.float64) @ (FORMAT.decode(codes) * scales[group])
    given = {
        "a": a.ravel(), "words": pack(codes), "scales": scales.ravel(),
        "out": np.zeros(m * n, np.float16), "m": m, "n": n, "k": k,
    }  # fmt: skip
    return given, want.ravel()


def main() -> None:
    given, want = case(np.random.default_rng(0))
    run_on_host(program(), given)
    error = np.linalg.norm(given["out"] - want) / np.linalg.norm(want)
    built = compile(program(), "sm_90")
    print(f"{built.entry}: error {error:.1e}; {built.resources.registers} registers on sm_90")


if __name__ == "__main__":
    main()
